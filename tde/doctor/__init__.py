"""Is this machine, this installation and this cluster fit for encryption?

The package is not called doctor because :func:`tde.postgres.doctor` is its one function.
"""

from tde.doctor.report import DoctorReport, Finding, Group
from tde.doctor.runner import doctor
from tde.machine.kernel_files import MachineFiles
from tde.machine.verdict import Verdict

__all__ = ["DoctorReport", "Finding", "Group", "MachineFiles", "Verdict", "doctor"]
