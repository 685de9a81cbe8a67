"""The report on paper: the same page, laid out by WeasyPrint, with the data as an attachment."""

from __future__ import annotations

import subprocess
import sys

from tde.errors import ReportError
from tde.report.html import render_html
from tde.report.layout import NO_FONTS, NO_WEASYPRINT
from tde.report.model import Report

ATTACHMENT = "report.json"
_OTHERWISE = "Or make the report in HTML, and print that."
_NEEDED = (
    "pip install 'tde[report]', and the libraries of Pango: on Debian libpango-1.0-0, "
    f"libpangoft2-1.0-0 and libharfbuzz-subset0. {_OTHERWISE}"
)


def render_pdf(report: Report, data: bytes, *, paper: str = "A4") -> bytes:
    """Return the report as a PDF.

    Args:
        data: the sealed JSON document, which is attached.
        paper: the size of its pages.

    Raises:
        ReportError: WeasyPrint, its libraries or fonts are not there.
    """
    page = render_html(report, paper=paper).encode()
    result = subprocess.run(
        [sys.executable, "-m", "tde.report.layout", ATTACHMENT, report.made.isoformat()],
        input=b"%d\n%s%s" % (len(page), page, data),
        capture_output=True,
        cwd="/",  # From where Python would import modules.
        check=False,
    )
    if result.returncode == 0:
        return result.stdout
    lines = result.stderr.decode(errors="replace").strip().splitlines()
    reason = lines[-1] if lines else f"it ended with {result.returncode}"
    if result.returncode == NO_WEASYPRINT:
        raise ReportError(
            f"a report in PDF needs WeasyPrint, which cannot be used: {reason}", remedy=_NEEDED
        )
    if result.returncode == NO_FONTS:
        raise ReportError(
            "the PDF would have no text: there is no font on this machine",
            remedy=f"Install fonts, for example fonts-dejavu-core. {_OTHERWISE}",
        )
    raise ReportError(f"WeasyPrint could not make the PDF: {reason}", remedy=_OTHERWISE)
