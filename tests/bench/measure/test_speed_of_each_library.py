"""``openssl speed`` works with the library that it is the limit of, or there is no limit."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import Mock

import pytest
from tde_bench.configurations import HARDWARE_AES, SOFTWARE_AES, Configuration
from tde_bench.errors import BenchError
from tde_bench.measure import cipher_speed, libraries
from tde_bench.measure.cipher_speed import measure_speed, measure_speeds, open_program
from tde_bench.measure.libraries import (
    SECOND,
    Library,
    find_openssl,
    known_libraries,
    library_of_release,
    speed_program,
)
from tde_bench.measure.result import BenchmarkResult

from tde import Algorithm, _core
from tde.page.libcrypto import SYSTEM

OLD, NEW = "OpenSSL 3.0.19 27 Jan 2026", "OpenSSL 3.5.8 25 Aug 2026"
AES256 = Configuration("aes256", "AES-256", Algorithm.AES256)

# Says which library it has, as the loader would find it, and how fast: as many bytes per second.
PROGRAM = """\
#!/bin/sh
library="{own}"
speed=1000
found="${{LD_LIBRARY_PATH%%:*}}/libcrypto.so.3"
if [ -e "$found" ] && [ {obeys} = yes ]; then library="$(cat "$found")"; speed=3000; fi
case "$1" in
    version) echo "{says} (Library: $library)" ;;
    *) echo "+F:25:AES-256-XTS:$speed" ;;
esac
"""

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_program(*, own: str = OLD, obeys: bool = True, says: str = OLD) -> Path:
        program = tmp_path / "openssl"
        text = PROGRAM.format(own=own, obeys="yes" if obeys else "no", says=says)
        program.write_text(text)
        program.chmod(0o755)
        return program

    return make_program


@pytest.fixture
def second(tmp_path: Path) -> Library:
    path = tmp_path / "libcrypto-1234.so.3"
    path.write_text(NEW)
    return Library(NEW, path)


def _result() -> BenchmarkResult:
    return BenchmarkResult(parameters={}, labels={"none": "no encryption", "aes256": "AES-256"})


def test_a_program_with_that_library_is_taken_as_it_is(make: Make) -> None:
    # The date differs between builds of a release, and the program may be older than its library.
    openssl = make(own="OpenSSL 3.0.19 3 Mar 2026", says="OpenSSL 3.0.17 1 Jul 2025")
    with speed_program(openssl, Library(OLD)) as program:
        assert program.environment == {}
        assert measure_speed(program, AES256, 0).encrypt_bytes_per_second == 1000


def test_a_second_library_is_linked_for_it_and_the_link_goes(make: Make, second: Library) -> None:
    with speed_program(make(), second) as program:
        folder = Path(program.environment["LD_LIBRARY_PATH"].split(":")[0])
        assert folder.stat().st_mode & 0o777 == 0o700
        assert program.environment["OPENSSL_CONF"] == os.devnull
        assert program.version == f"{OLD} (Library: {NEW})"
        assert measure_speed(program, AES256, 0).decrypt_bytes_per_second == 3000
    assert not folder.exists()


def test_a_newer_program_measures_the_older_library_of_the_system(
    make: Make, tmp_path: Path
) -> None:
    path = tmp_path / "libcrypto.so.3"
    path.write_text(OLD)
    with speed_program(make(own=NEW, says=NEW), Library(OLD, path)) as program:
        assert program.version == f"{NEW} (Library: {OLD})"


def test_what_the_program_says_is_believed_and_nothing_else(make: Make, second: Library) -> None:
    openssl = make(obeys=False)
    with pytest.raises(BenchError, match="does not work with"), speed_program(openssl, second):
        pass
    with pytest.raises(BenchError, match="is not known"), speed_program(openssl, Library(NEW)):
        pass
    openssl.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    with pytest.raises(BenchError, match="does not run: broken"), speed_program(openssl, second):
        pass


def test_a_limit_that_cannot_be_verified_is_left_out_with_a_warning(
    make: Make, second: Library
) -> None:
    result = _result()
    with ExitStack() as stack:
        assert open_program(make(obeys=False), second, result, stack) is None
        assert open_program(None, second, result, stack) is None
    assert [text.split(":")[0] for text in result.warnings] == [
        f"The limit of {NEW} is not known",
        "There is no openssl program, so the limit is not known.",
    ]


def test_the_limit_of_a_server_is_that_of_its_library(
    make: Make, second: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cipher_speed, "find_openssl", make)
    both = {SYSTEM: Library(OLD), SECOND: second}
    monkeypatch.setattr(libraries, "known_libraries", lambda: both)
    result = _result()
    plain = Configuration("none", "no encryption")
    system = Configuration("aes128", "AES-128", Algorithm.AES128)
    lost = Configuration("lost", "lost", Algorithm.AES256)
    versions = {plain: OLD, AES256: NEW, system: OLD, lost: "OpenSSL 3.9.9 1 Apr 2027"}
    found = measure_speeds(versions, 2, result, Mock())
    speeds = {speed.configuration: speed.encrypt_bytes_per_second for speed in found}
    assert speeds == {"aes256": 3000, "aes128": 1000}
    (warning,) = result.warnings
    assert warning.startswith("lost: the limit cannot be computed from all rounds: OpenSSL 3.9.9")
    used = f"{OLD} (Library: {NEW}); {OLD} (Library: {OLD})"
    assert result.metadata["openssl_program"] == used


def test_the_libraries_of_this_process() -> None:
    known = known_libraries()
    assert known[SYSTEM].version == _core.linked_openssl_version()
    assert list(known.values())[-1].version == _core.openssl_version()
    for library in known.values():
        assert library.path is not None
        assert library.path.is_file()
        assert library_of_release(library.version) == library
    with pytest.raises(BenchError, match="is not at hand"):
        library_of_release("OpenSSL 9.9.9 1 Apr 2030")


@pytest.mark.skipif(find_openssl() is None, reason="there is no openssl program")
@pytest.mark.parametrize("name", [SYSTEM, SECOND])
def test_each_library_hears_of_all_instructions_or_of_none(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word of the variable that is left out had hidden VAES and AVX-512 from OpenSSL 3.5."""
    library = known_libraries().get(name)
    if library is None:
        pytest.skip("tde uses the system's library")
    openssl = find_openssl()
    assert openssl is not None
    with speed_program(openssl, library) as program:

        def capabilities(variables: dict[str, str]) -> list[str]:
            environment = {**os.environ, **program.environment, **variables}
            monkeypatch.setattr(os, "environ", environment)
            said = libraries.run_openssl(openssl, ["version", "-c"], {})
            return said.split("OPENSSL_ia32cap=")[1].split(" env:")[0].split(":")

        if "OPENSSL_ia32cap=" not in libraries.run_openssl(openssl, ["version", "-c"], {}):
            pytest.skip("this processor's capabilities are not told")
        all_words = capabilities({})
        assert capabilities(HARDWARE_AES) == all_words
        software = capabilities(SOFTWARE_AES)
        assert software[1:] == all_words[1:]
        masked = int(all_words[0], 0) & ~0x200000200000000
        assert int(software[0], 0) == masked
