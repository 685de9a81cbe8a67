"""Write the page that tests compare with again: ``python -m tests.report.make``, then read it."""

from __future__ import annotations

from pathlib import Path

from tde.report.html import render_html
from tests.report.fixed import fixed_report

GOLDEN = Path(__file__).with_name("page.html")


def page() -> str:
    return render_html(fixed_report(), data='{"report": 1}\n')


if __name__ == "__main__":
    GOLDEN.write_text(page(), encoding="utf-8")
