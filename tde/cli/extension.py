"""``tde extension``: the keystore in SQL."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tde.cli.options import BindirOption, JsonOption, PgDataOption
from tde.console.apps import examples, new_app
from tde.console.output import console, error_console, print_json
from tde.errors import ExtensionError

if TYPE_CHECKING:
    from tde.postgres.extension.installing import InstalledExtension

app = new_app(
    "Install the SQL functions of tde into a PostgreSQL server; docs/sql.md says what they do.",
    epilog=examples(
        "tde extension install",
        "tde extension install --bindir /usr/lib/postgresql/18/bin --directory /opt/tde/pg18",
        "tde extension status",
    ),
)

DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--directory",
        metavar="DIR",
        help="A directory of its own, for who may not write into the server's.",
    ),
]


@app.command(
    epilog=examples(
        "# As root, or the owner of the installation:",
        "tde extension install --bindir /usr/lib/postgresql/15/bin",
        "tde extension install --directory /opt/tde/pg18",
    )
)
def install(
    bindir: BindirOption = None,
    directory: DirectoryOption = None,
    command: Annotated[
        Path | None,
        typer.Option(
            "--command",
            metavar="FILE",
            help="The command tde that the server runs; its user must be able to. "
            "Default: this one.",
        ),
    ] = None,
) -> None:
    """Compile the extension against the server's headers, and install it.

    It is optional: a server that has encrypted data needs it neither to run nor to recover.
    """
    from tde.postgres.extension.installing import (
        command_path,
        install_extension,
        write_plain_scripts,
    )
    from tde.postgres.server.binaries import find_binaries

    own = command_path() if command is None else command.absolute()
    if not own.is_file():
        raise ExtensionError(f"there is no command {own}", remedy="Name it with --command.")
    binaries = find_binaries(bindir)
    made = install_extension(binaries, own, directory)
    if directory is not None:
        write_plain_scripts(made)
    console.print(
        f"Installed for PostgreSQL {binaries.version_text}: {made.library}",
        markup=False,
        soft_wrap=True,
    )
    _show_next(made)


@app.command(epilog=examples("tde extension remove --bindir /usr/lib/postgresql/15/bin"))
def remove(bindir: BindirOption = None, directory: DirectoryOption = None) -> None:
    """Remove the files of the extension.

    First DROP EXTENSION tde in each database, and take it out of shared_preload_libraries: a server
    that is to load a library that is not there does not start.
    """
    from tde.postgres.extension.installing import remove_extension
    from tde.postgres.server.binaries import find_binaries

    gone = remove_extension(find_binaries(bindir), directory)
    console.print(f"Removed {gone.library} and {gone.scripts}/tde*", markup=False, soft_wrap=True)
    error_console.print(
        "Take tde out of shared_preload_libraries before the server's next start.", soft_wrap=True
    )


@app.command(epilog=examples("tde extension status --json"))
def status(
    bindir: BindirOption = None, directory: DirectoryOption = None, as_json: JsonOption = False
) -> None:
    """Say whether the extension is installed. Exit status 1: it is not."""
    from tde.postgres.extension.installing import find_extension
    from tde.postgres.server.binaries import find_binaries

    binaries = find_binaries(bindir)
    found = find_extension(binaries, directory)
    if as_json:
        print_json(
            {
                "installed": found.is_complete,
                "server_version": binaries.version_text,
                "library": str(found.library),
                "scripts": str(found.scripts),
                "settings": list(found.settings),
                "statements": list(found.statements),
            }
        )
    else:
        state = "installed" if found.is_complete else "not installed"
        console.print(
            f"{state} for PostgreSQL {binaries.version_text}: {found.library}",
            markup=False,
            soft_wrap=True,
        )
        if found.is_complete:
            _show_next(found)
    if not found.is_complete:
        raise typer.Exit(1)


def _show_next(found: InstalledExtension) -> None:
    lines = [
        "In postgresql.conf, before the server's next start:",
        *(f"    {line}" for line in found.settings),
        "Then, in each database that needs the functions:",
        *(f"    {line}" for line in found.statements),
    ]
    error_console.print(Text("\n".join(lines)), soft_wrap=True)


@app.command(hidden=True)
def act(
    verb: Annotated[str, typer.Argument(metavar="VERB")],
    pgdata: PgDataOption,
    location: Annotated[Path | None, typer.Option("--location", metavar="DIR")] = None,
) -> None:
    """Do what a function of the extension was called for; the extension runs this.

    Passphrases, or the record of a key, come by the socket that is standard input, or by one that
    is sent through it, behind their length in four bytes.
    """
    import json

    from tde.postgres.cluster.access import find_cluster
    from tde.postgres.extension.acting import (
        VERBS_WITH_SECRETS,
        ask_unseen,
        keys_of,
        prepare_location,
        secrets_of,
    )

    cluster = find_cluster(pgdata, None, None)
    if verb in VERBS_WITH_SECRETS:
        count, do = VERBS_WITH_SECRETS[verb]
        channel = ask_unseen(sys.stdin.fileno()) if count else sys.stdin.fileno()
        with secrets_of(channel, count) as secrets:
            told = do(cluster, *secrets)
        console.print(told, markup=False, soft_wrap=True)
    elif verb == "keys":
        typer.echo(json.dumps(keys_of(cluster)))
    elif verb == "prepare" and location is not None:
        with secrets_of(ask_unseen(sys.stdin.fileno()), 1) as (record,):
            typer.echo(str(prepare_location(cluster, location, record)))
    else:
        raise typer.BadParameter(f"{verb} is not what the extension asks for")
