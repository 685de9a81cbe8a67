"""``tde pg encrypt`` and ``tde pg decrypt``: existing clusters, offline and in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tde.cli.cluster_access import find_cluster
from tde.cli.common import (
    console,
    error_console,
    examples,
    open_keystore,
    passphrase_source,
    print_json,
    require_keystore,
)
from tde.cli.options import (
    AES_SIZES,
    BindirOption,
    JsonOption,
    KeystoreOption,
    OsUserOption,
    PassphraseCommandOption,
    PassphraseFdOption,
    PassphraseFileOption,
    algorithm_of,
)
from tde.errors import TdeError

if TYPE_CHECKING:
    from tde.convert.worker import ProgressListener
    from tde.postgres import Cluster, ConversionSummary


class ScopeChoice(str, Enum):
    """The values of ``--scope``."""

    cluster = "cluster"
    tablespaces = "tablespaces"


DirectoryArgument = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="The data directory, as with -D.")
]
PgDataOption = Annotated[
    Path | None,
    typer.Option(
        "--pgdata", "-D", metavar="DIR", envvar="PGDATA", help="The PostgreSQL data directory."
    ),
]
ScopeOption = Annotated[
    ScopeChoice | None,
    typer.Option(help="What to encrypt besides the WAL.", show_default="cluster"),
]
AesOption = Annotated[
    int | None,
    typer.Option(
        "--aes", metavar=AES_SIZES, help="Size of the AES key in bits.", show_default="256"
    ),
]
TablespaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tablespace",
        metavar="NAME|OID",
        help="With --scope tablespaces: encrypt this one. May be repeated; pg_default and "
        "pg_global are possible.",
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", metavar="N", min=1, help="Threads. Default: one per CPU, at most 8."
    ),
]
InvalidOption = Annotated[
    bool,
    typer.Option(
        "--allow-invalid-pages", help="Go on although files do not begin with a valid page."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application of ``tde pg``."""
    app.command(
        epilog=examples(
            "tde keystore create --keystore /etc/tde/main",
            "pg_ctl stop -D /srv/pg/main",
            "tde pg encrypt /srv/pg/main --keystore /etc/tde/main",
            "# Only the WAL and one tablespace:",
            "tde pg encrypt /srv/pg/main -k /etc/tde/main --scope tablespaces --tablespace secrets",
            "# After an interruption, whatever it was:",
            "tde pg encrypt /srv/pg/main",
        )
    )(encrypt)
    app.command(epilog=examples("tde pg stop -D /srv/pg/main", "tde pg decrypt /srv/pg/main"))(
        decrypt
    )


def encrypt(
    directory: DirectoryArgument = None,
    pgdata: PgDataOption = None,
    keystore: KeystoreOption = None,
    scope: ScopeOption = None,
    aes: AesOption = None,
    tablespace: TablespaceOption = None,
    jobs: JobsOption = None,
    allow_invalid_pages: InvalidOption = False,
    as_json: JsonOption = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    passphrase_command: PassphraseCommandOption = None,
) -> None:
    """Encrypt a stopped cluster in place.

    It may be interrupted at any moment, also by a power failure: run it again to continue. Until
    it has finished no server starts on the cluster. Take a backup before, as for any change of
    all files. Backups and archived WAL from before stay plaintext: take a new base backup after.
    """
    from tde.convert.runner import DEFAULT_JOBS
    from tde.convert.tablespace_names import resolve_tablespaces
    from tde.postgres import Scope, encrypt_cluster

    algorithm = None if aes is None else algorithm_of(aes)
    source = passphrase_source(passphrase_file, passphrase_fd, passphrase_command)
    cluster = find_cluster(_data_directory(directory, pgdata), bindir, os_user)
    path = _keystore_path(cluster, keystore)
    named = resolve_tablespaces(cluster.data_directory, tablespace) if tablespace else None
    with open_keystore(path, source) as opened, _progress_bar("Encrypting") as progress:
        summary = encrypt_cluster(
            cluster,
            opened,
            scope=None if scope is None else Scope(scope.value),
            algorithm=algorithm,
            tablespaces=named,
            jobs=jobs or DEFAULT_JOBS,
            allow_invalid_pages=allow_invalid_pages,
            progress=progress,
        )
    _report(summary, as_json)
    if not as_json:
        console.print(
            f"Start it: tde pg start -D {cluster.data_directory}\n"
            "Keep the keystore and its passphrase safe: without them the data is lost.\n"
            "Backups and archived WAL from before are still plaintext: take a new base backup, "
            "then remove them.",
            markup=False,
            soft_wrap=True,
        )


