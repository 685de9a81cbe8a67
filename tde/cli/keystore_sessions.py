"""``tde keystore open`` and ``close``: what the sessions of a running server may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tde.cli.options import (
    BindirOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    opens_keystore,
)
from tde.console.apps import examples
from tde.console.output import console
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource

if TYPE_CHECKING:
    from pathlib import Path

OPEN_EPILOG = examples(
    "tde keystore open -D /srv/pg/main",
    "tde keystore open -D /srv/pg/main --passphrase-command 'pass show tde/main'",
)
CLOSE_EPILOG = examples("tde keystore close -D /srv/pg/main")
NOT_ENCRYPTED = "It has no keystore."


@opens_keystore
def open_(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    source: PassphraseSource = PROMPT,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Let the sessions of a running server use encrypted tablespaces again.

    For a server that was started with tde pg start --closed, or after tde keystore close.
    Tablespaces that are locked one by one stay locked.
    """
    pid = _tell(pgdata, keystore, source, bindir, os_user, give=True)
    console.print(f"The keystore of the server with process id {pid} is open", markup=False)


@opens_keystore
def close(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    source: PassphraseSource = PROMPT,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Let no session of a running server use tablespaces other than pg_default and pg_global.

    Their queries fail until the keystore is opened; all others go on, and so do recovery,
    replication and checkpoints, for which the keys stay in the server's memory. To wipe them from
    there, stop the server.
    """
    pid = _tell(pgdata, keystore, source, bindir, os_user, give=False)
    console.print(f"The keystore of the server with process id {pid} is closed", markup=False)


def _tell(
    pgdata: Path,
    keystore: Path | None,
    source: PassphraseSource,
    bindir: Path | None,
    os_user: str | None,
    *,
    give: bool,
) -> int:
    from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster
    from tde.postgres.cluster.withholding import close_for_sessions, open_for_sessions

    cluster = find_cluster(pgdata, bindir, os_user)
    # What only takes away needs no more than what started the server.
    opening = encrypted_cluster_keystore(
        cluster, keystore, source, remedy=NOT_ENCRYPTED, for_server=not give
    )
    with opening as opened:
        return (open_for_sessions if give else close_for_sessions)(cluster, opened)


def register(app: typer.Typer) -> None:
    """Add the commands to those of ``tde keystore``."""
    app.command("open", epilog=OPEN_EPILOG)(open_)
    app.command("close", epilog=CLOSE_EPILOG)(close)
