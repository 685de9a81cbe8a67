"""File calls of a server: does it reach its files only in ways that the interposer sees?

A PostgreSQL release, or a build with other options, may start to use another call of the C
library. The interposer would then not see that I/O, and rows would be stored as plaintext. So
every start compares the symbols that the binary imports with those that the interposer exports.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tde.errors import UnsupportedServerError

# Calls that move file content or descriptors in a way the interposer has to know about. Names
# that begin with one of these, after the underscores of FORTIFY's variants, are looked at.
_FILE_IO = (
    *("open", "close", "dup", "fcntl", "read", "write", "pread", "pwrite", "lseek"),
    *("ftruncate", "truncate", "posix_fallocate", "fallocate", "copy_file_range", "sendfile"),
    *("splice", "tee", "vmsplice", "link", "rename", "mmap", "mremap", "fopen", "freopen"),
    *("fdopen", "fwrite", "fputs", "fputc", "aio_", "lio_", "io_submit", "syscall"),
    # liburing's ways to make a ring; none of its other functions does anything without one.
    *("io_uring_queue_init", "io_uring_setup"),
    *("ioctl", "memfd", "mkstemp", "mkostemp", "tmpfile", "posix_spawn", "name_to_handle"),
    "open_by_handle",
)

# Imported names that match, are not intercepted and need not be.
_HARMLESS = {
    "opendir": "reads names, not content",
    "openlog": "the system log",
    "closedir": "reads names, not content",
    "closelog": "the system log",
    "readdir": "reads names, not content",
    "readlink": "reads names, not content",
    # Streams: opening one for writing on a file of an encrypted class is refused by fopen, and
    # PostgreSQL makes none from a descriptor of such a file (only from pipes and plain files).
    "fdopen": "streams on pipes and plain files only",
    "fputc": "streams on plain files only",
    "fputs": "streams on plain files only",
    "fwrite": "streams on plain files only",
}

# What the interposer looks up in the server to recognise base backups, which must carry
# ciphertext, and clients that WAL must not be streamed to. A linker that hides the server's
# own symbols leaves it blind.
_NEEDED = frozenset({"MyWalSnd", "am_db_walsender", "debug_query_string", "GetConfigOption"})

_SHN_UNDEF = 0  # The section number of a symbol that is imported, in the ELF specification.


def require_interposable(binary: Path, interposer: Path) -> None:
    """Refuse a server binary whose file I/O the interposer would not see.

    Args:
        binary: the ``postgres`` executable.
        interposer: libtde_io.so; what it exports is what is handled.

    Raises:
        UnsupportedServerError: the binary is static, setuid, not an ELF file, or imports a
            file call that is not handled, or hides a symbol that the interposer needs; the
            message names it.
    """
    if binary.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise UnsupportedServerError(
            f"{binary} is setuid or setgid, so the system would not load the interposer into it",
            remedy=f"Remove the bit: chmod ug-s {binary}",
        )
    symbols = _dynamic_symbols(binary)
    unhandled = _unhandled(symbols, interposer)
    if unhandled:
        raise UnsupportedServerError(
            f"{binary} uses file calls that this version of tde does not encrypt: "
            + ", ".join(unhandled),
            remedy="Use a PostgreSQL release that this version of tde supports, or a newer tde.",
        )
    hidden = _NEEDED - symbols.defined
    if hidden:
        raise UnsupportedServerError(
            f"{binary} does not export {', '.join(sorted(hidden))}, without which base backups "
            "cannot be recognised and would carry plaintext",
            remedy="Use a build that exports its symbols, such as your distribution's.",
        )


def unhandled_symbols(binary: Path, interposer: Path) -> list[str]:
    """Return the imported file calls that the interposer does not stand in front of, sorted.

    Raises:
        UnsupportedServerError: the file has no dynamic symbols to look at.
    """
    return _unhandled(_dynamic_symbols(binary), interposer)


def _unhandled(symbols: _Symbols, interposer: Path) -> list[str]:
    return sorted(
        name
        for name in symbols.imported - _dynamic_symbols(interposer).defined
        if _plain_name(name).startswith(_FILE_IO) and _plain_name(name) not in _HARMLESS
    )


def symbols_to_look_for(interposer: Path) -> str:
    """Return what a stand-in needs to look at a server itself (c_ext/program/server.c), as lines.

    Raises:
        UnsupportedServerError: the interposer has no dynamic symbols.
    """
    harmless = {form.format(name) for name in _HARMLESS for form in _FORMS}
    known = sorted(_dynamic_symbols(interposer).defined | harmless)
    marked = [("~", _FILE_IO), ("+", known), ("=", sorted(_NEEDED))]
    return "".join(f"{mark}{name}\n" for mark, names in marked for name in names)


def _plain_name(name: str) -> str:
    """Strip what FORTIFY and large-file support add to the name of a call."""
    name = name.removeprefix("__")
    for suffix in ("_chk", "_2", "64"):
        name = name.removesuffix(suffix)
    return name


# What _plain_name makes plain.
_FORMS = ("{}", "{}64", "__{}_chk", "__{}64_chk", "__{}_2", "__{}64_2")


class _Symbols(NamedTuple):
    """The names that an ELF file has for others, and those that it takes from them."""

    defined: set[str]
    imported: set[str]


def _dynamic_symbols(path: Path) -> _Symbols:
    try:
        with path.open("rb") as file:
            elf = ELFFile(file)
            # Not by its name: that would read all sections first.
            table = next(elf.iter_sections("SHT_DYNSYM"), None)
            if not isinstance(table, SymbolTableSection):
                raise UnsupportedServerError(
                    f"{path} is statically linked, so nothing can be loaded into it",
                    remedy="Use a dynamically linked build, such as your distribution's.",
                )
            found = _Symbols(set(), set())
            for name, section in _names_and_sections(elf, table):
                if name:
                    (found.imported if section == _SHN_UNDEF else found.defined).add(name)
            return found
    except (ELFError, struct.error, ValueError) as error:
        raise UnsupportedServerError(f"{path} is not an executable program: {error}") from error


def _names_and_sections(elf: ELFFile, table: SymbolTableSection) -> Iterator[tuple[str, int]]:
    """Return the name of each symbol, and the number of the section that defines it.

    The library's own iterator needs more than a second for a server's 20,000 symbols.
    """
    order = "<" if elf.little_endian else ">"
    # st_name, st_info, st_other, st_shndx, st_value, st_size; 32-bit files have another order.
    entries = struct.iter_unpack(
        order + ("IBBHQQ" if elf.elfclass == 64 else "IIIBBH"), table.data()
    )
    names = table.stringtable.data()
    section = 3 if elf.elfclass == 64 else 5
    for entry in entries:
        name = names[entry[0] : names.index(b"\0", entry[0])]
        yield name.decode("utf-8", "replace"), entry[section]
