"""Checks of the machine: swap, core dumps, locked memory, AES instructions."""

from __future__ import annotations

import logging
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from tde.machine import capabilities
from tde.machine.kernel_files import MachineFiles, read_limit
from tde.machine.storage import Storage, device_name, device_storage, file_storage, unescape
from tde.machine.verdict import Outcome, Verdict, ok, outcomes_of, problem, unknown, warning

# What the interposer locks: slots for keys (struct tde_keys_ring) in whole pages, which have 4, 16
# or 64 KiB on 64-bit ARM.
KEY_RING_STRUCTURE = 3_307_340
KEY_RING_BYTES = -(-KEY_RING_STRUCTURE // mmap.PAGESIZE) * mmap.PAGESIZE

# Kinds of memory in coredump_filter that hold pages, rows or key schedules: private and shared
# anonymous memory, also in huge pages.
_FILTER_OF_DATA = 0b0110_0011
_DISCARDING = frozenset({"true", "false"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerProcess:
    """A running server that the machine is checked for.

    Attributes:
        pid: of its postmaster.
        encrypted: whether its cluster is encrypted, so that it has keys in its memory.
        private: whether it has closed its memory to others and forbidden core dumps, as the
            interposer does.
        openssl_capabilities: the variable that can forbid OpenSSL the AES instructions, in its
            environment, where it tells it (empty when unset); ``None`` when the environment has
            to be read.
    """

    pid: int
    encrypted: bool
    private: bool = False
    openssl_capabilities: str | None = None


@dataclass(frozen=True)
class MachineCheck:
    """A check of the machine under the name and title by which it is reported."""

    name: str
    title: str
    run: Callable[[MachineFiles, ServerProcess | None], Iterator[Outcome]]


def check_swap(machine: MachineFiles, server: ServerProcess | None) -> Iterator[Outcome]:
    """Look for swap space on which memory of the server would be readable."""
    lines = machine.text("/proc/swaps").splitlines()[1:]
    if not lines:
        yield ok("there is none")
        return
    forbidden = server is not None and _may_not_swap(machine, server.pid)
    for line in lines:
        name, kind = line.split()[:2]
        path = unescape(name)
        storage = _swap_storage(machine, path, kind)
        if storage.encrypted:
            yield ok(f"{path}: {storage.why}")
        elif forbidden:
            yield ok(f"{path} exists, but the server's control group may not swap")
        elif storage.encrypted is None:
            yield unknown(f"{path}: {storage.why}", _SWAP_REMEDY.format(path=path))
        else:
            yield problem(
                f"{path}: {storage.why}; the server's pages and keys can be written there",
                _SWAP_REMEDY.format(path=path),
            )


_SWAP_REMEDY = (
    "Switch it off (swapoff {path}, and remove it from /etc/fstab). Use zram, or dm-crypt with a "
    "random key: in /etc/crypttab `swap <device> /dev/urandom swap,cipher=aes-xts-plain64`. Or "
    "forbid it to the server's service (systemd: MemorySwapMax=0)."
)


def _swap_storage(machine: MachineFiles, path: str, kind: str) -> Storage:
    if kind == "file":
        return file_storage(machine, Path(path))
    return device_storage(machine, device_name(machine, path))


def _may_not_swap(machine: MachineFiles, pid: int) -> bool:
    """Tell whether a control group of version 2 keeps the process out of swap space."""
    for line in machine.process_text(pid, "cgroup").splitlines():
        if not line.startswith("0::/"):
            continue
        group = PurePosixPath(line.removeprefix("0::"))
        for place in (group, *group.parents):
            limit = f"/sys/fs/cgroup{place}/memory.swap.max".replace("//", "/")
            if machine.exists(limit) and machine.text(limit).strip() == "0":
                return True
    return False


def check_core_dumps(machine: MachineFiles, server: ServerProcess | None) -> Iterator[Outcome]:
    """Tell whether a crash writes the server's memory, key schedules included, anywhere.

    Every server with keys forbids it itself. What is left are servers without keys, whose memory
    holds rows, and those that an older tde has started.
    """
    if server is None:
        yield ok("an encrypted server forbids them itself")
    elif server.private:
        yield ok("the running server forbids them itself")
    else:
        yield _core_dump(machine, server.pid, "the running server")


def _core_dump(machine: MachineFiles, process: int, who: str) -> Outcome:
    pattern = machine.text("/proc/sys/kernel/core_pattern").strip()
    if _is_discarded(machine, pattern):
        return ok(f"the kernel discards them (core_pattern is {pattern or 'empty'})")
    contents = int(machine.process_text(process, "coredump_filter"), 16)
    if not contents & _FILTER_OF_DATA:
        return ok(f"{who}: they hold neither pages nor keys (coredump_filter {contents:#x})")
    soft, hard = read_limit(machine, process, "Max core file size")
    if pattern.startswith(("|", "@")):
        program = PurePosixPath(pattern[1:].split()[0]).name if pattern[1:].split() else pattern
        if program == "systemd-coredump" and soft == 0:
            return ok(f"{who}: systemd-coredump stores none, because the limit is 0")
        # The kernel runs the program whatever the limit is.
        return problem(f"{who}: its memory, keys included, goes to {pattern}", _CORE_REMEDY)
    if soft > 0:
        return problem(
            f"{who}: its memory, keys included, is written to a file ({pattern}, "
            f"limit {_kib(soft)})",
            _CORE_REMEDY,
        )
    if hard > 0:
        return warning(
            f"{who}: only the soft limit of 0 prevents core files ({pattern}); "
            "`ulimit -c` or `pg_ctl -c` lifts it",
            _CORE_REMEDY,
        )
    return ok(f"{who}: the limit is 0")


_CORE_REMEDY = (
    "Forbid core dumps before the server is started: `ulimit -Hc 0` (systemd: LimitCORE=0) and "
    "restart it; for all programs at once: `sysctl -w kernel.core_pattern='|/bin/false'`."
)


def _is_discarded(machine: MachineFiles, pattern: str) -> bool:
    if pattern.startswith("|"):
        return PurePosixPath(pattern[1:].strip()).name in _DISCARDING
    if pattern:
        return False
    # core(5): an empty pattern writes nothing, unless the process id is appended to it.
    return machine.text("/proc/sys/kernel/core_uses_pid").strip() == "0"


def _kib(limit: float) -> str:
    return "unlimited" if limit == float("inf") else f"{limit / 1024:,.0f} kB"


def check_locked_memory(machine: MachineFiles, server: ServerProcess | None) -> Iterator[Outcome]:
    """Tell whether the keys can be, and are, locked into memory."""
    need = KEY_RING_BYTES // 1024
    remedy = (
        f"Raise the limit to {need} kB or more (ulimit -l; systemd: LimitMEMLOCK=8M; "
        "/etc/security/limits.d: memlock) and restart the server."
    )
    if server is not None and server.encrypted:
        locked = _locked_kib(machine, server.pid)
        if _has_secret_memory(machine, server.pid):
            yield ok("the running server has its keys in memory that no other process can read")
        elif locked >= need:
            yield ok(f"the running server has locked {locked} kB")
        else:
            yield problem(
                f"the running server has not locked its keys ({locked} of {need} kB), so they "
                "can be swapped out",
                remedy,
            )
    soft, _ = read_limit(machine, "self", "Max locked memory")
    if soft >= KEY_RING_BYTES:
        yield ok(f"a server started from here may lock enough ({_kib(soft)})")
    else:
        yield problem(
            f"a server started from here may lock {_kib(soft)}, its keys need {need} kB", remedy
        )


def _has_secret_memory(machine: MachineFiles, pid: int) -> bool:
    """Tell whether a server has memory of memfd_secret; only its owner and root can see that."""
    try:
        return "/secretmem" in machine.process_text(pid, "maps")
    except OSError:
        return False


def _locked_kib(machine: MachineFiles, pid: int) -> int:
    for line in machine.process_text(pid, "status").splitlines():
        if line.startswith("VmLck:"):
            return int(line.split()[1])
    raise OSError(f"/proc/{pid}/status has no VmLck")


def check_aes(machine: MachineFiles, server: ServerProcess | None) -> Iterator[Outcome]:
    """Tell whether the processor has AES instructions and OpenSSL is allowed to use them."""
    flags: set[str] = set()
    for line in machine.text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = set(value.split())
            if "aes" in flags:
                yield ok("the processor has AES instructions")
            else:
                yield warning(
                    "the processor has no AES instructions: encryption costs about ten times more",
                    "Use a processor with them; in a virtual machine, let the hypervisor pass "
                    "them on (the CPU model `host`).",
                )
            break
    else:
        yield unknown(
            "/proc/cpuinfo does not list the processor's features",
            "Look at the processor's manual, and measure with tde-bench.",
        )
    yield from _masked_instructions(machine, server, has_wide_aes={"vaes", "avx512f"} <= flags)


def _masked_instructions(
    machine: MachineFiles, server: ServerProcess | None, *, has_wide_aes: bool
) -> Iterator[Outcome]:
    name = capabilities.OWN.variable
    values = [(_variable(machine, "self", name), "this environment")]
    if server is not None:
        told = server.openssl_capabilities
        value = _variable(machine, server.pid, name) if told is None else told or None
        values.append((value, "the running server's environment"))
    for value, who in values:
        if capabilities.OWN.forbids_aes(value):
            yield warning(
                f"{who} forbids OpenSSL the AES instructions ({name}={value})",
                f"Unset {name} and restart the server.",
            )
        elif has_wide_aes and capabilities.OWN.forbids_wide_aes(value):
            yield warning(
                f"{who} keeps VAES and AVX-512 from OpenSSL ({name}={value}): from 3.5 on it "
                "is two to three times as slow without",
                f"Unset {name} and restart the server, or append :~0x0:~0x0:~0x0:~0x0 to it.",
            )


def _variable(machine: MachineFiles, process: int | str, name: str) -> str | None:
    for variable in machine.process_text(process, "environ").split("\0"):
        if variable.startswith(f"{name}="):
            return variable.removeprefix(f"{name}=")
    return None


MACHINE_CHECKS = (
    MachineCheck("swap", "Swap space", check_swap),
    MachineCheck("core_dumps", "Core dumps", check_core_dumps),
    MachineCheck("locked_memory", "Locked memory", check_locked_memory),
    MachineCheck("aes", "AES instructions", check_aes),
)


def warn_of_machine(machine: MachineFiles | None = None) -> None:
    """Log each problem of the machine with its remedy, as every start of a server does.

    Settings and builds with which rows would be stored in plain text are refused at a start. What
    the machine does with the server's memory is not the server's to decide, so it is only said.
    """
    files = machine or MachineFiles()
    for check in MACHINE_CHECKS:
        for outcome in outcomes_of(partial(check.run, files, None), ""):
            if outcome.verdict is Verdict.PROBLEM:
                _log.warning("%s: %s. %s", check.title, outcome.detail, outcome.remedy)
