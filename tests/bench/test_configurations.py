"""Choosing what is compared, and naming existing servers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest
from tde_bench import configurations
from tde_bench.configurations import (
    Configuration,
    ephemeral,
    existing,
    software_and_hardware,
    split_label,
)
from tde_bench.errors import BenchError

from tde.algorithms import Algorithm
from tde.machine.capabilities import ARM


def test_the_plain_configuration_comes_first() -> None:
    names = [(c.name, c.algorithm) for c in ephemeral([*reversed(Algorithm), Algorithm.AES256])]
    assert names == [
        ("none", None),
        ("aes128", Algorithm.AES128),
        ("aes256", Algorithm.AES256),
    ]


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        ("host=/tmp", ("host=/tmp", None)),
        ("host=/tmp port=5433", ("host=/tmp port=5433", None)),
        ("host=/tmp port=5433=plain", ("host=/tmp port=5433", "plain")),
        ("service=mine=other", ("service=mine", "other")),
        ("postgresql://host/db", ("postgresql://host/db", None)),
        ("postgresql://host/db=mine", ("postgresql://host/db", "mine")),
        ("postgresql:///?host=/tmp&port=1", ("postgresql:///?host=/tmp&port=1", None)),
        ("postgresql:///?port=1=mine", ("postgresql:///?port=1", "mine")),
        ("host=/tmp=", ("host=/tmp", None)),
        # Of a password, nothing becomes a label.
        ("host=db password=a=bar", ("host=db password=a=bar", None)),
        ("host=db password='a b=c=bar'", ("host=db password='a b=c=bar'", None)),
        ("host=db password = a=b=bar", ("host=db password = a=b=bar", None)),
        ("password=a=b host=db=mine", ("password=a=b host=db", "mine")),
        ("postgresql://u:pa=ss@host", ("postgresql://u:pa=ss@host", None)),
        ("postgresql://u:pa=ss@host/db=mine", ("postgresql://u:pa=ss@host/db", "mine")),
        ("postgresql://host/db?password=a=bar", ("postgresql://host/db?password=a=bar", None)),
    ],
)
def test_label(specification: str, expected: tuple[str, str | None]) -> None:
    assert split_label(specification) == expected


def test_every_bar_says_what_openssl_may_use() -> None:
    """A mask that is exported for another measurement must not turn all bars into software."""
    bars = software_and_hardware([Algorithm.AES256])[1:]
    software, hardware = (_capabilities(bar.environment) for bar in bars)
    everything = _capabilities({})
    # A word that is left out counts as zero, and hides AVX2, VAES and AVX-512.
    assert hardware == everything
    assert software.split(":")[1:] == everything.split(":")[1:]
    assert software != everything
    assert Configuration("mine", "mine", software=None).environment == {}


def _capabilities(environment: dict[str, str]) -> str:
    """Return what OpenSSL takes the processor for: two words and a colon."""
    done = subprocess.run(
        ["openssl", "info", "-cpusettings"],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip().removeprefix("OPENSSL_ia32cap=").split(" env:")[0]


def test_servers_without_a_label_are_numbered() -> None:
    names = [c.name for c in existing(["host=/a", "host=/b=plain", "host=/c"])]
    assert names == ["server1", "plain", "server3"]


@pytest.mark.parametrize("label", ["none", "control", "aes256", "aes128-software", "luks"])
def test_labels_of_what_the_benchmark_makes_are_refused(label: str) -> None:
    with pytest.raises(BenchError, match="tde-bench makes itself"):
        existing([f"host=/a={label}"])


def test_equal_labels_are_refused() -> None:
    with pytest.raises(BenchError, match="same label"):
        existing(["host=/a=x", "host=/b=x"])


@pytest.mark.parametrize("choose", [ephemeral, software_and_hardware])
def test_what_no_value_takes_back_is_refused(
    choose: Callable[..., list[Configuration]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On ARM a value stands for the whole processor, and none means "as it is"."""
    monkeypatch.setattr(configurations, "OWN", ARM)
    monkeypatch.delenv(ARM.variable, raising=False)
    assert choose([Algorithm.AES256])
    monkeypatch.setenv(ARM.variable, "0")
    with pytest.raises(BenchError, match="OPENSSL_armcap is set"):
        choose([Algorithm.AES256])
