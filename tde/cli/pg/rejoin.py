"""``tde pg rejoin`` and ``switchover``: a primary that becomes a standby of its own standby."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.options import (
    BindirOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    UsernameOption,
    opens_keystore,
    pair_of,
    words_of,
)
from tde.cli.pg.standby_view import say, tell_who_is_waited_for, warn
from tde.console.apps import examples
from tde.console.errors import InterruptedHalfwayError
from tde.console.signals import ended_as_by_ctrl_c
from tde.errors import ReplicationError, TdeError
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import find_cluster, open_cluster_keystore

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres import Cluster
    from tde.replication.source import Source
    from tde.replication.standby import StandbyOptions

_LOOK_SECONDS = 0.2

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
BaseBackupOption = Annotated[
    bool,
    typer.Option(
        "--base-backup", help="Make it again from a base backup; what it had is kept beside."
    ),
]
MappingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tablespace-mapping",
        "-T",
        metavar="OLD=NEW",
        help="With --base-backup: put the tablespace that is in OLD there into NEW.",
    ),
]
ServerOptions = Annotated[
    str | None,
    typer.Option(
        "--options",
        "-o",
        metavar="OPTIONS",
        help="Command line options of postgres. Default: those of its last start.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to a group."""
    app.command(
        epilog=examples(
            "tde pg rejoin -D /srv/pg/main --primary 'host=node2 user=repli'",
            "# Under a cluster manager, which starts it by itself and knows it as node1:",
            "tde pg rejoin -D /srv/pg/main --primary 'host=192.168.1.100 user=repli' --name node1 "
            "--no-start",
            "# Where pg_rewind cannot:",
            "tde pg rejoin -D /srv/pg/main --primary 'host=node2 user=repli' --base-backup",
        )
    )(rejoin)
    app.command(
        epilog=examples("tde pg switchover -D /srv/pg/main --to 'host=node2 user=postgres'")
    )(switchover)


@dataclass(frozen=True)
class _Start:
    """How the server here is started when it follows the other one."""

    cluster: Cluster
    arguments: Sequence[str]
    stock_socket: bool
    log: Path | None
    timeout: float

    def run(self, keystore: Keystore | None) -> None:
        self.cluster.start(
            keystore,
            server_arguments=self.arguments,
            log=self.log,
            timeout=self.timeout,
            stock_socket=self.stock_socket,
        )


