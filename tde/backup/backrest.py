"""Backups that pgBackRest takes, sealed by the list that it keeps of each.

Its list, backup.manifest, has the SHA-1 of every file. That is enough for a list which is proven:
who would put another file in the place of one needs a second preimage, and nobody knows how to find
one, nor could he choose what the server has encrypted. The seal has the SHA-256 of the list, and of
the archived WAL without which the backup is no cluster.

pgBackRest itself reads the repository, so it may be on another host or in a cloud.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tde.backup.reading import Reader
from tde.backup.seal import LABEL, Seal, new_seal
from tde.backup.taking import needed_keys, now
from tde.errors import BackupError, ProgramError
from tde.postgres.cluster.backrest_options import BackRestCall, find_call, is_off
from tde.postgres.cluster.questions import ask_server
from tde.postgres.server.control import read_control_data
from tde.postgres.server.os_user import OsUser, output_of, run_as
from tde.postgres.server.owned_files import sync_directory, temporary_name

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

#: The form of a seal.
BACKREST = "pgbackrest"
LIST = "backup.manifest"
#: A segment in an archive of pgBackRest, whose name has the SHA-1 of what was archived.
SEGMENT = re.compile(r"([0-9A-F]{24})-[0-9a-f]{40}(\.\w+)?")

# Without these, archiving fails, or each page counts as damaged.
_MUST_BE_OFF = (("archive-header-check", "archive-push"), ("checksum-page", "backup"))


@dataclass(frozen=True)
class SealedBackup:
    """A backup that was taken: its name in the repository, and where its seal is."""

    stanza: str
    label: str
    seal: Seal
    file: Path


def take_backrest_backup(
    cluster: Cluster, keystore: Keystore, directory: Path, *, stanza: str = "", kind: str = ""
) -> SealedBackup:
    """Have pgBackRest take a backup, and put its seal into a directory.

    pgBackRest is told what the server's archive_command tells it. What it says of its progress goes
    where this process's own output goes.

    Args:
        directory: for seals; it is made when it is missing.
        stanza: by default that of archive_command.
        kind: ``full``, ``diff`` or ``incr``; by default what pgBackRest is configured to take.

    Raises:
        ServerNotRunningError: there is no server.
        BackupError: pgBackRest is not there, or not configured for this cluster; or the seal cannot
            be made.
        ProgramError: it has failed; it has said why.
    """
    tool = _Tool(_call_of(cluster, stanza), cluster.os_user)
    tool.require_settings()
    control = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)
    before = {_identity(found) for found in tool.backups(control.system_identifier)}
    _make_directory(directory, cluster.os_user)
    unfinished = directory / temporary_name(f"{tool.stanza}.seal.json")
    began = now()
    with new_seal(unfinished, cluster.os_user) as write:
        tool.back_up(kind)
        taken = [
            found
            for found in tool.backups(control.system_identifier)
            if _identity(found) not in before
        ]
        if not taken:
            raise BackupError(f"pgBackRest lists no new backup in the stanza {tool.stanza}")
        newest = max(taken, key=lambda found: int(found["timestamp"]["stop"]))
        seal = Seal(
            keystore_uuid=keystore.uuid.hex,
            keys=tuple(needed_keys(cluster, keystore)),
            system_identifier=control.system_identifier,
            server_version=cluster.binaries.version_text,
            form=BACKREST,
            is_incremental=newest["type"] != "full",
            began=began,
            ended=now(),
            files=tool.hashes(newest),
        )
        write(seal.pack(keystore.authentication_key(LABEL)))
        file = directory / f"{tool.stanza}-{newest['label']}.seal.json"
        if os.path.lexists(file):
            raise BackupError(
                f"{file} is there already: the seal of a backup in another repository",
                remedy="The backup was taken, and has no seal. Name another directory for seals.",
            )
        unfinished.rename(file)
        sync_directory(directory)
    return SealedBackup(tool.stanza, str(newest["label"]), seal, file)


def _identity(found: Mapping[str, Any]) -> tuple[int, str]:
    """Tell backups apart, of which two repositories may have one with the same label."""
    return int(found["database"]["repo-key"]), str(found["label"])


def _call_of(cluster: Cluster, stanza: str) -> BackRestCall:
    command = ask_server(cluster, "SELECT to_json(current_setting('archive_command'))")
    call = find_call(command)
    if call is None and not stanza:
        raise BackupError(
            f"archive_command runs no pgBackRest, so which stanza is this? It is: {command}",
            remedy="Name it with --stanza; its configuration is then the default one, or that of "
            "PGBACKREST_CONFIG.",
        )
    if call is None:
        variables = ((k, v) for k, v in os.environ.items() if k.startswith("PGBACKREST_"))
        call = BackRestCall((), tuple(variables))
    return replace(call, words=(f"--stanza={stanza}", *call.words)) if stanza else call


def _make_directory(directory: Path, os_user: OsUser | None) -> None:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return  # If it is no directory, the seal cannot be made in it.
    except OSError as error:
        raise BackupError(f"{directory} cannot be made: {error.strerror}") from error
    if os_user is not None:
        os.chown(directory, os_user.uid, os_user.gid)


class _Tool:
    """pgBackRest, as the server's archive_command calls it."""

    def __init__(self, call: BackRestCall, os_user: OsUser | None) -> None:
        self._call = call
        self._os_user = os_user
        self._environment = {**os.environ, **call.environment}
        self.stanza = call.option("stanza") or call.variable("stanza") or ""
        if not self.stanza:
            raise BackupError(
                "archive_command does not say which stanza this is", remedy="Name it with --stanza."
            )

    def require_settings(self) -> None:
        """Check that pgBackRest was told not to look into WAL and pages.

        Raises:
            BackupError: it was not.
        """
        files = " or ".join(map(str, self._call.files))
        try:
            missing = [
                name for name, command in _MUST_BE_OFF if not is_off(self._call, name, command)
            ]
        except OSError as error:
            raise BackupError(f"{error.filename} cannot be read: {error.strerror}") from error
        if missing:
            lines = " and ".join(f"{name}=n" for name in missing)
            raise BackupError(
                f"pgBackRest was not told that pages and WAL are ciphertext: {lines} is missing "
                f"in {files}",
                remedy=f"tde pg install-bin --for pgbackrest --write {self._call.files[0]}",
            )

    def backups(self, system_identifier: int) -> list[dict[str, Any]]:
        """Return what pgBackRest knows of the backups of its stanza.

        Raises:
            BackupError: there is no such stanza, or it is another cluster's.
            ProgramError: pgBackRest has failed.
        """
        done = self._run("info", "--output=json")
        if done.returncode != 0:
            raise ProgramError(
                f"pgbackrest info has failed: {(done.stderr or done.stdout).strip()}"
            )
        (found,) = json.loads(done.stdout) or [{}]
        systems = {int(one["system-id"]) for one in found.get("db", [])}
        if not systems:
            raise BackupError(
                f"pgBackRest knows no stanza {self.stanza}",
                remedy=f"pgbackrest --stanza={self.stanza} stanza-create",
            )
        if system_identifier not in systems:
            raise BackupError(
                f"the stanza {self.stanza} of pgBackRest is of another cluster",
                remedy="Name this one's with --stanza.",
            )
        return [
            {**one, "archive-id": archive["id"]}
            for one in found["backup"]
            for archive in found["archive"]
            if archive["database"] == one["database"]
        ]

    def back_up(self, kind: str) -> None:
        """Take a backup.

        Raises:
            ProgramError: it has failed.
        """
        options = ["--log-level-console=info", *([f"--type={kind}"] if kind else [])]
        done = self._run(*options, "backup", capture=False)
        if done.returncode != 0:
            raise ProgramError(
                f"pgbackrest has failed, with status {done.returncode}",
                remedy="See what it says above. What it has stored, it uses or removes the next "
                "time.",
            )

    def hashes(self, found: Mapping[str, Any]) -> dict[str, str]:
        """Return the hashes of a backup's list and of its WAL, by their names in the repository.

        Raises:
            BackupError: WAL is missing in the archive.
            ProgramError: pgBackRest cannot read them.
        """
        repository = f"--repo={found['database']['repo-key']}"
        names = [f"backup/{self.stanza}/{found['label']}/{LIST}"]
        names += self._segments(repository, found)
        return {name: self._hash(repository, name) for name in names}

    def _segments(self, repository: str, found: Mapping[str, Any]) -> Iterator[str]:
        start, stop = str(found["archive"]["start"]), str(found["archive"]["stop"])
        wanted = False
        for log in range(int(start[8:16], 16), int(stop[8:16], 16) + 1):
            directory = f"archive/{self.stanza}/{found['archive-id']}/{start[:8]}{log:08X}"
            for name in sorted(self._names(repository, directory)):
                match = SEGMENT.fullmatch(name)
                if match and start <= match[1] <= stop:
                    wanted = wanted or match[1] == stop
                    yield f"{directory}/{name}"
        if not wanted:
            raise BackupError(f"the archive of pgBackRest lacks the segment {stop}")

    def _names(self, repository: str, directory: str) -> list[str]:
        done = self._run(repository, "repo-ls", directory)
        if done.returncode != 0:
            raise ProgramError(f"pgbackrest repo-ls has failed: {done.stderr.strip()}")
        return str(done.stdout).split()

    def _hash(self, repository: str, name: str) -> str:
        # As it lies there: encrypted once more where pgBackRest does that.
        command = [self._call.program, repository, "--raw", "repo-get", name]
        with output_of(self._os_user, command, environment=self._environment) as stream:
            return Reader().hash_stream(stream)

    def _run(self, *arguments: str, capture: bool = True) -> subprocess.CompletedProcess[str]:
        try:
            return run_as(
                self._os_user,
                [self._call.program, *arguments],
                environment=self._environment,
                capture=capture,
            )
        except FileNotFoundError as error:
            raise BackupError(
                f"there is no program {self._call.program}", remedy="Install pgbackrest."
            ) from error
