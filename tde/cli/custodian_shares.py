"""Handing the shares of a keystore to its custodians, each once and to nobody else."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from tde.console.output import console, error_console
from tde.errors import KeystoreError, TdeError
from tde.keystore.crypto.secret import wipe

_CLEAR = "\x1b[2J\x1b[3J\x1b[H"
"""Clears a terminal with what can be scrolled back to."""


def require_a_way(share_dir: Path | None) -> None:
    """Refuse to make shares that would reach nobody.

    Raises:
        TdeError: no directory is named, and this is no terminal.
    """
    if share_dir is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise TdeError(
            "there is no terminal to show the shares on",
            remedy="Give --share-dir DIR: each is written to its own file there.",
        )


def hand_out(shares: Sequence[bytearray], name: str, share_dir: Path | None) -> list[Path]:
    """Write each share to a file of its own, or show it on the terminal; return the files.

    Raises:
        KeystoreError: a file cannot be written; those written are removed.
    """
    if share_dir is None:
        for number, share in enumerate(shares, start=1):
            _show(share, f"{number} of {len(shares)}")
        return []
    files = [
        share_dir.absolute() / f"{name}-share-{number}-of-{len(shares)}"
        for number in range(1, len(shares) + 1)
    ]
    written: list[Path] = []
    try:
        share_dir.mkdir(mode=0o700, exist_ok=True)
        for file, share in zip(files, shares, strict=True):
            written.append(file)
            _write(file, share)
    except OSError as error:
        if isinstance(error, FileExistsError) and written:
            written.pop()  # It is another's.
        take_back(written)
        raise KeystoreError(
            f"could not write the share {error.filename or share_dir}: {error.strerror}",
            remedy="No provider was added. Choose a directory that is new or has no such files.",
        ) from error
    return files


def take_back(files: Sequence[Path]) -> None:
    """Remove the files of shares that open nothing."""
    for file in files:
        file.unlink(missing_ok=True)


def tell_about(files: Sequence[Path]) -> None:
    """Say what is to be done with the files of shares."""
    for file in files:
        console.print(f"A share: {file}", markup=False, soft_wrap=True)
    if files:
        error_console.print(
            "[bold yellow]Give each custodian one of these files, and remove them from this "
            "machine[/]: shred -u FILE. They are not kept anywhere else.",
            soft_wrap=True,
        )


def _write(file: Path, share: bytearray) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(file, flags, 0o600), "wb", buffering=0) as stream:
        content = share + b"\n"
        try:
            stream.write(content)
            os.fsync(stream.fileno())
        finally:
            wipe(content)


def _show(share: bytearray, number: str) -> None:
    typer.echo(f"{_CLEAR}Share {number}. Only its custodian looks at this terminal now.")
    getpass.getpass("Enter shows it: ")
    words = share.decode().split()
    for start in range(0, len(words), 6):
        typer.echo("  " + "  ".join(words[start : start + 6]))
    getpass.getpass("Write it down, all words in this order. Enter clears the terminal: ")
    typer.echo(_CLEAR, nl=False)
