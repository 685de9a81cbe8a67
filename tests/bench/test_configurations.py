"""What is compared, and how existing servers are named."""

from __future__ import annotations

import pytest
from tde_bench.configurations import (
    Configuration,
    ephemeral,
    existing,
    software_and_hardware,
    split_label,
)
from tde_bench.errors import BenchError

from tde.algorithms import Algorithm


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
    ],
)
def test_label(specification: str, expected: tuple[str, str | None]) -> None:
    assert split_label(specification) == expected


def test_every_bar_says_what_openssl_may_use() -> None:
    """A mask that is exported for another measurement must not turn all bars into software."""
    software, hardware = software_and_hardware([Algorithm.AES256])[1:]
    assert software.environment == {"OPENSSL_ia32cap": "~0x200000200000000"}
    assert hardware.environment == {"OPENSSL_ia32cap": "~0x0"}
    assert Configuration("mine", "mine", software=None).environment == {}


def test_servers_without_a_label_are_numbered() -> None:
    names = [c.name for c in existing(["host=/a", "host=/b=plain", "host=/c"])]
    assert names == ["server1", "plain", "server3"]


def test_equal_labels_are_refused() -> None:
    with pytest.raises(BenchError, match="same label"):
        existing(["host=/a=x", "host=/b=x"])
