"""The command line of the benchmarks: one file per command."""

from tde_bench.cli.app import app, main

__all__ = ["app", "main"]
