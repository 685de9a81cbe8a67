"""Write manual pages and completions of ``tde`` from the commands themselves.

    python installers/manual.py --man DIR --completions DIR

One page for each command, as Git has them: ``man tde-pg-start``. What ``--help`` says is all that
they say, so neither can be out of date. Completions go where bash, zsh and fish of Debian look for
those of packages, below the directory that is given.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer._completion_shared import get_completion_script

from tde.cli.app import COMMANDS, app
from tde.version import __version__

_COMPLETIONS = {
    "bash": "bash-completion/completions/tde",
    "zsh": "zsh/vendor-completions/_tde",
    "fish": "fish/vendor_completions.d/tde.fish",
}

_MARKUP = re.compile(r"\[/?(bold|dim)\]")


# Commands are click's in old releases of typer and typer's own in new ones, hence Any.
@dataclass(frozen=True)
class Page:
    """A command, and where it stands among the others.

    Attributes:
        words: how it is called, as in ``("tde", "pg", "start")``.
        command: as typer knows it.
        context: that of the command, in which it describes itself.
    """

    words: tuple[str, ...]
    command: Any
    context: Any

    @property
    def name(self) -> str:
        """The name of the page."""
        return "-".join(self.words)

    @property
    def subcommands(self) -> list[Page]:
        """The commands below it that help shows."""
        return [
            _page((*self.words, name), command, self.context)
            for name, command in getattr(self.command, "commands", {}).items()
            if not command.hidden
        ]


def all_pages() -> Iterator[Page]:
    """Yield every command, each before those below it."""
    root = typer.main.get_command(app)
    first = _page(("tde",), root, None)
    for name in COMMANDS:
        root.resolve_command(first.context, [name])  # type: ignore[attr-defined]
    waiting = [first]
    while waiting:
        page = waiting.pop(0)
        yield page
        waiting = [*page.subcommands, *waiting]


def _page(words: tuple[str, ...], command: Any, parent: Any) -> Page:
    settings = command.context_settings
    return Page(
        words, command, typer.Context(command, info_name=words[-1], parent=parent, **settings)
    )


def text_of(page: Page, date: str) -> str:
    """Return a page in the macros of man(7)."""
    summary, *rest = _plain(page.command.help or "").split("\n\n")
    lines = [
        f'.TH "{page.name.upper()}" 1 "{date}" "tde {__version__}" "Encryption for PostgreSQL"',
        # Neither hyphenated nor stretched: options and paths are copied out of these pages.
        *(".nh", ".ad l", ".SH NAME"),
        f"{_escaped(page.name)} \\- {_escaped(' '.join(summary.split()).rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_escaped(' '.join(page.words))}",
        _escaped(" ".join(page.command.collect_usage_pieces(page.context))),
    ]
    if rest:
        lines += [".SH DESCRIPTION", *_paragraphs(rest)]
    lines += _described("ARGUMENTS", page, "argument") + _described("OPTIONS", page, "option")
    if page.subcommands:
        lines.append(".SH COMMANDS")
    for below in page.subcommands:
        first = _plain(below.command.help or "").split("\n\n")[0]
        lines += [".TP", f".BR {_escaped(below.name)} (1)", _escaped(" ".join(first.split()))]
    lines += _epilog(_plain(page.command.epilog or ""))
    above = ["-".join(page.words[:count]) for count in range(1, len(page.words))]
    references = ", ".join(f"\\fB{_escaped(name)}\\fR(1)" for name in above)
    if references:
        lines += [".SH SEE ALSO", references]
    return "\n".join(lines) + "\n"


def _described(heading: str, page: Page, kind: str) -> list[str]:
    records = [
        parameter.get_help_record(page.context)
        for parameter in page.command.get_params(page.context)
        if parameter.param_type_name == kind
    ]
    lines = [f".SH {heading}"]
    for names, text in filter(None, records):
        lines += [".TP", f".B {_escaped(names)}", _escaped(" ".join(_plain(text).split()))]
    return lines if len(lines) > 1 else []


def _paragraphs(texts: list[str]) -> list[str]:
    lines = []
    for text in texts:
        is_list = "\n " in text or text.startswith(("* ", "- "))
        body = [_escaped(line) for line in text.splitlines()]
        lines += [".PP", *([".nf", *body, ".fi"] if is_list else body)]
    return lines


def _epilog(text: str) -> list[str]:
    """Return the examples as typed, and what else stands below a command's help."""
    lines: list[str] = []
    for part in filter(None, text.split("\n\n")):
        first, *rest = part.splitlines()
        if first == "Examples":
            lines += [".SH EXAMPLES", ".nf", *map(_escaped, rest), ".fi"]
        elif first.startswith("Exit codes: "):
            lines += [".SH EXIT STATUS", _escaped(part.removeprefix("Exit codes: "))]
        else:
            lines += [".SH NOTES", _escaped(part)]
    return lines


def _plain(text: str) -> str:
    """Return text without the markup that makes it bold or dim on a terminal."""
    # Nothing else in brackets is markup: typer writes [default: 256] behind the help of options.
    return _MARKUP.sub("", text).replace("\\[", "[")


def _escaped(text: str) -> str:
    """Return text of which troff changes nothing: no escapes, no requests, real minus signs."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "\\&...")
    return re.sub(r"^([.'])", r"\\&\1", text)


def write_pages(directory: Path) -> list[Path]:
    """Write all pages, and return their files; dated as SOURCE_DATE_EPOCH says, if it does."""
    directory.mkdir(parents=True, exist_ok=True)
    now = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(now))
    written = []
    for page in all_pages():
        path = directory / f"{page.name}.1"
        path.write_text(text_of(page, date), encoding="utf-8")
        written.append(path)
    return written


def write_completions(share: Path) -> None:
    """Write the completions where shells look for them, below the system's share directory."""
    for shell, name in _COMPLETIONS.items():
        path = share / name
        path.parent.mkdir(parents=True, exist_ok=True)
        script = get_completion_script(prog_name="tde", complete_var="_TDE_COMPLETE", shell=shell)
        path.write_text(script + "\n", encoding="utf-8")


def main() -> None:
    """Write what the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--man", type=Path, help="directory for the pages")
    parser.add_argument("--completions", type=Path, help="such as /usr/share")
    arguments = parser.parse_args()
    if arguments.man:
        write_pages(arguments.man)
    if arguments.completions:
        write_completions(arguments.completions)


if __name__ == "__main__":
    main()
