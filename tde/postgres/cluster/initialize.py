"""Creating a cluster: the directory, the keys, initdb, and what marks it as encrypted.

The keys come first because initdb's own servers already write encrypted files. A failed or
interrupted one leaves nothing behind, keys included, unless the operator asked initdb to keep its
files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tde.algorithms import Algorithm
from tde.errors import DataDirectoryError, ProgramError, TdeError
from tde.ownership import adopt_directory, create_directory, create_parents
from tde.postgres.cluster.accepted_lines import accept_lines
from tde.postgres.cluster.authentication import initdb_options
from tde.postgres.cluster.guard import add_guard, has_guard
from tde.postgres.cluster.key_log import tell_first_use, tell_of_cluster
from tde.postgres.cluster.keymap import write_map
from tde.postgres.cluster.keys import (
    create_initial_keys,
    require_cluster_keys,
    require_unused_keystore,
)
from tde.postgres.cluster.keystore_place import require_keystore_access, require_separate
from tde.postgres.cluster.lock import cluster_lock
from tde.postgres.cluster.log_settings import add_log_settings
from tde.postgres.cluster.marker import Marker
from tde.postgres.cluster.scope import Scope
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.build import require_supported_build
from tde.postgres.server.config_files import CONFIGURATION_FILE
from tde.postgres.server.interposer import require_interposed
from tde.postgres.server.launch import program_environment
from tde.postgres.server.os_user import OsUser, require_reachable, run_as

if TYPE_CHECKING:
    from tde.keystore import Keystore


def initialize_cluster(
    data_directory: Path,
    binaries: PostgresBinaries,
    os_user: OsUser | None,
    *,
    keystore: Keystore | None,
    scope: Scope,
    algorithm: Algorithm,
    initdb_args: Sequence[str],
) -> None:
    """Create a cluster; see :meth:`tde.postgres.cluster.cluster.Cluster.init` for the errors."""
    _require_no_directory_option(initdb_args)
    options = initdb_options(initdb_args)
    require_creatable(data_directory, os_user, None if keystore is None else keystore.path)
    if keystore is None:
        with prepared_directory(data_directory, os_user):
            _run_initdb(data_directory, binaries, os_user, None, initdb_args)
        return
    require_supported_build(binaries, os_user)
    with prepared_directory(data_directory, os_user):
        created = create_initial_keys(keystore, scope, algorithm)
        try:
            tell_first_use(keystore, data_directory)
            _run_initdb(data_directory, binaries, os_user, keystore, initdb_args)
            _mark(data_directory, os_user, keystore, scope)
            tell_of_cluster(keystore, data_directory)
            # Success is reported only for a cluster whose keys are still in the keystore.
            require_cluster_keys(keystore, data_directory)
            accept_lines(data_directory, keystore, ())
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and "no-clean" not in options:
                # After initdb's own end; before, initdb takes back what it has made.
                remove_files(data_directory, os_user, with_linked_wal=True)
            if _is_empty(data_directory):
                keystore.discard_records(created)
            else:
                # Files that initdb kept (--no-clean), or that were complete before something else
                # failed, are of no use without their keys, and nobody could tell that they need
                # them.
                with suppress(TdeError, OSError):
                    _mark(data_directory, os_user, keystore, scope)
            raise


def require_creatable(data_directory: Path, os_user: OsUser | None, keystore: Path | None) -> None:
    """Check all that can be checked before anything is created or a passphrase is asked for.

    Raises:
        DataDirectoryError: the directory is not empty.
        ClusterKeystoreError: the keystore cannot serve this cluster.
        UnreachablePathError: a parent directory is closed to the server's user.
        KeystoreError: the keystore cannot be inspected.
    """
    _require_empty(data_directory)
    require_reachable(os_user, data_directory, "the data directory")
    if keystore is not None:
        require_separate(data_directory, keystore)
        require_unused_keystore(keystore)
        require_keystore_access(keystore, os_user)


@contextmanager
def prepared_directory(data_directory: Path, os_user: OsUser | None) -> Iterator[None]:
    """Create the data directory for the server's user; remove what was made when the body fails.

    Root has to do it for that user, who may not be allowed to write to the parent.
    """
    made: list[Path] = []
    try:
        _make_directory(data_directory, os_user, made)
        with cluster_lock(data_directory):
            _require_empty(data_directory)
            yield
    except BaseException:
        for directory in reversed(made):
            with suppress(OSError):  # It is not empty: initdb was to keep its files.
                directory.rmdir()
        raise


def _make_directory(data_directory: Path, os_user: OsUser | None, made: list[Path]) -> None:
    """Make the data directory, or take an empty one, and note what was made."""
    owner = None if os_user is None else os_user.owner
    if not data_directory.exists():
        made += create_parents(data_directory, owner)
        create_directory(data_directory, owner)
        made.append(data_directory)
    else:
        adopt_directory(data_directory, owner)
    if os_user is not None:
        require_reachable(os_user, data_directory / "PG_VERSION", "the data directory")


def _mark(data_directory: Path, os_user: OsUser | None, keystore: Keystore, scope: Scope) -> None:
    """Mark a cluster as encrypted and guard it, as far as that is not done yet."""
    write_map(data_directory, (), keystore, os_user)
    Marker(keystore.uuid, keystore.path.resolve(), scope).write(data_directory, os_user)
    configuration = data_directory / CONFIGURATION_FILE
    add_log_settings(configuration, os_user)
    if not has_guard(configuration):
        add_guard(configuration, os_user)


def _run_initdb(
    data_directory: Path,
    binaries: PostgresBinaries,
    os_user: OsUser | None,
    keystore: Keystore | None,
    initdb_args: Sequence[str],
) -> None:
    command: list[str | Path] = [binaries.program("initdb"), "-D", data_directory]
    # Without a database administrator's word, initdb of 15 to 17 leaves checksums off. What
    # the caller asks for stands later and wins.
    command += ["--data-checksums", *initdb_args]
    with program_environment(keystore, os_user) as program:
        result = run_as(
            os_user,
            command,
            environment=program.variables,
            pass_fds=program.pass_fds,
            started=program.let_go,
        )
    if result.returncode != 0:
        require_interposed(result.stderr)
        output = (result.stderr.strip() or result.stdout.strip()).splitlines()
        raise ProgramError("\n".join([f"initdb failed for {data_directory}", *output]))


def remove_files(
    data_directory: Path, os_user: OsUser | None, *, with_linked_wal: bool = False
) -> None:
    """Remove everything in a directory that was empty; it stays itself.

    The server's user does it: a link that somebody puts there leads root nowhere.

    Args:
        with_linked_wal: also what is in the directory that pg_wal is a link to. Only for whoever
            has made that link.
    """
    wal = data_directory / "pg_wal"
    places: list[str | Path] = [data_directory]
    if with_linked_wal and wal.is_symlink():
        places.insert(0, f"{wal}/")
    for place in places:  # The slash: where --waldir leads to.
        run_as(os_user, ["find", place, "-mindepth", "1", "-delete"])


def _require_no_directory_option(initdb_args: Sequence[str]) -> None:
    for argument in initdb_args:
        if argument.startswith(("-D", "--pgdata")):
            raise DataDirectoryError(
                f"{argument} cannot be among the arguments for initdb",
                remedy="Name the data directory with tde's own -D.",
            )


def _require_empty(data_directory: Path) -> None:
    if data_directory.exists() and not data_directory.is_dir():
        raise DataDirectoryError(f"{data_directory} exists and is not a directory")
    if not _is_empty(data_directory):
        raise DataDirectoryError(
            f"the data directory {data_directory} is not empty",
            remedy="Choose another one (below a mount point, create a subdirectory), or remove "
            "what is in it.",
        )


def _is_empty(directory: Path) -> bool:
    return not directory.exists() or not any(directory.iterdir())
