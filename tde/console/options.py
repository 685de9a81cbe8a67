"""The options that ``tde`` and ``tde-bench`` share."""

from __future__ import annotations

import typer

from tde.algorithms import Algorithm

AES_SIZES = "128|256"


def algorithm_of(bits: int) -> Algorithm:
    """Return the algorithm for ``--aes``.

    Raises:
        typer.BadParameter: the size is neither 128 nor 256.
    """
    try:
        return Algorithm.from_bits(bits)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--aes") from error
