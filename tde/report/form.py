"""The forms that a report has; a module of its own, because `--help` must wait for no more."""

from __future__ import annotations

from enum import Enum


class ReportForm(str, Enum):
    """The value is the suffix of the file."""

    HTML = "html"
    PDF = "pdf"
    JSON = "json"
