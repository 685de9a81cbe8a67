"""The report as one page: no script, no other file, for a screen and for paper.

The same report gives the same bytes, whatever the machine, its language or its time zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

from tde.audit import STATISTICAL_ERROR, AuditLine, FileClass
from tde.errors import ReportError
from tde.keystore import KeyState
from tde.machine.verdict import Verdict as DoctorVerdict
from tde.printable import printable
from tde.report.mapping import BELOW_THE_DATABASE, mapping
from tde.report.model import Report, Section, Verdict

_T = TypeVar("_T")
# Paper is read by people; the data has all of them.
_ROWS = 200
_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
_LONGEST_HEADER = 60  # Characters of the data directory on each page.
_VERDICTS = {
    Verdict.CLEAN: "No findings",
    Verdict.INCOMPLETE: "Not everything was examined",
    Verdict.FINDINGS: "There are findings",
}


def render_html(report: Report, *, data: str = "", paper: str = "") -> str:
    """Return the page, in which a comment says where the seal is.

    Args:
        data: the sealed JSON document, which is put into the page; none of its characters may mean
            something to HTML.
        paper: the size of the pages, as ``A4``; empty leaves it to who prints it.

    Raises:
        ReportError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise ReportError(
            "a report in HTML or PDF needs Jinja2, which is not installed",
            remedy="pip install 'tde[report]', or make the report in JSON.",
        ) from error
    environment = Environment(
        loader=PackageLoader("tde.report", "."),
        # Names of databases, tablespaces and files are other people's text.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters.update(
        size=_size,
        count=_count,
        day=_day,
        time=_time,
        age=_age,
        css=lambda text: Markup(css_string(text)),
        proof=_proof,
        grouped=_grouped,
    )
    sections = list(Section)
    return environment.get_template("page.html.jinja").render(
        report=report,
        headline=_VERDICTS[report.verdict],
        sentence=_sentence(report),
        glance=list(_at_a_glance(report)),
        sections=sections,
        S=Section,
        number={section: position for position, section in enumerate(sections, 1)},
        standards=mapping(report),
        below_the_database=BELOW_THE_DATABASE,
        rows=_ROWS,
        statistical_error=round(1 / STATISTICAL_ERROR),
        header=printable(str(report.server.data_directory), _LONGEST_HEADER),
        data=Markup(data),
        paper=paper,
    )


def _shown(value: object) -> object:
    """Let nothing in a name steer a reader: what is not printable is shown as an escape."""
    return printable(value) if type(value) is str else value


def _sentence(report: Report) -> str:
    problems, left_out = len(report.problems), len(report.not_examined)
    missing = f"{_parts(left_out)} not examined: nothing is proven there."
    if problems:
        need = "needs" if problems == 1 else "need"
        found = f"{_count(problems, 'finding')} {need} a remedy."
        return f"{found} {missing}" if left_out else found
    if left_out:
        return f"No findings in what was examined. {missing}"
    return (
        "Everything was examined. Every block of every encrypted file is ciphertext, every key "
        "opens, and the key log is whole."
    )


def _at_a_glance(report: Report) -> Iterator[tuple[str, str]]:
    """Yield names and sentences of what a reader looks for first."""
    if report.audit is not None:
        files = sum(line.files for line in report.audit.lines)
        size = _size(report.audit.bytes_read)
        yield "Examined", f"{size} in {_count(files, 'file')} of encrypted classes"
    else:
        yield "Examined", "no file: there is no proof of encryption in this report"
    active = sum(key.state == KeyState.ACTIVE.value for key in report.keys)
    yield "Keys", f"{_count(len(report.keys), 'key')}, {active:,} active"
    if report.key_log is not None:
        log = report.key_log
        altered = "altered" if log.problems else f"{log.proven:,} of {log.entries:,} entries proven"
        yield "Key log", altered
    for library in report.libraries[:1]:
        provider = library.provider or "not known"
        fips = {True: "FIPS", False: "no FIPS provider", None: "FIPS not known"}
        yield (
            "OpenSSL of the server",
            f"{library.version}, provider {provider}: {fips[library.fips]}",
        )
    warnings = 0 if report.audit is None else len(report.audit.warnings)
    if report.doctor is not None:
        warnings += len(report.doctor.of(DoctorVerdict.WARNING))
    yield "Warnings", f"{warnings:,}" if warnings else "none"


def _grouped(items: Iterable[_T], name: str) -> list[tuple[Any, list[_T]]]:
    """Return runs of items with the same value of an attribute, in their order."""
    return [(value, list(run)) for value, run in groupby(items, key=attrgetter(name))]


def _parts(number: int) -> str:
    return "1 part was" if number == 1 else f"{number:,} parts were"


def _size(count: int) -> str:
    """Return a number of bytes, with three digits."""
    value = float(count)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    if unit == "bytes":
        return f"{count} bytes"
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _day(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d}"


def _time(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"


def _age(time: datetime | None, now: datetime) -> str:
    if time is None:
        return "not known"
    return _count((now - time).days, "day")


def css_string(text: str) -> str:
    """Return text as a string of CSS in which no character has a meaning, for HTML neither."""
    escaped = (c if c.isascii() and c.isalnum() else f"\\{ord(c):06x}" for c in text)
    return f'"{"".join(escaped)}"'


def _proof(line: AuditLine) -> str:
    """Return how the files of a line were proven to be ciphertext."""
    if line.by_decision:
        return "plaintext by decision"
    if line.findings:
        return _count(line.findings, "finding")
    if line.file_class is FileClass.EPHEMERAL:
        return "random by statistics" if line.random else "nothing stored"
    if line.file_class is FileClass.UNKNOWN:
        return "empty files"
    return "decrypted and checked" if line.verified or line.recycled else "nothing stored"
