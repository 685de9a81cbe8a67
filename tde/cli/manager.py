"""``tde manager``: the web page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.console.apps import examples, new_app
from tde.console.output import console
from tde.errors import TdeError
from tde.keystore.crypto.secret import wipe
from tde.keystore.providers.passphrase_source import read_passphrase

if TYPE_CHECKING:
    from tde.manager.serving import Place

app = new_app("Do all of it in a browser.")


@app.command(
    epilog=examples(
        "tde manager",
        "tde manager --open",
        "tde manager --listen 127.0.0.1:9000",
        "# For browsers on other machines:",
        "tde manager --set-password",
        "tde manager --listen 192.168.0.11:8480 --name db1.example --tls-cert db1.crt "
        "--tls-key db1.key",
        "# From another machine, through its own login:",
        "ssh -L 8480:127.0.0.1:8480 postgres@db1",
    )
)
def manager(
    listen: Annotated[
        str, typer.Option("--listen", metavar="ADDRESS:PORT", help="Where browsers reach it.")
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
    tls_certificate: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help="Certificate, for other machines (PEM)."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key (PEM).")
    ] = None,
    client_authority: Annotated[
        Path | None,
        typer.Option(
            "--client-ca", metavar="FILE", help="Browsers need a certificate of this authority."
        ),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="HOST", help="By which browsers reach it; may be given often."
        ),
    ] = None,
    set_password: Annotated[
        bool,
        typer.Option("--set-password", help="Ask for the password of a manager with TLS, and end."),
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Serve a web page from which servers are made, started, encrypted and looked at.

    Run it as the user that the servers run as. It prints an address with a token that lets one
    browser in, once; SIGUSR1 has it print another. What changes something runs as a command of
    tde, and goes on when the page, the browser or the manager ends.

    It listens on this machine only. From another one, use ssh -L; or give it a certificate and
    either a password or an authority for certificates of browsers.
    """
    try:
        from tde.manager.places import default_directory, prepare_directory
        from tde.manager.security.password import set_password as write_password
        from tde.manager.serving import Tls, place_of, serve
    except ModuleNotFoundError as error:
        raise TdeError(
            f"tde manager needs a package that is not installed: {error.name}",
            remedy="pip install 'tde[manager]'; in a clone: make setup",
        ) from error

    where = directory or default_directory()
    if set_password:
        prepare_directory(where)
        password = read_passphrase(confirm=True, prompt="Password of the manager: ")
        try:
            write_password(where, password)
        finally:
            wipe(password)
        return
    if (tls_certificate is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key belong together")
    tls = None
    if tls_certificate is not None and tls_key is not None:
        tls = Tls(tls_certificate, tls_key, client_authority)
    elif client_authority is not None:
        raise typer.BadParameter("--client-ca needs --tls-cert and --tls-key")
    place: Place = place_of(listen, tuple(names or ()), is_tls=tls is not None)
    serve(
        place,
        where,
        tls=tls,
        read_only=read_only,
        tell=lambda text: console.print(text, markup=False, soft_wrap=True),
        open_browser=open_browser,
    )
