"""Encrypting a pair, or giving it other keys, while one of the two always serves.

WAL says what was written and not how it is stored, so a plain primary and an encrypted standby
understand each other. The standby is converted while it is stopped, catches up, takes over, and
the old primary is made again from it. Until then the primary is what it was, so giving up costs
nothing.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tde.errors import DataDirectoryError, ReplicationError
from tde.postgres.cluster.unfinished_conversion import require_not_converting
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.config_files import CONFIGURATION_FILE
from tde.postgres.server.control import read_major_version
from tde.replication.names import default_name
from tde.replication.rejoining import STANDBY_SIGNAL, last_arguments

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

_OF_PACEMAKER = re.compile(r"^\s*include\s.*(?:rep_mode|recovery)\.conf", re.MULTILINE)
_NOBODY_WAITS = (
    "ALTER SYSTEM SET synchronous_standby_names = ''",
    "SELECT pg_reload_conf()",
)

STANDBY, PRIMARY = "standby", "primary"
"""The machine that a step is for."""


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        machine: ``standby`` or ``primary``, as they are now.
        command: as it is typed.
        why: what it does, and what has to be true before the next one.
    """

    machine: str
    command: str
    why: str


@dataclass(frozen=True)
class Pair:
    """What a plan is made for.

    Attributes:
        keystore: on both machines; made where there is none.
        primary: the primary's data directory on its machine.
        machine: what ssh calls that machine; empty where it is this one.
        to: how the primary's machine reaches the standby, as a superuser who may replicate: a
            connection string.
        slot: that the old primary uses afterwards; empty for none.
        programs: options of every command, such as --bindir.
        is_released: whether a cluster manager has let go of both nodes.
    """

    keystore: Path
    primary: Path
    machine: str
    to: str
    slot: str = ""
    programs: tuple[str, ...] = ()
    is_released: bool = False


def plan_migration(cluster: Cluster, pair: Pair) -> list[Step]:
    """Return the steps for a standby, which are those of a rekey where it is encrypted already.

    Raises:
        NoDataDirectoryError: there is no cluster.
        ReplicationError: it is no standby, or a cluster manager has it.
        ConversionError: it is converted just now, or that was interrupted.
    """
    directory = cluster.data_directory
    read_major_version(directory)
    require_not_converting(directory)
    if not (directory / STANDBY_SIGNAL).exists():
        raise ReplicationError(
            f"{directory} is no standby: it has no {STANDBY_SIGNAL}",
            remedy="Make one of the primary first, which is left alone until the end: tde pg "
            "standby. Or encrypt the cluster itself, while it is stopped: tde pg encrypt.",
        )
    manager = _manager_of(cluster)
    if manager and not pair.is_released:
        raise ReplicationError(
            f"{manager} has {directory}: it would start what is to be stopped, and promote at will",
            remedy="Have it let go of both nodes first (maintenance mode of Pacemaker; Patroni "
            "itself stopped on both), and repeat the command with --manager-paused.",
        )
    steps = [*_before(pair), *_convert(cluster, pair), *_catch_up(cluster, pair)]
    steps += [*_change_roles(cluster, pair), _after(cluster, pair)]
    return steps if not manager else [*steps, *_for_manager(pair)]


def _manager_of(cluster: Cluster) -> str:
    """Return which cluster manager's files a data directory has; empty without any."""
    directory = cluster.data_directory
    if (directory / "patroni.dynamic.json").exists():
        return "Patroni"
    try:
        text = read_cluster_file(directory, CONFIGURATION_FILE).decode(errors="replace")
    except (OSError, DataDirectoryError):
        return ""
    return "Pacemaker" if _OF_PACEMAKER.search(text) else ""


def _before(pair: Pair) -> list[Step]:
    """Have nobody wait for a standby that is down for hours."""
    why = (
        "Commits wait for no standby from now on. While it is converted the primary keeps WAL for "
        "its slot (without one, as wal_keep_size says): see that pg_wal has room for these hours."
    )
    return [_sql(PRIMARY, why, pair.primary, pair, *_NOBODY_WAITS)]


