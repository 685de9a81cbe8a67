"""The root of the command line: ``tde NOUN VERB``.

Modules of nouns are imported when their noun is used, because they pull in cryptography,
psycopg2 and psutil: `tde --help` and shell completion should answer without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tde.console.apps import examples
from tde.console.errors import reporting_errors
from tde.keystore.crypto.passing_process import use_passing_processes
from tde.machine.own_process import fill_standard_descriptors, forbid_access

# Name on the command line, module that holds its `app`, and the line that `tde --help` shows.
COMMANDS = {
    "keystore": ("tde.cli.keystore", "Create, check and back up keystores; passphrases."),
    "pg": ("tde.cli.pg.app", "Create, start, stop and inspect encrypted PostgreSQL clusters."),
    "tablespace": ("tde.cli.tablespace", "Encrypted tablespaces: create, move, rekey, lock."),
    "replication": ("tde.cli.replication", "Standbys and the servers that they follow."),
    "ha": ("tde.cli.ha", "Cluster managers: can this node take over; their configuration."),
    "wal": ("tde.cli.wal", "Give WAL another key."),
    "report": ("tde.cli.report", "A sealed report for auditors, and the proof of one."),
    "extension": ("tde.cli.extension", "The keystore in SQL: install the extension."),
    "manager": ("tde.cli.manager", "All of it in a browser."),
    "psql": ("tde.cli.psql", "Open psql on a cluster that tde started."),
}


class RootGroup(TyperGroup):
    """Loads a noun on its first use and reports the errors of all commands in one way."""

    # The context's class is click's in old releases of typer and typer's own in new ones,
    # hence Any here.
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of its stand-in before it is looked up."""
        name = args[0]
        if name in COMMANDS:
            module, _ = COMMANDS[name]
            command = typer.main.get_command(import_module(module).app)
            command.name = name
            _reflow_help(command)
            self.commands[name] = command
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        with reporting_errors():
            return super().invoke(ctx)


def _reflow_help(command: Any) -> None:
    """Join the lines of each paragraph of a command's help, and of its subcommands' help.

    Docstrings are wrapped for the source; typer would keep those line breaks on a terminal
    of any width. Paragraphs with indented lines or list items stay as they are.
    """
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(
        text if "\n " in text or text.startswith(("* ", "- ")) else text.replace("\n", " ")
        for text in paragraphs
    )
    for subcommand in getattr(command, "commands", {}).values():
        _reflow_help(subcommand)


app = typer.Typer(
    cls=RootGroup,
    help="Transparent data encryption for stock, unmodified PostgreSQL.",
    epilog=examples(
        "# A keystore, an encrypted cluster, a session:",
        "tde keystore create --keystore /etc/tde/main",
        "tde pg init --pgdata /srv/pg/main --keystore /etc/tde/main",
        "tde pg start --pgdata /srv/pg/main",
        "tde psql --pgdata /srv/pg/main",
    )
    + "\n\nExit codes: 0 success, 1 error, 2 wrong usage, 3 server not running, "
    "4 no data directory, 5 keystore error, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    # Rich tracebacks can print local variables, and some of those are keys.
    pretty_exceptions_enable=False,
)


def _stand_in() -> None:
    """Appear in help and completion; `RootGroup.resolve_command` replaces it before use."""


for _name, (_, _summary) in COMMANDS.items():
    app.command(_name, help=_summary)(_stand_in)


def _print_version(wanted: bool) -> None:
    if wanted:
        from tde.version import __version__

        typer.echo(f"tde {__version__}")
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
    """Hold the options that stand before the noun."""


def main() -> None:
    """Run the command line; the entry point of the installed script."""
    fill_standard_descriptors()
    forbid_access()
    use_passing_processes()
    app(prog_name="tde")
