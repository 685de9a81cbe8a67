"""``tde pg``: create, start, stop and look at encrypted clusters, with the manners of pg_ctl."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.options import (
    AesOption,
    BindirOption,
    JsonOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    opens_keystore,
    require_keystore,
    words_of,
)
from tde.cli.pg import (
    accept,
    audit,
    backup,
    convert,
    doctor,
    drill,
    install_bin,
    migrate,
    mirror,
    primary,
    rejoin,
    repair,
    restore,
    service,
    standby,
    unit,
)
from tde.cli.pg.doctor import AskingUsernameOption
from tde.cli.pg.log_note import print_log_note
from tde.console.apps import examples, new_app
from tde.console.errors import InterruptedHalfwayError
from tde.console.options import algorithm_of
from tde.console.output import console, error_console, print_json
from tde.console.signals import ended_as_by_ctrl_c
from tde.errors import ServerNotRunningError
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import find_cluster, open_cluster_keystore
from tde.postgres.cluster.authentication import PEER, authentication_arguments
from tde.postgres.cluster.scope import Scope
from tde.postgres.server.os_user import name_of_user

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres import Cluster

app = new_app(
    "Create, start, stop and inspect encrypted PostgreSQL clusters.",
    epilog=examples(
        "tde pg init -D /srv/pg/main --keystore /etc/tde/main",
        "tde pg start -D /srv/pg/main -l /var/log/postgresql/main.log",
        "tde pg status -D /srv/pg/main",
    ),
)


class StopMode(str, Enum):
    """The values of ``--mode``, which pg_ctl defines."""

    smart = "smart"
    fast = "fast"
    immediate = "immediate"


LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log", "-l", metavar="FILE", help="Append the server's output here. [PGDATA.log]"
    ),
]
ServerOptions = Annotated[
    str,
    typer.Option("--options", "-o", metavar="OPTIONS", help="Command line options of postgres."),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", "-t", metavar="SECONDS", min=1, help="How long to wait.")
]
ModeOption = Annotated[StopMode, typer.Option("--mode", "-m", help="How to treat sessions.")]
WaitOption = Annotated[
    bool,
    typer.Option("--wait", "-w", help="Accepted as pg_ctl does; tde always waits.", hidden=True),
]


@app.command(
    epilog=examples(
        "tde pg init -D /srv/pg/main --keystore /etc/tde/main",
        "# Only the WAL and the tablespaces that get a key later:",
        "tde pg init -D /srv/pg/main -k /etc/tde/main --scope tablespaces",
        "# What follows -- goes to initdb:",
        "tde pg init -D /srv/pg/main -k /etc/tde/main -- --locale=C.UTF-8 --pwfile=pw",
    )
)
@opens_keystore
def init(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    scope: Annotated[Scope, typer.Option(help="What to encrypt besides the WAL.")] = (
        Scope.CLUSTER
    ),
    aes: AesOption = 256,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
    initdb_args: Annotated[
        list[str] | None, typer.Argument(metavar="[-- INITDB_ARGS]", help="Passed to initdb.")
    ] = None,
) -> None:
    """Create an encrypted cluster with data checksums, using a keystore that has no keys yet.

    Unless initdb's arguments say otherwise, only the system user that runs the server connects as
    the superuser without a password, by the Unix socket (peer); TCP takes passwords
    (scram-sha-256). What is interrupted leaves nothing behind.
    """
    algorithm = algorithm_of(aes)
    cluster = find_cluster(pgdata, bindir, os_user)
    directory = require_keystore(keystore)
    given = initdb_args or []
    runs_as = name_of_user(cluster.os_user)
    authentication = authentication_arguments(given, runs_as)
    cluster.require_creatable(directory)
    # What opens it by itself could have been put there by others, with a master key of theirs.
    with open_keystore(directory, source, by_passphrase=True) as opened, ended_as_by_ctrl_c():
        cluster.init(
            keystore=opened,
            scope=scope,
            algorithm=algorithm,
            initdb_args=[*authentication, *given],
        )
    console.print(
        f"Created an encrypted cluster of PostgreSQL {cluster.binaries.version_text} in "
        f"{cluster.data_directory} ({algorithm.label}, scope {scope.value})",
        markup=False,
        soft_wrap=True,
    )
    print_log_note(cluster.data_directory)
    if f"--auth-local={PEER}" in authentication:
        console.print(
            f"{runs_as} connects as the superuser without a password, on this machine; all others "
            f"by what you write into {cluster.data_directory}/pg_hba.conf",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"Start it: tde pg start -D {cluster.data_directory}", soft_wrap=True)


@app.command(
    epilog=examples(
        "tde pg start -D /srv/pg/main -l /var/log/postgresql/main.log",
        "tde pg start -D /srv/pg/main -o '-p 5433 -c shared_buffers=1GB'",
        "tde pg start -D /srv/pg/main --passphrase-command 'pass show tde/main'",
        "# Until tde keystore open, only catalogs and what is in pg_default:",
        "tde pg start -D /srv/pg/main --closed",
    )
)
@opens_keystore
def start(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    log: LogOption = None,
    options: ServerOptions = "",
    timeout: TimeoutOption = 60,
    wait: WaitOption = True,
    closed: Annotated[
        bool,
        typer.Option(
            "--closed",
            help="Sessions use no tablespaces but the built-in ones until tde keystore open.",
        ),
    ] = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Start a server and wait until it accepts connections and provably encrypts.

    The keystore defaults to the one that the cluster was created with. Clusters without
    encryption can be started too.
    """
    arguments = words_of(options)
    cluster = find_cluster(pgdata, bindir, os_user)
    cluster.require_stopped()
    with open_cluster_keystore(cluster, keystore, source, for_server=True) as opened:
        cluster.start(
            opened,
            server_arguments=arguments,
            log=log,
            timeout=timeout,
            stock_socket=True,
            closed=closed,
        )
    _report_started(cluster, log)


