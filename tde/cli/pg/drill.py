"""``tde pg restore-drill``: a restore that is only tried."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from tde.cli.options import (
    BindirOption,
    JsonOption,
    KeystoreOption,
    OsUserOption,
    opens_keystore,
    require_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console, print_json
from tde.console.signals import ended_as_by_ctrl_c
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import find_cluster

if TYPE_CHECKING:
    from tde.backup.drill import DrillReport


def register(app: typer.Typer) -> None:
    """Add the command to a group."""
    app.command(
        "restore-drill",
        epilog=examples(
            "tde pg restore-drill /srv/backup/monday --scratch /srv/scratch -k /etc/tde/main",
            "# For an auditor, every week:",
            "tde pg restore-drill /srv/backup/monday --scratch /srv/scratch -k /etc/tde/main "
            "--archive /srv/archive --json > drill.json",
        ),
    )(drill)


@opens_keystore
def drill(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="Of tde pg backup.")],
    scratch: Annotated[
        Path,
        typer.Option(
            "--scratch",
            metavar="DIR",
            help="Where there is room for the copy: directories are made in it, and removed.",
        ),
    ],
    keystore: KeystoreOption = None,
    archive: Annotated[
        Path | None,
        typer.Option("--archive", metavar="DIR", help="Also replay all WAL that is there."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option("--timeout", "-t", metavar="SECONDS", min=1, help="For recovery."),
    ] = 3600,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the copy there, stopped.")] = False,
    as_json: JsonOption = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Restore a sealed backup for trial: verify, unpack, recover, amcheck, audit, remove.

    The copy listens on no address, archives nothing, follows nobody, and has no background workers.
    pg_amcheck looks at every table and B-tree index where the extension amcheck is installed.

    Exit code 0: the backup can be used; 1: it cannot, and a step says why.
    """
    from tde.backup.drill import restore_drill
    from tde.backup.restoring import RestoreOptions, command_for
    from tde.backup.seal import seal_path
    from tde.backup.verifying import require_keystore_of
    from tde.keystore import keystore_uuid

    path = require_keystore(keystore)
    directory = backup.absolute()
    require_keystore_of(seal_path(directory), keystore_uuid(path).hex)
    target = scratch.absolute() / f"drill-{directory.name}-{secrets.token_hex(4)}"
    cluster = find_cluster(target, bindir, os_user)
    options = RestoreOptions(
        restore_command="" if archive is None else command_for(archive.absolute())
    )
    with open_keystore(path, source, for_server=True) as opened, ended_as_by_ctrl_c():
        report = restore_drill(
            directory,
            cluster,
            opened,
            options,
            timeout=timeout,
            keep=keep,
            tell=lambda step: error_console.print(f"{step} ...", markup=False),
        )
    if as_json:
        print_json(report.as_json())
    else:
        _print(report)
    if keep:
        error_console.print(f"The copy is in {target}", markup=False, soft_wrap=True)
    if not report.is_good:
        raise typer.Exit(1)


def _print(report: DrillReport) -> None:
    table = Table("Step", "Seconds", "Result")
    for step in report.steps:
        result = Text("\n".join(step.problems), "bold red") if step.problems else Text(step.note)
        table.add_row(step.name, f"{step.seconds:.1f}", result)
    console.print(table)
    verdict = "can be restored" if report.is_good else "can NOT be restored"
    console.print(
        f"{report.backup}, taken {report.taken or 'at an unknown time'}, {verdict}.",
        markup=False,
        soft_wrap=True,
    )
