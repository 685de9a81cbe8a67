"""What to do about a file of a keystore that is missing or cannot be used.

Key files are brought by `tde keystore copy` and not by cp: a backup from before a rotation, or the
keystore of another machine, has the same keys under another master key.
"""

from __future__ import annotations

import shlex
from pathlib import Path


def bring_key(keystore: Path) -> str:
    """Return how a keystore gets a key file that it lacks."""
    return (
        "Bring it from a backup of the keystore, or on a standby from a copy of the primary's: "
        f"{copy_command(keystore)}"
    )


def replace_key(file: Path | str) -> str:
    """Return how a key file that cannot be used is replaced."""
    return (
        "Move this file out of keys/, then bring it from a backup of the keystore: "
        f"{copy_command(Path(file).parent.parent)}"
    )


def destroy_again(keystore: Path, key: str) -> str:
    """Return what to do about a destroyed key whose file is there again."""
    return (
        "If nothing needs it, destroy it again: "
        f"tde keystore destroy {key} --keystore {shlex.quote(str(keystore))}"
    )


def restore_document(keystore: Path) -> str:
    """Return how keystore.json comes back; the key files stay, because they may be newer."""
    return (
        "Restore keystore.json from a backup of the keystore: tde keystore restore BACKUP "
        f"--keystore {shlex.quote(str(keystore))}"
    )


def find_keystore(keystore: Path) -> str:
    """Return what to do where a cluster has a keystore that is not there; a new one is no help."""
    return (
        "Mount its file system, or name its place with --keystore. If it is lost: tde keystore "
        f"restore BACKUP --keystore {shlex.quote(str(keystore))}"
    )


def copy_command(keystore: Path) -> str:
    """Return the command that brings keys from a backup."""
    return f"tde keystore copy BACKUP {shlex.quote(str(keystore))}"
