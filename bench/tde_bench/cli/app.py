"""The command ``tde-bench``: what its commands share, and where they are registered."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tde.console.errors import reporting_errors
from tde.machine.own_process import fill_standard_descriptors
from tde.version import __version__
from tde_bench.cli import batch, check, compare, io, oltp, pages, report
from tde_bench.cli.failures import plain_errors
from tde_bench.errors import NotMeasuredError

# The packages of the optional dependency `bench`.
_BENCH_PACKAGES = frozenset({"jinja2", "matplotlib", "numpy", "pandas", "scipy"})

app = typer.Typer(
    help="Measure what encrypting PostgreSQL's storage costs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
# The help lists the commands in this order.
oltp.register(app)
batch.register(app)
pages.register(app)
io.register(app)
compare.register(app)
report.register(app)
check.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tde-bench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Hold the options that stand before the command."""


def main() -> None:
    """Run the command line; the console script ``tde-bench`` starts here."""
    fill_standard_descriptors()
    try:
        with reporting_errors("tde-bench"), plain_errors():
            _require_bench_packages()
            app(prog_name="tde-bench", standalone_mode=True)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)


def _require_bench_packages() -> None:
    """Say what to install when the optional dependencies are missing.

    Raises:
        NotMeasuredError: naming the first missing package.
    """
    from importlib.util import find_spec

    for package in sorted(_BENCH_PACKAGES):
        if find_spec(package) is None:
            raise NotMeasuredError(
                f"the package {package} is missing", remedy="Install it: pip install 'tde[bench]'"
            )
