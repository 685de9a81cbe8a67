"""The rotation of configurations."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from tde_bench.measure.schedule import rotated, rotated_rounds


def test_each_round_starts_with_the_next_configuration() -> None:
    slots = list(rotated_rounds(["none", "128", "256"], 4))
    assert [slot.item for slot in slots] == [
        *("none", "128", "256"),
        *("128", "256", "none"),
        *("256", "none", "128"),
        *("256", "128", "none"),
    ]
    assert [slot.round for slot in slots] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert [slot.position for slot in slots] == [0, 1, 2] * 4


@pytest.mark.parametrize("items", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_every_item_takes_every_position_equally_often(items: list[str]) -> None:
    counts = Counter((slot.item, slot.position) for slot in rotated_rounds(items, 12))
    assert len(counts) == len(items) ** 2
    assert set(counts.values()) == {12 // len(items)}


def test_no_item_always_follows_the_same_other_one() -> None:
    items = ["none", "128", "256"]
    before = Counter(
        (first, second)
        for number in range(6)
        for first, second in itertools.pairwise(rotated(items, number))
    )
    assert set(before.values()) == {2}
    assert len(before) == 6


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one configuration"):
        list(rotated_rounds([], 1))
    with pytest.raises(ValueError, match="at least 1"):
        list(rotated_rounds(["a"], 0))
