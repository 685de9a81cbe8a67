"""Made-up results with figures that can be checked by hand."""

from __future__ import annotations

from collections.abc import Sequence

from tde_bench.oltp.results import OltpResult, OltpRun


def make_run(
    round_number: int, configuration: str, tps: float, cpu_ms: float | None = 0.5
) -> OltpRun:
    """Return a run of one second in which only TPS and CPU vary."""
    encrypted = configuration != "none"
    return OltpRun(
        round=round_number,
        position=0,
        configuration=configuration,
        started="2026-01-01T00:00:00+00:00",
        seconds=1,
        transactions=int(tps),
        failed=0,
        tps=tps,
        latency_mean_ms=1.0,
        latency_p50_ms=0.9,
        latency_p95_ms=2.0,
        latency_p99_ms=3.0,
        latency_max_ms=9.0,
        cpu_seconds=None if cpu_ms is None else cpu_ms * tps / 1000,
        cpu_ms_per_transaction=cpu_ms,
        bytes_encrypted=3_000_000 if encrypted else None,
        bytes_decrypted=1_500 if encrypted else None,
        relation_bytes_encrypted=1_000_000 if encrypted else None,
        relation_bytes_decrypted=1_500 if encrypted else None,
        wal_bytes_encrypted=2_000_000 if encrypted else None,
        wal_bytes_decrypted=0 if encrypted else None,
        steal_seconds=0.0,
    )


def make_result(
    none: Sequence[float], aes256: Sequence[float], *, cpu_ms: float | None = 0.5
) -> OltpResult:
    """Return a finished result with these TPS per round."""
    result = OltpResult(
        parameters={"scale": 20, "clients": 4, "duration": 15, "rounds": len(none), "seed": 1},
        labels={"none": "no encryption", "aes256": "AES-256"},
        metadata={
            "cpu": {"model": "Example CPU", "count": 2},
            "filesystem": {"type": "ext4", "device": "/dev/sda1"},
        },
        facts={
            name: {
                "database_bytes": 320_000_000,
                "shared_buffers_bytes": 32_000_000,
                "server_version": "15.18 (Debian)",
            }
            for name in ("none", "aes256")
        },
        status="complete",
    )
    for number in range(max(len(none), len(aes256))):
        if number < len(none):
            result.runs.append(make_run(number, "none", none[number], cpu_ms))
        if number < len(aes256):
            cpu = None if cpu_ms is None else cpu_ms * 1.04
            result.runs.append(make_run(number, "aes256", aes256[number], cpu))
    return result
