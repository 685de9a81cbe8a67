"""``tde pg accept``: say that the configuration lines that run programs are one's own."""

from __future__ import annotations

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
from tde.console.output import console
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster

_NOTHING = "Only encrypted clusters have a record of accepted lines."


def register(app: typer.Typer) -> None:
    """Add the command to the application of ``tde pg``."""
    app.command(epilog=examples("tde pg status -D /srv/pg/main", "tde pg accept -D /srv/pg/main"))(
        accept
    )


@opens_keystore
def accept(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Accept the configuration lines that run a program or load a library.

    Look at them before, with tde pg status: start, status and doctor name those that are new. A
    start for which somebody types the passphrase accepts them as well. The server may run.
    """
    from tde.postgres.cluster.accepted_lines import accept_lines
    from tde.postgres.server.pidfile import read_server_arguments

    cluster = find_cluster(pgdata, bindir, os_user)
    directory = cluster.data_directory
    with encrypted_cluster_keystore(cluster, keystore, source, remedy=_NOTHING) as opened:
        lines = accept_lines(directory, opened, read_server_arguments(directory))
    for line in lines:
        console.print(f"Accepted: {escape(str(line))}", soft_wrap=True)
    if not lines:
        console.print("No line runs a program or loads a library.")
