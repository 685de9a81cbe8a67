"""The control file of a cluster, as pg_controldata prints it, and PG_VERSION.

``pg_control`` stays in plain text by design, so this works without the keystore.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tde.errors import NoDataDirectoryError, ProgramError
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.os_user import OsUser, run_as


@dataclass(frozen=True)
class ControlData:
    """The fields of pg_control that tde looks at.

    Attributes:
        state: as pg_controldata prints it, for example ``shut down``.
        system_identifier: the number that a primary and its standbys share.
        data_checksums: whether pages carry checksums.
        page_bytes: size of a page in bytes.
        segment_pages: pages per segment file of a relation.
        catalog_version: number of the system catalogs' layout; it is in the names of the
            directories that tablespaces have.
        redo_segment: name of the WAL segment where the next start begins to read.
        wal_segment_bytes: size of a WAL segment.
    """

    state: str
    system_identifier: int
    data_checksums: bool
    page_bytes: int
    segment_pages: int
    catalog_version: int
    redo_segment: str
    wal_segment_bytes: int


def read_control_data(
    data_directory: Path, binaries: PostgresBinaries, os_user: OsUser | None
) -> ControlData:
    """Run pg_controldata on a data directory.

    Raises:
        ProgramError: pg_controldata failed, for example on a damaged pg_control.
    """
    result = run_as(
        os_user,
        [binaries.program("pg_controldata"), "-D", data_directory],
        # The labels below are translated otherwise.
        environment={**os.environ, "LC_ALL": "C"},
    )
    if result.returncode != 0:
        raise ProgramError(f"pg_controldata failed on {data_directory}: {result.stderr.strip()}")
    lines = (line.partition(":") for line in result.stdout.splitlines())
    fields = {label.strip(): value.strip() for label, _, value in lines}
    try:
        return ControlData(
            state=fields["Database cluster state"],
            system_identifier=int(fields["Database system identifier"]),
            data_checksums=fields["Data page checksum version"] != "0",
            page_bytes=int(fields["Database block size"]),
            segment_pages=int(fields["Blocks per segment of large relation"]),
            catalog_version=int(fields["Catalog version number"]),
            redo_segment=fields["Latest checkpoint's REDO WAL file"],
            wal_segment_bytes=int(fields["Bytes per WAL segment"]),
        )
    except (KeyError, ValueError) as error:
        raise ProgramError(
            f"pg_controldata printed something unexpected for {data_directory}: {error}"
        ) from error


def read_major_version(data_directory: Path) -> int:
    """Return the major version in PG_VERSION, for example 15.

    Raises:
        NoDataDirectoryError: the directory or the file is missing or unusable.
    """
    try:
        return int((data_directory / "PG_VERSION").read_text(encoding="ascii").strip())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise NoDataDirectoryError(
            f"{data_directory} is not a PostgreSQL data directory",
            remedy="Create one with tde pg init, or name another one with -D.",
        ) from None
    except PermissionError:
        raise NoDataDirectoryError(
            f"the data directory {data_directory} may not be read by the current user",
            remedy="Run tde as the owner of the data directory, or as root.",
        ) from None
