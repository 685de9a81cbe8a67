"""Converting an existing cluster in place: the order of the steps, for all directions.

1. Everything that can be checked is checked; nothing is changed.
2. state.json is written, then (to encrypt) the key records, then checks of the keys.
3. global/pg_control gets another name. From here on no server starts, and blocks are overwritten.
4. All files are converted and synced. Where checksums are turned on, pages get them before they
   are encrypted, and those of plaintext tablespaces too.
5. state.json says so. The marker, the guard and the hidden state of encrypted clusters are
   written or removed, and pg_control says that checksums are on. After a rekey (:mod:`.rekey`)
   the key map says the new keys.
6. global/pg_control gets its name back, which is the moment of success. The journal is removed.

After an interruption the name of pg_control tells what to do: before step 3 everything begins
anew, afterwards the work is continued, and a repeated step 5 does no harm. What state.json says
counts only if it is authentic (see :mod:`.authentic`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from tde.algorithms import Algorithm
from tde.convert.authentic import (
    lost_journal,
    require_finished,
    state_in_service,
    state_out_of_service,
)
from tde.convert.blocks import BlockCipher, CipherName, Direction
from tde.convert.checks import require_descriptors, require_no_server
from tde.convert.configuration import (
    guard_configuration,
    release_configuration,
    require_usable_configuration,
)
from tde.convert.control_file import (
    control_digest,
    is_control_moved,
    move_control,
    moved_catalog_version,
    moved_control_has_checksums,
    store_state,
    stored_control,
)
from tde.convert.earlier_runs import has_records, read_earlier_runs
from tde.convert.journal import (
    RecordKey,
    remove_journal,
    require_own_directory,
    sync_directory,
)
from tde.convert.key_changes import write_changes
from tde.convert.keys import key_checks
from tde.convert.plan import Plan, make_plan
from tde.convert.preparation import Options, Preparation
from tde.convert.source import BatchSource
from tde.convert.state import Phase, State, conversion_key
from tde.convert.summary import ConversionSummary
from tde.convert.tablespace_names import known_tablespaces
from tde.convert.worker import ProgressListener, WorkDone, continuable, run_workers
from tde.errors import ClusterKeystoreError, ConversionError
from tde.postgres.cluster.accepted_lines import LinesOfStart
from tde.postgres.cluster.cluster import Cluster
from tde.postgres.cluster.key_log import tell_end_of_use, tell_first_use, tell_of_cluster
from tde.postgres.cluster.keymap import KEYMAP_FILE, write_map
from tde.postgres.cluster.keys import require_open
from tde.postgres.cluster.keystore_place import require_keystore_access, require_separate
from tde.postgres.cluster.landed_keys import landed_entries
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.cluster.marker import MARKER_FILE, Marker
from tde.postgres.cluster.scope import Scope
from tde.postgres.cluster.unfinished_conversion import (
    COMMANDS,
    JOURNAL_DIRECTORY,
    MOVED_CONTROL,
    read_state_document,
)
from tde.postgres.facts import CONTROL_FILE
from tde.postgres.server.control import read_control_data, read_major_version
from tde.postgres.server.file_user import files_as

if TYPE_CHECKING:
    from tde.keystore import Keystore

DEFAULT_JOBS = min(os.cpu_count() or 1, 8)


def encrypt_cluster(
    cluster: Cluster,
    keystore: Keystore,
    *,
    scope: Scope | None = None,
    algorithm: Algorithm | None = None,
    tablespaces: Iterable[int | str] | None = None,
    checksums: bool | None = None,
    jobs: int = DEFAULT_JOBS,
    allow_invalid_pages: bool = False,
    progress: ProgressListener | None = None,
) -> ConversionSummary:
    """Encrypt a stopped cluster in place, or finish what an earlier call has begun.

    Files keep their length, owner and mode. The work may be interrupted at any moment, also by a
    power failure; until it is finished no server starts on the cluster.

    Args:
        keystore: an open keystore without keys, which then serves this cluster; to continue, the
            one that was used before.
        scope: what is encrypted besides the WAL; ``CLUSTER`` by default.
        algorithm: for everything that is encrypted; AES-256 by default.
        tablespaces: OIDs or names of the tablespaces to encrypt in scope ``TABLESPACES``; 1663
            is pg_default, 1664 pg_global. All others get a plaintext entry.
        checksums: give every page a data checksum, also those of plaintext tablespaces, where the
            cluster has none; True by default. Checksums that are on stay on.
        jobs: number of threads.
        allow_invalid_pages: go on when files do not begin with a valid page.
        progress: called now and then, in this thread, with the bytes done and in all.

    Raises:
        NoDataDirectoryError: there is no cluster.
        ConversionError: the cluster cannot be converted, or not now. Unless the message says
            otherwise, repeating the call continues.
        ClusterKeystoreError: the keystore cannot serve this cluster.
        KeystoreError: a key cannot be written or read.
        UnsupportedServerError: the cluster's format is not supported.
        ClusterBusyError: another command works on the cluster.
    """
    named = None if tablespaces is None else tuple(dict.fromkeys(map(str, tablespaces)))
    options = Options(scope, algorithm, named, jobs, allow_invalid_pages, checksums, progress)
    return Conversion(cluster, keystore, Direction.ENCRYPT, options).run()


def decrypt_cluster(
    cluster: Cluster,
    keystore: Keystore,
    *,
    jobs: int = DEFAULT_JOBS,
    allow_invalid_pages: bool = False,
    progress: ProgressListener | None = None,
) -> ConversionSummary:
    """Decrypt a stopped cluster in place, or finish what an earlier call has begun.

    The keystore is left as it is: backups and archived WAL of the cluster still need it.
    Arguments and errors are those of :func:`encrypt_cluster`.
    """
    options = Options(None, None, None, jobs, allow_invalid_pages, None, progress)
    return Conversion(cluster, keystore, Direction.DECRYPT, options).run()


class Conversion:
    """One run in one direction."""

    def __init__(
        self,
        cluster: Cluster,
        keystore: Keystore,
        direction: Direction,
        options: Options,
        preparation: Preparation | None = None,
    ) -> None:
        if options.jobs < 1:
            raise ConversionError(f"the number of jobs must be at least 1, not {options.jobs}")
        self.cluster = cluster
        self.keystore = keystore
        self.direction = direction
        self.options = options
        self.directory = cluster.data_directory
        self.os_user = cluster.os_user
        self.journal = self.directory / JOURNAL_DIRECTORY
        self.begun = time.monotonic()
        self.preparation = preparation or Preparation(cluster, keystore, direction, options)
        self._worthless: list[str] = []

    def run(self) -> ConversionSummary:
        """Do or finish the conversion."""
        read_major_version(self.directory)
        require_open(self.keystore)
        require_separate(self.directory, self.keystore.path)
        require_keystore_access(self.keystore.path, self.os_user)
        with cluster_lock(self.directory, required=True), continuable(self.directory):
            require_no_server(self.cluster)
            require_own_directory(self.journal)
            document = read_state_document(self.directory)
            if is_control_moved(self.directory):
                if document is None:
                    raise lost_journal(self.directory)
                state = state_out_of_service(document, self.keystore, self.directory)
                self._require_same(state)
                require_descriptors(self.options.jobs)
                if self.direction is not Direction.REKEY:
                    require_usable_configuration(
                        self.directory, self.os_user, guarded=self.direction is Direction.ENCRYPT
                    )
                return self._continue(state, resumed=True)
            left = state_in_service(document, self.keystore, self.directory)
            if left is not None and left.phase is Phase.FINISHING:
                # Only the removal of the journal was interrupted. That it was also begun is not
                # enough: what it has made must be there.
                require_finished(left, self.keystore, self.directory)
                self._clean_up(left)
                if left.direction is self.direction and self._is_asked_for(left):
                    return self._summary(left, WorkDone(), resumed=True)
                left = None
            self._require_no_records()
            return self._continue(self.preparation.run(left), resumed=False)

    def _is_asked_for(self, _done: State) -> bool:
        """Tell whether this call is a repetition of one that had done its work."""
        return True

    def _require_no_records(self) -> None:
        """Check that nobody has given pg_control its name back, or removed state.json only.

        Files that an old journal calls done would be passed over now.
        """
        with files_as(self.os_user):
            found = has_records(self.journal)
        if found:
            raise ConversionError(
                f"{self.journal} says that blocks were converted, but {CONTROL_FILE} has its name",
                remedy="If a tde pg encrypt or decrypt with another keystore was interrupted in "
                "its last step, give that again. If somebody has renamed pg_control: stop the "
                f"server, rename it to {MOVED_CONTROL} and repeat the command. If the cluster has "
                f"worked since, with all of its data: remove {self.journal}.",
            )

    def _require_same(self, state: State) -> None:
        """Check that this call may continue what is unfinished."""
        if state.direction is not self.direction:
            command = COMMANDS[state.direction.value]
            raise ConversionError(
                f"{command} was interrupted on {self.directory} and is unfinished",
                remedy=f"Finish it first: {command} -D {self.directory} --keystore "
                f"{self.keystore.path}",
            )
        asked = self.options
        if asked.tablespaces is not None:
            named = known_tablespaces(state.tablespace_names, asked.tablespaces)
            if named is None or set(named) != state.asked_tablespaces:
                raise self._begun_with("other tablespaces")
        for given, before, name in (
            (asked.scope, state.scope, "scope"),
            (asked.algorithm, state.algorithm, "algorithm"),
        ):
            if given is not None and given != before:
                raise self._begun_with(f"another {name}")
        turned_on = state.turn_on_checksums
        if asked.checksums is False and turned_on:
            raise self._begun_with("data checksums to be turned on")
        if asked.checksums and not turned_on and not moved_control_has_checksums(self.directory):
            raise self._begun_with("--no-checksums")

    def _begun_with(self, what: str) -> ConversionError:
        return ConversionError(
            f"the conversion of {self.directory} was begun with {what}",
            remedy="Repeat the command with the options of its first run, or with none.",
        )

    # Converting and finishing.

    def _continue(self, state: State, *, resumed: bool) -> ConversionSummary:
        """Do what is left to do; pg_control has its other name."""
        if self.direction is Direction.ENCRYPT and not (self.directory / KEYMAP_FILE).exists():
            # Before the first block that needs it, and also after a run of an earlier release.
            entries = landed_entries(self.directory, self.keystore.path)
            write_map(self.directory, entries, self.keystore, self.os_user)
        self._tell_of_new_keys(state)
        key = RecordKey(conversion_key(self.keystore), state.conversion)
        with self.preparation.open_ciphers(state) as ciphers:
            self._require_same_keys(state, ciphers)
            if resumed:
                self._worthless = self._require_same_files(state, ciphers).worthless
            else:
                self._worthless = self.preparation.worthless
            with files_as(self.os_user):
                for path in self._worthless:
                    # They were written with keys that nobody has any more, or hold plain rows,
                    # which have no business on the disk of an encrypted cluster.
                    (self.directory / path).unlink(missing_ok=True)
                earlier = read_earlier_runs(self.journal, key)
            source = BatchSource(
                self.directory, state.files, state.plain_files, ciphers, earlier, state.wal_keys
            )
            outcome = run_workers(
                source,
                self.journal,
                earlier.run,
                key,
                self.direction,
                self.os_user,
                jobs=self.options.jobs,
                turn_on_checksums=state.turn_on_checksums,
                look_for_lost_records=resumed and not self.options.allow_invalid,
                listener=self.options.listener,
            )
        if source.progress != source.total:
            raise ConversionError(
                f"{source.total - source.progress} bytes of {self.directory} were not converted",
                remedy="This is a mistake in tde. Repeat the command, and report it.",
            )
        self._finish(state)
        return self._summary(state, outcome, resumed=resumed)

    def _tell_of_new_keys(self, _state: State) -> None:
        """Tell the key log which keys the cluster begins to use; repeating tells nothing twice."""
        if self.direction is Direction.ENCRYPT:
            tell_first_use(self.keystore, self.directory)

    def _tell_of_old_keys(self, _state: State) -> None:
        """Tell the key log which keys protect nothing new from now on."""
        if self.direction is Direction.DECRYPT:
            tell_end_of_use(self.keystore, self.directory, "the cluster was decrypted")

    def _require_same_keys(self, state: State, ciphers: Mapping[CipherName, BlockCipher]) -> None:
        if key_checks(ciphers) != state.key_checks:
            raise ClusterKeystoreError(
                f"the keystore {self.keystore.path} has other keys than when the conversion of "
                f"{self.directory} was begun",
                remedy="Restore the directory keys/ of the keystore as it was then.",
            )

    def _require_same_files(self, state: State, ciphers: Mapping[CipherName, BlockCipher]) -> Plan:
        """Check that nobody has added or removed files since the first run, and return the plan.

        An added one would stay as it is, and the cluster be called converted, or said to have
        checksums in every page.
        """
        version = f"PG_{read_major_version(self.directory)}_{moved_catalog_version(self.directory)}"
        with files_as(self.os_user):
            plan = make_plan(
                self.directory,
                version,
                lambda oid: oid in ciphers,
                turn_on_checksums=state.turn_on_checksums,
                only_relations=self.direction is Direction.REKEY,
            )
        before = {file.path for file in (*state.files, *state.plain_files)}
        now = {file.path for file in (*plan.files, *plan.plain_files)}
        if added := sorted(now - before):
            raise ConversionError(
                f"{self.directory / added[0]} was not there when the conversion began"
                + (f", nor were {len(added) - 1} other files" if added[1:] else ""),
                remedy="Move what somebody has put there since out of the cluster, and repeat the "
                "command.",
            )
        if missing := sorted(before - now):
            raise ConversionError(
                f"{self.directory / missing[0]} is missing, but was there when the conversion "
                "began" + (f"; so are {len(missing) - 1} other files" if missing[1:] else ""),
                remedy="Put back what was removed or moved, as it was, and repeat the command; "
                "otherwise restore the cluster from a backup.",
            )
        return plan

    def _finish(self, state: State) -> None:
        hidden, turn_on = self.direction is not Direction.DECRYPT, state.turn_on_checksums
        key = conversion_key(self.keystore)
        self._tell_of_old_keys(state)
        with files_as(self.os_user):
            control = stored_control(self.directory, hidden=hidden, turn_on_checksums=turn_on)
            finishing = state.finishing(control_digest(control))
            finishing.write(self.directory, self.os_user, key)
            for name in (MARKER_FILE, KEYMAP_FILE):
                for stale in self.directory.glob(f".{name}.*.tmp"):
                    stale.unlink()  # An earlier run was killed while it wrote this.
            if self.direction is Direction.ENCRYPT:
                marker = Marker(state.keystore_uuid, self.keystore.path.resolve(), state.scope)
                marker.write(self.directory, self.os_user)
                guard_configuration(self.directory, self.os_user)
            elif self.direction is Direction.REKEY:
                write_changes(self.directory, self.keystore, state.changes, self.os_user)
            else:
                release_configuration(self.directory, self.os_user)
                with suppress(FileNotFoundError):
                    (self.directory / MARKER_FILE).unlink()
            sync_directory(self.directory)
            store_state(self.directory, hidden=hidden, turn_on_checksums=turn_on)
            move_control(self.directory, back=True)
        if self.direction is Direction.ENCRYPT:
            tell_of_cluster(self.keystore, self.directory)
        if self.direction is Direction.ENCRYPT and self.keystore.by_hand:
            LinesOfStart(self.directory, self.keystore, ()).accept()
        self._clean_up(state)

    def _clean_up(self, state: State) -> None:
        """Remove what only the conversion that has ended needs, in whatever direction it was."""
        with files_as(self.os_user):
            if state.direction is Direction.DECRYPT:
                (self.directory / KEYMAP_FILE).unlink(missing_ok=True)
            remove_journal(self.journal)

    def _summary(self, state: State, outcome: WorkDone, *, resumed: bool) -> ConversionSummary:
        control = read_control_data(self.directory, self.cluster.binaries, self.os_user)
        return ConversionSummary(
            direction=self.direction.value,
            data_directory=self.directory,
            keystore=self.keystore.path,
            scope=state.scope.value,
            algorithm=state.algorithm.label,
            resumed=resumed,
            files=len(state.files),
            bytes=sum(file.size for file in state.files),
            bytes_written=outcome.written,
            plaintext_files=self.preparation.plaintext,
            removed_files=len(self._worthless),
            data_checksums=control.data_checksums,
            checksums_turned_on=state.turn_on_checksums,
            invalid_pages=outcome.invalid_pages,
            invalid_examples=outcome.examples,
            seconds=time.monotonic() - self.begun,
            tablespaces=[change.oid for change in state.changes],
            warnings=self.preparation.warnings,
        )
