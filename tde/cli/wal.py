"""``tde wal``: the key that WAL is written with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from tde.cli.options import (
    BindirOption,
    JsonOption,
    KeystoreOption,
    NoWaitOption,
    OsUserOption,
    PgDataOption,
    UsernameOption,
    connection_as,
    opens_keystore,
)
from tde.console.apps import examples, new_app
from tde.console.options import AES_SIZES, algorithm_of
from tde.console.output import console, error_console, print_json
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster

app = new_app(
    "The key of WAL.",
    epilog=examples("tde wal rotate -D /srv/pg/main"),
)


@app.callback()
def wal() -> None:
    """Hold the commands below the noun."""


@app.command(
    epilog=examples(
        "tde wal rotate -D /srv/pg/main",
        "tde wal rotate -D /srv/pg/main --aes 128 --json | jq .key_file",
    )
)
@opens_keystore
def rotate(
    pgdata: PgDataOption,
    aes: Annotated[
        int | None,
        typer.Option(
            "--aes", metavar=AES_SIZES, help="Size of the AES keys in bits.", show_default="256"
        ),
    ] = None,
    key: Annotated[
        UUID | None,
        typer.Option(
            "--key", metavar="ID", help="Use a key that was made for standbys to get it first."
        ),
    ] = None,
    no_wait: NoWaitOption = False,
    keystore: KeystoreOption = None,
    username: UsernameOption = None,
    as_json: JsonOption = False,
    source: PassphraseSource = PROMPT,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Write WAL with another key.

    The server may run, and no session notices. The new key counts from the first segment that the
    server has not touched yet: it prepares up to max_wal_size in advance, and a restart is the way
    to the new key at once. Segments that were written before keep their key,
    on the disk and in archives; each tells by itself which key it has. So every keystore that reads
    the archive of this cluster needs the new key, before the first such segment arrives there. So
    every connected standby must have it: where one lacks it, the key is made and not used, and the
    command says how to bring it. A standby is asked by having it connect again.
    """
    from tde.postgres.cluster.wal_rotation import rotate_wal_key

    if key is not None and aes is not None:
        raise typer.BadParameter("--key names a key that has its size already, without --aes")
    algorithm = algorithm_of(256 if aes is None else aes)
    cluster = find_cluster(pgdata, bindir, os_user)
    with encrypted_cluster_keystore(
        cluster, keystore, source, remedy="Encrypt it first: tde pg encrypt."
    ) as opened:
        done = rotate_wal_key(
            cluster,
            opened,
            algorithm,
            key_id=key,
            wait=not no_wait,
            connection=connection_as(username),
        )
        path = opened.path
    key_file = path / "keys" / done.owner.file_name
    if as_json:
        print_json(
            {
                "key_file": str(key_file),
                "number": done.owner.oid,
                "algorithm": done.algorithm.label,
                "server": done.server,
                "first_segment": done.first_segment or None,
            }
        )
        return
    when = (
        "The next start begins with it."
        if done.server is None
        else f"The server with process id {done.server} writes WAL with it from segment "
        f"…{done.first_segment} on, behind those that it has prepared already."
    )
    console.print(
        f"WAL key {done.owner.oid}, {done.algorithm.label}: {key_file}\n{when}",
        markup=False,
        soft_wrap=True,
    )
    _say_who_needs_it(path)


def _say_who_needs_it(keystore: Path) -> None:
    error_console.print(
        "[bold yellow]Back the keystore up again[/]: WAL that is archived from now on cannot be "
        f"read without {keystore}'s new key. Standbys that read the archive need it too: "
        "tde keystore sync.",
        soft_wrap=True,
    )
