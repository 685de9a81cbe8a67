"""Whether a node can take over, and start again afterwards: what a promotion must not find missing.

A standby that runs has its keys in memory, so it is promoted although its keystore no longer opens
by itself, and stays down at its next start. So the question here is not whether the server runs,
but whether one could be started now.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import ClusterKeystoreError, KeystoreClosedError, KeystoreError, TdeError
from tde.keystore import keystore_uuid
from tde.machine.verdict import Outcome, Verdict, ok, outcomes_of, problem, unknown, warning
from tde.postgres.cluster.keymap import KEYMAP_FILE
from tde.postgres.cluster.keys import require_cluster_keys
from tde.postgres.cluster.keystore_place import require_keystore_access
from tde.postgres.cluster.links import tablespace_oids
from tde.postgres.cluster.marker import MARKER_FILE, Marker
from tde.postgres.cluster.unfinished_conversion import require_not_converting
from tde.postgres.server.build import require_supported_pages
from tde.postgres.server.control import read_control_data, read_major_version
from tde.postgres.server.interposer import find_interposer, is_interposed
from tde.postgres.server.pidfile import read_postmaster_file
from tde.postgres.server.symbols import require_interposable

if TYPE_CHECKING:
    from tde.keystore import Keystore
    from tde.postgres.cluster.cluster import Cluster

READY, ONLY_NOW, NOT = 100, 50, 0
"""Scores: may be promoted; serves as the primary, and would not start again; must not."""

# The words of the reference product, which its users know and search for.
CLOSED = str(KeystoreClosedError())
_PRIMARY = "in production"
_AGAIN = "Run the command again as root."
_BRING = "Bring them from the other node: tde keystore sync, run there"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: its stable name, for programs.
    """

    check: str
    title: str
    verdict: Verdict
    detail: str
    remedy: str


@dataclass(frozen=True)
class Readiness:
    """What was found on this node.

    Attributes:
        digest: of the names of the keys in the keystore, the same on nodes that have the same;
            empty when there is none.
        is_primary: whether its server is one now.
    """

    findings: tuple[Finding, ...]
    digest: str
    is_primary: bool

    @property
    def is_ready(self) -> bool:
        """Whether a server can be started here, and so be promoted."""
        return all(one.verdict in (Verdict.OK, Verdict.WARNING) for one in self.findings)

    @property
    def score(self) -> int:
        """What a cluster manager compares; a primary that serves is never taken down for this."""
        if self.is_ready:
            return READY
        return ONLY_NOW if self.is_primary and self._serves else NOT

    @property
    def _serves(self) -> bool:
        return all(one.verdict is Verdict.OK for one in self.findings if one.check == "server")


@dataclass(frozen=True)
class _Node:
    """What the checks are given.

    Attributes:
        keystore: None for a plain cluster.
        opened: the same, open; None when it does not open by itself.
        failed: what has kept a way from opening it, and what to do.
        pid: of the postmaster; None when none runs.
        others: digests of other nodes.
    """

    cluster: Cluster
    keystore: Path | None
    opened: Keystore | None
    failed: tuple[tuple[str, str], ...]
    marker: Marker | None
    digest: str
    pid: int | None
    others: tuple[str, ...]


def check_node(
    cluster: Cluster, keystore: Path | None = None, others: tuple[str, ...] = ()
) -> Readiness:
    """Find out whether a node could take over.

    Nobody is asked for a passphrase, and nothing is changed.

    Args:
        keystore: by default that of the running server, or the one that the cluster remembers.
        others: digests of other nodes, to be compared.

    Raises:
        NoDataDirectoryError: there is no cluster.
    """
    read_major_version(cluster.data_directory)
    found = read_postmaster_file(cluster.data_directory)
    pid = None if found is None else found.pid
    marker = cluster.marker
    path = keystore or (None if marker is None else marker.keystore)
    failed: list[tuple[str, str]] = []
    with ExitStack() as stack:
        opened = _open(path, failed)
        if opened is not None:
            stack.enter_context(opened)
        node = _Node(cluster, path, opened, tuple(failed), marker, _digest_of(path), pid, others)
        findings = [
            Finding(name, title, one.verdict, one.detail, one.remedy)
            for name, title, check in _CHECKS
            for one in outcomes_of(partial(check, node), _AGAIN)
        ]
        return Readiness(tuple(findings), node.digest, _is_primary(node))


def _open(path: Path | None, failed: list[tuple[str, str]]) -> Keystore | None:
    from tde.keystore.auto_opening import open_unseen

    try:
        return None if path is None else open_unseen(path, failed)
    except (KeystoreError, OSError) as error:
        failed.append((str(error), getattr(error, "remedy", "")))
        return None


def _check_server(node: _Node) -> Iterator[Outcome]:
    if node.pid is None:
        yield ok("none runs")
    elif node.marker is None:
        yield ok(f"process {node.pid}, of a cluster without encryption")
    elif is_interposed(node.pid):
        yield ok(f"process {node.pid} encrypts")
    else:
        yield problem(
            f"process {node.pid} runs WITHOUT the interposer: it does not encrypt",
            "Stop it at once, and have the cluster manager start it from the directory of tde pg "
            "install-bin.",
        )