def _convert(cluster: Cluster, pair: Pair) -> list[Step]:
    directory, keystore = cluster.data_directory, pair.keystore
    why = "The primary serves alone."
    stop = _step(STANDBY, why, pair, "tde", "pg", "stop", "-D", directory)
    if cluster.marker is not None:
        rekey = ("tde", "tablespace", "rekey", "--all", "-D", directory)
        return [stop, _step(STANDBY, "It may be interrupted, and repeated.", pair, *rekey)]
    encrypt = ("tde", "pg", "encrypt", "-D", directory, "-k", keystore)
    steps = [stop, _step(STANDBY, "It may be interrupted, and repeated.", pair, *encrypt)]
    if not keystore.exists():
        create = Step(
            STANDBY,
            shlex.join(["tde", "keystore", "create", "-k", str(keystore)]),
            "Keep its passphrase in two places.",
        )
        steps.insert(0, create)
    return steps


def _catch_up(cluster: Cluster, pair: Pair) -> list[Step]:
    directory = cluster.data_directory
    arguments, _ = last_arguments(cluster)
    given = ["-o", shlex.join(arguments)] if arguments else []
    status = "Repeat it until it receives, and little is left to replay."
    show = ["tde", "replication", "status", "-D", str(directory), *_bindir(pair)]
    steps = [
        _step(STANDBY, "It catches up.", pair, "tde", "pg", "start", "-D", directory, *given),
        Step(STANDBY, shlex.join(show), status),
        _sql(STANDBY, "Nobody waits when it is the primary.", directory, pair, *_NOBODY_WAITS),
    ]
    if pair.machine:
        copy = f"{pair.machine}:{pair.keystore}"
        sync = ["tde", "keystore", "sync", copy, "-k", str(pair.keystore)]
        why = "The primary's machine gets the keys. A copy that is there has to open by itself."
        steps.append(Step(STANDBY, shlex.join(sync), why))
    return steps


def _change_roles(cluster: Cluster, pair: Pair) -> list[Step]:
    switch = ["tde", "pg", "switchover", "-D", pair.primary, "--to", pair.to, "--base-backup"]
    switch += ["--slot", pair.slot] if pair.slot else []
    why = (
        "The standby takes over with all that was committed, and this server is made again: its "
        "replication slots are gone, and its other standbys have to be made again, too. What it "
        "had is kept beside, in plain text if it was: remove it in the end."
    )
    proof = "No page is plain."
    return [
        _step(PRIMARY, why, pair, *switch, "-k", pair.keystore),
        _step(PRIMARY, proof, pair, "tde", "pg", "audit", "-D", pair.primary),
        _step(STANDBY, proof, pair, "tde", "pg", "audit", "-D", cluster.data_directory),
    ]


def _after(cluster: Cluster, pair: Pair) -> Step:
    why = "Commits wait for the new standby again, whose name tde replication status shows."
    name = "NAME" if pair.machine else default_name(pair.primary)
    words = ("tde", "pg", "primary", "-D", cluster.data_directory, "--sync", name)
    return _step(STANDBY, why, pair, *words)


def _for_manager(pair: Pair) -> list[Step]:
    why = (
        "The cluster manager starts servers with keys from this directory: name it as pgctl and "
        "psql, or as bin_dir, before it gets the nodes back. The keystore has to open by itself."
    )
    install = ["tde", "pg", "install-bin", "DIR", "-k", str(pair.keystore), *pair.programs]
    return [Step(machine, shlex.join(install), why) for machine in (PRIMARY, STANDBY)]


def _step(machine: str, why: str, pair: Pair, *words: object) -> Step:
    return Step(machine, shlex.join([*map(str, words), *pair.programs]), why)


def _sql(machine: str, why: str, directory: Path, pair: Pair, *statements: str) -> Step:
    options = [word for statement in statements for word in ("-c", statement)]
    words = ["tde", "psql", "-D", str(directory), *_bindir(pair), "--", *options]
    return Step(machine, shlex.join(words), why)


def _bindir(pair: Pair) -> list[str]:
    """Return --bindir alone: not every command has the other options."""
    words = list(pair.programs)
    return words[words.index("--bindir") :][:2] if "--bindir" in words else []
