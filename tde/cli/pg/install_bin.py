"""``tde pg install-bin``: a directory that stands for PostgreSQL's `bin`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tde.cli.options import AesOption, BindirOption, KeystoreOption, OsUserOption
from tde.console.apps import examples
from tde.console.options import algorithm_of
from tde.console.output import console
from tde.postgres.cluster.scope import Scope

_EPILOG = examples(
    "tde keystore auto-open enable --keystore /etc/tde/main",
    "tde pg install-bin /opt/tde/bin --keystore /etc/tde/main",
    "PATH=/opt/tde/bin:$PATH initdb -D /srv/pg/main && pg_ctl -D /srv/pg/main start",
)


def install_bin(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="New, empty, or made by this command before.")
    ],
    keystore: KeystoreOption = None,
    aes: AesOption = 256,
    scope: Annotated[
        Scope, typer.Option(help="What the clusters that initdb makes encrypt.")
    ] = Scope.CLUSTER,
    checksums: Annotated[
        bool,
        typer.Option(
            help="Let initdb turn data checksums on, unless it is told --no-data-checksums."
        ),
    ] = True,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Make a directory that can stand for PostgreSQL's bin directory, for encrypted clusters.

    Whatever expects such a directory (an init script, a cluster manager, PATH) then works on
    encrypted clusters unchanged: initdb creates them, pg_ctl and postgres start them, backups and
    tools see what they may. Without a keystore, initdb creates plain clusters.

    The keystore must open by itself (tde keystore auto-open enable). All clusters made this way
    share its keys. Run the command again after an upgrade of PostgreSQL or of tde.
    """
    from tde.keystore.opening import open_unattended
    from tde.postgres import find_binaries, install_bin_directory, server_os_user

    user = server_os_user(None, name=os_user)
    binaries = find_binaries(bindir)
    with open_unattended(keystore) if keystore else nullcontext() as opened:
        made = install_bin_directory(
            directory,
            binaries,
            user,
            keystore=opened,
            algorithm=algorithm_of(aes),
            scope=scope,
            checksums=checksums,
        )
    kind = f"with keys of {made.keystore}" if made.keystore else "for clusters without encryption"
    console.print(
        f"{made.path} stands for {made.bindir} (PostgreSQL {binaries.version_text}), {kind}\n"
        f"Programs for encrypted clusters: {', '.join(made.with_keys) or 'none'}; "
        f"{len(made.linked)} others are links.",
        markup=False,
        soft_wrap=True,
    )


def register(app: typer.Typer) -> None:
    """Add the command to a group."""
    app.command("install-bin", epilog=_EPILOG)(install_bin)
