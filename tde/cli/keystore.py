"""``tde keystore``: create a keystore and look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from tde.cli import (
    keystore_auto_open,
    keystore_copies,
    keystore_destroy,
    keystore_keys,
    keystore_life,
    keystore_log,
    keystore_passphrase,
    keystore_providers,
    keystore_rotation,
    keystore_sessions,
    keystore_sync,
)
from tde.cli.keystore_keys import owner_name, print_columns
from tde.cli.options import (
    JsonOption,
    KeystoreOption,
    OsUserOption,
    PassphraseCommandOption,
    PassphraseFdOption,
    PassphraseFileOption,
    require_keystore,
)
from tde.console.apps import examples, new_app
from tde.console.output import console, error_console, print_json
from tde.errors import KeystoreError
from tde.keystore.providers.passphrase_source import PassphraseSource

if TYPE_CHECKING:
    from tde.keystore import AgeFinding, KeystoreStatus

app = new_app(
    "Create, check, back up and copy a keystore, and change its passphrase.",
    epilog=examples(
        "tde keystore create --keystore /etc/tde/main",
        "tde keystore status --keystore /etc/tde/main",
        "tde keystore backup /mnt/safe/keystore --keystore /etc/tde/main",
    ),
)


@app.command(
    epilog=examples(
        "# Asks for the passphrase twice:",
        "tde keystore create --keystore /etc/tde/main",
        "# Without a terminal:",
        "tde keystore create -k /etc/tde/main --passphrase-command 'pass show tde/main'",
        "tde keystore create -k /etc/tde/main --passphrase-fd 0 < /run/secrets/tde",
    )
)
def create(
    keystore: KeystoreOption = None,
    os_user: OsUserOption = None,
    passphrase_file: PassphraseFileOption = None,
    passphrase_fd: PassphraseFdOption = None,
    passphrase_command: PassphraseCommandOption = None,
) -> None:
    """Create a keystore, protected by a passphrase of 8 to 200 bytes.

    One keystore serves one cluster and its standbys. Keep it outside the data directory and
    back it up apart from the data. A lost passphrase is lost data: there is no other way in.
    """
    # Imported here because cryptography would slow down `tde keystore --help`.
    from tde.keystore import Keystore
    from tde.keystore.crypto.secret import wipe
    from tde.keystore.providers.passphrase_source import read_passphrase
    from tde.keystore.store.creation import check_place
    from tde.postgres.server.os_user import require_reachable, server_os_user

    source = PassphraseSource(passphrase_file, passphrase_fd, passphrase_command)
    path = require_keystore(keystore).absolute()
    server_user = server_os_user(None, name=os_user)
    require_reachable(server_user, path, "the keystore")
    owner = None if server_user is None else (server_user.uid, server_user.gid)
    # The place is checked before the operator thinks of a passphrase.
    check_place(path)
    passphrase = read_passphrase(
        source, confirm=True, prompt=f"Passphrase for the new keystore {path}: "
    )
    try:
        with Keystore.create(path, passphrase, owner=owner) as created:
            uuid = created.uuid
    finally:
        wipe(passphrase)
    console.print(f"Created keystore {uuid.hex} in {path}", markup=False, soft_wrap=True)
    error_console.print(
        "[bold yellow]A lost passphrase is lost data.[/] Nobody can read an encrypted cluster "
        "without this directory and its passphrase. Back up both, apart from each other and "
        "from the data.",
    )
    error_console.print(
        f"Next: tde pg init --pgdata DIR --keystore {path}", markup=False, soft_wrap=True
    )


@app.command(
    epilog=examples(
        "tde keystore status --keystore /etc/tde/main",
        "tde keystore status --json | jq '.keys[].algorithm'",
    )
)
def status(keystore: KeystoreOption = None, as_json: JsonOption = False) -> None:
    """Show what a keystore holds, without its passphrase.

    Looks only at the permissions and the form of the files: a bit that has changed in a key shows
    in tde keystore verify, which needs the passphrase.
    """
    from tde.keystore import age_findings, inspect_keystore, read_lives

    found = inspect_keystore(require_keystore(keystore))
    records = {key.owner: key.algorithm for key in found.keys}
    ages: list[AgeFinding] = []
    try:
        ages = age_findings(read_lives(found.path, records=records))
    except KeystoreError as error:
        # A log that cannot be read must not hide the rest.
        error_console.print(f"Ages are unknown: {error}", style="red", markup=False, soft_wrap=True)
    if as_json:
        print_json({**_document(found), "key_ages": [finding.as_json() for finding in ages]})
    else:
        _print_tables(found)
        _print_ages(ages)


def _document(status: KeystoreStatus) -> dict[str, Any]:
    return {
        "path": str(status.path),
        "uuid": status.uuid.hex,
        "created": status.created.isoformat(),
        "kdf": {
            "name": "argon2id",
            "memory_kib": status.kdf.memory_kib,
            "iterations": status.kdf.iterations,
            "lanes": status.kdf.lanes,
        },
        "master_key_id": status.master_key_id.hex,
        "auto_open": status.auto_open,
        "providers": status.providers,
        "rotation_unfinished": status.rotation_unfinished,
        "keys": [
            {
                "kind": key.owner.kind.name.lower(),
                "oid": key.owner.oid or None,
                "encrypted": key.algorithm is not None,
                "algorithm": key.algorithm.label if key.algorithm else None,
                "file": str(key.file),
            }
            for key in status.keys
        ],
    }


def _print_tables(status: KeystoreStatus) -> None:
    from tde.keystore.auto_opening import ways_to_open

    kdf = status.kdf
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("Keystore", str(status.path))
    facts.add_row("UUID", status.uuid.hex)
    facts.add_row("Created", f"{status.created:%Y-%m-%d %H:%M:%S} UTC")
    facts.add_row("Master key", status.master_key_id.hex)
    facts.add_row(
        "Passphrase",
        f"Argon2id, {kdf.memory_kib // 1024} MiB, {kdf.iterations} iterations, {kdf.lanes} lanes",
    )
    opening = "[yellow]enabled[/]: whoever can read this directory can read the data"
    bound = [way.in_words for way in ways_to_open(status.path) if way.name]
    if status.auto_open or not bound:
        facts.add_row("Auto-open", opening if status.auto_open else "disabled")
    for way in bound:
        facts.add_row("Auto-open", Text(way))
    if status.providers:
        facts.add_row("Providers", ", ".join(status.providers))
    if status.rotation_unfinished:
        facts.add_row("Rotation", "[yellow]runs, or was interrupted[/]")
    console.print(facts)
    if status.rotation_unfinished:
        error_console.print(
            f"Finish the rotation: tde keystore rotate --keystore {status.path}",
            markup=False,
            soft_wrap=True,
        )
    console.print()
    if not status.keys:
        console.print("No keys yet; `tde pg init` makes those of a cluster.")
        return
    # Names of files are copied from here, so they are never cut.
    print_columns(
        ("Key of", "Algorithm", "File"),
        [
            (
                owner_name(key.owner),
                key.algorithm.label if key.algorithm else "not encrypted",
                f"keys/{key.file.name}",
            )
            for key in status.keys
        ],
    )
    # Nobody should take this for a proof.
    error_console.print("Only the form was checked. Whether each key opens: tde keystore verify")


def _print_ages(findings: list[AgeFinding]) -> None:
    """Print keys that are too old or will be soon; keys without a limit are never among them."""
    for finding in findings:
        if finding.needs_attention:
            error_console.print(
                Text.assemble(("Age: ", "bold yellow"), finding.detail), soft_wrap=True
            )
            if finding.remedy:
                error_console.print(
                    Text.assemble(("  HINT: ", "bold cyan"), finding.remedy), soft_wrap=True
                )


keystore_keys.register(app)
keystore_life.register(app)
keystore_destroy.register(app)
keystore_passphrase.register(app)
keystore_rotation.register(app)
keystore_sessions.register(app)
keystore_copies.register(app)
keystore_sync.register(app)
keystore_log.register(app)
keystore_providers.register(app)
keystore_auto_open.register(app)
