"""A restore that is only tried: the proof that a backup can be used, at regular times.

The copy runs where nobody finds it: without TCP, in a private socket directory, without archiving,
and with no background worker of an extension, which might do in earnest what it does in production.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tde.audit import audit
from tde.backup.restoring import RestoreOptions, original_places, restore_backup
from tde.backup.seal import LABEL, read_seal, seal_path
from tde.backup.verifying import verify_backup
from tde.errors import ProgramError, TdeError
from tde.postgres.cluster.questions import ask_server
from tde.postgres.server.os_user import run_as
from tde.postgres.server.program import run_program

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

#: The steps, in their order.
STEPS = ("verify", "restore", "recover", "amcheck", "audit")

# hot_standby: else recovery waits where max_worker_processes is less than it was on the primary.
_ALONE = {
    "listen_addresses": "",
    "archive_mode": "off",
    "hot_standby": "off",
    "max_worker_processes": "0",
    "autovacuum": "off",
    "primary_conninfo": "",
    "synchronous_standby_names": "",
}
_MOST_PROBLEMS = 20
_LOOK_SECONDS = 0.2


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
        scratch: the cluster that is made; its directory is new or empty, and beside it tablespaces
            get a directory of its name with ``.tablespaces``.
        keystore: open.
        timeout: seconds that recovery may take.
        keep: leave the copy, stopped.
        tell: is told of each step.

    Raises:
        KeyboardInterrupt: after the copy was removed.
    """
    report = DrillReport(str(backup))
    tablespaces = scratch.data_directory.with_name(f"{scratch.data_directory.name}.tablespaces")

    def restore() -> Step:
        seal = read_seal(seal_path(backup), keystore.authentication_key(LABEL))
        places = {was: tablespaces / str(oid) for oid, was in original_places(backup, seal).items()}
        wanted = replace(options, mapping={**places, **options.mapping}, archives=False)
        restore_backup(backup, scratch, seal, keystore.path, wanted)
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
    scratch.start(keystore, options=_ALONE, timeout=timeout)
    # It counts as started while it still recovers, and lets nobody in until it has.
    while not _is_recovered(scratch):
        if time.monotonic() > deadline:
            return Step("recover", (f"recovery has not ended after {timeout:g} seconds",))
        time.sleep(_LOOK_SECONDS)
    end = ask_server(scratch, "SELECT to_json(pg_last_wal_replay_lsn()::text)")
    return Step("recover", note=f"WAL replayed until {end}" if end else "")


def _is_recovered(scratch: Cluster) -> bool:
    try:
        return not ask_server(scratch, "SELECT to_json(pg_is_in_recovery())")
    except ProgramError as error:
        if scratch.pid is not None:
            return False
        raise ProgramError(
            "the server has ended during recovery", remedy=f"Its log: {scratch.default_log}"
        ) from error


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
                # As the server's user: a link in the copy leads root nowhere.
                run_as(scratch.os_user, ["rm", "-rf", directory])
            if report.is_good:
                run_as(scratch.os_user, ["rm", "-f", scratch.default_log])
