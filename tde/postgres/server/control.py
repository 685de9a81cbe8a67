"""The control file of a cluster, as pg_controldata prints it, and PG_VERSION.

``pg_control`` stays in plain text by design, so this works without the keystore. That an encrypted
cluster was shut down is hidden from PostgreSQL's own programs, which would take it for one that
they may work on; pg_controldata is therefore run under the interposer, which shows the true state.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tde.errors import InterposerError, NoDataDirectoryError, ProgramError, UnreachablePathError
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.os_user import OsUser, run_as
from tde.postgres.server.reachable import reachable_interposer


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
        checkpoint: where the last checkpoint's record begins in the WAL.
    """

    state: str
    system_identifier: int
    data_checksums: bool
    page_bytes: int
    segment_pages: int
    catalog_version: int
    redo_segment: str
    wal_segment_bytes: int
    checkpoint: int


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
        environment={
            **os.environ,
            "LC_ALL": "C",  # The labels below are translated otherwise.
            # A cluster that was shut down would look as if its server had been killed where the
            # configuration of OpenSSL leaves out SHA-256, which here only tells accidents.
            "OPENSSL_CONF": os.devnull,
            **state_environment(os_user),
        },
    )
    if result.returncode != 0:
        raise ProgramError(f"pg_controldata failed on {data_directory}: {result.stderr.strip()}")
    lines = (line.partition(":") for line in result.stdout.splitlines())
    fields = {label.strip(): value.strip() for label, _, value in lines}
    try:
        return ControlData(
            state=fields["Database cluster state"],
            system_identifier=int(fields["Database system identifier"]),
            # Betas of 19 have other numbers for pages that are about to get or lose them.
            data_checksums=fields["Data page checksum version"] == "1",
            page_bytes=int(fields["Database block size"]),
            segment_pages=int(fields["Blocks per segment of large relation"]),
            catalog_version=int(fields["Catalog version number"]),
            redo_segment=fields["Latest checkpoint's REDO WAL file"],
            wal_segment_bytes=int(fields["Bytes per WAL segment"]),
            checkpoint=_position(fields["Latest checkpoint location"]),
        )
    except (KeyError, ValueError) as error:
        raise ProgramError(
            f"pg_controldata printed something unexpected for {data_directory}: {error}"
        ) from error


def _position(text: str) -> int:
    """Return a WAL position that is printed as two hexadecimal numbers."""
    log, _, offset = text.partition("/")
    return int(log, 16) << 32 | int(offset, 16)


def state_environment(os_user: OsUser | None) -> dict[str, str]:
    """Return the variables under which pg_controldata shows the true state; no keys are needed.

    Without the interposer there are none, and a cluster that was shut down looks as if it were
    not, which every caller refuses to work on.
    """
    try:
        preload = [str(reachable_interposer(os_user))]
    except (InterposerError, UnreachablePathError):
        return {}
    if os.environ.get("LD_PRELOAD"):
        preload.append(os.environ["LD_PRELOAD"])
    return {"LD_PRELOAD": ":".join(preload)}


def read_major_version(data_directory: Path) -> int:
    """Return the major version in PG_VERSION, for example 15.

    Raises:
        NoDataDirectoryError: the directory or the file is missing or unusable.
    """
    try:
        return int(read_cluster_file(data_directory, "PG_VERSION").decode("ascii").strip())
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
