"""``tde-bench report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tde.console.apps import examples
from tde.console.output import console
from tde_bench.cli.option_checks import check_outputs
from tde_bench.errors import BenchError

_EPILOG = examples(
    "tde-bench report oltp.json batch.json pages.json --html report.html --markdown report.md",
)

FilesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...", exists=True, dir_okay=False, help="JSON files of any command."
    ),
]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="One page that needs no other file."),
]
MarkdownOption = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="The tables as Markdown.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(epilog=_EPILOG)(report)


def report(files: FilesArgument, html: HtmlOption = None, markdown: MarkdownOption = None) -> None:
    """Make one page from results: published charts next to ours, tables, machine, raw runs."""
    if html is None and markdown is None:
        raise BenchError("there is nothing to write", remedy="Add --html FILE or --markdown FILE.")
    check_outputs([html, markdown], [])
    # Imported here, because matplotlib takes a second that `--help` should not wait for.
    from tde_bench.report.page import read_all, render_html, render_markdown

    results = read_all(files)
    for path, render in ((html, render_html), (markdown, render_markdown)):
        if path is not None:
            path.write_text(render(results), encoding="utf-8")
            console.print(f"{path} written")
