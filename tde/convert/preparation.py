"""The first steps of a conversion: checks, journal, keys, and taking the cluster out of service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tde.algorithms import Algorithm
from tde.convert.authentic import encrypted_already
from tde.convert.blocks import BlockCipher, CipherName, Direction
from tde.convert.checks import (
    require_descriptors,
    require_encrypting_server,
    require_room,
    require_stopped_cleanly,
    require_usable_files,
    require_writable_control,
)
from tde.convert.configuration import require_usable_configuration
from tde.convert.control_file import (
    control_digest,
    identifier_in,
    require_known_layout,
    take_out_of_service,
)
from tde.convert.journal import sync_directory
from tde.convert.keys import (
    create_missing_keys,
    encrypted_tablespaces,
    key_checks,
    open_ciphers,
    wanted_keys,
)
from tde.convert.plan import Plan, make_plan
from tde.convert.state import Phase, State, conversion_key
from tde.convert.tablespace_names import resolve_tablespaces
from tde.convert.wal_keys import later_wal_keys
from tde.convert.worker import ProgressListener
from tde.errors import ConversionError
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.keymap import KEYMAP_FILE
from tde.postgres.cluster.keys import require_cluster_keys, require_unused_keystore
from tde.postgres.cluster.keys_of_pages import require_keys_of_map
from tde.postgres.cluster.marker import Marker, require_matching_keystore
from tde.postgres.cluster.scope import Scope
from tde.postgres.cluster.unfinished_conversion import JOURNAL_DIRECTORY
from tde.postgres.facts import CONTROL_FILE
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.control import ControlData, read_major_version
from tde.postgres.server.file_user import files_as

if TYPE_CHECKING:
    from tde.keystore import Keystore


@dataclass(frozen=True)
class Options:
    """What the caller asked for; None means the default, or what an earlier run was told."""

    scope: Scope | None
    algorithm: Algorithm | None
    tablespaces: tuple[str, ...] | None
    jobs: int
    allow_invalid: bool
    checksums: bool | None
    listener: ProgressListener | None


class Preparation:
    """Steps 1 to 3 of a conversion (see :mod:`.runner`).

    Attributes:
        plaintext: relation files that stay as they are.
        worthless: temporary files that are to be removed.
        warnings: what the operator should know.
    """

    def __init__(
        self, cluster: Cluster, keystore: Keystore, direction: Direction, options: Options
    ) -> None:
        self.cluster = cluster
        self.keystore = keystore
        self.direction = direction
        self.options = options
        self.directory = cluster.data_directory
        self.os_user = cluster.os_user
        self.journal = self.directory / JOURNAL_DIRECTORY
        self.plaintext = 0
        self.worthless: list[str] = []
        self.warnings: list[str] = []
        self._identifier = 0

    def run(self, earlier: State | None) -> State:
        """Check everything, write the journal and the keys, and take the cluster out of service.

        Args:
            earlier: of a run that was interrupted before it changed the cluster.
        """
        # The journal is authenticated with a key from the master key as long as there is no other.
        self.keystore.require_rotated()
        marker = self.cluster.marker
        if self.direction is Direction.ENCRYPT:
            if marker is not None:
                raise encrypted_already(self.directory, marker)
        elif marker is None:
            raise ConversionError(
                f"the cluster {self.directory} is not encrypted", remedy="There is nothing to do."
            )
        else:
            require_matching_keystore(self.directory, marker, self.keystore.uuid)
        content = read_cluster_file(self.directory, CONTROL_FILE)
        control = require_stopped_cleanly(self.cluster)
        with files_as(self.os_user):
            require_writable_control(self.directory)
        require_descriptors(self.options.jobs)
        self._identifier = identifier_in(content)
        version = f"PG_{read_major_version(self.directory)}_{control.catalog_version}"
        state = self._begin(earlier, marker, version, control, content)
        with self.open_ciphers(state) as ciphers:
            checks = key_checks(ciphers)
        state = replace(state, key_checks=checks, control=(control_digest(content),))
        with files_as(self.os_user):
            state.write(self.directory, self.os_user, conversion_key(self.keystore))
            take_out_of_service(self.directory, content)
        return state

    def _begin(
        self,
        earlier: State | None,
        marker: Marker | None,
        version: str,
        control: ControlData,
        content: bytes,
    ) -> State:
        """Check what this direction needs, and write the journal and the keys."""
        require_usable_configuration(
            self.directory, self.os_user, guarded=self.direction is Direction.ENCRYPT
        )
        if self.direction is not Direction.ENCRYPT:
            assert marker is not None  # Checked by the caller.
            return self._begin_decrypt(marker, version, control.redo_segment)
        require_encrypting_server(self.cluster.binaries, self.os_user)
        begun = earlier if self._is_same_aim(earlier) else None
        turn_on = not control.data_checksums and self._wants_checksums(begun)
        if turn_on:
            require_known_layout(content, self.directory)
        return self._begin_encrypt(
            version, control.redo_segment, begun=begun is not None, turn_on_checksums=turn_on
        )

    def open_ciphers(
        self, _state: State
    ) -> AbstractContextManager[Mapping[CipherName, BlockCipher]]:
        """Open the ciphers with which files are converted; they are closed at the end."""
        return open_ciphers(self.keystore, self.directory)

    def _is_same_aim(self, earlier: State | None) -> bool:
        """Tell whether an earlier run may have written keys for what this one does."""
        return (
            earlier is not None
            and earlier.direction is self.direction
            and earlier.keystore_uuid == self.keystore.uuid
        )

    def _wants_checksums(self, begun: State | None) -> bool:
        """Tell whether checksums are to be on; what a first run was told holds for a repetition."""
        if self.options.checksums is not None:
            return self.options.checksums
        return begun is None or begun.turn_on_checksums

    def _begin_encrypt(
        self, version: str, redo: str, *, begun: bool, turn_on_checksums: bool
    ) -> State:
        scope = self.options.scope or Scope.CLUSTER
        algorithm = self.options.algorithm or Algorithm.AES256
        asked = self.options.tablespaces or ()
        names = dict(zip(asked, resolve_tablespaces(self.directory, asked), strict=True))
        named = tuple(sorted(set(names.values())))
        encrypted = encrypted_tablespaces(self.directory, scope, named)
        wanted = wanted_keys(self.directory, scope, algorithm, named)
        plan = self._plan(
            version, redo, lambda oid: oid in encrypted, turn_on_checksums=turn_on_checksums
        )
        with files_as(self.os_user):
            require_usable_files(
                self.directory,
                plan,
                {},
                self.direction,
                allow_invalid=self.options.allow_invalid,
            )
        if not begun:
            require_unused_keystore(self.keystore.path)
        state = self._state(scope, algorithm, named, plan, turn_on_checksums=turn_on_checksums)
        state = replace(state, tablespace_names=names)
        self._write_journal(state)
        with files_as(self.os_user):
            # What was left by an earlier life of this cluster, which is plain now, says nothing.
            (self.directory / KEYMAP_FILE).unlink(missing_ok=True)
        create_missing_keys(self.keystore, wanted, begun=begun)
        return state

    def _begin_decrypt(self, marker: Marker, version: str, redo: str) -> State:
        from tde.keystore import KeyOwner, inspect_keystore

        require_cluster_keys(self.keystore, self.directory)
        require_keys_of_map(self.directory, self.keystore)
        with open_ciphers(self.keystore, self.directory) as ciphers:
            plan = self._plan(version, redo, lambda oid: oid in ciphers, turn_on_checksums=False)
            with files_as(self.os_user):
                require_usable_files(
                    self.directory,
                    plan,
                    ciphers,
                    self.direction,
                    allow_invalid=self.options.allow_invalid,
                )
                wal_keys = later_wal_keys(self.directory, plan.files, ciphers)
        records = {r.owner: r.algorithm for r in inspect_keystore(self.keystore.path).keys}
        algorithm = records[KeyOwner.wal()] or Algorithm.AES256
        state = self._state(marker.scope, algorithm, (), plan, turn_on_checksums=False)
        state = replace(state, wal_keys=wal_keys)
        self._write_journal(state)
        return state

    def _plan(
        self,
        version: str,
        redo: str,
        is_encrypted: Callable[[int], bool],
        *,
        turn_on_checksums: bool,
    ) -> Plan:
        with files_as(self.os_user):
            plan = make_plan(
                self.directory, version, is_encrypted, turn_on_checksums=turn_on_checksums
            )
        if f"pg_wal/{redo}" not in {file.path for file in plan.files}:
            raise ConversionError(
                f"{self.directory}/pg_wal lacks {redo}, the segment that the next start reads",
                remedy="Restore it from the WAL archive, start the server and stop it.",
            )
        require_room(self.directory, plan, self.options.jobs)
        self.plaintext = plan.plaintext
        self.worthless = plan.worthless
        self.warnings += plan.warnings
        return plan

    def _state(
        self,
        scope: Scope,
        algorithm: Algorithm,
        named: tuple[int, ...],
        plan: Plan,
        *,
        turn_on_checksums: bool,
    ) -> State:
        return State(
            direction=self.direction,
            phase=Phase.CONVERTING,
            keystore_uuid=self.keystore.uuid,
            keystore=self.keystore.path.resolve(),
            scope=scope,
            algorithm=algorithm,
            tablespaces=named,
            files=tuple(plan.files),
            turn_on_checksums=turn_on_checksums,
            plain_files=tuple(plan.plain_files),
            system_identifier=self._identifier,
        )

    def _write_journal(self, state: State) -> None:
        """Write state.json into a new directory, or one in which there is nothing but it."""
        key = conversion_key(self.keystore)
        with files_as(self.os_user):
            self.journal.mkdir(mode=0o700, exist_ok=True)
            for stale in self.journal.glob(".state.json.*"):
                stale.unlink()
            state.write(self.directory, self.os_user, key)
            sync_directory(self.directory)
