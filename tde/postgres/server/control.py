"""What pg_controldata and ``postgres -C`` say about a cluster and a server build.

``pg_control`` stays in plain text by design, so this works without the keystore.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tde.errors import NoDataDirectoryError, ProgramError, UnsupportedServerError
from tde.postgres.cluster.guard import require_interposed
from tde.postgres.server.binaries import PostgresBinaries
from tde.postgres.server.os_user import OsUser, run_as
from tde.postgres.server.reachable import find_interposer

PAGE_BYTES = 8192
SEGMENT_PAGES = 131072  # 1 GiB of 8 KiB pages: what every packaged PostgreSQL uses.
#: XLOG_PAGE_MAGIC of each major version.
WAL_PAGE_MAGIC = {15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118}


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
        ConversionError: tde pg encrypt or decrypt was interrupted and is unfinished.
    """
    result = run_as(
        os_user,
        [binaries.program("pg_controldata"), "-D", data_directory],
        # The labels below are translated otherwise.
        environment={**os.environ, "LC_ALL": "C"},
    )
    if result.returncode != 0:
        # A conversion that is unfinished has given pg_control another name.
        from tde.convert.state import require_not_converting

        require_not_converting(data_directory)
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


def build_setting(name: str, binaries: PostgresBinaries, os_user: OsUser | None) -> str:
    """Return a setting that was fixed or defaulted when the server was built.

    Raises:
        ProgramError: the server does not know it.
    """
    # An empty configuration file and any existing directory: no cluster is needed.
    arguments = ["-D", "/", "-c", "config_file=/dev/null", "-C", name]
    result = run_as(os_user, [binaries.program("postgres"), *arguments])
    if result.returncode != 0:
        raise ProgramError(f"postgres -C {name} failed: {result.stderr.strip()}")
    return result.stdout.strip()


def cluster_setting(
    name: str,
    data_directory: Path,
    server_arguments: Sequence[str],
    binaries: PostgresBinaries,
    os_user: OsUser | None,
    *,
    environment: dict[str, str],
    pass_fds: Sequence[int],
) -> str:
    """Return the value that the server would use for ``name`` if it started now.

    Args:
        server_arguments: what will be on the command line of the server.
        environment: with the interposer in it for an encrypted cluster, which can't read its
            own configuration without (see :mod:`tde.postgres.cluster.guard`).
        pass_fds: the descriptors that ``environment`` refers to.

    Raises:
        ProgramError: the configuration has an error; the message is the server's.
        InterposerError: the interposer was not loaded or could not use the keys.
    """
    result = run_as(
        os_user,
        [binaries.program("postgres"), "-D", data_directory, *server_arguments, "-C", name],
        environment=environment,
        pass_fds=pass_fds,
    )
    if result.returncode != 0:
        require_interposed(result.stderr)
        raise ProgramError(
            f"the server's configuration cannot be used: {result.stderr.strip()}",
            remedy=f"Correct the configuration files in {data_directory}.",
        )
    return result.stdout.strip()


def require_supported_build(binaries: PostgresBinaries, os_user: OsUser | None) -> None:
    """Refuse a server that encryption is not written for.

    Raises:
        UnsupportedServerError: it has other page or segment sizes, with the sizes found, or does
            file I/O that the interposer would not see.
        InterposerError: the interposer was not built.
    """
    # Not at the top: reading ELF files takes a library that most commands never need.
    from tde.postgres.server.symbols import require_interposable

    require_interposable(binaries.program("postgres"), find_interposer())
    require_supported_pages(binaries, os_user)


def require_supported_pages(binaries: PostgresBinaries, os_user: OsUser | None) -> None:
    """Refuse a server whose files have another geometry than the format.

    Raises:
        UnsupportedServerError: it has other page or segment sizes, with the sizes found.
    """
    page_bytes = int(build_setting("block_size", binaries, os_user))
    # postgres -C prints this setting in pages, without a unit, in all of 15 to 18.
    segment_pages = int(build_setting("segment_size", binaries, os_user))
    if (page_bytes, segment_pages) != (PAGE_BYTES, SEGMENT_PAGES):
        raise UnsupportedServerError(
            f"the server in {binaries.bindir} was built with pages of {page_bytes} bytes and "
            f"segments of {segment_pages} pages",
            remedy=f"Use a build with the defaults: {PAGE_BYTES} bytes, {SEGMENT_PAGES} pages.",
        )
