"""The order in which configurations take their turns.

Machines drift: disks fill their caches, neighbours on the host come and go, clocks throttle.
Rounds therefore visit every configuration before the next round starts (so that drift hits
all of them alike and ratios within a round cancel it), and each round starts with the next
configuration, so that none always runs first. After each of them was first once, the order is
reversed, so that none always runs after the same other one and its writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Slot(Generic[Item]):
    """One turn of one configuration; round and position count from 0."""

    round: int
    position: int
    item: Item


def rotated_rounds(items: Sequence[Item], rounds: int) -> Iterator[Slot[Item]]:
    """Yield every item once per round, in the order of :func:`rotated`.

    When ``rounds`` is a multiple of ``len(items)``, every item takes every position equally often.

    Raises:
        ValueError: when there is nothing to run or ``rounds`` is less than 1.
    """
    if not items:
        raise ValueError("there must be at least one configuration")
    if rounds < 1:
        raise ValueError(f"the number of rounds must be at least 1, not {rounds}")
    for number in range(rounds):
        for position, item in enumerate(rotated(items, number)):
            yield Slot(number, position, item)


def rotated(items: Sequence[Item], number: int) -> list[Item]:
    """Return the order of turn ``number``: each starts with the next item.

    Every other cycle of as many turns as there are items is reversed.
    """
    cycle, first = divmod(number, len(items))
    order = [*items[first:], *items[:first]]
    return order[::-1] if cycle % 2 else order
