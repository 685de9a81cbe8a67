"""``tde pg primary``: a server that others follow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tde.cli.options import BindirOption, OsUserOption, PgDataOption
from tde.console.apps import examples
from tde.console.output import console, error_console
from tde.postgres.cluster.access import find_cluster

_LONGEST_PASSWORD = 1000


def register(app: typer.Typer) -> None:
    """Add the command to a group."""
    app.command(
        epilog=examples(
            "tde pg primary -D /srv/pg/main --from 192.168.1.0/24",
            "tde pg primary -D /srv/pg/main --from 192.168.1.0/24 --slot node2 --sync node2_main",
        )
    )(primary)


def primary(
    pgdata: PgDataOption,
    role: Annotated[
        str, typer.Option("--role", metavar="NAME", help="That standbys connect as.")
    ] = "repli",
    addresses: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="NETWORK",
            help="Where standbys connect from, as 192.168.1.0/24; may be given several times.",
        ),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="The password of the role, in a file that only its owner can read. Without it an "
            "existing role keeps what it has.",
        ),
    ] = None,
    slots: Annotated[
        list[str] | None,
        typer.Option("--slot", metavar="NAME", help="A replication slot; may be given often."),
    ] = None,
    synchronous: Annotated[
        list[str] | None,
        typer.Option(
            "--sync",
            metavar="NAME",
            help="A standby that commits wait for; of several the first that is connected.",
        ),
    ] = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Prepare a running server to have standbys. Can be repeated; what is there already stays.

    It makes the role, lets it connect (pg_hba.conf), and lets it read what pg_rewind and the
    comparison of keys read; settings are changed where standbys or pg_rewind need others. A role
    that replicates sees every row: keep its password as that of a superuser.
    """
    from tde.replication.primary import PrimaryOptions, prepare_primary, require_usable

    password = None if password_file is None else _read_password(password_file)
    wanted = PrimaryOptions(
        role, password, tuple(addresses or ()), tuple(slots or ()), tuple(synchronous or ())
    )
    require_usable(wanted)
    cluster = find_cluster(pgdata, bindir, os_user)
    prepared = prepare_primary(cluster, wanted)
    _say(*(f"Done: {line}" for line in prepared.done))
    if not prepared.done:
        _say("Everything is there already.")
    if prepared.restart:
        _warn(
            f"After a restart only: {', '.join(prepared.restart)}",
            f"tde pg restart -D {cluster.data_directory}",
        )
    if wanted.addresses and not prepared.is_tls:
        _warn(
            "The server offers no TLS",
            "WAL crosses the network as plaintext: set ssl = on, and repeat this command",
        )
    port = cluster.connection_parameters()["port"]
    _say(
        "On the standby's machine, with a copy of this keystore and the password in ~/.pgpass:",
        f"tde pg standby DIR --primary 'host=THIS_MACHINE port={port} user={role}' --keystore DIR",
    )


def _read_password(file: Path) -> str:
    from tde.keystore.providers.passphrase_source import read_secret_file

    return read_secret_file(file, "password", _LONGEST_PASSWORD).decode()


def _say(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _warn(what: str, remedy: str) -> None:
    error_console.print(f"[bold yellow]{what}[/]: {remedy}", soft_wrap=True)
