"""``tde tablespace``: create tablespaces with keys, and see what protects each one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from tde.cli import tablespace_lock, tablespace_move, tablespace_rekey
from tde.cli.options import (
    AesOption,
    BindirOption,
    JsonOption,
    KeystoreOption,
    NoWaitOption,
    PgDataOption,
    UsernameOption,
    connection_as,
    opens_keystore,
)
from tde.console.apps import examples, new_app
from tde.console.options import algorithm_of
from tde.console.output import console, error_console, print_json
from tde.errors import ReplicationError, TablespaceError
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster

app = new_app(
    "Create, list, move, rekey and lock encrypted tablespaces.",
    epilog=examples(
        "tde tablespace create secret -D /srv/pg/main --location /srv/pg/secret --aes 256",
        "tde tablespace move --from old --to secret -D /srv/pg/main",
        "tde tablespace list -D /srv/pg/main",
    ),
)

_OF_PLAIN = "Use CREATE TABLESPACE, or create an encrypted cluster with tde pg init."


@app.command(
    epilog=examples(
        "tde tablespace create secret -D /srv/pg/main --location /srv/pg/secret",
        "tde tablespace create fast -D /srv/pg/main --location /nvme/pg --aes 128",
        "# The key first, for standbys that are not connected now:",
        "tde tablespace create secret -D /srv/pg/main --location /srv/pg/secret --prepare",
        "# In a cluster of scope tablespaces:",
        "tde tablespace create open -D /srv/pg/main --location /srv/pg/open --plaintext",
    )
)
@opens_keystore
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new tablespace.")],
    pgdata: PgDataOption,
    location: Annotated[
        Path,
        typer.Option(
            "--location",
            metavar="DIR",
            help="Where its own directory, tde-<key id>, is made; made if it is missing.",
        ),
    ],
    aes: AesOption = 256,
    plaintext: Annotated[
        bool, typer.Option("--plaintext", help="Without encryption (scope tablespaces only).")
    ] = False,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Only write the key, and say what to copy to the standbys."),
    ] = False,
    key: Annotated[
        UUID | None,
        typer.Option("--key", metavar="ID", help="Use the key that --prepare has written."),
    ] = None,
    no_wait: NoWaitOption = False,
    keystore: KeystoreOption = None,
    username: UsernameOption = None,
    bindir: BindirOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Create a tablespace with a key of its own while the server runs.

    Every connected standby must have the key first: where one lacks it, the key is made and not
    used, and the command says how to bring it. A standby is asked by having it connect again.
    """
    from tde.postgres import create_tablespace, prepare_key, prepared_notice
    from tde.postgres.cluster.standbys import ConnectedStandby, connected_standbys
    from tde.postgres.tablespace.standbys import unasked_notice

    if prepare and key is not None:
        raise typer.BadParameter("--prepare makes a key, and --key names one")
    algorithm = None if plaintext else algorithm_of(aes)
    cluster = find_cluster(pgdata, bindir, None)
    cluster.connection_parameters()  # No passphrase is asked for when no server runs.
    connection = connection_as(username)
    with encrypted_cluster_keystore(cluster, keystore, source, remedy=_OF_PLAIN) as opened:
        if prepare:
            prepared = prepare_key(cluster, opened, location, algorithm)
            text = (
                f"Prepared key {prepared.key_id.hex}\n{prepared_notice(prepared)}\n"
                f"Then repeat this command with --key {prepared.key_id.hex} instead of --prepare."
            )
            console.print(text, markup=False, soft_wrap=True)
            return
        standbys: list[ConnectedStandby] = []
        if no_wait:  # They are only told of; one that lacks the key has gone soon after.
            with suppress(ReplicationError):
                standbys = connected_standbys(cluster, connection)
        made = create_tablespace(
            cluster,
            opened,
            name,
            location,
            algorithm,
            key_id=key,
            wait=not no_wait,
            connection=connection,
        )
        notice = unasked_notice(opened, made, standbys)
    console.print(
        f"Created tablespace {made.name} (OID {made.oid}, {made.protection}) in {made.location}\n"
        f"Its key is the file keys/{made.key_file} of the keystore: back it up.",
        markup=False,
        soft_wrap=True,
    )
    if notice:
        error_console.print(Text(notice, "bold yellow"), soft_wrap=True)


@app.command(
    hidden=True,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def protect() -> None:
    """Say what has become of this command."""
    raise TablespaceError(
        "tde tablespace protect was removed: it gave a key to a tablespace that had files already",
        remedy="Make another one with tde tablespace create, and move everything to it: "
        "tde tablespace move. For another key: tde tablespace rekey.",
    )


@app.command(
    "list",
    epilog=examples(
        "tde tablespace list -D /srv/pg/main",
        "tde tablespace list -D /srv/pg/main --json | jq '.[].protection'",
    ),
)
def list_(
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    username: UsernameOption = None,
    bindir: BindirOption = None,
) -> None:
    """List the tablespaces of a running cluster and how each is stored. Needs no passphrase."""
    from tde.postgres import list_tablespaces
    from tde.postgres.cluster.protection import NO_KEY

    cluster = find_cluster(pgdata, bindir, None)
    found = list_tablespaces(cluster, keystore, connection=connection_as(username))
    if as_json:
        print_json([asdict(tablespace) for tablespace in found])
        return
    table = Table("Name", "OID", "Encryption", "Key file", "Location")
    for tablespace in found:
        style = "bold red" if tablespace.protection == NO_KEY else ""
        table.add_row(
            Text(tablespace.name),
            str(tablespace.oid),
            Text(tablespace.protection, style),
            Text(tablespace.key_file or ""),
            Text(tablespace.location or "in the data directory"),
        )
    console.print(table)


tablespace_lock.register(app)
tablespace_move.register(app)
tablespace_rekey.register(app)
