"""``tde pg repair-checksums``: undo what PostgreSQL's own pg_checksums does without the keys."""

from __future__ import annotations

import typer
from rich.markup import escape

from tde.cli.options import (
    BindirOption,
    JsonOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    opens_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console, print_json
from tde.errors import DamagedPagesError
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster


def register(app: typer.Typer) -> None:
    """Add the command to the application of ``tde pg``."""
    app.command("repair-checksums", epilog=examples("tde pg repair-checksums -D /srv/pg/main"))(
        repair_checksums
    )


@opens_keystore
def repair_checksums(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Repair a stopped cluster on which PostgreSQL's own pg_checksums has run without the keys.

    It has overwritten two bytes of every page, which are found again by trial. Nothing is changed
    unless they are found for every page that it has written to. May be interrupted and repeated.
    """
    from tde.postgres import repair_stock_checksums

    cluster = find_cluster(pgdata, bindir, os_user)
    with encrypted_cluster_keystore(
        cluster, keystore, source, remedy="There is nothing to repair."
    ) as opened:
        summary = repair_stock_checksums(cluster, opened)
    if as_json:
        print_json(summary.as_json())
    else:
        console.print(
            f"{summary.repaired} of {summary.pages} pages repaired in {summary.data_directory} "
            f"({summary.seconds:.1f} s)",
            markup=False,
            soft_wrap=True,
        )
        if summary.checksums_off:
            directory = summary.data_directory
            error_console.print(
                "[bold yellow]Warning:[/] checksums were off before, and are off again. To turn "
                + escape(
                    f"them on: tde pg exec -D {directory} pg_checksums --enable -D {directory}"
                ),
                soft_wrap=True,
            )
    if summary.damaged:
        raise DamagedPagesError(
            f"{summary.damaged} blocks are no pages for another reason and were left as they are: "
            f"{', '.join(summary.damaged_examples[:3])}",
            remedy=f"See tde pg audit -D {summary.data_directory}, and restore these files from a "
            "backup.",
        )
