"""``tde pg rejoin`` and ``switchover``: a primary that becomes a standby of its own standby."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tde.cli.options import (
    BindirOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    opens_keystore,
)
from tde.console.apps import examples
from tde.console.errors import InterruptedHalfwayError
from tde.console.output import console, error_console
from tde.errors import ReplicationError, TdeError
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import find_cluster, open_cluster_keystore

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres import Cluster
    from tde.replication.source import Source
    from tde.replication.standby import StandbyOptions

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
            "tde pg rejoin -D /srv/pg/main --primary 'host=node2 user=repli'",
            "# Where pg_rewind cannot:",
            "tde pg rejoin -D /srv/pg/main --primary 'host=node2 user=repli' --base-backup",
        )
    )(rejoin)
    app.command(
        epilog=examples("tde pg switchover -D /srv/pg/main --to 'host=node2 user=postgres'")
    )(switchover)


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
        with _told_that_it_is_down(cluster, to):
            promote_remote(found, timeout)
            _say(f"{found.server.name} is the primary now")
            rewind(cluster, found, opened, options)
            start(opened)
    _tell_of_synchronous(found, options)
    _report_following(cluster, found, options, timeout)


@contextmanager
def _told_that_it_is_down(cluster: Cluster, conninfo: str) -> Iterator[None]:
    """Say, whatever happens, that the old primary is stopped, and how it comes back."""
    rejoin_it = ["tde", "pg", "rejoin", "-D", str(cluster.data_directory), "--primary", conninfo]
    remedy = f"See whether the other one is the primary now; if so: {shlex.join(rejoin_it)}"
    down = f"The old primary in {cluster.data_directory} is stopped"
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedHalfwayError(f"{down}. {remedy}") from None
    except TdeError as error:
        if cluster.pid is not None:
            raise
        raise ReplicationError(
            f"{error}. {down}", remedy=f"{error.remedy or ''} {remedy}"
        ) from error


def _tell_of_synchronous(source: Source, options: StandbyOptions) -> None:
    """Say what commits wait for now: the setting is that of the new primary."""
    names = source.server.ask("SELECT to_json(current_setting('synchronous_standby_names'))")
    if names and options.name not in names:
        error_console.print(
            f"[bold yellow]Commits wait for {escape(names)}[/], and this standby is "
            f"{options.name}: set synchronous_standby_names there, or repeat with --name",
            soft_wrap=True,
        )
    elif not names:
        _say("Commits there wait for no standby (synchronous_standby_names).")


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


def _say(*lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
