"""Lays a page out as a PDF; a process of its own, ``python -m tde.report.layout``.

The layout is the work of large libraries in C, on names that other people choose. So it runs where
no key is in memory, and what ends that process ends no more: without any font, Pango does.

Standard input: the length of the page as a line, the page, and the attachment. Standard output:
the PDF.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from datetime import datetime
from typing import Any

NO_WEASYPRINT = 3
"""Exit status: the last line of standard error says what is missing."""

NO_FONTS = 4
"""Exit status: there would be no text."""


def lay_out(page: str, data: bytes, name: str, made: datetime) -> bytes:
    """Return the PDF of a page with an attachment."""
    import weasyprint

    # It warns of what a page means for browsers only.
    logging.getLogger("weasyprint").setLevel(logging.ERROR)
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    attachment = weasyprint.Attachment(
        string=data,
        name=name,
        description="The data of this report, sealed",
        created=made,
        modified=made,
        relationship="Data",
    )
    document = weasyprint.HTML(string=page, url_fetcher=_refuse)
    pdf: bytes = document.write_pdf(attachments=[attachment], pdf_tags=True)
    return pdf


class _FontSet(ctypes.Structure):
    """FcFontSet of fontconfig(3), as far as it is looked at."""

    _fields_ = (("nfont", ctypes.c_int),)


def has_fonts() -> bool:
    """Tell whether there is any font: without one Pango ends the process."""
    fontconfig = ctypes.CDLL("libfontconfig.so.1")
    fontconfig.FcInitLoadConfigAndFonts.restype = ctypes.c_void_p
    fontconfig.FcConfigGetFonts.restype = ctypes.POINTER(_FontSet)
    fontconfig.FcConfigGetFonts.argtypes = (ctypes.c_void_p, ctypes.c_int)
    found = fontconfig.FcConfigGetFonts(fontconfig.FcInitLoadConfigAndFonts(), 0)
    return bool(found) and found.contents.nfont > 0


def _refuse(url: str, *_: object, **__: object) -> dict[str, Any]:
    """Fetch nothing: a report needs no other file, whatever a name in it looks like."""
    raise ValueError(f"a report needs no other file: {url}")


def main() -> None:
    """Read a page, write a PDF."""
    try:
        if not has_fonts():
            sys.exit(NO_FONTS)
        import weasyprint  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: a library of the system is missing.
        print(str(error).strip().splitlines()[0], file=sys.stderr)
        sys.exit(NO_WEASYPRINT)
    length = int(sys.stdin.buffer.readline())
    page = sys.stdin.buffer.read(length).decode()
    data = sys.stdin.buffer.read()
    name, made = sys.argv[1:]
    sys.stdout.buffer.write(lay_out(page, data, name, datetime.fromisoformat(made)))


if __name__ == "__main__":
    main()
