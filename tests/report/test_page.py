"""The page and the PDF of a report of which everything is given."""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from html.parser import HTMLParser

import pytest

from tde.errors import ReportError
from tde.report.html import css_string, render_html
from tde.report.mapping import BELOW_THE_DATABASE, mapping
from tde.report.model import Verdict
from tde.report.pdf import render_pdf
from tests.report.fixed import DATA, HEBREW, LONGEST, MADE, SCRIPT, fixed_report
from tests.report.make import GOLDEN, page


class Reader(HTMLParser):
    """Collects the elements of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def test_the_page_is_the_one_that_was_looked_at():
    """When it is meant to differ: python -m tests.report.make, then look at it."""
    assert page() == GOLDEN.read_text(encoding="utf-8")


def test_the_same_report_gives_the_same_page_in_every_time_zone_and_language(monkeypatch):
    expected = page()
    for zone, language in (("Asia/Kolkata", "de_DE.UTF-8"), ("America/St_Johns", "C")):
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("LC_ALL", language)
        time.tzset()
        assert page() == expected
    monkeypatch.undo()
    time.tzset()


def test_no_name_does_anything_on_the_page():
    reader = read(page())
    scripts = [attributes for tag, attributes in reader.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "report-data"}]
    # Nothing is fetched, and nothing runs.
    assert {tag for tag, _ in reader.elements}.isdisjoint(
        {"img", "link", "iframe", "object", "embed", "b", "form", "svg", "base"}
    )
    for _, attributes in reader.elements:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
        assert attributes.get("href", "#").startswith("#")
    # Names are there all the same, and what steers a reader is an escape.
    for name in (SCRIPT, LONGEST, HEBREW, "evil\\u202egnp.exe", "/lib/\\xff/", "\\x1b[2J"):
        assert name in reader.text, name
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", page())
    # In the style sheet the data directory is a text without any character that means something.
    style = page().partition("<style>")[2].partition("</style>")[0]
    assert css_string(str(DATA))[:20] in style
    assert "alert" not in style.replace(css_string(str(DATA)), "") or "<" not in style


def test_what_was_not_proven_is_on_the_page():
    report = fixed_report()
    assert report.verdict is Verdict.FINDINGS
    text = " ".join(read(page()).text.split())
    for missing in report.not_examined:
        assert f"{missing.what}: {missing.why}" in text
    for problem in report.problems:
        assert " ".join(problem.what.split()) in text
        assert " ".join(problem.remedy.split()) in text
    assert "7 findings need a remedy. 2 parts were not examined" in text


def test_the_limits_of_encryption_below_the_database_are_said():
    text = read(page()).text
    assert BELOW_THE_DATABASE in text
    assert "does not satisfy PCI DSS 3.5.1.2 for every use" in text
    standards = {standard.name: standard.requirements for standard in mapping(fixed_report())}
    numbers = [requirement.number for requirement in standards["PCI DSS v4.0.1"]]
    assert numbers == [
        *("3.5.1", "3.5.1.1", "3.5.1.2", "3.5.1.3"),
        *("3.6.1", "3.6.1.1", "3.6.1.2", "3.6.1.3", "3.6.1.4"),
        *(f"3.7.{number}" for number in range(1, 10)),
    ]


def test_the_data_is_complete_and_has_the_verdict():
    document = json.loads(json.dumps(fixed_report().as_json()))
    assert document["verdict"] == "findings"
    assert document["made"] == MADE.isoformat()
    assert document["audit"]["lines"][1]["verified"] == 11_999
    assert document["tablespaces"][0]["databases"][1] == SCRIPT
    assert len(document["problems"]) == 7
    assert document["keys"][1]["age_days"] == 667


def streams(pdf: bytes) -> list[bytes]:
    """Return the content of the streams of a PDF that are compressed, or are not."""
    found = []
    for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.S):
        try:
            found.append(zlib.decompress(match[1]))
        except zlib.error:
            found.append(match[1])
    return found


def test_the_pdf_has_pages_and_the_data(pdf_libraries):
    data = b'{"report": 1}\n'
    pdf = render_pdf(fixed_report(), data)
    assert pdf.startswith(b"%PDF-1.")
    assert data in streams(pdf)
    objects = b"".join(streams(pdf))
    sizes = re.findall(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", objects)
    assert {(round(float(w)), round(float(h))) for w, h in sizes} == {(595, 842)}
    assert len(sizes) >= 5


def test_the_size_of_paper_is_left_to_the_printer_or_chosen():
    assert "  size: Letter;" in render_html(fixed_report(), paper="Letter")
    assert "  size: " not in page()


def test_a_machine_without_fonts_gives_no_empty_pages(pdf_libraries, tmp_path, monkeypatch):
    (tmp_path / "fonts.conf").write_text("<fontconfig></fontconfig>")
    monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "fonts.conf"))
    with pytest.raises(ReportError, match="no font") as failure:
        render_pdf(fixed_report(), b"{}")
    assert "fonts-dejavu-core" in failure.value.remedy


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "weasyprint.py").write_text("raise OSError('cannot load library libpango')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ReportError, match="cannot load library libpango") as failure:
        render_pdf(fixed_report(), b"{}")
    assert "pip install 'tde[report]'" in failure.value.remedy
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(ReportError, match="Jinja2") as failure:
        render_html(fixed_report())
    assert "pip install 'tde[report]'" in failure.value.remedy
