"""Sources of a passphrase: a prompt, a file, a file descriptor or a command.

Never an argument or an environment variable: `ps` shows the one to everybody, and the other
is inherited by every child and printed by debugging tools.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path

from tde.errors import KeystorePermissionError, PassphraseError
from tde.keystore.crypto.passing_process import pass_on
from tde.keystore.crypto.secret import SecretBuffer, SecretBytes, wipe
from tde.keystore.store.files import FILE_MODE, check_mode

LENGTHS = range(8, 201)  # Bytes, after the newline at the end was taken off.
_LONGEST_LINE = 4096  # Bytes that a terminal takes; more than a passphrase may have.


@dataclass(frozen=True)
class PassphraseSource:
    """What opens a keystore: one of these, or the terminal when all are ``None``.

    Attributes:
        file: a file that only its owner can read.
        fd: an open descriptor, read to its end and left open.
        command: a command for `/bin/sh`; its standard output is the passphrase.
        what: how messages call it, and its options: ``new passphrase``.
        provider: the name of an envelope, whose provider takes the place of the passphrase.
        share_files: with the shares of custodians, for a provider that is opened by them.

    Raises:
        PassphraseError: more than one is given.
    """

    file: Path | None = None
    fd: int | None = None
    command: str | None = None
    what: str = "passphrase"
    provider: str | None = None
    share_files: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        sources = (self.file, self.fd, self.command, self.provider)
        if sum(source is not None for source in sources) > 1:
            raise PassphraseError(
                f"more than one source was given for the {self.what}",
                remedy=f"Give only one of {self.options}"
                + (", or --provider." if self.provider is not None else "."),
            )
        if self.share_files and self.provider is None:
            raise PassphraseError(
                "shares were given, and not whose they are",
                remedy="Name the provider that they open: --provider NAME.",
            )

    @property
    def options(self) -> str:
        """The options that name a source, in words."""
        name = self.what.replace(" ", "-")
        return f"--{name}-file, --{name}-fd or --{name}-command"


PROMPT = PassphraseSource()


def require_bytes(passphrase: object) -> None:
    """Refuse a ``str``, whose bytes depend on an encoding, before anything is written.

    Raises:
        TypeError: it is not bytes.
    """
    if not isinstance(passphrase, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"a passphrase is bytes, not {type(passphrase).__name__}: encode it, as in "
            'text.encode("utf-8")'
        )


def check_length(passphrase: bytes | bytearray) -> None:
    """Refuse a passphrase that does not have 8 to 200 bytes.

    Raises:
        TypeError: it is not bytes at all, such as a ``str``.
        PassphraseError: it is too short or too long.
    """
    require_bytes(passphrase)
    if len(passphrase) not in LENGTHS:
        raise PassphraseError(
            "passphrase is too short or too long",
            remedy=f"A passphrase has {LENGTHS.start} to {LENGTHS.stop - 1} bytes.",
        )


def read_passphrase(
    source: PassphraseSource = PROMPT, *, confirm: bool = False, prompt: str = "Passphrase: "
) -> bytearray:
    """Return a passphrase of 8 to 200 bytes; the caller wipes it.

    One newline at the end is taken off, which editors and `echo` leave there.

    Args:
        source: where to read it.
        confirm: ask twice; applies to the terminal only.
        prompt: what to ask on the terminal.

    Raises:
        PassphraseError: it cannot be read, the two entries differ, or it is too short or too
            long.
        KeystorePermissionError: others can read the file.
    """
    if source.file is not None:
        passphrase = read_secret_file(source.file, "passphrase", LENGTHS.stop - 1)
    elif source.fd is not None:
        passphrase = _from_descriptor(source.fd, f"file descriptor {source.fd}")
    elif source.command is not None:
        passphrase = _from_command(source.command)
    else:
        passphrase = _from_prompt(source, prompt, confirm)
    try:
        check_length(passphrase)
        # A kind of which children that run a provider have nothing.
        return SecretBytes(passphrase)
    finally:
        wipe(passphrase)


def read_secret_file(path: Path, what: str, longest: int) -> bytearray:
    """Return the content of a file that only its owner can read, without a newline at its end.

    Args:
        what: how messages call it.
        longest: bytes that it may have; one more shows that there are more. The caller wipes them.

    Raises:
        KeystorePermissionError: others can read it.
        PassphraseError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise KeystorePermissionError(f"no permission to read the {what} file {path}") from error
    except OSError as error:
        raise PassphraseError(f"could not read the {what} file {path}: {error.strerror}") from error
    try:
        check_mode(path, os.fstat(fd), FILE_MODE)
        return read_secret(fd, f"the {what} from {path}", longest)
    finally:
        os.close(fd)


