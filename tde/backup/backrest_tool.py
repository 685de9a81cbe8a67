"""pgBackRest, called as the server's archive_command calls it.

Who owns the database names the program, and who owns the repository may answer. So it runs as the
server's user, apart from this terminal, without the variables of this process; and nothing that it
says becomes a path before it was looked at.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tde.audit.backrest import ARCHIVE_ID, LABEL
from tde.backup.reading import Reader
from tde.errors import BackupError, ProgramError
from tde.postgres.cluster.backrest_options import BackRestCall, call_of_server, is_off
from tde.postgres.cluster.questions import ask_server
from tde.postgres.server.file_user import files_as
from tde.postgres.server.os_user import output_of, run_as

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

#: A segment in an archive, whose name has the SHA-1 of what was archived.
SEGMENT = re.compile(r"(?P<name>[0-9A-F]{24})-(?P<sha1>[0-9a-f]{40})(\.\w+)?")

# Without these, archiving fails, or each page counts as damaged.
_MUST_BE_OFF = (("archive-header-check", "archive-push"), ("checksum-page", "backup"))
_STANZA = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_WAL_NAME = re.compile(r"[0-9A-F]{24}")
# Its own words would stand among those that are read.
_QUIET = ("--log-level-console=off", "--log-level-stderr=warn")
# Codes of `info`: the stanza's path, or its data, are missing.
_NO_STANZA = (1, 3)
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True)
class TakenBackup:
    """What pgBackRest says of a backup.

    Attributes:
        repository: its number.
        archive: the name of the archive that has its WAL.
        start, stop: the first and the last segment that it needs.
        ended: in seconds since 1970.
    """

    label: str
    kind: str
    repository: int
    archive: str
    start: str
    stop: str
    ended: int


class BackRest:
    """The tool, for one cluster."""

    def __init__(self, cluster: Cluster, stanza: str) -> None:
        self._call = _call_of(cluster, stanza)
        self._os_user = cluster.os_user
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._environment = {**kept, **self._call.environment}
        self.stanza = self._call.option("stanza") or self._call.variable("stanza") or ""
        if not _STANZA.fullmatch(self.stanza):
            raise BackupError(
                f"archive_command names no usable stanza ({self.stanza!r})",
                remedy="Name it with --stanza.",
            )

    def require_settings(self) -> None:
        """Check that pgBackRest was told not to look into WAL and pages.

        Raises:
            BackupError: it was not, or its configuration cannot be read.
        """
        try:
            with files_as(self._os_user):
                files = self._call.files
                missing = [
                    name for name, command in _MUST_BE_OFF if not is_off(self._call, name, command)
                ]
        except OSError as error:
            raise BackupError(
                f"{error.filename}, the configuration of pgBackRest, cannot be read: "
                f"{error.strerror}"
            ) from error
        if missing:
            lines = " and ".join(f"{name}=n" for name in missing)
            raise BackupError(
                "pgBackRest was not told that pages and WAL are ciphertext: "
                f"{lines} is missing in {' or '.join(map(str, files)) or 'its options'}",
                remedy="tde pg install-bin --for pgbackrest"
                + (f" --write {shlex.quote(str(files[0]))}" if files else ""),
            )

    def backups(self, system_identifier: int) -> list[TakenBackup]:
        """Return the backups of the stanza, and of this cluster.

        Raises:
            BackupError: there is no such stanza, or it is another cluster's.
            ProgramError: pgBackRest has failed, or says something unexpected.
        """
        done = self._run(*_QUIET, "--output=json", "info")
        if done.returncode != 0:
            raise ProgramError(f"pgbackrest info has failed: {_said(done)}")
        try:
            (found,) = json.loads(done.stdout) or [{}]
            systems = {_database(one): int(one["system-id"]) for one in found.get("db", [])}
            if not systems:
                raise self._no_stanza(found)
            if system_identifier not in systems.values():
                raise BackupError(
                    f"the stanza {self.stanza} of pgBackRest is of another cluster",
                    remedy="Name this one's with --stanza.",
                )
            archives = {_database(one["database"]): one["id"] for one in found["archive"]}
            return [
                _taken(one, archives[_database(one["database"])])
                for one in found["backup"]
                if systems[_database(one["database"])] == system_identifier
                and one["archive"]["start"] is not None  # One of a stopped server has no WAL.
            ]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ProgramError(f"pgbackrest info says something unexpected: {error!r}") from error

    def _no_stanza(self, found: Mapping[str, Any]) -> BackupError:
        states = [one["status"] for one in found.get("repo", [])]
        if all(state["code"] in _NO_STANZA for state in states):
            return BackupError(
                f"pgBackRest knows no stanza {self.stanza}",
                remedy=f"pgbackrest --stanza={self.stanza} stanza-create",
            )
        said = "; ".join(str(state["message"]) for state in states)
        return BackupError(f"the repository of pgBackRest cannot be read: {said}")

    def back_up(self, kind: str) -> None:
        """Take a backup, with every file read anew.

        By size and time it would take files for unchanged that the list of an earlier backup, or of
        one that was broken off, has another hash of; and who can write to the repository can write
        that list.

        Raises:
            ProgramError: it has failed.
        """
        options = ["--log-level-console=info", "--delta", "--no-resume"]
        options += [f"--type={kind}"] if kind else []
        done = self._run(*options, "backup", capture=False)
        if done.returncode != 0:
            raise ProgramError(
                f"pgbackrest has failed, with status {done.returncode}",
                remedy="See what it says above. There is no seal; what it has stored, it removes "
                "the next time.",
            )

    def segments(self, backup: TakenBackup, wanted: list[str]) -> Iterator[tuple[str, str]]:
        """Yield the name in the repository of each segment, and the SHA-1 that it tells.

        Raises:
            BackupError: one is missing, or there twice.
            ProgramError: pgBackRest cannot list the archive.
        """
        names: dict[str, list[str]] = {}
        for directory in sorted({name[:16] for name in wanted}):
            place = f"archive/{self.stanza}/{backup.archive}/{directory}"
            names |= {name: [] for name in wanted if name.startswith(directory)}
            for file in self._files(backup, place):
                match = SEGMENT.fullmatch(file)
                if match and match["name"] in names:
                    names[match["name"]].append(f"{place}/{file}")
        for name in wanted:
            if len(names[name]) != 1:
                how = "twice" if names[name] else "not"
                raise BackupError(f"the segment {name} is {how} in the archive of pgBackRest")
            match = SEGMENT.fullmatch(names[name][0].rpartition("/")[2])
            assert match is not None
            yield names[name][0], match["sha1"]

    def _files(self, backup: TakenBackup, directory: str) -> list[str]:
        repository = f"--repo={backup.repository}"
        done = self._run(*_QUIET, repository, "--output=json", "repo-ls", directory)
        if done.returncode != 0:
            raise ProgramError(f"pgbackrest repo-ls has failed: {_said(done)}")
        try:
            return [name for name, one in json.loads(done.stdout).items() if one["type"] == "file"]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ProgramError(f"pgbackrest repo-ls says something unexpected: {error}") from error

    def hash(self, backup: TakenBackup, name: str) -> str:
        """Return the SHA-256 of a file as it lies in the repository.

        Raises:
            ProgramError: pgBackRest cannot read it.
        """
        command = [self._call.program, *_QUIET, f"--repo={backup.repository}", "--raw"]
        with output_of(
            self._os_user, [*command, "repo-get", name], environment=self._environment
        ) as stream:
            return Reader().hash_stream(stream)

    def _run(self, *arguments: str, capture: bool = True) -> subprocess.CompletedProcess[str]:
        try:
            return run_as(
                self._os_user,
                [self._call.program, *arguments],
                environment=self._environment,
                capture=capture,
                apart=True,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise BackupError(
                f"{self._call.program} cannot be run: {error.strerror}",
                remedy="Install pgbackrest.",
            ) from error


def _call_of(cluster: Cluster, stanza: str) -> BackRestCall:
    command = ask_server(cluster, "SELECT to_json(current_setting('archive_command'))")
    call = call_of_server(command, cluster.pid)
    if call is None and stanza:
        mine = ((k, v) for k, v in os.environ.items() if k.startswith("PGBACKREST_"))
        call = BackRestCall((), tuple(mine))
    if call is None:
        raise BackupError(
            f"archive_command runs no pgBackRest, so which stanza is this? It is: {command}",
            remedy="Name it with --stanza; its configuration is then the default one, or that of "
            "PGBACKREST_CONFIG.",
        )
    return replace(call, words=(f"--stanza={stanza}", *call.words)) if stanza else call


def _database(found: Mapping[str, Any]) -> tuple[int, int]:
    return int(found["id"]), int(found["repo-key"])


def _taken(found: Mapping[str, Any], archive: str) -> TakenBackup:
    taken = TakenBackup(
        label=str(found["label"]),
        kind=str(found["type"]),
        repository=int(found["database"]["repo-key"]),
        archive=str(archive),
        start=str(found["archive"]["start"]),
        stop=str(found["archive"]["stop"]),
        ended=int(found["timestamp"]["stop"]),
    )
    # They become parts of paths.
    for pattern, text in (
        (LABEL, taken.label),
        (ARCHIVE_ID, taken.archive),
        (_WAL_NAME, taken.start),
        (_WAL_NAME, taken.stop),
    ):
        if not pattern.fullmatch(text):
            raise ValueError(text)
    return taken


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr or done.stdout).strip()