@app.command(epilog=examples("tde pg stop -D /srv/pg/main", "tde pg stop -D /srv/pg/main -m smart"))
def stop(
    pgdata: PgDataOption,
    mode: ModeOption = StopMode.fast,
    timeout: TimeoutOption = 60,
    wait: WaitOption = True,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Stop a server and wait until it is gone. No keystore is needed."""
    cluster = find_cluster(pgdata, bindir, os_user)
    cluster.stop(mode.value, timeout=timeout)
    console.print("Server stopped")


@app.command(epilog=examples("tde pg restart -D /srv/pg/main"))
@opens_keystore
def restart(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    log: LogOption = None,
    mode: ModeOption = StopMode.fast,
    timeout: TimeoutOption = 60,
    wait: WaitOption = True,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Stop a server and start it with the options of its last start.

    The keystore is opened first: with a wrong passphrase the server simply keeps running.
    """
    cluster = find_cluster(pgdata, bindir, os_user)
    with open_cluster_keystore(cluster, keystore, source, for_server=True) as opened:
        try:
            cluster.restart(opened, mode=mode.value, log=log, timeout=timeout)
        except KeyboardInterrupt:
            if cluster.pid is not None:
                raise
            command = shlex.join(["tde", "pg", "start", "-D", str(cluster.data_directory)])
            raise InterruptedHalfwayError(f"No server runs now: {command}") from None
    _report_started(cluster, log)


@app.command(
    epilog=examples(
        "tde pg status -D /srv/pg/main",
        "tde pg status -D /srv/pg/main --json | jq .interposed",
    )
)
def status(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    username: AskingUsernameOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Show what is encrypted, with which algorithm, and whether the running server encrypts.

    Where only some tablespaces are, the server is asked what copies their rows into the others.

    Exit code 0: running; 3: not running; 4: no data directory.
    """
    from tde.cli.pg.status_view import print_status
    from tde.postgres import find_plain_copies

    cluster = find_cluster(pgdata, bindir, os_user)
    found = cluster.status(keystore)
    copies = find_plain_copies(cluster, keystore, username=username)
    if as_json:
        print_json({**found.as_json(), "plain_copies": copies.as_json()})
    else:
        print_status(found, copies)
    if not found.running:
        raise typer.Exit(ServerNotRunningError.exit_code)


@app.command(
    "exec",
    # Everything after the program's name belongs to the program.
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=examples(
        "tde pg exec -D /srv/pg/main pg_waldump -n 20 /srv/pg/main/pg_wal/000000010000000000000001",
        "tde pg exec -D /srv/pg/main pg_basebackup -D /srv/backup -h /tmp -X stream",
        "tde pg exec -D /srv/pg/main pg_checksums --check",
    ),
)
@opens_keystore
def execute(
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="Such as pg_waldump.")],
    pgdata: PgDataOption,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS...")] = None,
    keystore: KeystoreOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Become a PostgreSQL program that has the keys of a cluster.

    Only programs that work on encrypted files get the keys. For all others, such as psql, no
    passphrase is needed. A program that takes its data directory from
    PGDATA gets that of -D. A client, such as pg_basebackup or psql, connects to the server that
    runs there, unless its own arguments or PGHOST, PGPORT or PGSERVICE name another.
    """
    from tde.postgres.cluster.fitting_keys import require_fitting_keys
    from tde.postgres.cluster.keys_of_pages import require_keys_of_stopped
    from tde.postgres.cluster.landed_keys import ensure_map_of_stopped
    from tde.postgres.server.program import execute_program, needs_keys, works_on_tablespaces

    cluster = find_cluster(pgdata, bindir, os_user)
    opening: AbstractContextManager[Keystore | None] = nullcontext()
    require_fitting_keys(cluster, keystore, program, arguments or ())
    if needs_keys(program):
        opening = open_cluster_keystore(cluster, keystore, source, for_server=True)
    with opening as opened:
        if opened is not None and works_on_tablespaces(program, arguments or ()):
            ensure_map_of_stopped(cluster.data_directory, opened, cluster.os_user)
            require_keys_of_stopped(cluster.data_directory, opened)
        execute_program(
            cluster.binaries,
            program,
            arguments or (),
            keystore=opened,
            os_user=cluster.os_user,
            environment={
                "PGDATA": str(cluster.data_directory),
                **_server_to_connect_to(cluster, program, arguments or ()),
            },
        )


install_bin.register(app)
service.register(app)
unit.register(app)
backup.register(app)
restore.register(app)
drill.register(app)
audit.register(app)
doctor.register(app)
accept.register(app)
convert.register(app)
repair.register(app)
primary.register(app)
standby.register(app)
rejoin.register(app)
mirror.register(app)
migrate.register(app)


def _server_to_connect_to(
    cluster: Cluster, program: str, arguments: Sequence[str]
) -> dict[str, str]:
    """Return the variables that lead a client to the server of a cluster, if one runs."""
    from tde.postgres.server.named_server import names_server

    if names_server(program, arguments, os.environ) or cluster.pid is None:
        return {}
    parameters = cluster.connection_parameters()
    if not parameters["host"]:  # It has only begun to start.
        return {}
    # A program that root starts here runs as the server's user, whom peer authentication knows.
    return {
        "PGHOST": str(parameters["host"]),
        "PGPORT": str(parameters["port"]),
        "PGUSER": os.environ.get("PGUSER") or str(parameters["user"]),
    }


def _as_whom(cluster: Cluster) -> str:
    """Say for root who connects without a password; the server may know only its own user."""
    return "" if cluster.os_user is None else f", as {cluster.os_user.name}"


def _report_started(cluster: Cluster, log: Path | None) -> None:
    from tde.postgres.cluster.status import withheld

    parameters = cluster.connection_parameters()
    kind = "encrypted" if cluster.marker else "not encrypted"
    log = (log or cluster.default_log).absolute()
    console.print(
        f"Server started, {kind} (pid {cluster.pid})\n"
        f"Log: {log}\n"
        f"Connect: tde psql -D {cluster.data_directory}\n"
        f"     or{_as_whom(cluster)}: psql -h {parameters['host']} -p {parameters['port']} "
        f"-U {parameters['user']} postgres",
        markup=False,
        soft_wrap=True,
    )
    if cluster.pid is not None and withheld(cluster.pid).get("closed"):
        error_console.print(
            "[bold yellow]Its keystore is closed for sessions[/]: tde keystore open -D "
            f"{cluster.data_directory}",
            soft_wrap=True,
        )
    if log.is_relative_to(cluster.data_directory):
        error_console.print(
            "[bold yellow]The log is inside the data directory[/] and base backups copy it; "
            "it is not encrypted. Choose another place with --log.",
            soft_wrap=True,
        )
