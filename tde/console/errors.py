"""What every command shares: consoles, help examples and error reports.

A noun's module starts with ``app = new_app(...)`` and annotates its parameters with the types
of :mod:`tde.cli.options`. It does not catch :class:`~tde.errors.TdeError`: the root group runs
every command inside :func:`reporting_errors`. It exits by itself only where the exit code is
an answer and not an error, as that of ``tde pg status``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from tde.errors import TdeError

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.keystore.providers.passphrase import PassphraseSource

EXIT_INTERRUPTED = 130  # The shell's convention: 128 + SIGINT.

# Results go to stdout and everything about them to stderr, so that output can be piped.
# Automatic highlighting is off because it colours parts of paths and UUIDs at random.
console = Console(highlight=False)
error_console = Console(stderr=True, highlight=False)


def examples(*lines: str) -> str:
    """Return a help epilog that shows ``lines`` as shell commands, one per line.

    A line that starts with ``#`` is a comment for the command that follows it.
    """
    shown = ["[bold]Examples[/bold]"]
    for line in lines:
        text = escape(line)
        shown.append(f"[dim]{text}[/dim]" if line.startswith("#") else f"[dim]$[/dim] {text}")
    return "\n".join(shown)


def new_app(help_text: str, *, epilog: str = "") -> typer.Typer:
    """Return the Typer application of one noun, with the settings that all nouns share."""
    return typer.Typer(
        help=help_text,
        epilog=epilog,
        no_args_is_help=True,
        rich_markup_mode="rich",
        # Only the root installs completion, which then covers all nouns.
        add_completion=False,
        # Rich tracebacks can print local variables, and some of those are keys.
        pretty_exceptions_enable=False,
    )


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


def passphrase_source(file: Path | None, fd: int | None, command: str | None) -> PassphraseSource:
    """Return what the three passphrase options say.

    Raises:
        PassphraseError: more than one is given.
    """
    from tde.keystore.providers.passphrase import PassphraseSource

    return PassphraseSource(file, fd, command)


def open_keystore(path: Path | None, source: PassphraseSource) -> Keystore:
    """Read the passphrase from where the options say and open the keystore.

    Without such an option, a keystore that opens by itself does so.

    The result is a context manager; leaving it wipes the master key.

    Raises:
        KeystoreError: the passphrase cannot be read or the keystore cannot be opened.
    """
    # Imported here because it loads the cryptography package, which `--help` must not wait for.
    from tde.keystore import Keystore, can_open_automatically, keystore_uuid
    from tde.keystore.crypto.secret import wipe
    from tde.keystore.providers.passphrase import PROMPT, read_passphrase

    directory = require_keystore(path)
    # A missing or damaged keystore is reported before the operator types a passphrase.
    keystore_uuid(directory)
    if source == PROMPT and can_open_automatically(directory):
        return Keystore.open_automatically(directory)
    passphrase = read_passphrase(source, prompt=f"Passphrase of {directory}: ")
    try:
        return Keystore.open(directory, passphrase)
    finally:
        wipe(passphrase)


def print_json(document: object) -> None:
    """Print ``document`` as indented JSON on standard output."""
    typer.echo(json.dumps(document, indent=2))


def report(error: TdeError, program: str = "tde") -> None:
    """Print an error and its remedy on standard error."""
    # soft_wrap keeps one message on one line, which logs and scripts rely on.
    message = Text.assemble((f"{program}: error: ", "bold red"), str(error))
    error_console.print(message, soft_wrap=True)
    if error.remedy:
        hint = Text.assemble(("HINT: ", "bold cyan"), error.remedy)
        error_console.print(hint, soft_wrap=True)


@contextmanager
def reporting_errors(program: str = "tde") -> Iterator[None]:
    """Turn the errors of a command into a message, a hint and an exit code.

    Raises:
        typer.Exit: with the error's own code, 1 for an error of the operating system,
            130 for Ctrl-C.
    """
    try:
        yield
    except TdeError as error:
        report(error, program)
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt:
        error_console.print("Interrupted.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        raise  # Typer ends quietly when the reader of our output has gone.
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        report(TdeError(what), program)
        raise typer.Exit(1) from error
