"""Preparing a server to have standbys: a role, who may connect, settings, slots.

Everything is asked first and done only where it is missing, so the command can be repeated.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import encrypt_password

from tde.errors import ReplicationError
from tde.postgres.server.file_user import files_as
from tde.postgres.server.owned_files import append_to_file
from tde.postgres.server.peer import connect_as_peer
from tde.replication.names import require_slot_name, require_standby_name
from tde.replication.synchronous import plain_names

if TYPE_CHECKING:
    from tde.postgres.cluster.cluster import Cluster

# What pg_rewind reads the other server with (its documentation), and how keys are compared.
_FUNCTIONS = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)
_ROLE = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SENDERS = 10
_LOOPBACK = ("", "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class PrimaryOptions:
    """What standbys need of a server.

    Attributes:
        role: that they connect as.
        password: of the role; None to leave it as it is, or without one.
        addresses: networks that they connect from.
        slots: replication slots to make.
        synchronous: names of standbys that commits wait for.
    """

    role: str
    password: str | None = field(repr=False)
    addresses: Sequence[str] = ()
    slots: Sequence[str] = ()
    synchronous: Sequence[str] = ()

    @property
    def is_for_role(self) -> bool:
        """Whether a role is wanted; not where all that is asked for is about a slot or a name."""
        only_others = bool(self.slots or self.synchronous)
        return bool(self.addresses) or self.password is not None or not only_others


@dataclass
class Prepared:
    """What was done.

    Attributes:
        done: in words, a line each.
        restart: settings that count after a restart only.
        is_tls: whether the server offers TLS.
        without_tls: lines that let the role connect without it all the same.
        has_password: whether the role has one.
    """

    done: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    is_tls: bool = False
    without_tls: list[str] = field(default_factory=list)
    has_password: bool = True


def require_usable(options: PrimaryOptions) -> None:
    """Check all names and networks before anything is done.

    Raises:
        ReplicationError: one cannot be used.
    """
    if not _ROLE.fullmatch(options.role):
        raise ReplicationError(
            f'"{options.role}" would have to be quoted in pg_hba.conf',
            remedy="Name a role of lower-case letters, digits and underscores with --role.",
        )
    for name in options.slots:
        require_slot_name(name)
    for name in options.synchronous:
        require_standby_name(name)
    for address in options.addresses:
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            raise ReplicationError(
                f"{address} is no network: {error}", remedy="For example --from 192.168.1.0/24."
            ) from error


def prepare_primary(cluster: Cluster, options: PrimaryOptions) -> Prepared:
    """Prepare a running server.

    Raises:
        ServerNotRunningError: it does not run.
        ReplicationError: it refuses something; what was done before that stays.
    """
    require_usable(options)
    prepared = Prepared()
    try:
        with closing(connect_as_peer(cluster.connection_parameters())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SET search_path TO pg_catalog")
                cursor.execute("SELECT current_setting('ssl') = 'on'")
                (prepared.is_tls,) = cursor.fetchone()
                _require_connected(cursor, options.synchronous)
                try:
                    if options.is_for_role:
                        _make_role(cursor, options, prepared)
                    _let_connect(cursor, cluster, options, prepared)
                    _set_settings(cursor, options, prepared)
                    _make_slots(cursor, options, prepared)
                finally:
                    cursor.execute("SELECT pg_reload_conf()")
    except psycopg2.Error as error:
        raise ReplicationError(
            f"the server in {cluster.data_directory} refuses: {str(error).strip()}",
            remedy="Mend that, and repeat the command: what was done already is left as it is.",
        ) from error
    return prepared


def _require_connected(cursor: Any, names: Sequence[str]) -> None:
    """Refuse to let commits wait for a standby that is not there."""
    cursor.execute("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'")
    connected = {name for (name,) in cursor.fetchall()}
    for name in names:
        if name not in connected:
            raise ReplicationError(
                f"no standby {name} follows this server now: every commit would wait for it",
                remedy="Make it first: tde pg standby --sync sets this when it follows. Following "
                f"now: {', '.join(sorted(connected)) or 'none'}.",
            )


def _make_role(cursor: Any, options: PrimaryOptions, prepared: Prepared) -> None:
    name = sql.Identifier(options.role)
    cursor.execute(
        "SELECT rolreplication AND rolcanlogin FROM pg_roles WHERE rolname = %s", (options.role,)
    )
    found = cursor.fetchone()
    if found is None:
        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN REPLICATION").format(name))
        prepared.done.append(f"the role {options.role}")
    elif not found[0]:
        cursor.execute(sql.SQL("ALTER ROLE {} LOGIN REPLICATION").format(name))
        prepared.done.append(f"the role {options.role} may replicate")
    if options.password is not None:
        # Only what proves the password reaches the server, and so its log.
        proof = encrypt_password(options.password, options.role, cursor.connection, "scram-sha-256")
        cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(name, sql.Literal(proof)))
        prepared.done.append(f"the password of {options.role}")
    cursor.execute(
        "SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = %s", (options.role,)
    )
    (prepared.has_password,) = cursor.fetchone()
    for function in _FUNCTIONS:
        cursor.execute("SELECT has_function_privilege(%s, %s, 'execute')", (options.role, function))
        if not cursor.fetchone()[0]:
            grant = sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}")
            cursor.execute(grant.format(sql.SQL(function), name))
            prepared.done.append(f"{options.role} may call {function}")
    cursor.execute(
        "SELECT NOT pg_has_role(%s, oid, 'member') FROM pg_roles WHERE rolname = 'pg_checkpoint'",
        (options.role,),
    )
    if (lacks := cursor.fetchone()) is not None and lacks[0]:
        cursor.execute(sql.SQL("GRANT pg_checkpoint TO {}").format(name))
        prepared.done.append(f"{options.role} may ask for a checkpoint")


def _let_connect(
    cursor: Any, cluster: Cluster, options: PrimaryOptions, prepared: Prepared
) -> None:
    """Append to pg_hba.conf what is not there yet; earlier lines still win."""
    cursor.execute("SELECT current_setting('hba_file')")
    file = Path(cursor.fetchone()[0])
    with files_as(cluster.os_user):
        lines = file.read_text(errors="surrogateescape").splitlines()
    present = {" ".join(line.split()) for line in lines}
    if prepared.is_tls:
        plain = [line for line in present if line.split()[:1] == ["host"]]
        prepared.without_tls += [line for line in plain if options.role in line.split()]
    wanted = [line for line in _host_lines(options, prepared) if line not in present]
    if not wanted:
        return
    text = "\n# Standbys (tde pg primary)\n" + "".join(f"{line}\n" for line in wanted)
    append_to_file(file, text, cluster.os_user)
    prepared.done += [f"{file}: {line}" for line in wanted]


def _host_lines(options: PrimaryOptions, prepared: Prepared) -> Iterator[str]:
    kind = "hostssl" if prepared.is_tls else "host"
    for address in options.addresses:
        network = ipaddress.ip_network(address)
        # "replication" is no database; a rewind and the comparison of keys need one as well.
        for database in ("replication", "postgres"):
            yield f"{kind} {database} {options.role} {network} scram-sha-256"


def _set_settings(cursor: Any, options: PrimaryOptions, prepared: Prepared) -> None:
    names = ("wal_level", "max_wal_senders", "max_replication_slots", "listen_addresses")
    cursor.execute(
        "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)",
        ([*names, "data_checksums", "wal_log_hints"],),
    )
    now = dict(cursor.fetchall())
    wanted = {}
    if now["wal_level"] == "minimal":
        wanted["wal_level"] = "replica"
    for name in ("max_wal_senders", "max_replication_slots"):
        if int(now[name]) < _SENDERS:
            wanted[name] = str(_SENDERS)
    if now["data_checksums"] == now["wal_log_hints"] == "off":
        wanted["wal_log_hints"] = "on"  # Without either pg_rewind does not work.
    others = any(not ipaddress.ip_network(each).is_loopback for each in options.addresses)
    if others and all(each.strip() in _LOOPBACK for each in now["listen_addresses"].split(",")):
        wanted["listen_addresses"] = "*"
    for name, value in wanted.items():
        cursor.execute(sql.SQL("ALTER SYSTEM SET {} = %s").format(sql.Identifier(name)), (value,))
    prepared.done += [f"{name} = {value}" for name, value in wanted.items()]
    prepared.restart += wanted
    if names_now := add_synchronous(cursor, options.synchronous):
        prepared.done.append(f"synchronous_standby_names = {names_now}")


def add_synchronous(cursor: Any, names: Sequence[str]) -> str:
    """Add standbys to synchronous_standby_names; return its new value, empty if it stays.

    Raises:
        ReplicationError: what is there is no plain list of names.
    """
    if not names:
        return ""
    cursor.execute("SELECT current_setting('synchronous_standby_names')")
    (now,) = cursor.fetchone()
    known = plain_names(now)
    if known is None:
        raise ReplicationError(
            f"synchronous_standby_names is {now}: where {', '.join(names)} belongs there is yours "
            "to say",
            remedy="Set it by hand, and repeat the command without that.",
        )
    added = [name for name in names if name not in known]
    if not added:
        return ""
    value = ", ".join([*known, *added])
    cursor.execute("ALTER SYSTEM SET synchronous_standby_names = %s", (value,))
    return value


def _make_slots(cursor: Any, options: PrimaryOptions, prepared: Prepared) -> None:
    cursor.execute("SELECT slot_name FROM pg_replication_slots")
    present = {name for (name,) in cursor.fetchall()}
    for name in options.slots:
        if name not in present:
            cursor.execute("SELECT pg_create_physical_replication_slot(%s, true)", (name,))
            prepared.done.append(f"the replication slot {name}")
