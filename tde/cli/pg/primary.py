"""``tde pg primary``: a server that others follow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tde.cli.options import BindirOption, OsUserOption, PgDataOption
from tde.cli.pg.standby_view import say, warn
from tde.console.apps import examples
from tde.postgres.cluster.access import find_cluster

_LONGEST_PASSWORD = 1000


def register(app: typer.Typer) -> None:
    """Add the command to a group."""
    app.command(
        epilog=examples(
            "tde pg primary -D /srv/pg/main --from 192.168.1.0/24 --password-file /root/repli",
            "# Commits wait for a standby that follows:",
            "tde pg primary -D /srv/pg/main --sync node2_main",
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
    say(*(f"Done: {line}" for line in prepared.done))
    if not prepared.done:
        say("Everything is there already.")
    if prepared.restart:
        warn(
            f"After a restart only: {', '.join(prepared.restart)}",
            f"tde pg restart -D {cluster.data_directory}",
        )
    if wanted.addresses and not prepared.is_tls:
        warn(
            "The server offers no TLS",
            "WAL crosses the network as plaintext: set ssl = on, and repeat this command",
        )
    if prepared.without_tls:
        warn(
            "Connections without TLS are still let in",
            f"remove from pg_hba.conf: {'; '.join(prepared.without_tls)}",
        )
    if wanted.addresses and not prepared.has_password:
        warn(
            f"The role {role} has no password, so it cannot connect",
            "repeat the command with --password-file",
        )
    port = cluster.connection_parameters()["port"]
    say(
        "On the standby's machine, with a copy of this keystore and the password in ~/.pgpass:",
        f"tde pg standby DIR --primary 'host=THIS_MACHINE port={port} user={role}' --keystore DIR",
    )


def _read_password(file: Path) -> str:
    from tde.keystore.providers.passphrase_source import read_secret_file

    return read_secret_file(file, "password", _LONGEST_PASSWORD).decode()
