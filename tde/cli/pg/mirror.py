"""``tde pg mirror-wal`` and ``restore-mirror``: a second copy of the WAL."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from tde.console.signals import ended_as_by_ctrl_c
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import find_cluster, open_cluster_keystore


def register(app: typer.Typer) -> None:
    """Add the commands to a group."""
    app.command(
        "mirror-wal",
        epilog=examples(
            "tde pg mirror-wal -D /srv/pg/main --to /mnt/second/wal",
            "# Commits do not wait for it:",
            "tde pg mirror-wal -D /srv/pg/main --to /mnt/second/wal --no-sync",
        ),
    )(mirror)
    app.command(
        "restore-mirror",
        epilog=examples("tde pg restore-mirror -D /srv/pg/main --from /mnt/second/wal"),
    )(restore)


@opens_keystore
def mirror(
    pgdata: PgDataOption,
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="DIR",
            help="An existing directory of the server's user, on another disk than pg_wal.",
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Of its replication slot and in synchronous_standby_names.",
        ),
    ] = "tde_mirror",
    sync: Annotated[
        bool, typer.Option("--sync/--no-sync", help="Commits wait until it has them on its disk.")
    ] = True,
    keystore: KeystoreOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Write the WAL of a running server to a second place as well, until interrupted.

    It supervises pg_receivewal, and starts it again when it ends. The copy is ciphertext. With
    --sync (the default) it is added to synchronous_standby_names: no acknowledged commit is in one
    place only, and while the mirror does not run, commits wait. Let a service manager run it.
    """
    from tde.replication.mirror import MirrorOptions, mirror_wal
    from tde.replication.names import require_slot_name, require_standby_name

    require_slot_name(name)
    require_standby_name(name)
    cluster = find_cluster(pgdata, bindir, os_user)
    cluster.connection_parameters()  # No passphrase is asked for when no server runs.
    options = MirrorOptions(to.absolute(), name, sync)
    with open_cluster_keystore(cluster, keystore, source, for_server=True) as opened:
        try:
            with ended_as_by_ctrl_c():
                mirror_wal(cluster, opened, options, tell=_tell)
        finally:
            _tell(
                f"The replication slot {name} keeps WAL on the server until the mirror runs again, "
                "and with --sync commits wait for it. To end the mirror for good, in SQL: take "
                f"{name} out of synchronous_standby_names, then SELECT "
                f"pg_drop_replication_slot('{name}')"
            )


def restore(
    pgdata: PgDataOption,
    origin: Annotated[
        Path, typer.Option("--from", metavar="DIR", help="The directory of the mirror.")
    ],
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Put the WAL of a mirror into the place of a pg_wal that was lost. No keystore is needed.

    The server is stopped, and pg_wal lacks the segment where recovery begins. What the next start
    needs is copied; nothing that is there is replaced.
    """
    from tde.replication.mirror import restore_mirror

    cluster = find_cluster(pgdata, bindir, os_user)
    cluster.require_stopped()
    copied = restore_mirror(cluster, origin.absolute())
    console.print(
        f"Copied {len(copied)} segments to {cluster.data_directory}/pg_wal, {copied[0]} to "
        f"{copied[-1]}\nStart the server: tde pg start -D {cluster.data_directory}",
        markup=False,
        soft_wrap=True,
    )


def _tell(text: str) -> None:
    error_console.print(text, markup=False, soft_wrap=True)
