"""``tde tablespace``: create tablespaces with keys, and see what protects each one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tde.cli.options import (
    AesOption,
    BindirOption,
    JsonOption,
    KeystoreOption,
    PassphraseCommandOption,
    PassphraseFdOption,
    PassphraseFileOption,
    PgDataOption,
)
from tde.console.apps import examples, new_app
from tde.console.options import algorithm_of
from tde.console.output import console, error_console, print_json
from tde.keystore.providers.passphrase_source import PassphraseSource
from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster

app = new_app(
    "Create and list encrypted tablespaces.",
    epilog=examples(
        "tde tablespace create secret -D /srv/pg/main --location /srv/pg/secret --aes 256",
        "tde tablespace list -D /srv/pg/main",
    ),
)

_OF_PLAIN = "Use CREATE TABLESPACE, or create an encrypted cluster with tde pg init."

UsernameOption = Annotated[
    str | None,
    typer.Option(
        "--username", "-U", metavar="NAME", help="Database user. [the owner of the data directory]"
    ),
]


@app.command(
    epilog=examples(
        "tde tablespace create secret -D /srv/pg/main --location /srv/pg/secret",
        "tde tablespace create fast -D /srv/pg/main --location /nvme/pg --aes 128",
        "# In a cluster of scope tablespaces:",
        "tde tablespace create open -D /srv/pg/main --location /srv/pg/open --plaintext",
    )
)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new tablespace.")],
    pgdata: PgDataOption,
    location: Annotated[
        Path,
        typer.Option("--location", metavar="DIR", help="Its directory; made if it is missing."),
    ],
    aes: AesOption = 256,
    plaintext: Annotated[
        bool, typer.Option("--plaintext", help="Without encryption (scope tablespaces only).")
    ] = False,
    keystore: KeystoreOption = None,
    username: UsernameOption = None,
    bindir: BindirOption = None,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    passphrase_command: PassphraseCommandOption = None,
) -> None:
    """Create a tablespace with a key of its own while the server runs."""
    from tde.postgres import create_tablespace, standby_notice

    algorithm = None if plaintext else algorithm_of(aes)
    source = PassphraseSource(passphrase_file, passphrase_fd, passphrase_command)
    cluster = find_cluster(pgdata, bindir, None)
    cluster.connection_parameters()  # No passphrase is asked for when no server runs.
    with encrypted_cluster_keystore(cluster, keystore, source, remedy=_OF_PLAIN) as opened:
        made = create_tablespace(
            cluster, opened, name, location, algorithm, connection=_connection(username)
        )
        notice = standby_notice(cluster, opened, made, connection=_connection(username))
    console.print(
        f"Created tablespace {made.name} (OID {made.oid}, {made.protection}) in {made.location}",
        markup=False,
        soft_wrap=True,
    )
    _print_notice(notice)


@app.command(
    epilog=examples(
        "# After CREATE TABLESPACE in SQL, which makes a tablespace without a key:",
        "tde tablespace protect secret -D /srv/pg/main --aes 256",
    )
)
def protect(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the tablespace.")],
    pgdata: PgDataOption,
    aes: AesOption = 256,
    keystore: KeystoreOption = None,
    username: UsernameOption = None,
    bindir: BindirOption = None,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    passphrase_command: PassphraseCommandOption = None,
) -> None:
    """Give a key to an empty tablespace that was made in SQL, while the server runs."""
    from tde.postgres import protect_tablespace, standby_notice

    algorithm = algorithm_of(aes)
    source = PassphraseSource(passphrase_file, passphrase_fd, passphrase_command)
    cluster = find_cluster(pgdata, bindir, None)
    cluster.connection_parameters()  # No passphrase is asked for when no server runs.
    with encrypted_cluster_keystore(cluster, keystore, source, remedy=_OF_PLAIN) as opened:
        made = protect_tablespace(
            cluster, opened, name, algorithm, connection=_connection(username)
        )
        notice = standby_notice(cluster, opened, made, connection=_connection(username))
    console.print(
        f"Tablespace {made.name} (OID {made.oid}) has a key now, {made.protection}",
        markup=False,
        soft_wrap=True,
    )
    _print_notice(notice)


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
    found = list_tablespaces(cluster, keystore, connection=_connection(username))
    if as_json:
        print_json([asdict(tablespace) for tablespace in found])
        return
    table = Table("Name", "OID", "Encryption", "Location")
    for tablespace in found:
        style = "bold red" if tablespace.protection == NO_KEY else ""
        table.add_row(
            Text(tablespace.name),
            str(tablespace.oid),
            Text(tablespace.protection, style),
            Text(tablespace.location or "in the data directory"),
        )
    console.print(table)


def _print_notice(notice: str) -> None:
    if notice:
        error_console.print(Text(notice, "bold yellow"), soft_wrap=True)


def _connection(username: str | None) -> dict[str, object]:
    return {} if username is None else {"user": username}
