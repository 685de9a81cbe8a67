"""Making the directories of a keystore, where that can be done."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection
from pathlib import Path

from tde.errors import (
    KeystoreError,
    KeystoreExistsError,
    KeystoreMissingError,
    KeystorePermissionError,
    UnsafeDirectoryError,
)
from tde.keystore.store.contents import is_remains
from tde.keystore.store.files import (
    LOCK_NAME,
    check_private_directory,
    make_private_directory,
    refuse_link,
)
from tde.keystore.store.layout import (
    INDEX_NAME,
    LOG_NAME,
    document_path,
    keys_path,
    unlock_path,
)
from tde.keystore.store.reading import no_document
from tde.ownership import Owner, adopt_directory


def check_place(directory: Path) -> None:
    """Check that a keystore can be created in ``directory``, and change nothing.

    Raises:
        KeystoreError: one of its subclasses, for whatever is wrong with the place.
    """
    if is_existing_place(directory):
        refuse_foreign_content(directory)


def is_existing_place(directory: Path) -> bool:
    """Tell whether a directory for a keystore exists, which is private then, or can be made.

    Raises:
        KeystoreError: one of its subclasses, for whatever is wrong with the place.
    """
    _refuse_data_directory(directory)
    try:
        check_private_directory(directory)
    except NotADirectoryError as error:
        raise KeystoreExistsError(
            f"{directory} is not a directory, or only a link to one",
            remedy="Choose another place for the keystore, or name the directory itself.",
        ) from error
    except FileNotFoundError:
        if not directory.parent.is_dir():
            raise KeystoreMissingError(
                f"the directory {directory.parent} does not exist",
                remedy=_remedy_of_missing_parent(directory),
            ) from None
        return False
    return True


def _remedy_of_missing_parent(directory: Path) -> str:
    if any(part.endswith(":") for part in directory.parts):
        return "A keystore is a directory; addresses such as vault:// are not known here."
    if any(part.startswith("~") for part in directory.parts):
        return "Write out the home directory: the shell has left ~ as it is."
    return f"mkdir -p {shlex.quote(str(directory.parent))}"


def _refuse_data_directory(directory: Path) -> None:
    # Inside the data directory the keys would travel with every base backup of the data.
    for parent in (directory, *directory.parents):
        if (parent / "PG_VERSION").exists():
            raise KeystoreError(
                f"{directory} is inside the PostgreSQL data directory {parent}",
                remedy="Choose a place outside it, so that backups of the data hold no keys.",
            )


def refuse_foreign_content(directory: Path) -> None:
    """Refuse a directory with anything but the remains of an interrupted creation.

    Raises:
        KeystoreExistsError: there is a keystore, or something that is not ours.
        KeystoreDamagedError: there are keys, but the file that opens them is gone.
    """
    document = document_path(directory)
    if document.exists():
        raise KeystoreExistsError(
            f"there is already a keystore at {directory}",
            remedy="Use it, or choose another directory. A keystore that has ever been used "
            "must be kept: without it the data cannot be read.",
        )
    keys = keys_path(directory)
    refuse_link(keys)
    if keys.is_dir() and any(keys.iterdir()):
        raise no_document(directory)
    check_unused_names(directory, ())


def check_unused_names(directory: Path, expected: Collection[str]) -> None:
    """Refuse a directory with anything but the remains of a write, and what is expected there.

    Raises:
        KeystoreExistsError: there is something that is not ours.
    """
    ours = {LOCK_NAME, LOG_NAME, INDEX_NAME, keys_path(directory).name, *expected}
    names = {entry.name for entry in directory.iterdir()} - ours
    foreign = {name for name in names if not is_remains(name)}
    if foreign:
        file = directory / min(foreign)
        raise KeystoreExistsError(
            f"{directory} is not empty: it contains {file.name}",
            remedy=f"Move {file} away, and repeat the command: the keys may be newer than others."
            if keys_path(directory).is_dir()
            else "Choose a directory that is empty or does not exist yet.",
        )


def prepare_directory(directory: Path, owner: tuple[int, int] | None) -> None:
    """Make the keystore's directory, or take an existing one; the caller has checked the place.

    Raises:
        KeystoreError: it cannot be made, or given to its owner.
    """
    wanted = owner or (os.geteuid(), os.getegid())
    try:
        make_private_directory(directory, wanted)
    except UnsafeDirectoryError as error:
        raise KeystorePermissionError(str(error), remedy=error.remedy) from error
    except FileExistsError:
        _adopt(directory, owner)
    except PermissionError as error:
        raise KeystorePermissionError(
            f"could not create {directory} for user {wanted[0]}: {error.strerror}",
            remedy="Run this as root, or choose a place where you may write.",
        ) from None
    except OSError as error:
        raise KeystoreError(f"could not create {directory}: {error.strerror}") from error


def _adopt(directory: Path, owner: tuple[int, int] | None) -> None:
    try:
        adopt_directory(directory, None if owner is None else Owner(*owner))
    except UnsafeDirectoryError as error:
        raise KeystorePermissionError(str(error), remedy=error.remedy) from error


def prepare_keys_directory(directory: Path) -> None:
    """Make the directory for key records; the caller holds the lock.

    Raises:
        KeystoreError: it cannot be made.
    """
    _prepare_inner_directory(keys_path(directory))


def prepare_unlock_directory(directory: Path) -> None:
    """Make the directory for envelopes; the caller holds the lock.

    Raises:
        KeystoreError: it cannot be made.
    """
    _prepare_inner_directory(unlock_path(directory))


def _prepare_inner_directory(path: Path) -> None:
    status = path.parent.stat()
    owner = (status.st_uid, status.st_gid)
    try:
        make_private_directory(path, owner)
    except FileExistsError:
        # From a command that was interrupted; a link to another user's directory is not.
        refuse_link(path)
        _adopt(path, owner)
    except UnsafeDirectoryError as error:
        raise KeystorePermissionError(str(error), remedy=error.remedy) from error
    except OSError as error:
        raise KeystoreError(f"could not create {path}: {error.strerror}") from error
