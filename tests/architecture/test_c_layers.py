"""The rules of c_ext's folders that the build does not check (see c_ext/CMakeLists.txt)."""

from __future__ import annotations

import re
from pathlib import Path

from elftools.elf.elffile import ELFFile

from tde.postgres.server.interposer import find_interposer

C_EXT = Path(__file__).parents[2] / "c_ext"
HEADERS = sorted(C_EXT.rglob("*.h"))
SOURCES = sorted(C_EXT.rglob("*.c"))

# Programs of `tde pg install-bin` export the first, and interposers of other versions look for it;
# the interposer exports the second, and the SQL extension looks for it; the others are a server's,
# which one program plays.
PUBLIC = {
    *("tde_stand_in", "tde_io_status_v1"),
    *("MyWalSnd", "am_db_walsender", "debug_query_string", "MyBackendType"),
    *("GetBackendTypeDesc", "GetConfigOption"),
}
# Headers with which nothing can be allocated, read or written.
PURE = {"stdbool.h", "stddef.h", "stdint.h", "string.h", "sys/types.h"}


def name(path: Path) -> str:
    return str(path.relative_to(C_EXT))


def code(path: Path) -> str:
    return re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


def includes(path: Path, opening: str) -> list[str]:
    return re.findall(rf'^#include {opening}([^">]+)', code(path), flags=re.MULTILINE)


def declared(header: Path) -> set[str]:
    """Return the functions and variables that a header declares."""
    text = re.sub(r"^#.*(?:\\\n.*)*", "", code(header), flags=re.MULTILINE)
    text = re.sub(r"__attribute__\(\(.*?\)\)(?=[;\s])", "", text)
    while "{" in text:  # Bodies go from the inside out.
        text = re.sub(r"\{[^{}]*\}", ";", text)
    declarations = (
        statement.split("(")[0].split()
        for statement in text.split(";")
        if "(" in statement or statement.split()[:1] == ["extern"]
    )
    return {
        words[-1].lstrip("*")
        for words in declarations
        if words[0] not in ("typedef", "_Static_assert")
    }


def test_the_headers_are_understood() -> None:
    workers = {"tde_batch_workers_open", "tde_batch_workers_close"}
    assert declared(C_EXT / "batch/workers.h") == workers
    symbols = {
        *("tde_libc", "tde_libc_bind", "tde_libc_bound", "tde_libc_find", "tde_libc_functions"),
    }
    assert declared(C_EXT / "interpose/libc/symbols.h") == symbols


def test_symbols_begin_with_the_name_of_their_folder() -> None:
    strangers = {
        name(header): symbol
        for header in HEADERS
        for symbol in declared(header) - PUBLIC
        if not f"{symbol}_".startswith(f"tde_{header.parent.name}_")
    }
    assert not strangers


def test_sources_declare_nothing_for_others() -> None:
    """What another file calls is in a header, which the layers can refuse to it."""
    prototype = re.compile(r"^(?!static)[a-z][\w \t*]*\btde_\w+\([^{;]*\)\s*;", flags=re.MULTILINE)
    for path in SOURCES:
        assert not re.search(r"\bextern\b", code(path)), name(path)
        assert not prototype.findall(code(path)), name(path)


def test_includes_name_the_folder() -> None:
    """A path from the file's own folder would get around the layers."""
    astray = {
        name(path): file
        for path in [*HEADERS, *SOURCES]
        for file in includes(path, '"')
        if ".." in file or not (C_EXT / file).is_file()
    }
    assert not astray


def test_guards_follow_the_path() -> None:
    for header in HEADERS:
        guard = "TDE_" + re.sub(r"\W", "_", name(header)).upper()
        assert f"\n#ifndef {guard}\n#define {guard}\n" in header.read_text(), name(header)


def test_the_format_is_pure() -> None:
    for path in (C_EXT / "format").iterdir():
        assert {file.split("/")[0] for file in includes(path, '"')} <= {"format", "crypto"}
        assert set(includes(path, "<")) <= PURE, name(path)


def test_the_interposer_exports_its_wrappers_and_nothing_else() -> None:
    """A leaked name of ours could be taken by another library's, or another's by ours."""
    with find_interposer().open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        exported = {
            symbol.name
            for symbol in table.iter_symbols()
            if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
        }
    wrappers = {
        found
        for path in (C_EXT / "interpose").rglob("*.c")
        for found in re.findall(r"^TDE_EXPORT [^(]*?\**(\w+)\(", code(path), flags=re.MULTILINE)
    }
    assert exported == wrappers
