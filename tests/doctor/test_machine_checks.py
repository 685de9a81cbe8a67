"""The checks of the machine, on planted files of the kernel: found, remedied, gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tde.doctor import MachineFiles, Verdict
from tde.machine.capabilities import capabilities_of
from tde.machine.checks import KEY_RING_BYTES, ServerProcess, check_aes, check_core_dumps
from tests.doctor.machine_tree import UNLIMITED, Machine

# One that was started without keys, or by an older tde.
SERVER = ServerProcess(4711, encrypted=False)


def core_dumps(machine: Machine) -> Verdict:
    (finding,) = check_core_dumps(MachineFiles(machine.root), SERVER)
    return finding.verdict


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_without_defects(machine):
    report = machine.report()
    assert report.healthy
    assert report.of(Verdict.WARNING) == ()


def test_plaintext_swap_is_found_and_gone_after_swapoff(machine):
    before = (machine.root / "proc/swaps").read_text()
    machine.device("vdb")
    machine.swap("/dev/vdb")
    report = machine.report()
    assert not report.healthy
    (finding,) = report.problems
    assert finding.check == "swap"
    assert "/dev/vdb" in finding.detail
    assert "swapoff /dev/vdb" in finding.remedy
    machine.write("proc/swaps", before)
    assert machine.verdicts("swap") == {Verdict.OK}


@pytest.mark.parametrize(
    ("uuid", "slaves", "verdict"),
    [
        ("CRYPT-PLAIN-swap", (), Verdict.OK),
        ("CRYPT-LUKS2-0123-name", ("vdb",), Verdict.OK),
        # Neither of them encrypts, although cryptsetup names them CRYPT as well.
        ("CRYPT-INTEGRITY-name", ("vdb",), Verdict.PROBLEM),
        ("CRYPT-VERITY-0123-name", ("vdb",), Verdict.PROBLEM),
        ("LVM-0123", ("vdb",), Verdict.PROBLEM),
        ("LVM-0123", ("dm-7",), Verdict.OK),
        ("LVM-0123", ("dm-7", "vdb"), Verdict.PROBLEM),
        ("LVM-0123", ("gone",), Verdict.UNKNOWN),
    ],
)
def test_mapped_swap_is_judged_by_what_is_below(machine, uuid, slaves, verdict):
    machine.device("vdb")
    machine.device("dm-7", "CRYPT-LUKS1-4567-disk")
    machine.device("dm-0", uuid, slaves)
    machine.swap("/dev/dm-0")
    assert machine.verdicts("swap") == {verdict}


def test_a_link_to_a_mapped_device_is_followed(machine):
    machine.device("dm-3", "CRYPT-PLAIN-swap")
    (machine.root / "dev/mapper").mkdir(parents=True)
    (machine.root / "dev/mapper/swap").symlink_to("../dm-3")
    machine.swap("/dev/mapper/swap")
    assert machine.verdicts("swap") == {Verdict.OK}


def test_compressed_memory_is_no_disk_unless_it_writes_back(machine):
    machine.device("zram0")
    machine.device("vdb")
    machine.swap("/dev/zram0")
    machine.write("sys/class/block/zram0/backing_dev", "none\n")
    assert machine.verdicts("swap") == {Verdict.OK}
    machine.write("sys/class/block/zram0/backing_dev", "/dev/vdb\n")
    assert machine.verdicts("swap") == {Verdict.PROBLEM}


def test_a_swap_file_is_as_safe_as_its_disk(machine):
    machine.swap("/srv/swap\\040file", "file")
    machine.root_device("dm-0")
    machine.device("dm-0", "CRYPT-LUKS2-0123-root")
    assert machine.verdicts("swap") == {Verdict.OK}
    machine.device("dm-0", "LVM-0123")
    assert machine.verdicts("swap") == {Verdict.PROBLEM}
    machine.write("proc/self/mountinfo", "22 1 0:50 / / rw - overlay overlay rw\n")
    assert machine.verdicts("swap") == {Verdict.UNKNOWN}


def test_a_partition_is_judged_by_the_disk_that_it_is_on(machine):
    machine.device("md0", slaves=("dm-7",))
    machine.device("dm-7", "CRYPT-LUKS2-4567-disk")
    machine.write("sys/devices/virtual/block/md0/md0p1/partition", "1\n")
    (machine.root / "sys/class/block/md0p1").symlink_to("../../devices/virtual/block/md0/md0p1")
    machine.swap("/dev/md0p1")
    assert machine.verdicts("swap") == {Verdict.OK}


def test_one_plaintext_device_among_several_is_found(machine):
    machine.device("dm-0", "CRYPT-PLAIN-swap")
    machine.device("vdb")
    machine.swap("/dev/dm-0")
    machine.swap("/dev/vdb")
    assert machine.verdicts("swap") == {Verdict.OK, Verdict.PROBLEM}


@pytest.mark.parametrize(
    ("pattern", "core", "verdict"),
    [
        ("/var/crash/core.%p", (UNLIMITED, UNLIMITED), Verdict.PROBLEM),
        ("core", (4096, UNLIMITED), Verdict.PROBLEM),
        ("core", (0, UNLIMITED), Verdict.WARNING),
        ("core", (0, 0), Verdict.OK),
        ("", (UNLIMITED, UNLIMITED), Verdict.PROBLEM),  # core_uses_pid makes it ".1234".
        # A program gets the memory whatever the limit is, unless it is known not to keep it.
        ("|/usr/share/apport/apport -p%p", (0, 0), Verdict.PROBLEM),
        ("@/run/crash.socket", (0, 0), Verdict.PROBLEM),
        ("|/lib/systemd/systemd-coredump %P %u", (0, 0), Verdict.OK),
        ("|/lib/systemd/systemd-coredump %P %u", (UNLIMITED, UNLIMITED), Verdict.PROBLEM),
        ("|/bin/false", (UNLIMITED, UNLIMITED), Verdict.OK),
    ],
)
def test_a_core_pattern_is_judged_by_where_it_writes(machine, pattern, core, verdict):
    machine.write("proc/sys/kernel/core_pattern", pattern + "\n")
    machine.limits(core)
    assert core_dumps(machine) is verdict


def test_a_server_that_forbids_core_dumps_needs_no_limit(machine):
    machine.write("proc/sys/kernel/core_pattern", "|/usr/share/apport/apport -p%p\n")
    machine.limits((UNLIMITED, UNLIMITED))
    assert machine.verdicts("core_dumps") == {Verdict.OK}
    server = ServerProcess(4711, encrypted=True, private=True)
    (finding,) = check_core_dumps(MachineFiles(machine.root), server)
    assert finding.verdict is Verdict.OK


def test_each_remedy_for_core_dumps_works(machine):
    pattern = "proc/sys/kernel/core_pattern"
    machine.write(pattern, "/var/crash/core.%p\n")
    machine.limits((UNLIMITED, UNLIMITED))
    (finding,) = check_core_dumps(MachineFiles(machine.root), SERVER)
    assert "ulimit -Hc 0" in finding.remedy
    assert "kernel.core_pattern='|/bin/false'" in finding.remedy
    machine.write(pattern, "|/bin/false\n")
    assert core_dumps(machine) is Verdict.OK
    machine.write(pattern, "/var/crash/core.%p\n")
    machine.limits((0, 0))
    assert core_dumps(machine) is Verdict.OK


def test_an_empty_pattern_without_process_id_writes_nothing(machine):
    machine.write("proc/sys/kernel/core_pattern", "\n")
    machine.write("proc/sys/kernel/core_uses_pid", "0\n")
    machine.limits((UNLIMITED, UNLIMITED))
    assert core_dumps(machine) is Verdict.OK


def test_a_filter_that_leaves_data_out_is_enough(machine):
    machine.limits((UNLIMITED, UNLIMITED))
    machine.write("proc/self/coredump_filter", "00000010\n")
    assert core_dumps(machine) is Verdict.OK
    machine.write("proc/self/coredump_filter", "00000012\n")  # Shared memory: the pages.
    assert core_dumps(machine) is Verdict.PROBLEM


def test_too_little_locked_memory(machine):
    machine.limits(locked=64 * 1024)
    assert machine.verdicts("locked_memory") == {Verdict.PROBLEM}
    machine.limits(locked=KEY_RING_BYTES)
    assert machine.verdicts("locked_memory") == {Verdict.OK}


def test_a_processor_without_aes(machine):
    machine.write("proc/cpuinfo", "flags : fpu sse2\n")
    assert machine.verdicts("aes") == {Verdict.WARNING}
    machine.write("proc/cpuinfo", "Features : fp asimd aes\n")
    assert machine.verdicts("aes") == {Verdict.OK}
    machine.write("proc/cpuinfo", "cpu : POWER9\n")
    assert machine.verdicts("aes") == {Verdict.UNKNOWN}


@pytest.mark.parametrize(
    ("machine_name", "value", "forbidden"),
    [
        ("x86_64", "~0x200000200000000", True),
        ("x86_64", "0x1", True),
        ("x86_64", "", True),  # A zero, for OpenSSL.
        ("x86_64", "~0x1", False),
        ("x86_64", "~010000000000000000000", True),  # Octal.
        ("x86_64", "~ what?", False),
        ("x86_64", ":0x0", False),
        # What has no such bit there: the number is all that OpenSSL knows of the processor.
        ("aarch64", "1", True),
        ("aarch64", "0", True),
        ("aarch64", "", True),
        ("aarch64", "~0x0", True),
        ("aarch64", "0x7d", False),
    ],
)
def test_aes_that_the_environment_forbids(machine, machine_name, value, forbidden, monkeypatch):
    own = capabilities_of(machine_name)
    monkeypatch.setattr("tde.machine.capabilities.OWN", own)
    machine.write("proc/self/environ", f"PATH=/bin\0{own.variable}={value}\0")
    assert machine.verdicts("aes") == {Verdict.OK} | ({Verdict.WARNING} if forbidden else set())


def test_the_variable_of_another_architecture_says_nothing(machine, monkeypatch):
    machine.write("proc/self/environ", "OPENSSL_armcap=0\0")
    monkeypatch.setattr("tde.machine.capabilities.OWN", capabilities_of("x86_64"))
    assert machine.verdicts("aes") == {Verdict.OK}


@pytest.mark.parametrize(("told", "forbidden"), [("", False), ("0", True)])
def test_aes_that_a_server_has_published_as_forbidden(machine, told, forbidden):
    server = ServerProcess(4711, encrypted=True, openssl_capabilities=told)
    found = check_aes(MachineFiles(machine.root), server)
    assert any(outcome.verdict is Verdict.WARNING for outcome in found) == forbidden


@pytest.mark.parametrize(
    ("value", "verdicts"),
    [
        ("~0x0", {Verdict.OK, Verdict.WARNING}),  # What is left out is zero.
        ("~0x0:~0x20000000000", {Verdict.OK, Verdict.WARNING}),
        (":0x0", {Verdict.OK, Verdict.WARNING}),
        ("~0x0:", {Verdict.OK, Verdict.WARNING}),
        ("~0x1:~0x0", {Verdict.OK}),
        ("~0x1:0x405fc6f1bf07ab", {Verdict.OK}),
    ],
)
def test_wide_aes_that_the_environment_forbids(machine, value, verdicts):
    machine.write("proc/self/environ", f"PATH=/bin\0OPENSSL_ia32cap={value}\0")
    machine.write("proc/cpuinfo", "flags : fpu aes\n")
    assert machine.verdicts("aes") == {Verdict.OK}
    machine.write("proc/cpuinfo", "flags : fpu aes avx512f vaes\n")
    assert machine.verdicts("aes") == verdicts


def test_what_cannot_be_read_is_unknown(machine):
    for name in ("proc/swaps", "proc/self/limits"):
        (machine.root / name).unlink()
    report = machine.report()
    assert {finding.check for finding in report.of(Verdict.UNKNOWN)} == {
        *("swap", "locked_memory"),
    }
    assert not report.healthy
