"""A report for auditors: what is encrypted, how that is proven, and with which keys.

It is sealed with a key of the keystore, so that a change in it is found (``tde report``).
"""

from tde.report.form import ReportForm
from tde.report.gathering import ReportObserver, gather
from tde.report.model import Report, Verdict
from tde.report.sealing import SealedReport, seal, verify

__all__ = [
    "Report",
    "ReportForm",
    "ReportObserver",
    "SealedReport",
    "Verdict",
    "gather",
    "seal",
    "verify",
]
