"""Servers whose file I/O the interposer would not see are refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tde.errors import UnsupportedServerError
from tde.postgres.server.interposer import find_interposer
from tde.postgres.server.symbols import require_interposable, unhandled_symbols


def build(directory: Path, body: str, *options: str) -> Path:
    source = directory / "server.c"
    source.write_text(
        "#define _GNU_SOURCE\n#include <aio.h>\n#include <fcntl.h>\n#include <stdio.h>\n"
        f"#include <unistd.h>\nint main(int argc, char **argv) {{ (void)argv; {body} }}\n"
    )
    binary = directory / "postgres"
    subprocess.run(["cc", str(source), "-o", str(binary), *options], check=True)
    return binary


def test_installed_servers_are_accepted(binaries):
    require_interposable(binaries.program("postgres"), find_interposer())


@pytest.mark.parametrize("call", ["vmsplice(argc, NULL, 0, 0)", "aio_read(NULL)", "syscall(argc)"])
def test_a_call_that_is_not_handled_is_named(tmp_path, call):
    binary = build(tmp_path, f"return (int){call};")
    name = call.split("(")[0]
    assert unhandled_symbols(binary, find_interposer()) == [name]
    with pytest.raises(UnsupportedServerError, match=name) as caught:
        require_interposable(binary, find_interposer())
    assert caught.value.remedy


def test_handled_and_harmless_calls_are_accepted(tmp_path):
    body = "char b[9]; return (int)pread64(open64(argv[0], argc), b, 9, 0) + (int)lseek(0, 0, 0);"
    assert unhandled_symbols(build(tmp_path, body), find_interposer()) == []


def test_a_static_server_is_refused(tmp_path):
    with pytest.raises(UnsupportedServerError, match="statically linked"):
        require_interposable(build(tmp_path, "return argc;", "-static"), find_interposer())


def test_a_setuid_server_is_refused(tmp_path):
    binary = build(tmp_path, "return argc;")
    binary.chmod(0o4755)
    with pytest.raises(UnsupportedServerError, match="setuid"):
        require_interposable(binary, find_interposer())


def test_a_script_is_refused(tmp_path):
    script = tmp_path / "postgres"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(UnsupportedServerError, match="not an executable program"):
        require_interposable(script, find_interposer())


NEEDED = ("MyWalSnd", "am_db_walsender", "debug_query_string", "GetConfigOption")
EXPORTS = """
void *MyWalSnd;
_Bool am_db_walsender;
const char *debug_query_string;
void GetConfigOption(void) {}
"""


@pytest.mark.parametrize("missing", NEEDED)
def test_a_server_that_hides_what_the_interposer_needs_is_refused(tmp_path, missing):
    exported = {*NEEDED} - {missing}
    (tmp_path / "list").write_text("{ " + " ".join(f"{name};" for name in exported) + " };\n")
    source = tmp_path / "symbols.c"
    source.write_text(EXPORTS)
    binary = build(tmp_path, "return argc;", str(source), f"-Wl,--dynamic-list={tmp_path / 'list'}")
    with pytest.raises(UnsupportedServerError, match=f"does not export {missing},") as caught:
        require_interposable(binary, find_interposer())
    assert caught.value.remedy


def test_a_server_that_exports_what_the_interposer_needs_is_accepted(tmp_path):
    source = tmp_path / "symbols.c"
    source.write_text(EXPORTS)
    require_interposable(
        build(tmp_path, "return argc;", str(source), "-rdynamic"), find_interposer()
    )
