"""Options that several commands of ``tde`` have, and where they must not be missing."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from tde.console.options import AES_SIZES
from tde.errors import TdeError
from tde.keystore.providers.passphrase_source import PassphraseSource

_PASSPHRASE_PANEL = "Passphrase (default: prompt)"
_PROVIDER_PANEL = "Another way to open the keystore (tde keystore provider list)"

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
ProviderOption = Annotated[
    str | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="Open the keystore by one of its providers, without its passphrase.",
        rich_help_panel=_PROVIDER_PANEL,
    ),
]
ShareFileOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--share-file",
        metavar="FILE",
        help="Read the share of a custodian from a file that only its owner can read; may be given "
        "several times. Default: each is asked for.",
        rich_help_panel=_PROVIDER_PANEL,
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
        "--username",
        "-U",
        metavar="NAME",
        help="Database user. Default: the owner of the data directory.",
    ),
]
NoWaitOption = Annotated[
    bool,
    typer.Option(
        "--no-wait", help="Whatever the standbys have: one without the key stops where it needs it."
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


OPENING_OPTIONS: dict[str, Any] = {
    "passphrase_file": PassphraseFileOption,
    "passphrase_fd": PassphraseFdOption,
    "passphrase_command": PassphraseCommandOption,
    "provider": ProviderOption,
    "share_file": ShareFileOption,
}


def opens_keystore(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what opens a keystore, as its argument ``source``.

    More than twenty commands have the same five options, which only together mean something.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "source":
            parameters.append(parameter)
            continue
        parameters += [
            inspect.Parameter(name, parameter.kind, default=None, annotation=annotation)
            for name, annotation in OPENING_OPTIONS.items()
        ]

    @wraps(command)
    def with_source(**arguments: Any) -> None:
        file, fd, line, provider, shares = (arguments.pop(name) for name in OPENING_OPTIONS)
        source = PassphraseSource(
            file, fd, line, provider=provider, share_files=tuple(shares or ())
        )
        command(**arguments, source=source)

    # What typer reads to learn the options of a command.
    with_source.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_source.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_source


def words_of(options: str) -> list[str]:
    """Return the words of --options, which are quoted as for a shell."""
    try:
        return shlex.split(options)
    except ValueError as error:
        raise typer.BadParameter(
            f"{options}: a quotation mark has no partner ({error})", param_hint="--options"
        ) from error


def pair_of(text: str) -> tuple[Path, Path]:
    """Return the two paths of --tablespace-mapping."""
    old, equals, new = text.partition("=")
    if not (equals and old and new):
        raise typer.BadParameter(f"{text} is not OLD=NEW", param_hint="--tablespace-mapping")
    return Path(old), Path(new)


def connection_as(username: str | None) -> dict[str, object]:
    """Return what --username changes of the arguments of ``psycopg2.connect``."""
    return {} if username is None else {"user": username}