def decrypt(
    directory: DirectoryArgument = None,
    pgdata: PgDataOption = None,
    keystore: KeystoreOption = None,
    jobs: JobsOption = None,
    allow_invalid_pages: InvalidOption = False,
    as_json: JsonOption = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    passphrase_command: PassphraseCommandOption = None,
) -> None:
    """Decrypt a stopped cluster in place; afterwards it starts with stock PostgreSQL.

    It may be interrupted and repeated as `tde pg encrypt`. The keystore is not changed: backups
    and archived WAL of the cluster still need it.
    """
    from tde.convert.runner import DEFAULT_JOBS
    from tde.postgres import decrypt_cluster

    source = passphrase_source(passphrase_file, passphrase_fd, passphrase_command)
    cluster = find_cluster(_data_directory(directory, pgdata), bindir, os_user)
    path = _keystore_path(cluster, keystore)
    with open_keystore(path, source) as opened, _progress_bar("Decrypting") as progress:
        summary = decrypt_cluster(
            cluster,
            opened,
            jobs=jobs or DEFAULT_JOBS,
            allow_invalid_pages=allow_invalid_pages,
            progress=progress,
        )
    _report(summary, as_json)
    if not as_json:
        console.print(
            f"Start it with pg_ctl, or tde pg start -D {cluster.data_directory}\n"
            f"Keep the keystore {summary.keystore}: backups and archived WAL still need it.",
            markup=False,
            soft_wrap=True,
        )


def _data_directory(directory: Path | None, pgdata: Path | None) -> Path:
    found = directory or pgdata
    if found is None:
        raise TdeError("no data directory was named", remedy="Give DIR or -D DIR, or set PGDATA.")
    return found


def _keystore_path(cluster: Cluster, keystore: Path | None) -> Path:
    """Return the keystore that is named, or the one that an unfinished run or the cluster uses.

    What is wrong with the cluster is said before anybody types a passphrase.
    """
    from tde.convert.state import read_state
    from tde.postgres.server.control import read_major_version

    read_major_version(cluster.data_directory)
    if keystore is None:
        state, marker = read_state(cluster.data_directory), cluster.marker
        if state is not None:
            return state.keystore
        if marker is not None:
            return marker.keystore
    return require_keystore(keystore)


@contextmanager
def _progress_bar(text: str) -> Iterator[ProgressListener]:
    """Show a bar on standard error; where that is no terminal, nothing."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    # Where there is no terminal, the summary is enough.
    disable = not error_console.is_terminal
    with Progress(*columns, console=error_console, transient=True, disable=disable) as progress:
        task = progress.add_task(text, total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield show


def _report(summary: ConversionSummary, as_json: bool) -> None:
    if as_json:
        print_json(summary.as_json())
        return
    encrypted = summary.direction == "encrypt"
    verb = "Encrypted" if encrypted else "Decrypted"
    form = f" ({summary.algorithm}, scope {summary.scope})" if encrypted else ""
    rate = summary.bytes_written / max(summary.seconds, 1e-9) / 2**20
    lines = [
        f"{verb} {summary.data_directory}{form}",
        f"{summary.files} files, {_size(summary.bytes)}; {_size(summary.bytes_written)} written in "
        f"{summary.seconds:.1f} s ({rate:.0f} MiB/s)"
        + (", continuing an earlier run" if summary.resumed else ""),
    ]
    if summary.plaintext_files:
        lines.append(f"{summary.plaintext_files} files of plaintext tablespaces stay as they are")
    if summary.removed_files:
        lines.append(f"Removed {summary.removed_files} temporary files, as the server would")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    notes = list(summary.warnings)
    if summary.invalid_pages:
        notes.append(
            f"{summary.invalid_pages} blocks are not valid pages; they were converted like all "
            f"others: {', '.join(summary.invalid_examples[:3])}"
        )
    for note in notes:
        error_console.print(f"[bold yellow]Warning:[/] {escape(note)}", soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
