"""Passphrases that are right but for their form, as editors, shells and keyboards spoil them.

A file that was saved on Windows ends with CR LF or begins with a byte order mark, PowerShell writes
UTF-16, and a Mac may decompose letters (NFD). A keystore takes bytes, so none of them opens what
was typed. A new passphrase is refused in such a form; a wrong one is told from a spoiled one by
trying what it was meant to be.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator

from tde.errors import PassphraseError
from tde.keystore.crypto.passing_process import pass_on
from tde.keystore.providers.passphrase_source import check_length

_BOM = codecs.BOM_UTF8
_LINE_ENDS = b"\r\n"
_BLANKS = b" \t"
_CLEAN_FILE = (
    "Save it as UTF-8 without a byte order mark, with Unix line ends and nothing behind it; "
    "`od -c` shows what a file has."
)
_COMPOSE = (
    "Type it on another keyboard, or convert the UTF-8 file into form NFC: uconv -x nfc FILE > NEW"
)
_APART = "has letters that are taken apart (Unicode form NFD)"
_AS_IT_WAS_SET = (
    "It was set in that form. Give it so once more, from the file that it came from, and set it "
    "in a clean one: tde keystore passphrase"
)


def check_new_passphrase(passphrase: bytes | bytearray) -> None:
    """Refuse a passphrase that cannot be given again by other means, such as a keyboard.

    What is not text may have any form: random bytes are as good from a file as ever.

    Raises:
        TypeError: it is not bytes.
        PassphraseError: it is too short or too long, or in a form that a file has given it.
    """
    check_length(passphrase)
    faults = pass_on(lambda: _faults(bytes(passphrase)))
    if faults:
        raise PassphraseError(
            f"the new passphrase {' and '.join(faults)}: typed on a keyboard it would not fit",
            # Letters that are taken apart are no matter of how a file is saved.
            remedy=_COMPOSE if faults == [_APART] else _CLEAN_FILE,
        )


def near_misses(passphrase: bytes | bytearray) -> Iterator[tuple[bytearray, str, str]]:
    """Yield what a wrong passphrase may have been meant to be.

    Yields:
        The other passphrase, which the caller wipes; how it differs; what to do.
    """
    given = bytes(passphrase)
    seen = {given}
    for other, difference, remedy in _variants(given):
        if other not in seen:
            seen.add(other)
            yield bytearray(other), difference, remedy


def _variants(given: bytes) -> Iterator[tuple[bytes, str, str]]:
    clean = _clean(given)
    yield clean, "as plain UTF-8 without byte order mark and line ends", _CLEAN_FILE
    yield clean.strip(_BLANKS), "without the blanks at its ends", _CLEAN_FILE
    text = _text(clean)
    if text is None:
        # Older terminals and files have one byte for each letter of western Europe.
        yield clean.decode("latin-1").encode(), "in UTF-8", "Convert it: iconv -f latin1 -t utf-8"
    else:
        composed = unicodedata.normalize("NFC", text).encode()
        yield composed, "with whole letters (Unicode form NFC)", _COMPOSE
        apart = unicodedata.normalize("NFD", text).encode()
        yield apart, "with letters taken apart (Unicode form NFD)", _AS_IT_WAS_SET
    yield clean + b"\r", "with a carriage return at its end", _AS_IT_WAS_SET
    yield clean + b"\n", "with a newline at its end", _AS_IT_WAS_SET
    yield _BOM + clean, "with a byte order mark before it", _AS_IT_WAS_SET
    yield _BOM + clean + b"\r", "with a byte order mark and a carriage return", _AS_IT_WAS_SET


def _faults(passphrase: bytes) -> list[str]:
    """Return what is odd about a passphrase that is text."""
    if passphrase.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return ["is in UTF-16"]
    text = _text(passphrase)
    if text is None:
        return []
    found = []
    if passphrase.startswith(_BOM):
        found.append("begins with a byte order mark")
    if passphrase.endswith(b"\r"):
        found.append("ends with a carriage return, as lines do in files of Windows")
    elif passphrase.endswith(b"\n"):
        found.append("ends with a newline, besides the one that is taken off")
    if unicodedata.normalize("NFC", text) != text:
        found.append(_APART)
    return found


def _clean(passphrase: bytes) -> bytes:
    if passphrase.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # The newline at the end was taken off by its byte, which leaves half of a character.
        passphrase = passphrase.decode("utf-16", "ignore").encode("utf-8", "ignore")
    return passphrase.removeprefix(_BOM).rstrip(_LINE_ENDS)


def _text(passphrase: bytes) -> str | None:
    try:
        return passphrase.decode("utf-8")
    except UnicodeDecodeError:
        return None
