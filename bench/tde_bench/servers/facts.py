"""Facts that a server tells of itself: its version, its sizes, its settings."""

from __future__ import annotations

import re

from tde_bench.servers.database import Connection, fetch_all, fetch_value


def database_bytes(connection: Connection) -> int:
    """Return the size of the connection's database on disk."""
    return int(fetch_value(connection, "SELECT pg_database_size(current_database())"))


def shared_buffers_bytes(connection: Connection) -> int:
    """Return the size of the server's buffer pool."""
    return int(fetch_value(connection, "SELECT pg_size_bytes(current_setting('shared_buffers'))"))


def server_version(connection: Connection) -> str:
    """Return the server's version as people write it, for example ``15.18 (Debian ...)``."""
    return str(fetch_value(connection, "SHOW server_version"))


# Results are published. These settings can hold passwords, or say where the secrets are.
_SECRET_SETTING = re.compile(r"primary_conninfo|.*_command|ssl_.*|krb_.*|.*password.*")
REDACTED = "(not recorded)"


def recorded_settings(connection: Connection) -> dict[str, str]:
    """Return all settings of a server, as SHOW prints them, but no secrets.

    What may be one is replaced by :data:`REDACTED`, so servers that differ there look alike; a
    setting that is empty stays so.
    """
    query = "SELECT name, current_setting(name) FROM pg_settings ORDER BY name"
    return {name: _without_secret(name, value) for name, value in fetch_all(connection, query)}


def _without_secret(name: str, value: str) -> str:
    secret = _SECRET_SETTING.fullmatch(name.lower()) or "password" in value.lower()
    return REDACTED if value and secret else value


# Settings that must differ between servers, because they say where each one is.
_LOCAL_SETTINGS = frozenset(
    {
        "application_name",
        "config_file",
        "data_directory",
        "external_pid_file",
        "hba_file",
        "hosts_file",
        "ident_file",
        "log_directory",
        "port",
        "unix_socket_directories",
    }
)


def differing_settings(all_settings: dict[str, dict[str, str]]) -> dict[str, dict[str, str | None]]:
    """Return the settings that do not have the same value in every configuration.

    A comparison is fair only when encryption is the one difference. Maps the setting's name
    to its value per configuration; None where a server does not know the setting.
    """
    names = set().union(*all_settings.values()) - _LOCAL_SETTINGS if all_settings else set()
    differing = {}
    for name in sorted(names):
        values = {key: settings.get(name) for key, settings in all_settings.items()}
        if len(set(values.values())) > 1:
            differing[name] = values
    return differing
