"""``tde tablespace lock`` and ``unlock``: whether sessions may use a tablespace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tde.cli.options import (
    BindirOption,
    KeystoreOption,
    OsUserOption,
    PgDataOption,
    UsernameOption,
    opens_keystore,
)
from tde.console.apps import examples
from tde.console.output import console, error_console
from tde.errors import TablespaceError
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.postgres.cluster.access import encrypted_cluster_keystore, find_cluster

LOCK_EPILOG = examples("tde tablespace lock secret -D /srv/pg/main")
UNLOCK_EPILOG = examples("tde tablespace unlock secret -D /srv/pg/main")

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME|OID", help="Name of the tablespace, or its OID.")
]


@opens_keystore
def lock(
    name: NameArgument,
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    source: PassphraseSource = PROMPT,
    username: UsernameOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Let no session of the running server use a tablespace.

    Their queries fail, and everything else goes on; recovery and checkpoints keep the key. It stays
    so until the tablespace is unlocked or the server is started again.
    """
    _tell(name, pgdata, keystore, source, username, bindir, os_user, give=False)
    console.print(f"Tablespace {name} is locked", markup=False)
    error_console.print(
        "Statements that a session has prepared before go on as long as they find all their pages "
        "in memory. To end that, end the sessions: pg_terminate_backend.",
        soft_wrap=True,
    )


@opens_keystore
def unlock(
    name: NameArgument,
    pgdata: PgDataOption,
    keystore: KeystoreOption = None,
    source: PassphraseSource = PROMPT,
    username: UsernameOption = None,
    bindir: BindirOption = None,
    os_user: OsUserOption = None,
) -> None:
    """Let the sessions of the running server use a tablespace again."""
    _tell(name, pgdata, keystore, source, username, bindir, os_user, give=True)
    console.print(f"Tablespace {name} is unlocked", markup=False)


def _tell(
    name: str,
    pgdata: Path,
    keystore: Path | None,
    source: PassphraseSource,
    username: str | None,
    bindir: Path | None,
    os_user: str | None,
    *,
    give: bool,
) -> None:
    from tde.postgres import list_tablespaces
    from tde.postgres.cluster.withholding import lock_tablespace, unlock_tablespace
    from tde.postgres.facts import BUILT_IN_TABLESPACES
    from tde.postgres.tablespace.tablespaces import databases_in

    cluster = find_cluster(pgdata, bindir, os_user)
    connection: dict[str, object] = {} if username is None else {"user": username}
    # By its OID no session is needed, in a database that may itself be locked.
    if name.isascii() and name.isdecimal() and give:
        oid = int(name)
    else:
        tablespaces = list_tablespaces(cluster, keystore, connection=connection)
        oids = [one.oid for one in tablespaces if name in (one.name, str(one.oid))]
        if not oids:
            raise TablespaceError(
                f"there is no tablespace {name}", remedy=f"See tde tablespace list -D {pgdata}."
            )
        oid = oids[0]
    built_in = oid in BUILT_IN_TABLESPACES  # Which is refused below.
    databases = [] if give or built_in else databases_in(cluster, oid, connection=connection)
    if databases:
        raise TablespaceError(
            f"tablespace {name} cannot be locked: it has the catalogs of database {databases[0]}, "
            "which every session there needs",
            remedy="Keep that database's catalogs elsewhere: ALTER DATABASE ... SET TABLESPACE.",
        )
    with encrypted_cluster_keystore(
        cluster, keystore, source, remedy="Nothing of it is encrypted.", for_server=not give
    ) as opened:
        (unlock_tablespace if give else lock_tablespace)(cluster, opened, oid)


def register(app: typer.Typer) -> None:
    """Add the commands to those of ``tde tablespace``."""
    app.command("lock", epilog=LOCK_EPILOG)(lock)
    app.command("unlock", epilog=UNLOCK_EPILOG)(unlock)
