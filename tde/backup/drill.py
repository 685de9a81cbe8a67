"""A restore that is only tried: the proof that a backup can be used, at regular times.

The copy runs where nobody finds it: without TCP, in a private socket directory, without archiving,
and with no background worker of an extension, which might do in earnest what it does in production.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tde.audit import audit
from tde.backup.restoring import RestoreOptions, restore_backup
from tde.backup.seal import LABEL, read_seal, seal_path
from tde.backup.unpacking import original_places
from tde.backup.verifying import verify_backup
from tde.errors import DataDirectoryError, ProgramError, ServerNotRunningError, TdeError
from tde.postgres.cluster.questions import ask_server
from tde.postgres.server.config_files import CONFIGURATION_FILE
from tde.postgres.server.os_user import OsUser, run_as
from tde.postgres.server.owned_files import write_owned_file
from tde.postgres.server.program import run_program

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

_log = logging.getLogger(__name__)

#: The steps, in their order.
STEPS = ("verify", "restore", "recover", "amcheck", "audit")

# hot_standby: else recovery waits where max_worker_processes is less than it was on the primary.
_ALONE = {
    "listen_addresses": "",
    "archive_mode": "off",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "external_pid_file": "",
    "logging_collector": "off",
    "lc_messages": "C",
    "hot_standby": "off",
    "max_worker_processes": "0",
    "autovacuum": "off",
    "shared_buffers": "128MB",
    "synchronous_standby_names": "",
}
_ACCESS_FILE = "drill_hba.conf"
# What a server says that still recovers.
_RECOVERING = ("starting up", "not accepting connections", "not yet accepting", "recovery mode")
_MOST_PROBLEMS = 20
_LOOK_SECONDS = 0.2
_EVENT_TRIGGERS = 17


@dataclass(frozen=True)
class Step:
    """One step of a drill.

    Attributes:
        problems: in words; none where all is well.
        note: what was seen, or why it was left out.
    """

    name: str
    problems: tuple[str, ...] = ()
    note: str = ""
    seconds: float = 0


@dataclass
class DrillReport:
    """What a drill has shown.

    Attributes:
        taken: when the backup was taken.
        steps: those that were made; a failed one is the last.
    """

    backup: str
    taken: str = ""
    server_version: str = ""
    keys: tuple[str, ...] = ()
    steps: list[Step] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether all steps were made, and nothing was found."""
        return len(self.steps) == len(STEPS) and not any(step.problems for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return the document that ``--json`` prints."""
        return {**asdict(self), "is_good": self.is_good}


def restore_drill(
    backup: Path,
    scratch: Cluster,
    keystore: Keystore,
    options: RestoreOptions,
    *,
    timeout: float,
    keep: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> DrillReport:
    """Restore a backup, recover it, look at every page and index, audit it, and remove it again.

    Args:
        scratch: the cluster that is made; its directory is not there yet, and neither is the one
            beside it for tablespaces, of its name with ``.tablespaces``.
        keystore: open.
        timeout: seconds that recovery may take.
        keep: leave the copy, stopped.
        tell: is told of each step.

    Raises:
        DataDirectoryError: the directory, or that for tablespaces, is there already.
        KeyboardInterrupt: after the copy was removed.
    """
    report = DrillReport(str(backup))
    _require_new(scratch.data_directory)
    tablespaces = scratch.data_directory.with_name(f"{scratch.data_directory.name}.tablespaces")

    _require_new(tablespaces)

    def restore() -> Step:
        seal = read_seal(seal_path(backup), keystore.authentication_key(LABEL))
        places = {was: tablespaces / str(oid) for oid, was in original_places(backup, seal).items()}
        wanted = replace(options, mapping={**places, **options.mapping}, archives=False)
        restore_backup([(backup, seal)], scratch, keystore.path, wanted)
        return Step("restore")

    steps: dict[str, Callable[[], Step]] = {
        "verify": lambda: _verify(backup, keystore, report),
        "restore": restore,
        "recover": lambda: _recover(scratch, keystore, timeout),
        "amcheck": lambda: _amcheck(scratch, keystore),
        "audit": lambda: _audit(scratch, keystore),
    }
    with _cleaned_up(scratch, tablespaces, report, keep=keep):
        for name in STEPS:
            tell(name)
            started = time.monotonic()
            try:
                step = steps[name]()
            except TdeError as error:
                step = Step(name, problems=(f"{error}. {error.remedy or ''}".strip(),))
            except OSError as error:
                step = Step(name, problems=(str(error),))
            report.steps.append(replace(step, seconds=round(time.monotonic() - started, 3)))
            if step.problems:
                break
    return report


def _verify(backup: Path, keystore: Keystore, report: DrillReport) -> Step:
    found = verify_backup(backup, keystore)
    report.taken, report.server_version = found.seal.began, found.seal.server_version
    report.keys = found.seal.keys
    problems = [*found.problems[:_MOST_PROBLEMS]]
    problems += [f"the keystore lacks the key {name}" for name in found.missing_keys]
    return Step("verify", tuple(problems), f"{found.files} files, {found.bytes} bytes")


def _recover(scratch: Cluster, keystore: Keystore, timeout: float) -> Step:
    deadline = time.monotonic() + timeout
    scratch.start(keystore, options=_options_of(scratch), timeout=timeout)
    # It counts as started while it still recovers, and lets nobody in until it has.
    while not _is_recovered(scratch):
        if time.monotonic() > deadline:
            return Step("recover", (f"recovery has not ended after {timeout:g} seconds",))
        time.sleep(_LOOK_SECONDS)
    end = ask_server(scratch, "SELECT to_json(pg_last_wal_replay_lsn()::text)")
    return Step("recover", note=f"WAL replayed until {end}" if end else "")


def _options_of(scratch: Cluster) -> dict[str, str]:
    """Return the settings of the copy; its socket directory is private, so it lets everybody in.

    Debian keeps the configuration of a cluster elsewhere, so it may be in no backup.
    """
    directory = scratch.data_directory
    write_owned_file(directory / _ACCESS_FILE, "local all all trust\n", scratch.os_user)
    if not (directory / CONFIGURATION_FILE).exists():
        write_owned_file(directory / CONFIGURATION_FILE, "", scratch.os_user)
    options = {**_ALONE, "hba_file": str(directory / _ACCESS_FILE)}
    if scratch.binaries.major >= _EVENT_TRIGGERS:
        options["event_triggers"] = "off"  # Some run at each login.
    return options


def _is_recovered(scratch: Cluster) -> bool:
    try:
        return not ask_server(scratch, "SELECT to_json(pg_is_in_recovery())")
    except (ProgramError, ServerNotRunningError) as error:
        if scratch.pid is None:
            raise ProgramError(
                "the server has ended during recovery", remedy=f"Its log: {scratch.default_log}"
            ) from error
        if any(words in str(error) for words in _RECOVERING):
            return False
        raise


def _amcheck(scratch: Cluster, keystore: Keystore) -> Step:
    query = "SELECT to_json(exists(SELECT FROM pg_available_extensions WHERE name = 'amcheck'))"
    if not ask_server(scratch, query):
        return Step("amcheck", note="left out: the extension amcheck is not installed")
    parameters = scratch.connection_parameters()
    arguments = ["--all", "--install-missing", "--heapallindexed", "-w"]
    arguments += ["-h", str(parameters["host"]), "-p", str(parameters["port"])]
    arguments += ["-U", str(parameters["user"])]
    done = run_program(
        scratch.binaries, "pg_amcheck", arguments, keystore=keystore, os_user=scratch.os_user
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode == 0:
        return Step("amcheck", note="every table and every B-tree index")
    return Step("amcheck", tuple(lines[:_MOST_PROBLEMS]) or ("pg_amcheck has failed",))


def _audit(scratch: Cluster, keystore: Keystore) -> Step:
    scratch.stop("fast")
    found = audit(scratch, keystore)
    problems = [f"{finding.file}: {finding.kind.value}" for finding in found.findings]
    note = f"{found.bytes_read} bytes are ciphertext"
    return Step("audit", tuple(problems[:_MOST_PROBLEMS]), note)


def _require_new(directory: Path) -> None:
    """Refuse a directory that is there: what a drill makes it also removes."""
    if os.path.lexists(directory):
        raise DataDirectoryError(
            f"{directory} is there already", remedy="Name another place with --scratch."
        )


@contextmanager
def _cleaned_up(
    scratch: Cluster, tablespaces: Path, report: DrillReport, *, keep: bool
) -> Iterator[None]:
    """Stop the copy, and remove it unless it is to be kept; the log of one that failed stays."""
    try:
        yield
    finally:
        with suppress(TdeError):
            scratch.stop("immediate")
        if not keep:
            for directory in (scratch.data_directory, tablespaces):
                _remove(directory, scratch.os_user)
            if report.is_good:
                run_as(scratch.os_user, ["rm", "-f", scratch.default_log])


def _remove(directory: Path, os_user: OsUser | None) -> None:
    """Remove a directory, its content as the server's user: a link in it leads root nowhere."""
    run_as(os_user, ["rm", "-rf", directory])
    if os.path.lexists(directory):
        with suppress(OSError):
            directory.rmdir()  # Its parent may be root's.
    if os.path.lexists(directory):
        _log.warning("%s could not be removed", directory)
