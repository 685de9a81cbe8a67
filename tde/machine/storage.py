"""Disks, and the disks below files: does the kernel encrypt them?

Only dm-crypt is recognised. A disk that encrypts itself, or a virtual one that its host
encrypts, looks like any other from here, so it counts as plain.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tde.machine.kernel_files import MachineFiles

# What cryptsetup names its encrypted mappings. CRYPT-VERITY and CRYPT-INTEGRITY encrypt nothing.
_ENCRYPTED = re.compile(r"CRYPT-(LUKS1|LUKS2|PLAIN|TCRYPT|LOOPAES|BITLK|FVAULT2)-")
_DEPTH = 16  # Far more layers than anybody stacks; a loop in /sys must not hang us.


@dataclass(frozen=True)
class Storage:
    """What is known about a place where bytes end up.

    Attributes:
        encrypted: ``None`` when it cannot be told.
        why: in words for people.
    """

    encrypted: bool | None
    why: str


def device_storage(machine: MachineFiles, name: str, depth: int = _DEPTH) -> Storage:
    """Tell about a block device by its kernel name, for example ``dm-0`` or ``sda2``.

    Raises:
        OSError: the kernel's description may not be read.
    """
    directory = f"/sys/class/block/{name}"
    if depth == 0 or not machine.exists(directory):
        return Storage(None, f"the kernel does not describe {name}")
    if name.startswith("zram"):
        return _compressed_memory(machine, name, depth)
    mapping = f"{directory}/dm/uuid"
    if machine.exists(mapping) and _ENCRYPTED.match(machine.text(mapping)):
        return Storage(True, f"{name} is dm-crypt")
    if machine.exists(f"{directory}/loop/backing_file"):
        backing = machine.text(f"{directory}/loop/backing_file").strip()
        return file_storage(machine, Path(backing), depth - 1)
    below = machine.names(f"{directory}/slaves")
    if not below and machine.exists(f"{directory}/partition"):
        target = machine.link(directory)
        below = [] if target is None else [target.parent.name]
    if below:
        return _all_of([device_storage(machine, part, depth - 1) for part in below])
    return Storage(False, f"{name} is not encrypted")


def file_storage(machine: MachineFiles, path: Path, depth: int = _DEPTH) -> Storage:
    """Tell about the disk that holds a file, which need not exist yet.

    Raises:
        OSError: the kernel's description may not be read.
    """
    mount = _mount_of(machine, path)
    if mount is None:
        return Storage(None, f"no file system is known for {path}")
    number, kind, source = mount
    if kind in ("tmpfs", "ramfs"):
        return Storage(True, f"{kind} is memory, not a disk")
    link = machine.link(f"/sys/dev/block/{number}")
    if link is None and source.startswith("/dev/"):
        # btrfs numbers its file systems itself.
        return device_storage(machine, device_name(machine, source), depth - 1)
    if link is None:
        return Storage(None, f"the disk below {kind} cannot be seen")
    return device_storage(machine, link.name, depth - 1)


def device_name(machine: MachineFiles, path: str) -> str:
    """Return the kernel's name of a device node or of a link to one."""
    for _ in range(_DEPTH):
        target = machine.link(path)
        if target is None:
            break
        path = str(Path(path).parent / target)
    return Path(path).name


def unescape(text: str) -> str:
    """Decode the octal escapes with which the kernel writes spaces in names."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _compressed_memory(machine: MachineFiles, name: str, depth: int) -> Storage:
    backing = "none"
    if machine.exists(f"/sys/class/block/{name}/backing_dev"):
        backing = machine.text(f"/sys/class/block/{name}/backing_dev").strip()
    if backing == "none":
        return Storage(True, f"{name} is compressed memory")
    # Pages that zram writes back leave the memory in plain text.
    return device_storage(machine, device_name(machine, backing), depth - 1)


def _all_of(parts: list[Storage]) -> Storage:
    for wanted in (False, None):
        for part in parts:
            if part.encrypted is wanted:
                return part
    return parts[0]


def _mount_of(machine: MachineFiles, path: Path) -> tuple[str, str, str] | None:
    """Return device number, type and source of the file system that a path is in."""
    best: tuple[int, tuple[str, str, str]] | None = None
    for line in machine.text("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        number, _, point = before.split()[2:5]
        kind, source = after.split()[:2]
        mounted = Path(unescape(point))
        # Of several on one point the last hides the others.
        if path.is_relative_to(mounted) and (best is None or len(mounted.parts) >= best[0]):
            best = len(mounted.parts), (number, kind, unescape(source))
    return None if best is None else best[1]
