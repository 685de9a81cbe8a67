"""Parameters, as all benchmarks have them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Parameters:
    """The parameters of a benchmark."""

    def with_given(self, **values: Any) -> Self:
        """Return a copy with those values replaced that are not None."""
        return dataclasses.replace(self, **only_given(values))


def only_given(values: dict[str, Any]) -> dict[str, Any]:
    """Return those values that were given, which None is not."""
    return {name: value for name, value in values.items() if value is not None}
