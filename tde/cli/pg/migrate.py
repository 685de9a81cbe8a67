"""``tde pg migrate``: encryption without downtime, as a plan of one command a step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tde.cli.options import BindirOption, JsonOption, OsUserOption, PgDataOption
from tde.console.apps import examples
from tde.console.output import console, print_json
from tde.postgres.cluster.access import find_cluster


def register(app: typer.Typer) -> None:
    """Add the command to a group."""
    app.command(
        epilog=examples(
            "tde pg migrate --plan -D /srv/pg/standby -k /srv/tde/keystore "
            "--primary-pgdata /srv/pg/main --primary-machine root@node1 "
            "--to 'host=node2 user=postgres'",
        )
    )(migrate)


def migrate(
    pgdata: PgDataOption,
    keystore: Annotated[
        Path,
        typer.Option("--keystore", "-k", metavar="DIR", help="Of both, made if there is none."),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="CONNINFO",
            help="How the primary's machine reaches this standby, as a superuser who replicates.",
        ),
    ],
    primary: Annotated[
        Path | None,
        typer.Option(
            "--primary-pgdata",
            metavar="DIR",
            help="The primary's data directory on its machine.",
            show_default="the same as here",
        ),
    ] = None,
    machine: Annotated[
        str,
        typer.Option(
            "--primary-machine",
            metavar="HOST",
            help="What ssh calls the primary's machine.",
            show_default="this one",
        ),
    ] = "",
    slot: Annotated[
        str,
        typer.Option("--slot", metavar="NAME", help="Replication slot of the old primary then."),
    ] = "",
    is_released: Annotated[
        bool,
        typer.Option("--manager-paused", help="A cluster manager has let go of both nodes."),
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the steps: nothing else is done. Required.")
    ] = False,
    as_json: JsonOption = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Print how a running pair is encrypted, or gets other keys, without a stop.

    Run it on the standby's machine. The standby is converted while the primary serves, takes over,
    and the old primary is made again from it: one command a step, each with the machine that it is
    for. Until the switchover the primary is what it was.
    """
    from tde.replication.migration import Pair, plan_migration

    if not plan:
        raise typer.BadParameter("the steps are for two machines: they are printed, with --plan")
    cluster = find_cluster(pgdata, bindir, os_user)
    programs = [] if bindir is None else ["--bindir", str(bindir)]
    programs += [] if os_user is None else ["--os-user", os_user]
    pair = Pair(
        keystore.absolute(),
        primary or cluster.data_directory,
        machine,
        to,
        slot,
        tuple(programs),
        is_released,
    )
    steps = plan_migration(cluster, pair)
    if as_json:
        print_json([asdict(step) for step in steps])
        return
    for number, step in enumerate(steps, 1):
        console.print(f"{number}. On the {step.machine}'s machine. {step.why}", markup=False)
        console.print(f"    {step.command}", markup=False, soft_wrap=True, highlight=False)
