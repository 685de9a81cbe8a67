"""``tde-bench io``: what was recorded is made again, and its cost is told from what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tde_bench import cli
from tde_bench.errors import BenchError
from tde_bench.io.player import Player
from tde_bench.io.results import BARE, CIPHER, REPLAY, IoResult, IoRun, worst
from tde_bench.io.strace import Recording
from tde_bench.io.trace import CLASSES, Call, Stream, Trace, own_traces, read_trace
from tde_bench.measure.replay_process import ReplayProcess
from tde_bench.report.reading import read_result
from typer.testing import CliRunner

from tde import Algorithm, _core

PAGE = 8192

# Of one backend and one checkpointer: a table is read, extended, and written; WAL is flushed.
BACKEND = """\
100.000000001 openat(AT_FDCWD, "base/5/16384", O_RDWR|O_CLOEXEC) = 7
100.000000002 lseek(7, 0, SEEK_END) = 16384
100.000000003 pread64(0x7, 0x7f0000000010, 0x2000, 0x2000) = 0x2000
100.000000004 pwritev(7, [{iov_base="ZEROS"..., iov_len=8192}, {iov_base="ZEROS"..., \
iov_len=8192}], 2, 16384) = 16384
100.000000005 openat(AT_FDCWD, "pg_wal/000000010000000000000001", O_RDWR|O_CREAT, 0600) = 8
100.000000006 pwrite64(8, "DATA"..., 16384, 8192) = 16384
100.000000007 fdatasync(8) = 0
100.000000008 openat(AT_FDCWD, "postgresql.conf", O_RDONLY) = 9
100.000000009 pread64(0x9, 0x7f0000000010, 0x2000, 0) = 0x10
100.000000010 pread64(0x7, 0x7f0000000040, 0x2000, 0x4000) = -1 EIO (Input/output error)
100.000000011 close(7) = 0
"""
CHECKPOINTER = """\
100.000000012 openat(AT_FDCWD, "base/5/16384", O_RDWR|O_CLOEXEC) = 3
100.000000013 pwrite64(3, "DATA"..., 8192, 24576) = 8192
100.000000014 fsync(3) = 0
100.500000000 fsync(3) = 0
"""


def hexadecimal(text: str) -> str:
    """Write strings as ``strace -xx`` does."""
    zeros, data = r"\x00" * 24, r"\x41" * 24
    lines = text.replace("ZEROS", zeros).replace("DATA", data).splitlines()
    for number, line in enumerate(lines):
        for path in ("base/5/16384", "pg_wal/000000010000000000000001", "postgresql.conf"):
            if f'"{path}"' in line:
                spelled = "".join(f"\\x{byte:02x}" for byte in path.encode())
                lines[number] = line.replace(f'"{path}"', f'"{spelled}"')
    return "\n".join(lines) + "\n"


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    output = tmp_path / "strace"
    output.mkdir()
    (output / "calls.2").write_text(hexadecimal(BACKEND))
    (output / "calls.1").write_text(hexadecimal(CHECKPOINTER))
    return Recording(output, tmp_path / "data")


def test_calls_of_all_processes_become_streams_of_their_classes(recording: Recording) -> None:
    streams = recording.streams({"base/5/16384": 2 * PAGE}, 100.0, 100.4)
    found = {stream.name: (stream.files, stream.calls) for stream in streams}
    table, segment = "base/5/16384", "pg_wal/000000010000000000000001"
    assert found == {
        "open": ([(table, 2 * PAGE)], [Call("o", 0, 0, 0), Call("o", 0, 0, 0)]),
        "relation-read": (
            [(table, 2 * PAGE)],
            [Call("e", 0, 0, 0), Call("r", 0, PAGE, PAGE, skew=0x10)],
        ),
        "relation-extend": ([(table, 2 * PAGE)], [Call("w", 0, 2 * PAGE, 2 * PAGE, 2, zeros=True)]),
        # What the backend added is there when the checkpointer writes it.
        "relation-write": ([(table, 4 * PAGE)], [Call("w", 0, 3 * PAGE, PAGE), Call("s", 0, 0, 0)]),
        "wal-write": ([(segment, 0)], [Call("w", 0, PAGE, 2 * PAGE), Call("d", 0, 0, 0)]),
    }


def test_pages_are_counted_as_the_cipher_sees_them() -> None:
    assert Call("r", 0, 100, 24).units == 1
    assert Call("w", 0, PAGE - 1, 2).units == 2
    assert Call("w", 0, 0, 3 * PAGE, 3).units == 3
    assert Call("w", 0, 0, PAGE, zeros=True).units == 0
    assert Call("s", 0, 0, 0).units == 0


def test_a_trace_is_read_as_it_was_written(tmp_path: Path, recording: Recording) -> None:
    trace = Trace("15.20", "mine", recording.streams({}, 100.0, 100.4))
    path = trace.write(tmp_path)
    assert path.name == "15-mine.json.gz"
    assert read_trace(path) == trace
    before = path.read_bytes()
    assert trace.write(tmp_path).read_bytes() == before
    path.write_bytes(before[:-20])
    with pytest.raises(BenchError, match=r"15-mine.json.gz is no trace"):
        read_trace(path)


def test_each_class_is_in_the_traces_that_are_brought_along() -> None:
    traces = own_traces()
    assert {trace.name.split("-")[0] for trace in traces} == {"15", "18"}
    for version in ("15", "18"):
        streams = [s for t in traces if t.name.startswith(version) for s in t.streams]
        assert {stream.name for stream in streams} == set(CLASSES)
        for stream in streams:
            assert all(0 <= call.file < len(stream.files) for call in stream.calls)
            for path, _ in stream.files:
                assert _core.parse_path(path)[0] != _core.CLASS_PLAIN


def two_pages() -> Stream:
    """Return a stream that writes two pages of a table and reads one of them."""
    calls = [Call("w", 0, 0, PAGE), Call("w", 0, PAGE, PAGE), Call("r", 0, 0, PAGE)]
    return Stream("relation-write", [("base/5/16384", 0)], calls)


def test_calls_go_through_the_interposer_or_past_it(tmp_path: Path) -> None:
    stored = {}
    # A directory that a user names may have a space in its name.
    tmp_path = tmp_path / "my disk"
    for name, algorithm in (("plain", None), ("encrypted", Algorithm.AES256)):
        with Player(tmp_path / name, algorithm, None, {}) as player:
            number = player.load(two_pages(), "mine")
            assert player.run(number) > 0
            stored[name] = (tmp_path / name / "data/mine/base/5/16384").read_bytes()
            if algorithm is None:
                assert player.run_bare(number, Algorithm.AES256) > 0
                assert player.cipher(Algorithm.AES128, decrypts=True, pages=10, span=2) > 0
    assert len(stored["plain"]) == len(stored["encrypted"]) == 2 * PAGE
    # The same memory was written by both.
    assert stored["plain"][:PAGE] != stored["encrypted"][:PAGE]
    assert stored["plain"][PAGE:] != stored["encrypted"][PAGE:]


def test_a_call_that_does_not_work_is_named(tmp_path: Path) -> None:
    stream = Stream("relation-read", [("base/5/16384", 0)], [Call("e", 0, 0, 0)])
    with Player(tmp_path / "mine", None, None, {}) as player:
        number = player.load(stream, "mine")
        (tmp_path / "mine/data/mine/base/5/16384").unlink()
        opened = Stream("open", [("base/5/16384", 0)], [Call("o", 0, 0, 0)])
        assert player.run(number) > 0
        other = player.load(opened, "other")
        (tmp_path / "mine/data/other/base/5/16384").unlink()
        with pytest.raises(BenchError, match=r"call 0 of the stream, 'o'.*No such file"):
            player.run(other)


def result_of(runs: list[IoRun]) -> IoResult:
    labels = {"none": "no encryption", "aes256": "AES-256"}
    return IoResult(parameters={"rounds": 2}, labels=labels, runs=runs)


def test_what_is_added_is_told_per_page_and_beside_the_cipher() -> None:
    runs = []
    for number, disturbed in enumerate((0, 500_000)):
        for stream, plain, own in (("wal-write", 1000, 1400), ("temporary-read", 1000, 1600)):
            for name, kind, each in (
                ("none", REPLAY, plain),
                ("aes256", REPLAY, own),
                ("aes256", BARE, plain + 350),
            ):
                total = 1000 * each + disturbed
                runs.append(IoRun(number, "18-mine", stream, name, kind, 500, 1000, total))
        for direction in ("encrypt", "decrypt"):
            cipher = 320_000 + disturbed
            runs.append(IoRun(number, "18-mine", direction, "aes256", CIPHER, 0, 1000, cipher))
    result = result_of(runs)
    costs = {cost.stream: cost for cost in result.classes()}
    assert set(costs) == {"wal-write", "temporary-read"}
    wal = costs["wal-write"]
    assert (wal.plain_ns, wal.added_ns_per_call, wal.added_ns_per_page) == (2000, 800, 400)
    assert (wal.bare_ns_per_page, wal.cipher_ns, wal.ratio) == (350, 320, 1.25)
    assert worst(result.classes(), "aes256") == costs["temporary-read"]
    # A few pages among thousands of other calls say nothing about a page.
    few = [IoRun(0, "18-mine", "wal-read", "none", REPLAY, 500, 3, 1)]
    assert "wal-read" not in {cost.stream for cost in result_of([*runs, *few]).classes()}


def test_command(tmp_path: Path) -> None:
    trace = Trace("18.6", "mine", [Stream("wal-write", [(f"pg_wal/{1:024X}", 0)], [])])
    trace.streams[0].calls = [Call("w", 0, at * PAGE, PAGE) for at in range(300)]
    names = ("json", "csv", "chart")
    outputs = [tmp_path / f"io.{ending}" for ending in ("json", "csv", "png")]
    arguments = ["io", f"--trace={trace.write(tmp_path)}", "--rounds=2", f"--directory={tmp_path}"]
    options = [f"--{name}={path}" for name, path in zip(names, outputs, strict=True)]
    done = CliRunner().invoke(cli.app, [*arguments, *options])
    assert done.exit_code == 0, done.output
    assert "the worst class is WAL writes" in done.output
    assert "…" not in done.output
    document = json.loads(outputs[0].read_text())
    assert document["status"] == "complete"
    assert {run["kind"] for run in document["runs"]} == {REPLAY, BARE, CIPHER}
    assert document["classes"][0]["pages"] == 300
    assert len(outputs[1].read_text().splitlines()) == 1 + len(document["runs"])
    assert outputs[2].stat().st_size > 1000
    read = read_result(outputs[0])
    assert isinstance(read, IoResult)
    assert read.classes() == result_of_document(document).classes()
    # Nothing of the run is left but what was asked for.
    assert {path.name for path in tmp_path.iterdir()} == {
        "18-mine.json.gz",
        *(path.name for path in outputs),
    }


def test_the_cipher_alone_has_the_key_that_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault: AES-128 was divided by what AES-256 takes, and looked better than it can be."""
    asked: list[list[str]] = []
    ask = ReplayProcess.ask

    def noted(process: ReplayProcess, command: str) -> int:
        asked.append(command.split())
        return ask(process, command)

    monkeypatch.setattr(ReplayProcess, "ask", noted)
    trace = Trace("18.6", "mine", [Stream("wal-write", [(f"pg_wal/{1:024X}", 0)], [])])
    trace.streams[0].calls = [Call("w", 0, 0, PAGE)]
    arguments = [f"--trace={trace.write(tmp_path)}", "--rounds=2", f"--directory={tmp_path}"]
    done = CliRunner().invoke(cli.app, ["io", "--aes=128", *arguments])
    assert done.exit_code == 0, done.output
    measured = [words for words in asked if words[0] == "cipher" and words[3] != "1"]
    assert {words[1] for words in measured} == {str(Algorithm.AES128.value)}


def result_of_document(document: dict[str, list[dict[str, object]]]) -> IoResult:
    labels = {str(c["name"]): str(c["label"]) for c in document["configurations"]}
    runs = [IoRun(**run) for run in document["runs"]]  # type: ignore[arg-type]
    return IoResult(parameters={}, labels=labels, runs=runs)
