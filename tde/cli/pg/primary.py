"""``tde pg primary``, ``rejoin`` and ``switchover``: a server that others follow."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.options import (
    BindirOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    opens_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import find_cluster, open_cluster_keystore

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres import Cluster
    from tde.replication.source import Source
    from tde.replication.standby import StandbyOptions

_LONGEST_PASSWORD = 1000

PrimaryConninfo = Annotated[
    str,
    typer.Option(
        "--primary",
        metavar="CONNINFO",
        help="The server that is the primary now: a connection string without a password.",
    ),
]
SlotOption = Annotated[
    str,
    typer.Option("--slot", metavar="NAME", help="A replication slot there; made if there is none."),
]
NameOption = Annotated[
    str,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Its application_name there. Default: that of the machine and of the directory.",
    ),
]
LogOption = Annotated[
    Path | None, typer.Option("--log", "-l", metavar="FILE", help="Of the server here.")
]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", "-t", metavar="SECONDS", min=1, help="How long a step may take."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to a group."""
    app.command(
        epilog=examples(
            "tde pg primary -D /srv/pg/main --from 192.168.1.0/24",
            "tde pg primary -D /srv/pg/main --from 192.168.1.0/24 --slot node2 --sync node2_main",
        )
    )(primary)
    app.command(
        epilog=examples(
            "tde pg rejoin -D /srv/pg/main --primary 'host=node2 user=repli'",
            "# Where pg_rewind cannot:",
            "tde pg rejoin -D /srv/pg/main --primary 'host=node2 user=repli' --base-backup",
        )
    )(rejoin)
    app.command(
        epilog=examples("tde pg switchover -D /srv/pg/main --to 'host=node2 user=postgres'")
    )(switchover)


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


@opens_keystore
def rejoin(
    pgdata: PgDataOption,
    upstream: PrimaryConninfo,
    slot: SlotOption = "",
    name: NameOption = "",
    base_backup: Annotated[
        bool,
        typer.Option(
            "--base-backup",
            help="Make it again from a base backup; the old directory is kept beside.",
        ),
    ] = False,
    from_archive: Annotated[
        bool,
        typer.Option(
            "--restore-target-wal",
            "-c",
            help="Fetch WAL that this server lacks with its restore_command, as pg_rewind -c.",
        ),
    ] = False,
    keystore: KeystoreOption = None,
    log: LogOption = None,
    timeout: TimeoutOption = 60,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Bring a stopped server back as a standby of the primary that has taken its place.

    It compares keys, removes the signal files of a failed start, recovers the server if it had
    crashed, lets pg_rewind copy what differs, starts it, and waits until it receives WAL. What it
    had committed and the new primary never received is gone then.
    """
    from tde.replication.keys import require_keys_of_source
    from tde.replication.rejoining import (
        last_arguments,
        make_again,
        require_same_cluster,
        rewind,
    )

    cluster = find_cluster(pgdata, bindir, os_user)
    cluster.require_stopped()
    found = _read_source(cluster, upstream)
    require_same_cluster(cluster, found)
    options = _standby_options(cluster, found, name, slot)
    arguments, stock_socket = last_arguments(cluster)
    with _opened(cluster, keystore, source) as opened:
        if opened is not None:
            require_keys_of_source(found, opened)
        if base_backup:
            aside = make_again(cluster, found, opened, options)
            _say(f"What it had is in {aside}: remove it when nobody misses anything")
        else:
            rewind(cluster, found, opened, options, from_archive=from_archive)
        cluster.start(
            opened,
            server_arguments=arguments,
            log=log,
            timeout=timeout,
            stock_socket=stock_socket,
        )
    _report_following(cluster, found, options, timeout)


@opens_keystore
def switchover(
    pgdata: PgDataOption,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="CONNINFO",
            help="The standby that becomes the primary, with a role that may call pg_promote(): a "
            "connection string without a password.",
        ),
    ],
    slot: SlotOption = "",
    name: NameOption = "",
    keystore: KeystoreOption = None,
    log: LogOption = None,
    timeout: TimeoutOption = 60,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Hand over from this primary to its standby, and follow it from then on.

    Run it on the primary's machine. The primary is shut down, the standby receives and replays the
    rest, and only then is it promoted: nothing is lost. Where it does not receive the rest, the
    primary is started again as it was. Other standbys have to be told whom to follow now.
    """
    from tde.postgres.server.control import read_control_data
    from tde.replication.keys import require_keys_of_source
    from tde.replication.rejoining import last_arguments, rewind
    from tde.replication.switching import (
        promote_remote,
        require_switchable,
        wait_until_received,
    )

    cluster = find_cluster(pgdata, bindir, os_user)
    control = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)
    found = _read_source(cluster, to)
    require_switchable(cluster, found, control.system_identifier)
    options = _standby_options(cluster, found, name, slot)
    arguments, stock_socket = last_arguments(cluster)

    def start(opened: Keystore | None) -> None:
        cluster.start(
            opened,
            server_arguments=arguments,
            log=log,
            timeout=timeout,
            stock_socket=stock_socket,
        )

    # Opened before anything stops: with a wrong passphrase the primary simply goes on.
    with _opened(cluster, keystore, source) as opened:
        if opened is not None:
            require_keys_of_source(found, opened)
        cluster.stop("fast", timeout=timeout)
        try:
            wait_until_received(cluster, found, timeout)
        except BaseException:
            start(opened)
            raise
        promote_remote(found, timeout)
        _say(f"{found.server.name} is the primary now")
        rewind(cluster, found, opened, options)
        start(opened)
    _report_following(cluster, found, options, timeout)


def _read_source(cluster: Cluster, conninfo: str) -> Source:
    from tde.replication.remote import remote_server
    from tde.replication.source import read_source

    return read_source(remote_server(conninfo, cluster.binaries, cluster.os_user))


def _standby_options(cluster: Cluster, source: Source, name: str, slot: str) -> StandbyOptions:
    from tde.replication.standby import StandbyOptions, default_name, require_possible

    options = StandbyOptions(name or default_name(cluster.data_directory), slot)
    require_possible(cluster, source, options)
    return options


def _opened(
    cluster: Cluster, keystore: Path | None, source: PassphraseSource
) -> AbstractContextManager[Keystore | None]:
    if cluster.marker is None and keystore is None:
        return nullcontext()
    return open_cluster_keystore(cluster, keystore, source, for_server=True)


def _report_following(
    cluster: Cluster, source: Source, options: StandbyOptions, timeout: float
) -> None:
    from tde.replication.standby import wait_until_streaming

    wait_until_streaming(cluster, timeout)
    _say(
        f"The standby {options.name} in {cluster.data_directory} follows {source.server.name} "
        f"(pid {cluster.pid})",
        f"See it: tde replication status -D {cluster.data_directory}",
    )


def _read_password(file: Path) -> str:
    from tde.keystore.providers.passphrase_source import read_secret_file

    return read_secret_file(file, "password", _LONGEST_PASSWORD).decode()


def _say(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _warn(what: str, remedy: str) -> None:
    error_console.print(f"[bold yellow]{what}[/]: {remedy}", soft_wrap=True)