def read_secret(fd: int, name: str, longest: int) -> bytearray:
    """As :func:`read_secret_file`, from an open descriptor, which stays open."""
    # Room for the longest secret, its newline, and one byte that shows it is too long.
    # Reading into place avoids bytes objects, which could not be wiped.
    buffer = bytearray(longest + 2)
    length = 0
    try:
        with memoryview(buffer) as view:
            while length < len(buffer):
                count = os.readv(fd, [view[length:]])
                if count == 0:
                    break
                length += count
    except OSError as error:
        wipe(buffer)
        raise PassphraseError(f"could not read {name}: {error.strerror}") from error
    if length and buffer[length - 1] == ord("\n"):
        length -= 1
    secret = buffer[:length]
    wipe(buffer)
    return secret


def _from_descriptor(fd: int, name: str) -> bytearray:
    return read_secret(fd, f"the passphrase from {name}", LENGTHS.stop - 1)


def _from_command(command: str) -> bytearray:
    # Standard input and error stay the terminal's, for a command that asks for something.
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        passphrase = _from_descriptor(process.stdout.fileno(), "the passphrase command")
    # Leaving the context closed the pipe and waited. A command that had still more to say was
    # stopped by that, and it should be told that its output is too long.
    if process.returncode != 0 and len(passphrase) < LENGTHS.stop:
        wipe(passphrase)
        raise PassphraseError(
            f"the passphrase command ended with exit status {process.returncode}",
            remedy="Run it by hand; it must print the passphrase and nothing else.",
        )
    return passphrase


def _from_prompt(source: PassphraseSource, prompt: str, confirm: bool) -> bytearray:
    passphrase = _ask(source, prompt)
    if not confirm:
        return passphrase
    try:
        # Told before the operator types the same useless passphrase again.
        check_length(passphrase)
        again = _ask(source, "The same again: ")
    except BaseException:
        wipe(passphrase)
        raise
    same = passphrase == again
    wipe(again)
    if not same:
        wipe(passphrase)
        raise PassphraseError("the two passphrases differ", remedy="Try again.")
    return passphrase


def _ask(source: PassphraseSource, prompt: str) -> bytearray:
    with SecretBuffer(_LONGEST_LINE, shared=True) as typed:
        length = pass_on(lambda: _ask_into(typed, source, prompt))
        with typed.view as view:
            return bytearray(view[:length])


def _ask_into(typed: SecretBuffer, source: PassphraseSource, prompt: str) -> int:
    """Ask on the terminal, and return how many bytes were typed."""
    try:
        with warnings.catch_warnings():
            # Without a terminal getpass falls back to reading with echo, after this warning.
            warnings.simplefilter("error", getpass.GetPassWarning)
            entered = getpass.getpass(prompt)
    except (getpass.GetPassWarning, EOFError) as error:
        raise PassphraseError(
            f"no {source.what} was given and there is no terminal to ask on",
            remedy=f"Give one of {source.options}.",
        ) from error
    content = entered.encode("utf-8", "surrogateescape")[:_LONGEST_LINE]
    with typed.view as view:
        view[: len(content)] = content
    return len(content)
