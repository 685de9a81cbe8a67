"""The scope of a cluster: how much of it is encrypted."""

from __future__ import annotations

from enum import Enum


class Scope(str, Enum):
    """What is encrypted besides the WAL, which always is."""

    CLUSTER = "cluster"
    """Everything: the built-in tablespaces and every tablespace created later."""
    TABLESPACES = "tablespaces"
    """Only the tablespaces that are created with a key."""
