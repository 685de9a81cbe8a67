"""``tde manager``: the web page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.console.apps import examples, new_app
from tde.console.output import console
from tde.errors import TdeError

if TYPE_CHECKING:
    from tde.manager.serving import Place

app = new_app("Do all of it in a browser.")


@app.command(
    epilog=examples(
        "tde manager",
        "tde manager --open",
        "tde manager --listen 127.0.0.1:9000",
        "# From another machine, through its own login:",
        "ssh -L 8480:127.0.0.1:8480 postgres@db1",
    )
)
def manager(
    listen: Annotated[
        str, typer.Option("--listen", metavar="ADDRESS:PORT", help="Of this machine's loopback.")
    ] = "127.0.0.1:8480",
    directory: Annotated[
        Path | None,
        typer.Option(
            "--directory",
            metavar="DIR",
            help="Where it keeps the list of servers, and jobs. Default: /var/lib/tde/manager for "
            "root, else ~/.local/share/tde/manager.",
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Let nobody change anything.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Serve a web page from which servers are made, started, encrypted and looked at.

    Run it as the user that the servers run as. It prints an address with a token that lets one
    browser in, once; SIGUSR1 has it print another. What changes something runs as a command of
    tde, and goes on when the page, the browser or the manager ends.

    It listens on this machine only. From another one, use ssh -L.
    """
    try:
        from tde.manager.serving import place_of, serve
    except ModuleNotFoundError as error:
        raise TdeError(
            f"tde manager needs a package that is not installed: {error.name}",
            remedy="pip install 'tde[manager]'; in a clone: make setup",
        ) from error

    place: Place = place_of(listen)
    serve(
        place,
        directory,
        read_only=read_only,
        tell=lambda text: console.print(text, markup=False, soft_wrap=True),
        open_browser=open_browser,
    )
