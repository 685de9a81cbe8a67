"""Looking for the canary row in the files of a server, and saying what was found."""

from __future__ import annotations

from contextlib import closing

from tde_bench.errors import CanaryError
from tde_bench.measure.observer import Observer
from tde_bench.servers import canary
from tde_bench.servers.canary import CanaryReport, stored_bytes
from tde_bench.servers.server import Server


def look_for_canary(server: Server, observer: Observer) -> CanaryReport | None:
    """Look for the canary row on a server's disk, and tell what is done and what was found.

    Raises:
        CanaryError: when an ephemeral cluster is not what it should be.
    """
    label = server.configuration.label
    # A note, unlike a step, is also shown where the output goes to a file.
    if server.configuration.dsn is not None:
        observer.note(f"{label}: {describe_search(server)}")
    observer.step(f"{label}: looking for a canary row on disk")
    report = check_canary(server)
    observer.note(f"{label}: {describe_canary(report)}")
    return report


def check_canary(server: Server) -> CanaryReport | None:
    """Prove that a server's storage is what its configuration says.

    Of an existing server nothing is promised, so the report is only informative; it is None
    when the server's files cannot be searched from here.

    Raises:
        CanaryError: when an ephemeral cluster is not what it should be.
    """
    if server.data_directory is None or not server.can_checkpoint:
        return None
    configuration = server.configuration
    with closing(server.connect()) as connection:
        try:
            report = canary.plant_and_search(connection, server.data_directory)
        except (CanaryError, OSError) as error:
            # Others write to a server that runs for them: files may vanish during the search.
            if configuration.dsn is None:
                raise
            return CanaryReport.without_search(str(error))
    if configuration.dsn is None:
        canary.require(
            report, encrypted=configuration.algorithm is not None, label=configuration.label
        )
    return report


def describe_search(server: Server) -> str:
    """Say what looking for the canary row means; call it before.

    All files of the user's own server are read, which takes long and can disturb others.
    """
    text = "looking for a canary row on disk"
    if server.configuration.dsn is None or server.data_directory is None:
        return text
    return f"{text}, in {stored_bytes(server.data_directory) / 1e9:.1f} GB of files"


def describe_canary(report: CanaryReport | None) -> str:
    """Say in one sentence what the search for the canary row found."""
    if report is None:
        return "canary not checked: the server's files cannot be searched from here"
    if report.not_checked is not None:
        return f"canary not checked: {report.not_checked}"
    if report.found:
        return f"the canary row is in plaintext on disk ({', '.join(report.found)})"
    return (
        f"no plaintext of the canary row in {report.files_searched} files "
        f"({report.bytes_searched / 1e6:.0f} MB)"
    )
