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
from tde.console.output import console, error_console
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.scope import Scope
from tde.postgres.cluster.tool_settings import (
    BackupTool,
    ToolSettings,
    add_settings,
    require_addable,
    tool_settings,
)

if TYPE_CHECKING:
    from tde.keystore import Keystore

_EPILOG = examples(
    "tde keystore auto-open enable --keystore /etc/tde/main",
    "tde pg install-bin /opt/tde/bin --keystore /etc/tde/main",
    "PATH=/opt/tde/bin:$PATH initdb -D /srv/pg/main && pg_ctl -D /srv/pg/main start",
    "# What pgBackRest has to be told, added to its configuration:",
    "tde pg install-bin --for pgbackrest --write /etc/pgbackrest.conf",
)
_FOR = "Settings for a backup tool"


@opens_keystore
def install_bin(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="New, empty, or made by this command before. pgBackRest needs none.",
            show_default=False,
        ),
    ] = None,
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
    tool: Annotated[
        BackupTool | None,
        typer.Option(
            "--for", help="Also print what this tool has to be told.", rich_help_panel=_FOR
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="FILE",
            help="Add it to this file of the tool. No line of others is changed.",
            rich_help_panel=_FOR,
        ),
    ] = None,
    section: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="For one server or stanza only, and not for all of the tool's.",
            rich_help_panel=_FOR,
        ),
    ] = None,
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
    settings = _settings_for(tool, directory, write, section)
    if directory is None:
        _show_settings(settings, write)
        return
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
    _show_settings(settings, write)


def _settings_for(
    tool: BackupTool | None, directory: Path | None, file: Path | None, section: str | None
) -> ToolSettings | None:
    """Return what a tool has to be told; nothing is made when its file says otherwise."""
    if tool is None and (file is not None or section is not None):
        raise typer.BadParameter("name the tool with --for", param_hint="--write, --section")
    if directory is None and tool is not BackupTool.PGBACKREST:
        raise typer.BadParameter("name a directory", param_hint="DIR")
    if tool is None:
        return None
    settings = tool_settings(tool, directory and directory.absolute(), section)
    require_addable(file, settings)
    return settings


def _show_settings(settings: ToolSettings | None, file: Path | None) -> None:
    if settings is None:
        return
    lines = settings.lines()
    if file is not None:
        added = add_settings(file, settings)
        where = f"[{settings.section}] of {file}"
        said = f"Added to {where}:" if added else f"Nothing to add: {where} has all of them."
        console.print(said, markup=False, soft_wrap=True)
        lines = added
    for line in lines:
        console.print(line, markup=False, soft_wrap=True, highlight=False)
    for name, reason in settings.reasons.items():
        error_console.print(f"{name}: {reason}", markup=False, soft_wrap=True)


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
