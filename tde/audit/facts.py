"""The few plain files of a stored backup that say what the others are, copied where they are files.

They are plain by design, so a copy discloses nothing; it is removed when the audit ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tde.audit.backrest import Manifest, usable_list
from tde.audit.tar import TarArchive, open_tar
from tde.audit.unpacking import DamagedContent, Readable, unpacked
from tde.errors import DataDirectoryError
from tde.postgres.cluster.keymap import KEYMAP_FILE
from tde.postgres.cluster.marker import MARKER_FILE

_FACTS = (
    "PG_VERSION",
    "global/pg_control",
    "backup_label",
    "tablespace_map",
    KEYMAP_FILE,
    MARKER_FILE,
)
_REQUIRED = _FACTS[:2]
_LARGEST = 1 << 20  # Bytes: all of them are far smaller.

_Store = Callable[[str, Readable], None]


def facts_of_tars(tars: Iterable[TarArchive], root: Path, stack: ExitStack) -> Path:
    """Return a directory with the facts of a backup in tar archives.

    Raises:
        DataDirectoryError: they are not in it.
        OSError: it cannot be read.
    """

    def copy(store: _Store) -> None:
        for tar in tars:
            if not tar.prefix:
                with open_tar(tar) as members:
                    for member, content in members:
                        if member.name in _FACTS:
                            store(member.name, content)

    oids = [int(tar.prefix.split("/")[1]) for tar in tars if tar.prefix.startswith("pg_tblspc/")]
    return _facts(root, stack, copy, oids)


def facts_of_manifest(manifest: Manifest, stack: ExitStack) -> Path:
    """Return a directory with the facts of a backup of pgBackRest.

    Raises:
        DataDirectoryError: they are not in it.
        OSError: it cannot be read.
    """

    def copy(store: _Store) -> None:
        for name in _FACTS:
            if f"pg_data/{name}" in manifest.files:
                label, relative, content = manifest.stored(f"pg_data/{name}")
                path = manifest.directory.parent / label / relative
                with unpacked(path, content.compression, content.part) as stream:
                    store(name, stream)

    with usable_list(manifest.directory / "backup.manifest"):
        targets = manifest.sections.get("backup:target", {})
        oids = [int(name.split("/")[1]) for name in targets if name.startswith("pg_tblspc/")]
    return _facts(manifest.directory, stack, copy, oids)


def _facts(
    root: Path, stack: ExitStack, copy: Callable[[_Store], None], oids: Iterable[int]
) -> Path:
    directory = Path(stack.enter_context(TemporaryDirectory(prefix="tde-audit-")))

    def store(name: str, stream: Readable) -> None:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"".join(_pieces(stream)))

    problem = ""
    try:
        copy(store)
    except (DamagedContent, FileNotFoundError) as error:
        problem = f": {error}"
    if problem or not all((directory / name).exists() for name in _REQUIRED):
        raise DataDirectoryError(
            f"{root} is no whole base backup, so nothing in it was judged{problem}",
            remedy="Name another one, or restore it with its own tool and name what that has made.",
        )
    for oid in oids:
        (directory / "pg_tblspc" / str(oid)).mkdir(parents=True)
    (directory / "pg_tblspc").mkdir(exist_ok=True)
    return directory


def _pieces(stream: Readable) -> Iterator[bytes]:
    left = _LARGEST
    while left and (piece := stream.read(left)):
        left -= len(piece)
        yield piece
