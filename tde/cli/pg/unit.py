"""``tde pg unit``: what systemd is told of an encrypted server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.forms import Form, require_options_of
from tde.cli.options import OsUserOption
from tde.console.apps import examples
from tde.errors import TdeError

if TYPE_CHECKING:
    from tde.postgres.service.systemd import Credential

CredentialOption = Annotated[
    list[str] | None,
    typer.Option(
        "--credential",
        metavar="NAME:FILE",
        help="Hand this credential to the server (LoadCredential=). May be repeated.",
    ),
]
EncryptedCredentialOption = Annotated[
    list[str] | None,
    typer.Option(
        "--encrypted-credential",
        metavar="NAME:FILE",
        help="The same for one that systemd-creds has encrypted (LoadCredentialEncrypted=).",
    ),
]

_OF_BOTH = frozenset({"credential", "encrypted_credential", "os_user"})
_DROP_IN = Form("a cluster of Debian's", "tde pg unit 15/main", _OF_BOTH | {"cluster"})
_WHOLE = Form(
    "any other cluster", "tde pg unit -D DIR --bin DIR", _OF_BOTH | {"pgdata", "directory"}
)


def register(app: typer.Typer) -> None:
    """Add the command to a group."""
    app.command(
        "unit",
        epilog=examples(
            "# A drop-in for the unit of a registered cluster of Debian's:",
            "mkdir -p /etc/systemd/system/postgresql@15-main.service.d",
            "tde pg unit 15/main > /etc/systemd/system/postgresql@15-main.service.d/tde.conf",
            "# A whole unit for any other cluster:",
            "tde pg unit -D /srv/pg/main --bin /opt/tde/bin > /etc/systemd/system/pg-main.service",
        ),
    )(print_unit)


def print_unit(
    context: typer.Context,
    cluster: Annotated[
        str | None,
        typer.Argument(
            metavar="[CLUSTER]", help="Of Debian's, such as 15/main: print a drop-in for its unit."
        ),
    ] = None,
    pgdata: Annotated[
        Path | None,
        typer.Option(
            "--pgdata", "-D", metavar="DIR", help="The data directory of any other cluster."
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--bin", metavar="DIR", help="With -D: a directory of tde pg install-bin."),
    ] = None,
    credential: CredentialOption = None,
    encrypted_credential: EncryptedCredentialOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Print a unit of systemd for an encrypted server, or what Debian's own unit lacks.

    No core dumps, no swap, memory that may be locked; with the credential with which the keystore
    opens, if it is bound to one. Check it with systemd-analyze verify.
    """
    from tde.postgres.server.debian_layout import find_debian_cluster
    from tde.postgres.server.os_user import name_of_user, server_os_user
    from tde.postgres.service import systemd

    require_options_of(_DROP_IN if cluster is not None else _WHOLE, (_DROP_IN, _WHOLE), context)
    credentials = _credentials(credential, is_encrypted=False)
    credentials += _credentials(encrypted_credential, is_encrypted=True)
    if cluster is not None:
        if os_user is not None and not credentials:
            raise typer.BadParameter(
                "--os-user is for a unit that names a user, and Debian's does with --credential or "
                "--encrypted-credential only"
            )
        owner = server_os_user(find_debian_cluster(cluster).data_directory, name=os_user)
        typer.echo(systemd.drop_in(name_of_user(owner), credentials), nl=False)
        return
    if pgdata is None or directory is None:
        missing = "cluster" if pgdata is None else "directory of programs"
        raise typer.BadParameter(
            f"no {missing} was named: name a cluster of Debian's, or give -D DIR and --bin DIR; "
            "tde pg install-bin makes the latter"
        )
    name = name_of_user(server_os_user(pgdata, name=os_user))
    typer.echo(systemd.unit(pgdata.absolute(), directory.absolute(), name, credentials), nl=False)


def _credentials(given: list[str] | None, *, is_encrypted: bool) -> list[Credential]:
    from tde.postgres.service.systemd import Credential

    found = []
    for text in given or ():
        name, colon, source = text.partition(":")
        if not (name and colon and source.startswith("/")):
            raise TdeError(f"{text!r} is not NAME:FILE with the whole path of a file")
        found.append(Credential(name, Path(source), is_encrypted))
    return found
