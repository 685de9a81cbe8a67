"""Options that several commands of ``tde`` have, and where they must not be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tde.console.options import AES_SIZES
from tde.errors import TdeError

_PASSPHRASE_PANEL = "Passphrase (default: prompt)"

KeystoreOption = Annotated[
    Path | None,
    typer.Option(
        "--keystore",
        "-k",
        metavar="DIR",
        envvar="TDE_KEYSTORE",
        help="The keystore directory. Keep it outside the data directory.",
    ),
]
PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="Read the passphrase from a file that only its owner can read.",
        rich_help_panel=_PASSPHRASE_PANEL,
    ),
]
PassphraseFdOption = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd",
        metavar="N",
        min=0,
        help="Read the passphrase from an open file descriptor; 0 is standard input.",
        rich_help_panel=_PASSPHRASE_PANEL,
    ),
]
PassphraseCommandOption = Annotated[
    str | None,
    typer.Option(
        "--passphrase-command",
        metavar="COMMAND",
        help="Run a shell command and take its standard output as the passphrase.",
        rich_help_panel=_PASSPHRASE_PANEL,
    ),
]
PgDataOption = Annotated[
    Path,
    typer.Option(
        "--pgdata",
        "-D",
        metavar="DIR",
        envvar="PGDATA",
        readable=False,  # The commands say whose it is, and what can be done.
        help="The PostgreSQL data directory.",
    ),
]
ClustersOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--pgdata",
        "-D",
        metavar="DIR",
        readable=False,
        help="Also look at this data directory; may be given several times.",
    ),
]
BindirOption = Annotated[
    Path | None,
    typer.Option(
        "--bindir",
        metavar="DIR",
        help="The directory of the PostgreSQL programs. Default: PG_CONFIG, PATH, the system's "
        "packages, then the PostgreSQL that was installed with tde.",
    ),
]
OsUserOption = Annotated[
    str | None,
    typer.Option(
        "--os-user",
        metavar="NAME",
        help="As root: the system user that runs the server. Default: the owner of an existing "
        "data directory, then postgres, then nobody.",
    ),
]
UsernameOption = Annotated[
    str | None,
    typer.Option(
        "--username", "-U", metavar="NAME", help="Database user. [the owner of the data directory]"
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON for programs instead of a table.")
]
AesOption = Annotated[
    int, typer.Option("--aes", metavar=AES_SIZES, help="Size of the AES key in bits.")
]


def require_keystore(path: Path | None) -> Path:
    """Return ``path``, or refuse when neither the option nor the variable gave one.

    Raises:
        TdeError: there is no path.
    """
    if path is None:
        raise TdeError(
            "no keystore was named",
            remedy="Give --keystore DIR or set the environment variable TDE_KEYSTORE.",
        )
    return path
