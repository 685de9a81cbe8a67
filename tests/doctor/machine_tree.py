"""A machine made of files, for tests that plant defects in it."""

from __future__ import annotations

from pathlib import Path

from tde.doctor import DoctorReport, Group, MachineFiles, Verdict
from tde.postgres import doctor

UNLIMITED = "unlimited"


class Machine:
    """A tree of /proc and /sys that describes a machine without any defect."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/swaps", "Filename Type Size Used Priority\n")
        self.write("proc/sys/kernel/core_pattern", "core\n")
        self.write("proc/sys/kernel/core_uses_pid", "1\n")
        self.write("proc/self/coredump_filter", "00000033\n")
        self.write("proc/self/environ", "PATH=/bin\0")
        self.write("proc/cpuinfo", "processor : 0\nflags : fpu aes sse2\n")
        self.write("proc/self/mountinfo", "22 1 253:0 / / rw - ext4 /dev/vda rw\n")
        self.limits()
        (root / "proc/4711").symlink_to("self")  # A server.

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def limits(self, core: tuple[object, object] = (0, 0), locked: object = UNLIMITED) -> None:
        self.write(
            "proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units\n"
            f"Max core file size        {core[0]!s:<20} {core[1]!s:<20} bytes\n"
            f"Max locked memory         {locked!s:<20} {locked!s:<20} bytes\n",
        )

    def swap(self, name: str, kind: str = "partition") -> None:
        with (self.root / "proc/swaps").open("a") as file:
            file.write(f"{name}\t{kind}\t1048572\t0\t-2\n")

    def device(self, name: str, uuid: str = "", slaves: tuple[str, ...] = ()) -> None:
        if uuid:
            self.write(f"sys/class/block/{name}/dm/uuid", uuid + "\n")
        for slave in slaves:
            self.write(f"sys/class/block/{name}/slaves/{slave}/size", "1\n")
        self.write(f"sys/class/block/{name}/size", "1\n")

    def root_device(self, name: str) -> None:
        """Put the one file system on a device."""
        place = self.root / "sys/dev/block/253:0"
        place.parent.mkdir(parents=True)
        place.symlink_to(f"../../devices/virtual/block/{name}")

    def report(self) -> DoctorReport:
        return doctor(groups=[Group.MACHINE], machine_files=MachineFiles(self.root))

    def verdicts(self, check: str) -> set[Verdict]:
        report = self.report()
        found = report.named(check)
        assert all(f.remedy for f in found if f.verdict is not Verdict.OK)
        return {finding.verdict for finding in found}
