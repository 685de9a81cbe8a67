"""``tde pg audit``: prove that everything is encrypted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tde.cli.options import (
    BindirOption,
    JsonOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    opens_keystore,
)
from tde.cli.pg.doctor import AskingUsernameOption
from tde.console.apps import examples
from tde.console.output import print_json
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster

_EXIT_FINDINGS = 1
_ENCRYPT_IT = "Encrypt it with tde pg encrypt, or create another one with tde pg init."

ArchiveOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--archive",
        metavar="DIR",
        help="A WAL archive, compressed or not; may be given several times.",
    ),
]
BackupOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--backup",
        metavar="DIR",
        help="A base backup in plain or tar format, a repository of pgBackRest, or a server's "
        "directory of Barman; may be given several times.",
    ),
]
AuditThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", metavar="N", min=1, max=64, help="Threads. Default: one per processor."
    ),
]
CanaryOption = Annotated[
    str | None,
    typer.Option(
        "--canary",
        metavar="TEXT",
        help="Also search every file, plain ones included, for this text in UTF-8 and UTF-16.",
    ),
]


@opens_keystore
def audit(
    pgdata: PgDataOption,
    archive: ArchiveOption = None,
    backup: BackupOption = None,
    jobs: AuditThreadsOption = None,
    canary: CanaryOption = None,
    as_json: JsonOption = False,
    username: AskingUsernameOption = None,
    keystore: KeystoreOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Prove, file by file, that what should be ciphertext is; the server may run.

    Every block of every relation and WAL segment is read and must decrypt, with the key of its
    tablespace and the identity in its name, to a valid page. Where only some tablespaces are
    encrypted, a running server is asked what copies their rows into the others. Exit code 0:
    nothing found; 1: plaintext, or something else that must not be there.
    """
    from tde.cli.pg.audit_view import auditing, print_report
    from tde.postgres import audit as run_audit

    if canary is not None and not 1 <= len(canary.encode("utf-16-le")) <= 1024:
        raise typer.BadParameter("it must have 1 to 512 characters", param_hint="--canary")
    cluster = find_cluster(pgdata, bindir, os_user)
    with (
        encrypted_cluster_keystore(cluster, keystore, source, remedy=_ENCRYPT_IT) as opened,
        auditing() as observer,
    ):
        report = run_audit(
            cluster,
            opened,
            archives=archive or (),
            backups=backup or (),
            jobs=jobs,
            canary=canary,
            observer=observer,
            username=username,
        )
    if as_json:
        print_json(report.as_json())
    else:
        print_report(report)
    if not report.clean:
        raise typer.Exit(_EXIT_FINDINGS)


EPILOG = examples(
    "tde pg audit -D /srv/pg/main",
    "tde pg audit -D /srv/pg/main --archive /srv/archive --backup /srv/backup/monday",
    "# Search for a text that is known to be in a table:",
    "tde pg audit -D /srv/pg/main --canary 'Jane Doe, 1970-01-01' --json | jq .clean",
)


def register(app: typer.Typer) -> None:
    """Add ``audit`` to the commands of ``tde pg``."""
    app.command("audit", epilog=EPILOG)(audit)
