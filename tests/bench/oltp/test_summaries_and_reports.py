"""From raw runs to summaries, sentences, tables, files and charts."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import stat
from pathlib import Path

import pytest
from rich.console import Console
from tde_bench.errors import BenchError
from tde_bench.measure.cipher_speed import CipherSpeed
from tde_bench.measure.result_files import write_csv, write_json
from tde_bench.measure.statistics import Estimate, paired
from tde_bench.oltp.chart import write_chart
from tde_bench.oltp.results import OltpResult, Point, Slice, read_oltp
from tde_bench.oltp.tables import print_report
from tde_bench.oltp.verdicts import verdicts
from tde_bench.present.formats import format_interval, format_ratio, human_bytes

from tests.bench.runs import make_result


def _ratios(result: OltpResult, metric: str = "tps") -> list[float]:
    pairs = paired(result.slices_frame(), metric, "aes256", "none")
    return list(pairs["aes256"] / pairs["none"])


def test_ratios_are_paired_within_rounds() -> None:
    # The machine halves its speed between rounds, the ratio stays: 0.9 and 0.9.
    assert _ratios(make_result([1000.0, 500.0], [900.0, 450.0])) == [0.9, 0.9]


def test_a_round_that_one_configuration_missed_has_no_ratio() -> None:
    assert _ratios(make_result([1000.0, 500.0], [900.0])) == [0.9]


def _cut(result: OltpResult, *speeds: float, cpu_of_checkpoint: float = 0.0) -> OltpResult:
    """Cut every turn into slices of a second whose TPS are so many times those of the turn."""
    runs = []
    for run in result.runs:
        assert run.cpu_seconds is not None
        cpu = (run.cpu_seconds - cpu_of_checkpoint) / len(speeds)
        count = run.transactions // len(speeds)
        parts = [Slice(count, run.tps * speed, 2.0, cpu, None, None) for speed in speeds]
        runs.append(dataclasses.replace(run, slices=tuple(parts)))
    result.runs = runs
    return result


def test_ratios_are_paired_within_slices() -> None:
    # The machine gets slower from slice to slice.
    result = _cut(make_result([1000.0] * 6, [900.0] * 6), 1.0, 0.5, 0.25)
    assert _ratios(result) == pytest.approx([0.9] * 18)
    summary = result.summaries()[1]
    assert summary.tps_ratio is not None
    # Slices make the estimate better, but what is independent of each other are the rounds.
    assert (summary.rounds, summary.tps_ratio.count) == (6, 6)


def test_a_round_counts_as_the_median_of_its_slices() -> None:
    # One slice in three of every encrypted turn was disturbed.
    result = make_result([1000.0] * 6, [900.0] * 6)
    plain, encrypted = (dataclasses.replace(result, runs=result.runs[i::2]) for i in (0, 1))
    result.runs = [*_cut(plain, 1.0, 1.0, 1.0).runs, *_cut(encrypted, 1.0, 0.2, 1.0).runs]
    ratio = result.summaries()[1].tps_ratio
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((0.9, 0.9, 0.9))


def test_slices_bear_the_checkpoint_by_their_transactions() -> None:
    result = _cut(make_result([1000.0], [1000.0]), 1.0, 1.0, cpu_of_checkpoint=0.1)
    assert result.runs[0].per_transaction("cpu_seconds") == pytest.approx([0.5 / 1000] * 2)
    assert result.runs[0].per_transaction("bytes_encrypted") == [None, None]


def test_a_slice_without_a_transaction_has_no_ratio() -> None:
    result = _cut(make_result([1000.0], [900.0]), 1.0, 0.0)
    plain = result.runs[0]
    stalled = dataclasses.replace(plain.slices[1], transactions=0, latency_p95_ms=None)
    result.runs[0] = dataclasses.replace(plain, slices=(plain.slices[0], stalled))
    assert _ratios(result) == [0.9]
    assert len(_ratios(result, "cpu_ms_per_transaction")) == 1


def test_configurations_without_a_common_round_have_no_ratio() -> None:
    result = make_result([1000.0], [])
    assert _ratios(result) == []
    assert [summary.configuration for summary in result.summaries()] == ["none"]


def test_summary() -> None:
    result = make_result([1000.0, 1100.0, 900.0], [990.0, 1078.0, 900.0])
    none, aes = result.summaries()
    assert (none.tps, none.rounds, none.tps_ratio, none.bytes_encrypted) == (1000, 3, None, None)
    assert none.tps_noise == pytest.approx(1.4826 * 100 / 1000)
    assert aes.tps == 990
    assert aes.tps_ratio is not None
    assert aes.tps_ratio.median == pytest.approx(0.99)
    assert aes.cpu_ratio is not None
    assert aes.cpu_ratio.median == pytest.approx(1.04)
    assert (aes.bytes_encrypted, aes.bytes_decrypted) == (3_000_000, 1_500)


def test_summary_without_cpu() -> None:
    _, aes = make_result([1000.0] * 3, [990.0] * 3, cpu_ms=None).summaries()
    assert aes.cpu_ms_per_transaction is None
    assert aes.cpu_ratio is None


def test_verdict_of_a_clear_difference() -> None:
    result = make_result([1000.0] * 6, [900.0] * 6)
    first, second = verdicts(result)
    assert first == (
        "AES-256: transactions per second 10.0 % lower than no encryption "
        "(95 % interval -10.0 % to -10.0 %)."
    )
    assert "CPU per transaction 4.0 % higher" in second


def test_verdict_within_noise_says_so() -> None:
    none = [1000.0, 1200.0, 800.0, 1100.0, 900.0, 1000.0]
    aes = [1010.0, 1150.0, 830.0, 1090.0, 920.0, 980.0]
    text = "\n".join(verdicts(make_result(none, aes)))
    assert "no difference from no encryption in transactions per second can be told" in text
    assert "Noise: transactions per second of no encryption vary by 14.8%" in text


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_few_rounds_conclude_nothing(rounds: int) -> None:
    first = verdicts(make_result([1000.0] * rounds, [900.0] * rounds))[0]
    assert "lower" not in first
    assert "too little" in first or "at least 6 are needed" in first


def test_report_shows_every_figure() -> None:
    result = make_result([1000.0] * 6, [987.0] * 6)
    result.warn("Something was odd.")
    result.warn("Something was odd.")
    output = io.StringIO()
    print_report(result, Console(file=output, width=200))
    text = output.getvalue()
    for part in (
        "no encryption",
        "1,000",
        "987",
        "0.987–0.987",
        "1.040–1.040",
        "0.520",
        "3.0 MB",
        "1.5 kB",
        "Example CPU, 2 CPUs",
        "10.0 × shared_buffers",
        "PostgreSQL 15.18 (Debian)",
    ):
        assert part in text
    assert text.count("Something was odd.") == 1


def test_report_without_a_finished_round() -> None:
    output = io.StringIO()
    print_report(make_result([], []), Console(file=output))
    assert "nothing to report" in output.getvalue()


def test_formats() -> None:
    assert format_ratio(None) == "–"
    assert format_ratio(Estimate(0.98765, None, None, 1)) == "0.988"
    assert format_interval(Estimate(0.98765, None, None, 1)) == "–"
    assert format_interval(Estimate(0.98765, 0.9, 1.01, 6)) == "0.900–1.010"
    assert [human_bytes(n) for n in (None, 0, 999, 1000, 2_500_000, 3_000_000_000_000)] == [
        *("–", "0 B", "999 B", "1.0 kB", "2.5 MB", "3.0 TB")
    ]


def test_json_document(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text("an older result")
    write_json(make_result([1000.0] * 2, [900.0] * 2), file)
    document = json.loads(file.read_text())
    assert document["schema"] == {"name": "tde-bench/oltp", "version": 3}
    assert document["status"] == "complete"
    assert document["baseline"] == "none"
    assert [c["name"] for c in document["configurations"]] == ["none", "aes256"]
    assert [run["tps"] for run in document["runs"]] == [1000.0, 900.0] * 2
    assert document["summary"][1]["tps_ratio"]["median"] == pytest.approx(0.9)
    assert list(tmp_path.iterdir()) == [file]
    assert stat.S_IMODE(file.stat().st_mode) & 0o400


def test_a_failed_write_keeps_the_older_file(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text("an older result")
    result = OltpResult(parameters={"odd": object()}, labels={"none": "none"})
    with pytest.raises(TypeError):
        write_json(result, file)
    assert file.read_text() == "an older result"
    assert list(tmp_path.iterdir()) == [file]


def test_csv_holds_the_raw_runs(tmp_path: Path) -> None:
    file = tmp_path / "result.csv"
    write_csv(make_result([1000.0], [900.0]), file)
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["configuration"], float(row["tps"])) for row in rows] == [
        ("none", 1000.0),
        ("aes256", 900.0),
    ]
    assert rows[0]["bytes_encrypted"] == ""


@pytest.mark.parametrize("cpu_ms", [0.5, None])
@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG\r\n\x1a\n"), (".svg", b"<?xml")])
def test_chart_files(tmp_path: Path, suffix: str, start: bytes, cpu_ms: float | None) -> None:
    file = tmp_path / f"chart{suffix}"
    write_chart(make_result([1000.0] * 3, [900.0] * 3, cpu_ms=cpu_ms), file)
    assert file.read_bytes().startswith(start)


def _sweep() -> OltpResult:
    """Return two points: encryption costs 10 % with one client and 20 % with four."""
    result = make_result([1000.0] * 6, [900.0] * 6)
    more = make_result([2000.0] * 6, [1600.0] * 6)
    result.parameters |= {"workload": "tpcb", "title": "pgbench TPC-B"}
    result.parameters |= {"sweep": {"scale": [20], "clients": [1, 4]}}
    result.runs = [dataclasses.replace(run, scale=20, clients=1) for run in result.runs]
    result.runs += [dataclasses.replace(run, scale=20, clients=4) for run in more.runs]
    return result


def test_points_of_a_sweep_are_summarized_apart() -> None:
    result = _sweep()
    assert result.points == [Point(20, 1), Point(20, 4)]
    found = [(s.configuration, s.clients, s.tps) for s in result.summaries()]
    assert found == [
        *(("none", 1, 1000.0), ("aes256", 1, 900.0)),
        *(("none", 4, 2000.0), ("aes256", 4, 1600.0)),
    ]
    ratios = [s.tps_ratio.median for s in result.summaries() if s.tps_ratio is not None]
    assert ratios == pytest.approx([0.9, 0.8])


def test_sweep_report_and_chart(tmp_path: Path) -> None:
    output = io.StringIO()
    print_report(_sweep(), Console(file=output, width=80))
    text = output.getvalue()
    for part in ("pgbench TPC-B, scale 20, 1/4 clients", "0.900", "0.800", "1.040"):
        assert part in text
    write_chart(_sweep(), tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_limit_is_what_was_added_by_the_cost_of_the_cipher() -> None:
    # 0.5 ms per transaction without, 0.52 ms with encryption of 3001.5 bytes in each of 1000.
    result = make_result([1000.0] * 6, [1000.0] * 6)
    result.speeds = [CipherSpeed(0, "aes256", 3e8, 3e8)]
    none, aes = result.summaries()
    assert none.limit is None
    assert aes.cipher_ms_per_transaction == pytest.approx(1000 * 3001.5 / 3e8)
    assert aes.added_cpu_ms_per_transaction == pytest.approx(0.02)
    assert aes.limit is not None
    assert aes.limit.median == pytest.approx(0.02 / 0.010005)


def test_a_document_is_read_as_it_was_written() -> None:
    result = _cut(_sweep(), 1.0, 0.9)
    result.speeds = [CipherSpeed(0, "aes256", 3e8, 3e8)]
    result.warn("Something was odd.")
    document = json.loads(json.dumps(result.to_json()))
    assert read_oltp(document).to_json() == result.to_json()


def test_documents_of_version_1_are_read() -> None:
    """The committed reference run was written by version 1."""
    document = make_result([1000.0] * 2, [900.0] * 2).to_json()
    document["schema"]["version"] = 1
    del document["openssl_speed"]
    for run in document["runs"]:
        for added in ("clients", "scale", "tpm_c"):
            del run[added]
        for direction in ("encrypted", "decrypted"):
            del run[f"ephemeral_bytes_{direction}"]
    result = read_oltp(document)
    assert result.points == [Point(20, 4)]
    assert result.summaries()[1].tps == 900
    assert result.to_json()["schema"]["version"] == 3


@pytest.mark.parametrize(
    "schema", [{}, {"name": "tde-bench/oltp", "version": 4}, {"name": "x", "version": 1}]
)
def test_other_documents_are_refused(schema: dict[str, object]) -> None:
    with pytest.raises(BenchError, match="not a result"):
        read_oltp({"schema": schema})


def test_noise_is_said_once_for_all_configurations() -> None:
    none = [1000.0, 1200.0, 800.0, 1100.0, 900.0, 1000.0]
    result = make_result(none, [0.99 * value for value in none])
    result.labels["control"] = "control"
    result.runs += [
        dataclasses.replace(run, configuration="control")
        for run in result.runs
        if run.configuration == "none"
    ]
    lines = verdicts(result)
    assert any(line.startswith("control is a second server") for line in lines)
    (line,) = (line for line in lines if line.startswith("Noise: transactions"))
    assert "more than the difference to AES-256 (1.0%), control (0.0%)." in line