@opens_keystore
def rejoin(
    pgdata: PgDataOption,
    upstream: Annotated[
        str,
        typer.Option(
            "--primary",
            metavar="CONNINFO",
            help="The server that is the primary now: a connection string without a password.",
        ),
    ],
    slot: SlotOption = "",
    name: NameOption = "",
    base_backup: BaseBackupOption = False,
    mapping: MappingOption = None,
    from_archive: Annotated[
        bool,
        typer.Option(
            "--restore-target-wal",
            "-c",
            help="Fetch WAL that this server lacks with its restore_command, as pg_rewind -c.",
        ),
    ] = False,
    to_older: Annotated[
        bool,
        typer.Option(
            "--to-older-timeline",
            help="Give up what this server has, although it was promoted later.",
        ),
    ] = False,
    starts: Annotated[
        bool,
        typer.Option("--start/--no-start", help="Leave it stopped, for a cluster manager."),
    ] = True,
    keystore: KeystoreOption = None,
    options: ServerOptions = None,
    log: LogOption = None,
    timeout: TimeoutOption = 60,
    username: UsernameOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Bring a stopped server back as a standby of the primary that has taken its place.

    It compares keys and timelines, recovers the server if it had crashed, lets pg_rewind copy what
    differs, starts it, and waits until it receives WAL. What it had committed and the new primary
    never received is gone then. Where it fails before anything is changed (no connection, other
    keys, a newer timeline), the server would still start as a primary: do not start it. Where it
    fails later, it is left as a standby that does not start, or waits.
    """
    from tde.replication.keys import require_keys_of_source, require_same_protection
    from tde.replication.rejoining import require_older, require_same_cluster, rewind

    cluster = find_cluster(pgdata, bindir, os_user)
    cluster.require_stopped()
    found = _read_source(cluster, upstream)
    require_same_cluster(cluster, found)
    if not base_backup:
        require_same_protection(found, cluster.marker)
    if not to_older:
        require_older(cluster, found)
    wanted = _standby_options(cluster, found, name, slot, mapping, base_backup=base_backup)
    start = _start(cluster, options, log, timeout)
    with _opened(cluster, found, keystore, source) as opened, ended_as_by_ctrl_c():
        if opened is not None:
            require_keys_of_source(found, opened)
        with _told_that_it_is_down(cluster, upstream, keystore, base_backup=base_backup):
            if base_backup:
                _make_again(cluster, found, opened, wanted)
            else:
                rewind(cluster, found, opened, wanted, from_archive=from_archive)
            if starts:
                start.run(opened)
    if not starts:
        say(
            f"{cluster.data_directory} is where {found.server.name} is, and follows it as "
            f"{wanted.name} when it is started"
        )
        return
    _report_following(start, found, wanted, username)


@opens_keystore
def switchover(
    pgdata: PgDataOption,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="CONNINFO",
            help="The standby that becomes the primary: a superuser's connection string, without a "
            "password.",
        ),
    ],
    slot: SlotOption = "",
    name: NameOption = "",
    base_backup: BaseBackupOption = False,
    mapping: MappingOption = None,
    keystore: KeystoreOption = None,
    options: ServerOptions = None,
    log: LogOption = None,
    timeout: TimeoutOption = 60,
    username: UsernameOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Hand over from this primary to its standby, and follow it from then on.

    Run it on the primary's machine. The primary is shut down, the standby receives and replays the
    rest, and only then is it promoted: nothing is lost. Where it does not receive the rest, the
    primary is started again as it was. Other standbys have to be told whom to follow now: change
    their primary_conninfo.

    With --base-backup this server is made again instead of rewound, as a standby with other keys
    than before needs it: so a cluster is encrypted without a stop (tde pg migrate --plan).
    """
    from tde.replication.keys import require_keys_of_source, require_same_protection
    from tde.replication.rejoining import read_control, rewind
    from tde.replication.switching import (
        request_promotion,
        require_switchable,
        wait_until_promoted,
    )

    cluster = find_cluster(pgdata, bindir, os_user)
    found = _read_source(cluster, to)
    used = require_switchable(
        cluster, found, read_control(cluster).system_identifier, rewinds=not base_backup
    )
    if not base_backup:
        require_same_protection(found, cluster.marker)
    wanted = _standby_options(cluster, found, name, slot, mapping, base_backup=base_backup)
    start = _start(cluster, options, log, timeout)
    # Opened before anything stops: with a wrong passphrase the primary simply goes on.
    with _opened(cluster, found, keystore, source) as opened, ended_as_by_ctrl_c():
        if opened is not None:
            require_keys_of_source(found, opened)
        # Until the base backup the server here is what it was.
        _hand_over(start, found, None if cluster.marker is None else opened)
        # One that was told, and does not answer, may be a primary by now: nothing is started here.
        with _told_that_it_is_down(cluster, to, keystore, base_backup=base_backup):
            request_promotion(found)
            wait_until_promoted(found, timeout)
            say(f"{found.server.name} is the primary now")
            if base_backup:
                _make_again(cluster, found, opened, wanted)
            else:
                rewind(cluster, found, opened, wanted)
            start.run(opened)
    _report_following(start, found, wanted, username)
    if not base_backup:  # A base backup has no slots.
        _drop_slot(cluster, used, username)


def _make_again(
    cluster: Cluster,
    source: Source,
    keystore: Keystore | None,
    options: StandbyOptions,
) -> None:
    from tde.replication.aside import make_again

    for path in make_again(cluster, source, keystore, options):
        say(f"What it had is in {path}: remove it when nobody misses anything")


def _hand_over(start: _Start, standby: Source, keystore: Keystore | None) -> None:
    """Stop the primary until the standby has everything; else start it again."""
    from tde.replication.switching import wait_until_received

    cluster = start.cluster
    try:
        cluster.stop("fast", timeout=start.timeout)
        wait_until_received(cluster, standby, start.timeout)
    except BaseException:
        # Once told to stop it does, however long that takes.
        deadline = time.monotonic() + start.timeout
        while cluster.pid is not None and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        if cluster.pid is None:
            start.run(keystore)
        else:
            warn(
                f"The server in {cluster.data_directory} is still shutting down",
                f"nothing was promoted; when it is gone: tde pg start -D {cluster.data_directory}",
            )
        raise


@contextmanager
def _told_that_it_is_down(
    cluster: Cluster, conninfo: str, keystore: Path | None, *, base_backup: bool
) -> Iterator[None]:
    """Say, whatever happens, that the server here is stopped, and how it comes back."""
    directory = shlex.quote(str(cluster.data_directory))
    again = ["tde", "pg", "rejoin", "-D", str(cluster.data_directory), "--primary", conninfo]
    again += ["--base-backup"] if base_backup else []
    again += [] if keystore is None else ["-k", str(keystore)]
    remedy = (
        f"If the other one is the primary: {shlex.join(again)}. If it is certainly none: tde pg "
        f"start -D {directory}, after standby.signal is removed there, if it is there."
    )
    down = f"The server in {cluster.data_directory} is stopped"
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedHalfwayError(f"{down}. {remedy}") from None
    except (TdeError, OSError) as error:
        if cluster.pid is not None:
            raise
        text = f"{getattr(error, 'remedy', '')} {remedy}".strip()
        raise ReplicationError(f"{error}. {down}", remedy=text) from error


def _drop_slot(cluster: Cluster, slot: str, username: str | None) -> None:
    """Drop the slot that the new primary had used: a standby keeps WAL for it, too."""
    from tde.postgres.cluster.questions import ask_server

    if not slot:
        return
    literal = slot.replace("'", "''")
    query = f"SELECT to_json(pg_drop_replication_slot('{literal}')::text)"
    try:
        ask_server(cluster, query, username=username)
        say(f"Dropped the replication slot {slot} here, which the new primary had used")
    except TdeError as error:
        say(f"The replication slot {slot} here keeps WAL and is used by nobody: {error}")


def _read_source(cluster: Cluster, conninfo: str) -> Source:
    from tde.replication.remote import remote_server
    from tde.replication.source import read_source

    return read_source(remote_server(conninfo, cluster.binaries, cluster.os_user))


def _standby_options(
    cluster: Cluster,
    source: Source,
    name: str,
    slot: str,
    mapping: Sequence[str] | None,
    *,
    base_backup: bool,
) -> StandbyOptions:
    """Return what the server shall be; all that can be checked before it stops is checked here."""
    from tde.replication.aside import require_can_be_made_again
    from tde.replication.names import default_name
    from tde.replication.standby import StandbyOptions, require_possible

    if mapping and not base_backup:
        raise typer.BadParameter("--tablespace-mapping is for --base-backup")
    pairs = [pair_of(text) for text in mapping or ()]
    options = StandbyOptions(name or default_name(cluster.data_directory), slot, mapping=pairs)
    require_possible(cluster, source, replace(options, mapping=()))
    if base_backup:
        require_can_be_made_again(cluster, source, options)
    return options


def _start(cluster: Cluster, options: str | None, log: Path | None, timeout: float) -> _Start:
    from tde.replication.rejoining import last_arguments

    arguments, stock_socket = last_arguments(cluster)
    if options is not None:
        arguments, stock_socket = words_of(options), True
    return _Start(cluster, arguments, stock_socket, log, timeout)


def _opened(
    cluster: Cluster, other: Source, keystore: Path | None, source: PassphraseSource
) -> AbstractContextManager[Keystore | None]:
    """Open the keystore of the server here; of the other one, where only that is encrypted yet."""
    from tde.keystore.opening import open_keystore
    from tde.replication.keys import require_kept_keystore

    if cluster.marker is not None:
        return open_cluster_keystore(cluster, keystore, source, for_server=True)
    require_kept_keystore(other, keystore)
    if keystore is None:
        return nullcontext()
    return open_keystore(keystore, source, for_server=True)


def _report_following(
    start: _Start, source: Source, options: StandbyOptions, username: str | None
) -> None:
    from tde.replication.standby import wait_until_streaming

    cluster = start.cluster
    wait_until_streaming(cluster, start.timeout, username=username)
    say(
        f"The standby {options.name} in {cluster.data_directory} follows {source.server.name} "
        f"(pid {cluster.pid})",
        f"See it: tde replication status -D {cluster.data_directory}",
    )
    tell_who_is_waited_for(source.server.ask, source.server.name)
