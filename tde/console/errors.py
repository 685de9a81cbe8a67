"""Reports of errors: a message, a hint, and an exit code.

Commands do not catch :class:`~tde.errors.TdeError`: the root of a command line runs every command
inside :func:`reporting_errors`. A command exits by itself only where the exit code is an answer
and not an error, as that of ``tde pg status``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.text import Text

from tde.console.output import error_console
from tde.errors import TdeError

_OPENSSL_REMEDY = (
    "A provider that its configuration asks for may be missing: see OPENSSL_CONF and `openssl list "
    "-providers`. With OPENSSL_CONF=/dev/null tde uses the default provider."
)
EXIT_INTERRUPTED = 130  # The shell's convention: 128 + SIGINT.


class InterruptedHalfwayError(KeyboardInterrupt):
    """Ctrl-C at a moment that leaves something to do; the message says what."""


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
    except KeyboardInterrupt as interrupt:
        error_console.print("Interrupted.")
        if isinstance(interrupt, InterruptedHalfwayError):
            error_console.print(Text(str(interrupt)), soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        raise  # Typer ends quietly when the reader of our output has gone.
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        report(TdeError(what), program)
        raise typer.Exit(1) from error
    except Exception as error:
        if not _is_openssl_refusal(error):
            raise
        report(TdeError(f"OpenSSL refuses: {_one_line(error)}", remedy=_OPENSSL_REMEDY), program)
        raise typer.Exit(1) from error


def _is_openssl_refusal(error: Exception) -> bool:
    """Tell whether an algorithm is missing, which is a matter of the machine's configuration."""
    # Some builds of Python, as that of Debian 12, name the part of OpenSSL in a plain ValueError.
    if type(error) is ValueError and str(error).startswith("[digital envelope routines]"):
        return True
    # Looked up where they are loaded: these modules are what `--help` must not wait for.
    return any(
        isinstance(error, getattr(sys.modules.get(module), name, ()))
        for module, name in (
            ("_hashlib", "UnsupportedDigestmodError"),
            ("cryptography.exceptions", "UnsupportedAlgorithm"),
            ("cryptography.exceptions", "InternalError"),
        )
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())
