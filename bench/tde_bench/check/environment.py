"""Causes of the cost of encryption besides this project's code, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tde_bench.measure.libraries import release_of, release_used

# What is compared, as it is called in a sentence, in the order of the warnings.
Environment = dict[str, str]


def environment_of(document: Mapping[str, Any]) -> Environment:
    """Return what a result says of CPU, PostgreSQL and OpenSSL; what it does not say is missing.

    Args:
        document: the JSON of a check.
    """
    metadata = document.get("metadata") or {}
    cpu = metadata.get("cpu") or {}
    # The last server is the encrypted one, whose OpenSSL does the work.
    server = (document.get("configurations") or [{}])[-1]
    openssl = str(server.get("openssl") or metadata.get("openssl") or "")
    found = {
        "CPU": str(cpu.get("model") or ""),
        "list of the CPU's AES and vector instructions": ", ".join(cpu.get("flags") or []),
        "PostgreSQL": str(server.get("server_version") or "").partition(".")[0],
        # The date behind the version differs between builds of the same release.
        "OpenSSL": release_of(openssl),
        # The page core is divided by what this one can do.
        "OpenSSL of openssl speed": release_used(str(metadata.get("openssl_program") or "")),
    }
    return {name: value for name, value in found.items() if value}


def differences(baseline: Environment, own: Environment) -> list[str]:
    """Say in a sentence for each what is not as it was where the baseline was made."""
    return [
        f"The {name} of the baseline is {value}, but here it is {own[name]}: ratios may differ for "
        "that reason alone. Make a baseline here, or read verdicts with care."
        for name, value in baseline.items()
        if name in own and own[name] != value
    ]
