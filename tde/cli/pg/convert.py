"""``tde pg encrypt`` and ``tde pg decrypt``: existing clusters, offline and in place."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tde.cli.options import (
    BindirOption,
    JsonOption,
    KeystoreOption,
    OsUserOption,
    opens_keystore,
    require_keystore,
)
from tde.cli.pg.log_note import print_log_note
from tde.console.apps import examples
from tde.console.errors import InterruptedHalfwayError
from tde.console.options import AES_SIZES, algorithm_of
from tde.console.output import console, error_console, print_json
from tde.console.progress import CommandProgress
from tde.convert.access import keystore_to_decrypt, keystore_to_encrypt
from tde.errors import TdeError
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import find_cluster
from tde.postgres.cluster.scope import Scope
from tde.postgres.facts import BUILT_IN_TABLESPACES

if TYPE_CHECKING:
    from tde.convert.worker import ProgressListener
    from tde.postgres import ConversionSummary


DirectoryArgument = Annotated[
    Path | None,
    typer.Argument(metavar="DIR", readable=False, help="The data directory, as with -D."),
]
PgDataInsteadOption = Annotated[
    Path | None,
    typer.Option(
        "--pgdata",
        "-D",
        metavar="DIR",
        envvar="PGDATA",
        readable=False,
        help="The PostgreSQL data directory.",
    ),
]
ScopeOption = Annotated[
    Scope | None,
    typer.Option(help="What to encrypt besides the WAL.", show_default="cluster"),
]
AesOfNewKeysOption = Annotated[
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
ConversionThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", metavar="N", min=1, help="Threads. Default: one per CPU, at most 8."
    ),
]
ChecksumsOption = Annotated[
    bool | None,
    typer.Option(
        "--checksums/--no-checksums",
        help="Turn data checksums on in a cluster that has none.",
        show_default="checksums",
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
            "tde pg encrypt /srv/pg/main --keystore /etc/tde/main",
        )
    )(encrypt)
    app.command(epilog=examples("tde pg stop -D /srv/pg/main", "tde pg decrypt /srv/pg/main"))(
        decrypt
    )


@opens_keystore
def encrypt(
    directory: DirectoryArgument = None,
    pgdata: PgDataInsteadOption = None,
    keystore: KeystoreOption = None,
    scope: ScopeOption = None,
    aes: AesOfNewKeysOption = None,
    tablespace: TablespaceOption = None,
    checksums: ChecksumsOption = None,
    jobs: ConversionThreadsOption = None,
    allow_invalid_pages: InvalidOption = False,
    as_json: JsonOption = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Encrypt a stopped cluster in place.

    It may be interrupted at any moment, also by a power failure: run it again to continue. Until
    it has finished no server starts on the cluster. Take a backup before, as for any change of
    all files. Backups and archived WAL from before stay plaintext: take a new base backup after.
    Data checksums are turned on where they are off, in the same pass.
    """
    from tde.convert.runner import DEFAULT_JOBS
    from tde.keystore import inspect_keystore
    from tde.postgres import encrypt_cluster

    algorithm = None if aes is None else algorithm_of(aes)
    cluster = find_cluster(_data_directory(directory, pgdata), bindir, os_user)
    path = require_keystore(keystore_to_encrypt(cluster, keystore, tablespace or ()))
    with (
        telling_how_to_continue("encrypt", cluster.data_directory, path),
        # Before it has keys, what opens it by itself could bring a master key of others.
        open_keystore(path, source, by_passphrase=not inspect_keystore(path).keys) as opened,
        progress_bar("Encrypting") as progress,
    ):
        summary = encrypt_cluster(
            cluster,
            opened,
            scope=scope,
            algorithm=algorithm,
            tablespaces=tablespace or None,
            checksums=checksums,
            jobs=jobs or DEFAULT_JOBS,
            allow_invalid_pages=allow_invalid_pages,
            progress=progress,
        )
    report(summary, as_json)
    if not as_json:
        console.print(
            f"Start it: tde pg start -D {cluster.data_directory}\n"
            "Keep the keystore and its passphrase safe: without them the data is lost.\n"
            "Backups and archived WAL from before are still plaintext: take a new base backup, "
            "then remove them.",
            markup=False,
            soft_wrap=True,
        )
        print_log_note(cluster.data_directory)


