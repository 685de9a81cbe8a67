"""Sealing a report, and telling later whether a file is as it was sealed.

Each form of a report carries a seal over every byte of its own file, because that is what somebody
reads: a table of the page that was altered is found as well as a figure in the data. The seal is
the end of the file, a text of fixed form, so nothing follows it and it is over all before it.

The data goes into the page and, as an attachment, into the PDF as a sealed file of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tde.errors import ReportError
from tde.keystore import Keystore
from tde.keystore.log.documents import (
    SealedDocument,
    SealProof,
    check_seal,
    digests_of,
    document_code,
)
from tde.keystore.log.writing import write_entry_if_possible
from tde.keystore.store.files import exclusive_lock
from tde.report.form import ReportForm
from tde.report.html import render_html
from tde.report.model import Report

EVENT = "make report"
_KIND = b"TDE report 1\x00"
_PLACE_OF_DATA = '<script type="application/json" id="report-data">\n'


@dataclass(frozen=True)
class _End:
    """The end of a file: before the code, with the ids of keystore and master key, and after it."""

    before: str
    after: str

    def pattern(self) -> re.Pattern[bytes]:
        """Return what finds the seal at the end of a file."""
        parts = re.split("{keystore}|{master_key}", self.before)
        text = "([0-9a-f]{32})".join(map(re.escape, parts))
        return re.compile(f"({text})([0-9a-f]{{64}}){re.escape(self.after)}".encode(), re.S)


_ENDS = {
    ReportForm.JSON: _End(
        ',\n"seal": {"algorithm": "HMAC-SHA256", "keystore": "{keystore}", '
        '"master_key": "{master_key}", "code": "',
        '"}}\n',
    ),
    ReportForm.HTML: _End(
        '<p id="seal">HMAC-SHA256 over all of this file, with master key '
        "<code>{master_key}</code> of keystore <code>{keystore}</code>:<br><code>",
        "</code></p>\n</footer>\n</body>\n</html>\n",
    ),
    # After the end of a PDF a comment is allowed, and readers look for the end before it.
    ReportForm.PDF: _End(
        "%tde-report-seal HMAC-SHA256 keystore {keystore} master-key {master_key} code ", "\n"
    ),
}


@dataclass(frozen=True)
class SealedReport:
    """A report that was sealed once, and is proven to be as it was.

    Attributes:
        data: what it says; see :meth:`tde.report.model.Report.as_json`.
        proof: what the keystore and its log say of the seal.
    """

    form: ReportForm
    data: Mapping[str, Any]
    proof: SealProof


def seal(
    report: Report, keystore: Keystore, forms: Collection[ReportForm], *, paper: str = "A4"
) -> dict[ReportForm, bytes]:
    """Return the files of a report, sealed, after telling of them in the key log.

    Args:
        paper: the size of the pages of a PDF.

    Raises:
        ReportError: a form cannot be made on this machine.
        KeystoreBusyError: the master key was rotated after the keystore had been opened.
    """
    author = keystore.log_author()

    def sealed(form: ReportForm, body: bytes) -> bytes:
        end = _ENDS[form]
        ids = {"{keystore}": keystore.uuid.hex, "{master_key}": author[0].hex}
        before = end.before
        for name, value in ids.items():
            before = before.replace(name, value)
        content = body + before.encode()
        code = document_code(author[1], _named(form, content))
        return content + code.hex().encode() + end.after.encode()

    data = sealed(ReportForm.JSON, _json(report))
    files = {ReportForm.JSON: data}
    if ReportForm.HTML in forms:
        page = render_html(report, data=data.decode())
        body, end, _ = page.rpartition("<!-- seal -->")
        assert end, "the template says where the seal is"
        files[ReportForm.HTML] = sealed(ReportForm.HTML, body.encode())
    if ReportForm.PDF in forms:
        from tde.report.pdf import render_pdf

        files[ReportForm.PDF] = sealed(ReportForm.PDF, render_pdf(report, data, paper=paper))
    with exclusive_lock(keystore.path):
        # Nobody can prove a seal of a master key that counts no more.
        keystore.require_current_master_key()
        details = {"report": report.id.hex, "verdict": report.verdict.value}
        digests = digests_of({form.value: file for form, file in files.items()})
        write_entry_if_possible(keystore.path, EVENT, {**details, **digests}, author)
    return {form: files[form] for form in forms}


def verify(file: bytes, keystore: Keystore) -> SealedReport:
    """Tell whether a file is a report as this keystore has sealed it.

    Raises:
        ReportError: it is no report, or was altered.
        KeystoreError: the key log cannot be read.
    """
    form, document, keystore_uuid = _parts(file)
    if keystore_uuid != keystore.uuid:
        raise ReportError(
            f"the report names the keystore {keystore_uuid.hex}, and this one is "
            f"{keystore.uuid.hex}",
            remedy="Name the keystore that has sealed it, or a backup of that, with --keystore.",
        )
    proof = check_seal(keystore.path, keystore.log_author(), document)
    if proof.problem:
        raise ReportError(
            f"the report is not proven: {proof.problem}",
            remedy="Do not rely on anything in it. Ask for the file again, or make a new report.",
        )
    return SealedReport(form, _data_of(form, file), proof)


def _named(form: ReportForm, content: bytes) -> bytes:
    """Return what is sealed: with the form, so that no file can be read as another form."""
    return _KIND + form.value.encode() + b"\x00" + content


def _json(report: Report) -> bytes:
    """Return the data without its seal: the same bytes for the same report.

    Characters that mean something to HTML are escapes, so that the same bytes are in the page.
    """
    text = json.dumps(report.as_json(), indent=1, sort_keys=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return b'{"report": ' + text.encode("ascii")


def _parts(file: bytes) -> tuple[ReportForm, SealedDocument, UUID]:
    for form, end in _ENDS.items():
        pattern = end.pattern()
        start = file.rfind(end.before.split("{")[0].encode())
        match = None if start < 0 else pattern.fullmatch(file, start)
        if match is None:
            continue
        before, first, second, code = match.groups()
        keystore, master_key = (first, second) if _keystore_first(end) else (second, first)
        content = file[:start] + before
        sealed = SealedDocument(
            _named(form, content),
            UUID(hex=master_key.decode()),
            bytes.fromhex(code.decode()),
            file,
        )
        return form, sealed, UUID(hex=keystore.decode())
    raise ReportError(
        "the file is no report, or its end was altered: there is no seal",
        remedy="Name a file that tde report has made, in HTML, PDF or JSON, as it was.",
    )


def _keystore_first(end: _End) -> bool:
    return end.before.index("{keystore}") < end.before.index("{master_key}")


def _data_of(form: ReportForm, file: bytes) -> Mapping[str, Any]:
    """Return the data in a report that is proven; of a PDF, none: it is an attachment."""
    if form is ReportForm.PDF:
        return {}
    text = file.decode()
    if form is ReportForm.HTML:
        text = text.rpartition(_PLACE_OF_DATA)[2].partition("</script>")[0]
    data: Mapping[str, Any] = json.loads(text)["report"]
    return data
