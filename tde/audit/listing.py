"""The files of a place, whatever its layout."""

from __future__ import annotations

from tde.audit.backrest import list_backup
from tde.audit.findings import not_judged_finding
from tde.audit.inventory import AuditedFile, Layout, Place, list_files
from tde.audit.report import Finding
from tde.errors import TdeError


def list_place(place: Place) -> tuple[list[AuditedFile], list[Finding]]:
    """Return the files of a place, and what cannot be looked at.

    Of archives these are the files beside them: what is in them is known when they are read.
    """
    if place.layout is Layout.BACKREST:
        try:
            return list_backup(place)
        except (OSError, TdeError) as error:
            problem = f"was not judged: its list cannot be used ({error})"
            remedy = "Restore the backup with pgbackrest restore, and audit that with --backup."
            return [], [not_judged_finding(place.root, problem, remedy)]
    files, findings = list_files(place)
    archives = {tar.path for tar in place.tars}
    return [file for file in files if file.path not in archives], findings
