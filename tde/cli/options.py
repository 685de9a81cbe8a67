"""The choice of an algorithm on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from tde.algorithms import Algorithm

AesOption = Annotated[
    int, typer.Option("--aes", metavar="128|256", help="Size of the AES key in bits.")
]


def algorithm_of(bits: int) -> Algorithm:
    """Return the algorithm for ``--aes``.

    Raises:
        typer.BadParameter: the size is neither 128 nor 256.
    """
    try:
        return Algorithm.from_bits(bits)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--aes") from error
