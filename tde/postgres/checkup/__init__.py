"""Is this machine, this installation and this cluster fit for encryption?

The package is not called doctor because :func:`tde.postgres.doctor` is its one function.
"""

from tde.postgres.checkup.machine_files import MachineFiles
from tde.postgres.checkup.model import DoctorReport, Finding, Group, Verdict
from tde.postgres.checkup.runner import doctor

__all__ = ["DoctorReport", "Finding", "Group", "MachineFiles", "Verdict", "doctor"]
