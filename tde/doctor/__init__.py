"""The doctor: is a machine, an installation and a cluster fit for encryption?"""

from tde.doctor.report import DoctorReport, Finding, Group
from tde.doctor.runner import doctor
from tde.machine.kernel_files import MachineFiles
from tde.machine.verdict import Verdict

__all__ = ["DoctorReport", "Finding", "Group", "MachineFiles", "Verdict", "doctor"]