@opens_keystore
def decrypt(
    directory: DirectoryArgument = None,
    pgdata: PgDataInsteadOption = None,
    keystore: KeystoreOption = None,
    jobs: ConversionThreadsOption = None,
    allow_invalid_pages: InvalidOption = False,
    as_json: JsonOption = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Decrypt a stopped cluster in place; afterwards it starts with stock PostgreSQL.

    It may be interrupted and repeated as `tde pg encrypt`. The keystore is not changed: backups
    and archived WAL of the cluster still need it.
    """
    from tde.convert.runner import DEFAULT_JOBS
    from tde.postgres import decrypt_cluster

    cluster = find_cluster(_data_directory(directory, pgdata), bindir, os_user)
    path = keystore_to_decrypt(cluster, keystore)
    with (
        telling_how_to_continue("decrypt", cluster.data_directory, path),
        open_keystore(path, source) as opened,
        progress_bar("Decrypting") as progress,
    ):
        summary = decrypt_cluster(
            cluster,
            opened,
            jobs=jobs or DEFAULT_JOBS,
            allow_invalid_pages=allow_invalid_pages,
            progress=progress,
        )
    report(summary, as_json)
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


@contextmanager
def telling_how_to_continue(verb: str, data_directory: Path, keystore: Path) -> Iterator[None]:
    """Let Ctrl-C say what it leaves behind, when that is a cluster on which no server starts."""
    from tde.postgres.cluster.unfinished_conversion import COMMANDS, MOVED_CONTROL

    try:
        yield
    except KeyboardInterrupt:
        if not (data_directory / MOVED_CONTROL).exists():
            raise
        options = shlex.join(["-D", str(data_directory), "--keystore", str(keystore)])
        raise InterruptedHalfwayError(
            f"The cluster {data_directory} is only partly {verb}ed, and no server starts on it. "
            f"To continue: {COMMANDS[verb]} {options}"
        ) from None


@contextmanager
def progress_bar(text: str) -> Iterator[ProgressListener]:
    """Show a bar on standard error; where that is no terminal, nothing."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with CommandProgress(*columns) as progress:
        task = progress.add_task(text, total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield show


def report(summary: ConversionSummary, as_json: bool) -> None:
    """Print the result of a conversion."""
    if as_json:
        print_json(summary.as_json())
        return
    encrypted = summary.direction == "encrypt"
    rate = summary.bytes_written / max(summary.seconds, 1e-9) / 2**20
    lines = [
        _headline(summary),
        f"{summary.files} files, {_size(summary.bytes)}; {_size(summary.bytes_written)} written in "
        f"{summary.seconds:.1f} s ({rate:.0f} MiB/s)"
        + (", continuing an earlier run" if summary.resumed else ""),
    ]
    turned_on = summary.checksums_turned_on
    if turned_on:
        lines.append("Data checksums were off, and are on now")
    elif encrypted and not summary.data_checksums:
        lines.append("Data checksums are off: damage to a block would not be noticed")
    if summary.plaintext_files:
        how = "stay plain, and got checksums" if turned_on else "stay as they are"
        lines.append(f"{summary.plaintext_files} files of plaintext tablespaces {how}")
    if summary.removed_files:
        lines.append(f"Removed {summary.removed_files} temporary files, as the server would")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    notes = list(summary.warnings)
    if summary.invalid_pages:
        kept = ", and those that PostgreSQL refuses to read got no checksum" if turned_on else ""
        notes.append(
            f"{summary.invalid_pages} blocks are not valid pages; they were converted like all "
            f"others{kept}: {', '.join(summary.invalid_examples[:3])}"
        )
    for note in notes:
        error_console.print(f"[bold yellow]Warning:[/] {escape(note)}", soft_wrap=True)


def _headline(summary: ConversionSummary) -> str:
    if summary.direction == "rekey":
        names = [BUILT_IN_TABLESPACES.get(oid, str(oid)) for oid in summary.tablespaces]
        return f"Rekeyed tablespaces of {summary.data_directory}: {', '.join(names)}"
    if summary.direction == "encrypt":
        return f"Encrypted {summary.data_directory} ({summary.algorithm}, scope {summary.scope})"
    return f"Decrypted {summary.data_directory}"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
