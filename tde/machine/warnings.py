"""What every start says about the machine.

Settings and builds with which rows would be stored in plain text are refused at a start. What
the machine does with the server's memory is not the server's to decide, so it is only said.
"""

from __future__ import annotations

import logging

from tde.doctor.report import Group
from tde.doctor.runner import doctor
from tde.machine.kernel_files import MachineFiles
from tde.postgres.server.os_user import OsUser

_log = logging.getLogger(__name__)


def warn_of_machine(os_user: OsUser | None, machine_files: MachineFiles | None = None) -> None:
    """Log each problem of the machine with its remedy."""
    report = doctor(os_user=os_user, groups=[Group.MACHINE], machine_files=machine_files)
    for finding in report.problems:
        _log.warning("%s: %s. %s", finding.title, finding.detail, finding.remedy)
