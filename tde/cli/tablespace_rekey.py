"""``tde tablespace rekey``: another key for tablespaces of a stopped cluster."""

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
from tde.cli.pg.convert import (
    ConversionThreadsOption,
    InvalidOption,
    progress_bar,
    report,
    telling_how_to_continue,
)
from tde.console.apps import examples
from tde.console.options import AES_SIZES, algorithm_of
from tde.console.output import console
from tde.convert.access import keystore_to_decrypt
from tde.keystore.opening import open_keystore
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import find_cluster

EPILOG = examples(
    "tde pg stop -D /srv/pg/main",
    "tde tablespace rekey secret -D /srv/pg/main",
    "tde tablespace rekey --all -D /srv/pg/main --aes 256",
    "# After an interruption, whatever it was:",
    "tde tablespace rekey -D /srv/pg/main",
    "# On the other node of a pair, with a copy of the first one's key map:",
    "tde tablespace rekey --all -D /srv/pg/standby --same-keys-as /srv/copy/tde.keymap",
)


@opens_keystore
def rekey(
    pgdata: PgDataOption,
    tablespaces: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|OID]...", help="Which ones; pg_default and pg_global are possible."
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All tablespaces that are encrypted.")
    ] = False,
    aes: Annotated[
        int | None,
        typer.Option(
            "--aes",
            metavar=AES_SIZES,
            help="Size of the new AES keys in bits.",
            show_default="as before",
        ),
    ] = None,
    same_keys_as: Annotated[
        Path | None,
        typer.Option(
            "--same-keys-as",
            metavar="MAP",
            readable=False,
            help="Take the keys of another node: its tde.keymap, a copy of it, or its data "
            "directory.",
        ),
    ] = None,
    keystore: KeystoreOption = None,
    jobs: ConversionThreadsOption = None,
    allow_invalid_pages: InvalidOption = False,
    as_json: JsonOption = False,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Encrypt tablespaces of a stopped cluster anew, with new keys.

    It may be interrupted at any moment, also by a power failure: run it again to continue. Until
    it has finished no server starts on the cluster. The old keys stay in the keystore, because
    backups from before need them. WAL keeps its key.
    """
    from tde.convert.runner import DEFAULT_JOBS
    from tde.postgres import rekey_tablespaces

    if every and tablespaces:
        raise typer.BadParameter("--all rekeys every tablespace, so none can be named")
    if aes is not None and same_keys_as is not None:
        raise typer.BadParameter("--same-keys-as takes keys as they are, without --aes")
    algorithm = None if aes is None else algorithm_of(aes)
    cluster = find_cluster(pgdata, bindir, os_user)
    path = keystore_to_decrypt(cluster, keystore)
    with (
        telling_how_to_continue("rekey", cluster.data_directory, path),
        open_keystore(path, source) as opened,
        progress_bar("Rekeying") as progress,
    ):
        summary = rekey_tablespaces(
            cluster,
            opened,
            tablespaces or None,
            every=every,
            algorithm=algorithm,
            same_keys_as=same_keys_as,
            jobs=jobs or DEFAULT_JOBS,
            allow_invalid_pages=allow_invalid_pages,
            progress=progress,
        )
    report(summary, as_json)
    if not as_json:
        _say_what_follows(cluster.data_directory, path, same_keys=same_keys_as is not None)


def _say_what_follows(data_directory: Path, keystore: Path, *, same_keys: bool) -> None:
    back_up = "" if same_keys else f"Back the keystore {keystore} up: it has new keys. "
    others = (
        "The rekeyed tablespaces have the keys of the other node."
        if same_keys
        else "Until the other nodes of a replication have the same keys (--same-keys-as), "
        "pg_rewind between them is refused."
    )
    console.print(
        f"Start it: tde pg start -D {data_directory}\n"
        f"{back_up}Take a new base backup, a full one: those from before need the old keys, and "
        "incremental backups do not go together with new ones.\n"
        f"{others}",
        markup=False,
        soft_wrap=True,
    )


def register(app: typer.Typer) -> None:
    """Add the command to those of ``tde tablespace``."""
    app.command("rekey", epilog=EPILOG)(rekey)
