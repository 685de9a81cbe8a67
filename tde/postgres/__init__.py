"""Running stock PostgreSQL encrypted: installations, clusters, tablespaces, programs.

The names below are imported on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tde.postgres.auditor import AuditReport, audit
    from tde.postgres.bin_directory import BinDirectory, install_bin_directory
    from tde.postgres.binaries import PostgresBinaries, find_binaries, list_binaries
    from tde.postgres.checkup import DoctorReport, doctor
    from tde.postgres.cluster import Cluster
    from tde.postgres.convert.runner import decrypt_cluster, encrypt_cluster
    from tde.postgres.convert.summary import ConversionSummary
    from tde.postgres.counters import IoCounters, io_counters, is_interposed
    from tde.postgres.os_user import OsUser, server_os_user
    from tde.postgres.policy import Scope
    from tde.postgres.program import run_program
    from tde.postgres.status import ClusterStatus
    from tde.postgres.tablespace_keys import protect_tablespace, standby_notice
    from tde.postgres.tablespaces import Tablespace, create_tablespace, list_tablespaces

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
    "AuditReport": "auditor",
    "BinDirectory": "bin_directory",
    "Cluster": "cluster",
    "ClusterStatus": "status",
    "ConversionSummary": "convert.summary",
    "DoctorReport": "checkup",
    "IoCounters": "counters",
    "OsUser": "os_user",
    "PostgresBinaries": "binaries",
    "Scope": "policy",
    "Tablespace": "tablespaces",
    "audit": "auditor",
    "create_tablespace": "tablespaces",
    "decrypt_cluster": "convert.runner",
    "doctor": "checkup",
    "encrypt_cluster": "convert.runner",
    "find_binaries": "binaries",
    "install_bin_directory": "bin_directory",
    "io_counters": "counters",
    "is_interposed": "counters",
    "list_binaries": "binaries",
    "list_tablespaces": "tablespaces",
    "protect_tablespace": "tablespace_keys",
    "run_program": "program",
    "server_os_user": "os_user",
    "standby_notice": "tablespace_keys",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
