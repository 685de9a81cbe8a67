"""``tde pg install-bin``: a directory that stands for PostgreSQL's `bin`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tde.cli.options import (
    AesOption,
    BindirOption,
    KeystoreOption,
    OsUserOption,
    opens_keystore,
)
from tde.console.apps import examples
from tde.console.options import algorithm_of
from tde.console.output import console
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.scope import Scope

if TYPE_CHECKING:
    from tde.keystore import Keystore

_EPILOG = examples(
    "tde keystore auto-open enable --keystore /etc/tde/main",
    "tde pg install-bin /opt/tde/bin --keystore /etc/tde/main",
    "PATH=/opt/tde/bin:$PATH initdb -D /srv/pg/main && pg_ctl -D /srv/pg/main start",
)


@opens_keystore
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
    source: PassphraseSource = PROMPT,
) -> None:
    """Make a directory that can stand for PostgreSQL's bin directory, for encrypted clusters.

    Whatever expects such a directory (an init script, a cluster manager, PATH) then works on
    encrypted clusters unchanged: initdb creates them, pg_ctl and postgres start them, backups and
    tools see what they may. Without a keystore, initdb creates plain clusters.

    The keystore must open by itself (tde keystore auto-open enable). All clusters made this way
    share its keys. In a keystore without keys they are made here, which takes the passphrase. Run
    the command again after an upgrade of PostgreSQL or of tde.
    """
    from tde.postgres import find_binaries, install_bin_directory, server_os_user

    user = server_os_user(None, name=os_user)
    binaries = find_binaries(bindir)
    with open_for_programs(keystore, source) if keystore else nullcontext() as opened:
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


def open_for_programs(keystore: Path, source: PassphraseSource) -> AbstractContextManager[Keystore]:
    """Open a keystore as its use asks for: by itself, as the programs will; or for first keys.

    Whoever can write to it could let it open by itself with a master key of his own, under which
    the first keys would be his.
    """
    from tde.keystore import inspect_keystore
    from tde.keystore.opening import open_keystore, open_unattended

    if not inspect_keystore(keystore).keys:
        return open_keystore(keystore, source, by_passphrase=True)
    return open_unattended(keystore) if source == PROMPT else open_keystore(keystore, source)


def register(app: typer.Typer) -> None:
    """Add the command to a group."""
    app.command("install-bin", epilog=_EPILOG)(install_bin)
