from tde.audit import AuditReport as AuditReport, audit as audit
from tde.convert.rekey import rekey_tablespaces as rekey_tablespaces
from tde.convert.runner import (
    decrypt_cluster as decrypt_cluster,
    encrypt_cluster as encrypt_cluster,
)
from tde.convert.stock_checksums import (
    RepairSummary as RepairSummary,
    repair_stock_checksums as repair_stock_checksums,
)
from tde.convert.summary import ConversionSummary as ConversionSummary
from tde.doctor import DoctorReport as DoctorReport, doctor as doctor
from tde.postgres.cluster.bin_directory import (
    BinDirectory as BinDirectory,
    install_bin_directory as install_bin_directory,
)
from tde.postgres.cluster.cluster import Cluster as Cluster
from tde.postgres.cluster.scope import Scope as Scope
from tde.postgres.cluster.status import ClusterStatus as ClusterStatus
from tde.postgres.server.binaries import (
    PostgresBinaries as PostgresBinaries,
    find_binaries as find_binaries,
    list_binaries as list_binaries,
)
from tde.postgres.server.counters import IoCounters as IoCounters, io_counters as io_counters
from tde.postgres.server.interposer import is_interposed as is_interposed
from tde.postgres.server.os_user import OsUser as OsUser, server_os_user as server_os_user
from tde.postgres.server.program import run_program as run_program
from tde.postgres.tablespace.key_survey import (
    KeySurvey as KeySurvey,
    survey_keys as survey_keys,
)
from tde.postgres.tablespace.move import (
    move_tablespace as move_tablespace,
    plan_move as plan_move,
)
from tde.postgres.tablespace.move_result import MovePlan as MovePlan, MoveResult as MoveResult
from tde.postgres.tablespace.move_run import (
    MoveOptions as MoveOptions,
    MoveProgress as MoveProgress,
)
from tde.postgres.tablespace.plain_copies import (
    CopyKind as CopyKind,
    PlainCopies as PlainCopies,
    PlainCopy as PlainCopy,
    find_plain_copies as find_plain_copies,
)
from tde.postgres.tablespace.standbys import prepared_notice as prepared_notice
from tde.postgres.tablespace.tablespaces import (
    Tablespace as Tablespace,
    create_tablespace as create_tablespace,
    list_tablespaces as list_tablespaces,
    prepare_key as prepare_key,
)
