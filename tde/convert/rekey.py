"""Giving tablespaces of a stopped cluster another key.

The files are read with the old key and written with the new one, with the journal and the steps of
:mod:`.runner`. A node's keys are its own affair: WAL has what was written, not how it is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tde.algorithms import Algorithm
from tde.convert.blocks import BlockCipher, CipherName, Direction
from tde.convert.checks import require_room, require_usable_files
from tde.convert.control_file import control_digest
from tde.convert.key_changes import (
    KeyChange,
    create_keys,
    entry_of,
    find_cipher,
    keys_of_other,
    new_keys,
    open_changes,
    open_cipher,
    read_changed_map,
    read_other_map,
    require_distinct,
)
from tde.convert.keys import missing_tablespace
from tde.convert.plan import Plan, make_plan
from tde.convert.preparation import Options, Preparation
from tde.convert.runner import DEFAULT_JOBS, Conversion
from tde.convert.state import State
from tde.convert.summary import ConversionSummary
from tde.convert.tablespace_names import known_tablespaces, resolve_tablespaces
from tde.convert.worker import ProgressListener
from tde.errors import ConversionError
from tde.keystore.lifecycle.events import activate_keys, deactivate_keys
from tde.page.codec import PageCipher
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.key_log import place_of
from tde.postgres.cluster.key_uses import tablespace_label
from tde.postgres.cluster.keymap import KeyMap, KeySource, map_key, read_map
from tde.postgres.cluster.keys import require_cluster_keys
from tde.postgres.cluster.keys_of_pages import require_keys_of_map
from tde.postgres.cluster.landed_keys import ensure_map
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.cluster.marker import Marker
from tde.postgres.facts import BUILT_IN_TABLESPACES, CONTROL_FILE, PG_GLOBAL_OID
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.control import ControlData
from tde.postgres.server.file_user import files_as

if TYPE_CHECKING:
    from tde.keystore import Keystore


def rekey_tablespaces(
    cluster: Cluster,
    keystore: Keystore,
    tablespaces: Iterable[int | str] | None = None,
    *,
    every: bool = False,
    algorithm: Algorithm | None = None,
    same_keys_as: Path | None = None,
    jobs: int = DEFAULT_JOBS,
    allow_invalid_pages: bool = False,
    progress: ProgressListener | None = None,
) -> ConversionSummary:
    """Encrypt tablespaces of a stopped cluster anew, or finish what an earlier call has begun.

    The work may be interrupted at any moment, also by a power failure; until it is finished no
    server starts on the cluster. The keystore keeps the old keys, which backups need.

    Args:
        keystore: the cluster's.
        tablespaces: OIDs or names. With neither these nor ``every`` an unfinished rekey is
            finished.
        every: all that are encrypted.
        algorithm: of the new keys; that of the old one by default.
        same_keys_as: take no new keys, but those that this key map of another node names.
        jobs: number of threads.
        allow_invalid_pages: go on when files do not begin with a valid page.
        progress: called now and then, in this thread, with the bytes done and in all.

    Raises:
        ConversionError: the cluster cannot be converted, or not now; a tablespace does not exist
            or is in plaintext. Unless the message says otherwise, repeating the call continues.
        TdeError: as for :func:`~tde.convert.runner.encrypt_cluster`.
    """
    named = None if tablespaces is None else tuple(dict.fromkeys(map(str, tablespaces)))
    options = Options(None, algorithm, named, jobs, allow_invalid_pages, None, progress)
    preparation = _RekeyPreparation(cluster, keystore, options, every, same_keys_as)
    return _Rekey(cluster, keystore, Direction.REKEY, options, preparation).run()


class _Rekey(Conversion):
    """A run that replaces keys."""

    preparation: _RekeyPreparation

    def _require_same(self, state: State) -> None:
        super()._require_same(state)
        if self.preparation.every and state.tablespace_names:
            raise self._begun_with("some tablespaces only")
        if not self.preparation.keys_are_asked_for(state.changes):
            raise self._begun_with("other keys than --same-keys-as names")

    def _is_asked_for(self, done: State) -> bool:
        # Where a server has worked since, other keys are asked for once more.
        if control_digest(read_cluster_file(self.directory, CONTROL_FILE)) not in done.control:
            return self.options.tablespaces is None and not self.preparation.every
        if not self.preparation.keys_are_asked_for(done.changes):
            return False
        if self.preparation.every:
            return not done.tablespace_names
        asked = self.options.tablespaces
        if asked is None:
            return True
        named = known_tablespaces(done.tablespace_names, asked)
        return named is not None and set(named) == done.asked_tablespaces

    def _tell_of_new_keys(self, state: State) -> None:
        uses = {change.new.owner: tablespace_label(change.oid) for change in state.changes}
        activate_keys(self.keystore, uses, place_of(self.directory))

    def _tell_of_old_keys(self, state: State) -> None:
        # Other tablespaces go on with the key that those made in SQL are derived from.
        replaced = (c.old for c in state.changes if c.old.source is not KeySource.DERIVED)
        reasons = {old.owner: f"{tablespace_label(old.oid)} was rekeyed" for old in replaced}
        deactivate_keys(self.keystore, reasons, place_of(self.directory))

    def _continue(self, state: State, *, resumed: bool) -> ConversionSummary:
        # Before the first block rather than after the last one, when it is written anew.
        with files_as(self.os_user):
            read_changed_map(self.directory, self.keystore, state.changes)
        return super()._continue(state, resumed=resumed)


class _RekeyPreparation(Preparation):
    """The first steps of a rekey.

    Attributes:
        every: whether all encrypted tablespaces are asked for.
    """

    def __init__(
        self,
        cluster: Cluster,
        keystore: Keystore,
        options: Options,
        every: bool,
        same_keys_as: Path | None,
    ) -> None:
        super().__init__(cluster, keystore, Direction.REKEY, options)
        self.every = every
        self._same_keys_as = same_keys_as

    def keys_are_asked_for(self, changes: Iterable[KeyChange]) -> bool:
        """Tell whether the new keys of an earlier run are the other node's, if these are wanted."""
        if self._same_keys_as is None:
            return True
        other = read_other_map(self._same_keys_as, self.keystore)
        found = ((other.find(change.oid), change.new) for change in changes)
        return all(entry is not None and entry.owner == new.owner for entry, new in found)

    def open_ciphers(
        self, state: State
    ) -> AbstractContextManager[Mapping[CipherName, BlockCipher]]:
        return open_changes(self.keystore, state.changes)

    def _begin(
        self,
        earlier: State | None,
        marker: Marker | None,
        version: str,
        control: ControlData,
        content: bytes,
    ) -> State:
        assert marker is not None  # Checked by the caller.
        ensure_map(self.directory, self.keystore, self.os_user)
        require_cluster_keys(self.keystore, self.directory)
        require_keys_of_map(self.directory, self.keystore)
        keymap = read_map(self.directory, self.keystore.uuid, map_key(self.keystore))
        names = self._names(keymap)
        changes = self._changes(keymap, sorted(set(names.values())))
        with ExitStack() as stack:
            old: dict[CipherName, PageCipher] = {
                change.oid: stack.enter_context(open_cipher(self.keystore, change.old))
                for change in changes
            }
            algorithms = {c.oid: self._algorithm(c, old[c.oid].algorithm) for c in changes}
            plan = self._plan_and_look(version, old)
        state = self._state(
            marker.scope,
            algorithms[changes[0].oid],
            tuple(change.oid for change in changes),
            plan,
            turn_on_checksums=False,
        )
        state = replace(state, tablespace_names=names, changes=changes)
        self._write_journal(state)
        if self._same_keys_as is None:
            create_keys(self.keystore, changes, algorithms)
        return state

    def _names(self, keymap: KeyMap) -> dict[str, int]:
        """Return the tablespaces that were named, with their OIDs."""
        asked = self.options.tablespaces
        if asked is None and not self.every:
            raise ConversionError(
                "no tablespace was named, and no rekey is unfinished",
                remedy="Name those that are to get another key, or give --all.",
            )
        if not asked:
            return {}
        with ExitStack() as stack:
            cipher = find_cipher(self.keystore, entry_of(keymap, PG_GLOBAL_OID))
            if cipher is not None:
                stack.enter_context(cipher)
            with files_as(self.os_user):
                found = resolve_tablespaces(self.directory, asked, cipher)
        return dict(zip(asked, found, strict=True))

    def _changes(self, keymap: KeyMap, named: Sequence[int]) -> tuple[KeyChange, ...]:
        """Return which keys are replaced by which.

        Raises:
            ConversionError: there are none, or a tablespace has no key.
        """
        oids = self._with_keys(keymap, named)
        if self._same_keys_as is None:
            changes = new_keys(keymap, oids)
        else:
            other = read_other_map(self._same_keys_as, self.keystore)
            changes = keys_of_other(keymap, other, oids, self._same_keys_as)
            require_distinct(keymap, changes, self._present())
        if changes:
            return changes
        raise ConversionError(
            f"the cluster {self.directory} has no tablespace that is to get another key",
            remedy="There is nothing to do.",
        )

    def _with_keys(self, keymap: KeyMap, named: Sequence[int]) -> list[int]:
        present = self._present()
        for oid in named:
            if oid not in present:
                raise missing_tablespace(self.directory, oid)
            if keymap.find(oid) is None:
                raise ConversionError(
                    f"tablespace {oid} was made without tde and has no key",
                    remedy="Make another one with tde tablespace create, and move the tables.",
                )
        if named:
            return list(named)
        return [oid for oid in sorted(present) if self._is_encrypted(keymap, oid)]

    def _present(self) -> set[int]:
        return {*BUILT_IN_TABLESPACES, *tablespace_oids(self.directory)}

    def _is_encrypted(self, keymap: KeyMap, oid: int) -> bool:
        if keymap.find(oid) is None:
            return False
        cipher = find_cipher(self.keystore, entry_of(keymap, oid))
        if cipher is None:
            return False
        cipher.close()
        return True

    def _algorithm(self, change: KeyChange, old: Algorithm) -> Algorithm:
        """Return the algorithm of a new key, which exists already if it is another node's."""
        if self._same_keys_as is None:
            return self.options.algorithm or old
        with open_cipher(self.keystore, change.new) as cipher:
            return cipher.algorithm

    def _plan_and_look(self, version: str, old: Mapping[CipherName, PageCipher]) -> Plan:
        """Plan the files, and look at the first page of each with the old key."""
        with files_as(self.os_user):
            plan = make_plan(self.directory, version, lambda oid: oid in old, only_relations=True)
            require_room(self.directory, plan, self.options.jobs)
            require_usable_files(
                self.directory,
                plan,
                old,
                self.direction,
                allow_invalid=self.options.allow_invalid,
            )
        self.warnings += plan.warnings
        return plan
