"""``tde pg standby`` and ``promote``: a server that follows another one, and takes its place."""

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
    UsernameOption,
    opens_keystore,
    pair_of,
    words_of,
)
from tde.cli.pg.standby_view import say, tell_who_is_waited_for, warn
from tde.console.apps import examples
from tde.console.signals import ended_as_by_ctrl_c
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import find_cluster

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres import Cluster
    from tde.replication.source import Source


def register(app: typer.Typer) -> None:
    """Add the commands to a group."""
    app.command(
        epilog=examples(
            "tde pg standby /srv/pg/standby --primary 'host=node1 user=repli' -k /etc/tde/main",
            "# With a slot that keeps WAL for it, and commits that wait for it, as a superuser:",
            "tde pg standby /srv/pg/standby --primary 'host=node1 user=postgres' -k /etc/tde/main "
            "--slot node2 --sync",
            "# Beside its primary on one machine:",
            "tde pg standby /srv/pg/standby --primary 'host=/tmp port=5432' -k /etc/tde/main "
            "-o '-p 5433' -T /srv/pg/secret=/srv/pg/secret2",
        )
    )(standby)
    app.command(epilog=examples("tde pg promote -D /srv/pg/standby"))(promote)


@opens_keystore
def standby(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Its data directory, which is new or empty.")
    ],
    primary: Annotated[
        str,
        typer.Option(
            "--primary",
            metavar="CONNINFO",
            help="The server that it follows: a connection string without a password. A standby "
            "can be followed as well.",
        ),
    ],
    keystore: KeystoreOption = None,
    sync: Annotated[
        bool,
        typer.Option(
            "--sync", help="Add it to synchronous_standby_names there: commits wait for it."
        ),
    ] = False,
    slot: Annotated[
        str,
        typer.Option(
            "--slot",
            metavar="NAME",
            help="A replication slot there, which keeps WAL while this standby is away; made if "
            "there is none.",
        ),
    ] = "",
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Its application_name there. Default: that of the machine and of the directory.",
        ),
    ] = "",
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--tablespace-mapping",
            "-T",
            metavar="OLD=NEW",
            help="Put the tablespace in OLD into NEW; may be given several times.",
        ),
    ] = None,
    rate: Annotated[
        str,
        typer.Option(
            "--max-rate", "-r", metavar="RATE", help="Of the base backup, for example 50M."
        ),
    ] = "",
    options: Annotated[
        str,
        typer.Option(
            "--options", "-o", metavar="OPTIONS", help="Command line options of postgres."
        ),
    ] = "",
    log: Annotated[
        Path | None, typer.Option("--log", "-l", metavar="FILE", help="Of the standby's server.")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", "-t", metavar="SECONDS", min=1, help="How long the start may take."
        ),
    ] = 60,
    start: Annotated[
        bool, typer.Option("--start/--no-start", help="Leave it stopped, to be configured first.")
    ] = True,
    username: UsernameOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Make a standby of a running server: compare keys, copy, configure, start, wait for WAL.

    The standby has a keystore of its own, which is a copy of the server's. It is compared before
    anything is copied, as far as the role that connects may read tde.keymap there: a superuser may,
    and the role of tde pg primary.

    Where something fails, what was made is removed again, the slot as well, but not what was put
    into tablespaces that were not named with -T. Once the base backup is complete both stay.
    """
    from tde.replication.keys import require_kept_keystore, require_keys_of_source
    from tde.replication.names import default_name
    from tde.replication.standby import (
        StandbyOptions,
        make_standby,
        require_possible,
        wait_until_streaming,
    )
    from tde.replication.synchronous import names_with, set_names

    arguments = words_of(options)
    if sync and not start:
        raise typer.BadParameter(
            "commits would wait for a standby that does not run: leave out --sync or --no-start"
        )
    found, cluster = _source_and_cluster(directory, primary, bindir, os_user)
    pairs = [pair_of(text) for text in mapping or ()]
    wanted = StandbyOptions(name or default_name(cluster.data_directory), slot, rate, pairs)
    require_possible(cluster, found, wanted)
    if sync:
        names_with(found.server, wanted.name)  # May it be set, and is it plain what to?
    path = keystore if found.marker is not None or not found.tells_keys else None
    require_kept_keystore(found, keystore)
    _tell_whether_it_opens(path)
    opening: AbstractContextManager[Keystore | None] = (
        nullcontext() if path is None else open_keystore(path, source, for_server=True)
    )
    with opening as opened, ended_as_by_ctrl_c():
        if opened is not None:
            require_keys_of_source(found, opened)
        make_standby(cluster, found, opened, wanted)
        if start:
            cluster.start(
                opened,
                server_arguments=arguments,
                log=log,
                timeout=timeout,
                stock_socket=True,
            )
    if not start:
        say(
            f"Made a standby of {found.server.name} in {cluster.data_directory}",
            f"Start it: tde pg start -D {cluster.data_directory}"
            + (f" --keystore {path}" if path else ""),
        )
        return
    wait_until_streaming(cluster, timeout, username=username)
    # Asked anew: hours may have gone by.
    if sync and (names := names_with(found.server, wanted.name)) is not None:
        set_names(found.server, names)
    kind = "synchronous" if sync else "asynchronous"
    say(
        f"The standby {wanted.name} in {cluster.data_directory} follows {found.server.name} "
        f"({kind}, pid {cluster.pid})",
        f"See it: tde replication status -D {cluster.data_directory}",
    )


def promote(
    pgdata: PgDataOption,
    timeout: Annotated[
        float, typer.Option("--timeout", "-t", metavar="SECONDS", min=1, help="How long to wait.")
    ] = 60,
    username: UsernameOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Make a standby a primary, and wait until it is one. No keystore is needed.

    See to it first that the old primary does not run any more: from here on each goes its own way.
    """
    from tde.postgres.cluster.questions import ask_server
    from tde.replication.promotion import promote as promote_server

    cluster = find_cluster(pgdata, bindir, os_user)
    timeline = promote_server(cluster, timeout=timeout, username=username)
    say(f"The server in {cluster.data_directory} is a primary now, on timeline {timeline}")
    marker = cluster.marker
    if marker is not None:
        _tell_whether_it_opens(marker.keystore)
    tell_who_is_waited_for(
        lambda query: ask_server(cluster, query, username=username), "this server"
    )


def _source_and_cluster(
    directory: Path, primary: str, bindir: Path | None, os_user: str | None
) -> tuple[Source, Cluster]:
    """Return what the other server says of itself, and the cluster-to-be with fitting programs."""
    from tde.postgres import Cluster
    from tde.postgres.server.binaries import find_binaries
    from tde.replication.remote import remote_server
    from tde.replication.source import read_source

    first = find_cluster(directory, bindir, os_user)
    # Any psql can ask; what serves the copy has to be of the version that the answer names.
    found = read_source(remote_server(primary, first.binaries, first.os_user))
    if bindir is not None or first.binaries.major == found.major:
        return found, first
    binaries = find_binaries(major=found.major)
    return found, Cluster(directory, binaries, os_user=first.os_user)


def _tell_whether_it_opens(keystore: Path | None) -> None:
    from tde.keystore import can_open_automatically

    if keystore is None or can_open_automatically(keystore):
        return
    warn(
        f"The keystore {keystore} does not open by itself",
        "after a restart this server waits for somebody with the passphrase. For a cluster "
        f"manager: tde keystore auto-open enable --keystore {keystore}",
    )
