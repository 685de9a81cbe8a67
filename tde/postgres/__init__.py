"""Running stock PostgreSQL encrypted: installations, clusters, tablespaces, programs.

The names below are imported on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tde.audit import AuditReport, audit
    from tde.convert.runner import decrypt_cluster, encrypt_cluster
    from tde.convert.summary import ConversionSummary
    from tde.doctor import DoctorReport, doctor
    from tde.postgres.cluster.bin_directory import BinDirectory, install_bin_directory
    from tde.postgres.cluster.cluster import Cluster
    from tde.postgres.cluster.scope import Scope
    from tde.postgres.cluster.status import ClusterStatus
    from tde.postgres.server.binaries import PostgresBinaries, find_binaries, list_binaries
    from tde.postgres.server.counters import IoCounters, io_counters
    from tde.postgres.server.interposer import is_interposed
    from tde.postgres.server.os_user import OsUser, server_os_user
    from tde.postgres.server.program import run_program
    from tde.postgres.tablespace.protect import protect_tablespace, standby_notice
    from tde.postgres.tablespace.tablespaces import Tablespace, create_tablespace, list_tablespaces

__all__ = [
    "AuditReport",
    "BinDirectory",
    "Cluster",
    "ClusterStatus",
    "ConversionSummary",
    "DoctorReport",
    "IoCounters",
    "OsUser",
    "PostgresBinaries",
    "Scope",
    "Tablespace",
    "audit",
    "create_tablespace",
    "decrypt_cluster",
    "doctor",
    "encrypt_cluster",
    "find_binaries",
    "install_bin_directory",
    "io_counters",
    "is_interposed",
    "list_binaries",
    "list_tablespaces",
    "protect_tablespace",
    "run_program",
    "server_os_user",
    "standby_notice",
]

_MODULES = {
    "AuditReport": "tde.audit",
    "BinDirectory": "tde.postgres.cluster.bin_directory",
    "Cluster": "tde.postgres.cluster.cluster",
    "ClusterStatus": "tde.postgres.cluster.status",
    "ConversionSummary": "tde.convert.summary",
    "DoctorReport": "tde.doctor",
    "IoCounters": "tde.postgres.server.counters",
    "OsUser": "tde.postgres.server.os_user",
    "PostgresBinaries": "tde.postgres.server.binaries",
    "Scope": "tde.postgres.cluster.keys",
    "Tablespace": "tde.postgres.tablespace.tablespaces",
    "audit": "tde.audit",
    "create_tablespace": "tde.postgres.tablespace.tablespaces",
    "decrypt_cluster": "tde.convert.runner",
    "doctor": "tde.doctor",
    "encrypt_cluster": "tde.convert.runner",
    "find_binaries": "tde.postgres.server.binaries",
    "install_bin_directory": "tde.postgres.cluster.bin_directory",
    "io_counters": "tde.postgres.server.counters",
    "is_interposed": "tde.postgres.server.counters",
    "list_binaries": "tde.postgres.server.binaries",
    "list_tablespaces": "tde.postgres.tablespace.tablespaces",
    "protect_tablespace": "tde.postgres.tablespace.protect",
    "run_program": "tde.postgres.server.program",
    "server_os_user": "tde.postgres.server.os_user",
    "standby_notice": "tde.postgres.tablespace.protect",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