def _check_opening(node: _Node) -> Iterator[Outcome]:
    if node.keystore is None:
        yield ok("a cluster without encryption needs none")
        return
    require_keystore_access(node.keystore, node.cluster.os_user)
    if node.opened is not None:
        yield ok(f"{node.keystore} opens by itself")
    for why, remedy in node.failed:
        if node.opened is None:
            yield problem(f"{CLOSED}: {node.keystore}: {why}", _open_it(remedy))
        else:
            yield warning(f"{node.keystore}: {why}", remedy)
    if node.opened is None and not node.failed:
        yield problem(
            f"{CLOSED}: {node.keystore} does not open by itself, and nobody types a passphrase at "
            "a failover",
            _open_it(f"tde keystore auto-open enable --keystore {node.keystore}"),
        )


def _open_it(how: str) -> str:
    return f"{KeystoreClosedError().remedy}: {how}"


def _check_keys(node: _Node) -> Iterator[Outcome]:
    """Look at what the start looks at: a record that is there may be damaged, or of another key."""
    directory = node.cluster.data_directory
    require_not_converting(directory)
    marker = node.marker
    if marker is None:
        yield _of_plain_cluster(node)
        return
    assert node.keystore is not None  # The marker names one.
    found = keystore_uuid(node.keystore)
    if found != marker.keystore_uuid:
        yield problem(
            f"{node.keystore} is the keystore {found.hex}, and the cluster is encrypted with "
            f"{marker.keystore_uuid.hex}",
            "Bring a copy of that keystore here.",
        )
        return
    if node.opened is None:
        yield unknown("the keystore is not open", "See the line Keystore.")
        return
    try:
        require_cluster_keys(node.opened, directory)
    except (KeystoreError, ClusterKeystoreError) as error:
        yield problem(str(error), f"{_BRING}. {error.remedy}")
    else:
        yield ok(f"all keys of the cluster are in {node.keystore}")


def _of_plain_cluster(node: _Node) -> Outcome:
    """Tell a cluster without encryption from one that has lost its marker."""
    directory = node.cluster.data_directory
    encrypts = node.pid is not None and is_interposed(node.pid)
    if encrypts or node.keystore is not None or (directory / KEYMAP_FILE).exists():
        return problem(
            f"{directory} has no {MARKER_FILE}, so it would be started without its keys",
            f"Restore {MARKER_FILE} from a base backup, or make the standby again.",
        )
    return ok("a cluster without encryption has none")


def _check_others(node: _Node) -> Iterator[Outcome]:
    if not node.others:
        yield ok("no other node was compared")
    elif all(other == node.digest for other in node.others):
        yield ok("the keystores of all nodes have the same keys")
    else:
        yield warning("the keystores of the nodes do not have the same keys", _BRING)


def _check_tablespaces(node: _Node) -> Iterator[Outcome]:
    """Look behind the links: an empty mount point is a directory, too."""
    directory = node.cluster.data_directory
    oids = tablespace_oids(directory)
    wal = directory / "pg_wal"
    inside = f"PG_{read_major_version(directory)}_*"
    found = [(f"pg_wal, {wal.resolve()}", _why_unusable(node, wal))]
    for oid in oids:
        link = directory / "pg_tblspc" / str(oid)
        why = _why_unusable(node, link)
        if not why and not any(link.glob(inside)):
            why = f"it has no {inside}, so nothing may be mounted there"
        found.append((f"the directory of tablespace {oid}, {link.resolve()}", why))
    for what, why in found:
        if why:
            yield problem(f"{what}: {why}", "Mount it, or make the standby again.")
    if not any(why for _, why in found):
        yield ok(f"pg_wal and {len(oids)} tablespaces are there")


def _why_unusable(node: _Node, link: Path) -> str:
    user = node.cluster.os_user
    try:
        status = link.stat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISDIR(status.st_mode):
        return "it is no directory"
    uid = os.geteuid() if user is None else user.uid
    return "" if status.st_uid == uid else "it belongs to another user"


def _check_program(node: _Node) -> Iterator[Outcome]:
    """Look at the program that is there now: a package may have been updated meanwhile."""
    program = node.cluster.binaries.program("postgres")
    require_interposable(program, find_interposer())
    require_supported_pages(node.cluster.binaries, node.cluster.os_user)
    if node.pid is not None and _is_replaced(node.pid):
        yield warning(
            f"{program} was replaced while process {node.pid} runs; the new one can be encrypted",
            "Restart the server when that suits.",
        )
    else:
        yield ok(f"PostgreSQL {node.cluster.binaries.version_text} in {program.parent}")


def _is_replaced(pid: int) -> bool:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink()).endswith(" (deleted)")
    except OSError:
        return False  # Only root and its owner may look.


_CHECKS: tuple[tuple[str, str, Callable[[_Node], Iterator[Outcome]]], ...] = (
    ("server", "Server", _check_server),
    ("opens", "Keystore", _check_opening),
    ("keys", "Keys", _check_keys),
    ("others", "Other nodes", _check_others),
    ("tablespaces", "Tablespaces", _check_tablespaces),
    ("program", "Program", _check_program),
)


def _digest_of(keystore: Path | None) -> str:
    """Return the same text for keystores with the same keys, whatever master key wraps them."""
    from tde.keystore.store.reading import list_owners

    if keystore is None:
        return ""
    try:
        names = [owner.file_name for owner in list_owners(keystore)]
        text = "\n".join([keystore_uuid(keystore).hex, *sorted(names)])
    except (TdeError, OSError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_primary(node: _Node) -> bool:
    """Whether the server is a primary; where pg_controldata cannot tell, the signal file does."""
    cluster = node.cluster
    if node.pid is None:
        return False
    try:
        found = read_control_data(cluster.data_directory, cluster.binaries, cluster.os_user)
    except (TdeError, OSError):
        return not (cluster.data_directory / "standby.signal").exists()
    return found.state == _PRIMARY
