"""The progress and the report of ``tde pg audit`` as people see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter

from rich.filesize import decimal
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from tde.audit import AuditLine, AuditObserver, AuditReport, FileClass, Finding
from tde.cli.pg.copies_view import not_seen
from tde.console.output import console
from tde.console.progress import CommandProgress

# More findings than this are left to --json: a person acts on the first ones.
_FINDINGS_SHOWN = 50

_HEADERS = ("What", "Cipher", "Files", "Size", "Verified", "Zeros", "Other blocks", "Verdict")
_NUMBERS = ("Files", "Size", "Verified", "Zeros")
_NAME_WIDTH = 44  # Columns; longer names of tablespaces are folded.
# Where the terminal is narrow, these are folded in this order, down to so many columns.
_FOLDED = (("What", 11), ("Other blocks", 12), ("Verdict", 9))


class _Bar:
    """Moves a progress bar."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def found(self, total: int) -> None:
        """Set the end of the bar."""
        self._progress.update(self._task, total=total)

    def read(self, count: int, name: str) -> None:
        """Move the bar."""
        self._progress.update(self._task, advance=count, description=name)


@contextmanager
def auditing() -> Iterator[AuditObserver]:
    """Show a bar on standard error while the block runs, if that is a terminal."""
    progress = CommandProgress(
        BarColumn(bar_width=30),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with progress:
        yield _Bar(progress, progress.add_task("listing files", total=None))


def print_report(report: AuditReport) -> None:
    """Print the table, the findings, and what is plain by design."""
    state = "running" if report.running else "stopped"
    title = f"Audit of {report.data_directory} (server {state}, scope {report.scope})"
    console.print(Text(title, "bold"), soft_wrap=True)
    _print_lines(report)
    _print_findings(report.findings, "Findings", "red")
    _print_copies(report)
    _print_findings(report.warnings, "Warnings", "yellow")
    _print_plain(report)
    _print_verdict(report)


def _print_lines(report: AuditReport) -> None:
    """Print a table for each place; all have columns of the same widths."""
    rows = [(line.place, _row(line)) for line in report.lines]
    cells = [_HEADERS, *(row for _, row in rows)]
    widths = [max(len(str(row[n])) for row in cells) for n in range(len(_HEADERS))]
    widths[0] = min(widths[0], _NAME_WIDTH)
    gap = 2 if sum(widths) + 2 * len(widths) <= console.width else 1
    _fold(widths, console.width - gap * len(widths))
    for place, group in groupby(rows, key=itemgetter(0)):
        is_first = place == report.lines[0].place
        if not is_first:
            console.print(Text(place, "bold"), soft_wrap=True)
        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, gap, 0, 0),
            header_style="bold",
            show_header=is_first,
        )
        for n, header in enumerate(_HEADERS):
            table.add_column(
                header,
                justify="right" if header in _NUMBERS else "left",
                min_width=widths[n],
                max_width=widths[n],
                no_wrap=header in _NUMBERS,
                overflow="fold",
            )
        for _, row in group:
            table.add_row(*row)
        # What is still too wide runs into the next line: nothing is cut off, no verdict above all.
        console.print(table, width=sum(widths) + gap * len(widths), crop=False)


def _fold(widths: list[int], available: int) -> None:
    """Make columns narrower until they fit."""
    for header, narrowest in _FOLDED:
        n = _HEADERS.index(header)
        excess = max(sum(widths) - available, 0)
        widths[n] = max(widths[n] - excess, min(widths[n], narrowest))


def _row(line: AuditLine) -> tuple[str | Text, ...]:
    return (
        Text(line.name),
        line.algorithm.label if line.algorithm else "–",
        f"{line.files:,}",
        decimal(line.bytes),
        f"{line.verified:,}" if line.verified else "–",
        f"{line.zero:,}" if line.zero else "–",
        _other(line),
        _verdict(line),
    )


def _other(line: AuditLine) -> str:
    parts = [
        (line.recycled, "recycled"),
        (line.unproven, "of unknown name"),
        (line.random, "by statistics"),
        (line.torn, "torn, need replay"),
        (line.too_short, "files too short to judge"),
    ]
    return ", ".join(f"{count:,} {what}" for count, what in parts if count)


def _verdict(line: AuditLine) -> Text:
    if line.findings:
        return Text(_plural(line.findings, "FINDING").upper(), "bold red")
    if line.by_decision:
        return Text("plaintext by decision", "yellow")
    if line.file_class is FileClass.EPHEMERAL:
        return Text("looks encrypted" if line.random else "nothing stored", "green")
    return Text("encrypted" if line.verified or line.recycled else "nothing stored", "green")


def _print_findings(findings: Sequence[Finding], title: str, color: str) -> None:
    if not findings:
        return
    console.print(Text(f"\n{title} ({len(findings):,})", f"bold {color}"))
    for finding in findings[:_FINDINGS_SHOWN]:
        console.print(Text.assemble((f"{finding.kind.value}: ", color), finding.problem))
        console.print(Padding(Text(finding.remedy, "dim"), (0, 0, 0, 4)))
    if len(findings) > _FINDINGS_SHOWN:
        console.print(f"… and {len(findings) - _FINDINGS_SHOWN:,} more; see --json")


def _print_copies(report: AuditReport) -> None:
    found = report.plain_copies
    if found.copies:
        title = f"Plaintext copies of encrypted tables ({len(found.copies):,})"
        console.print(Text(f"\n{title}", "bold red"))
    for copy in found.copies[:_FINDINGS_SHOWN]:
        console.print(Text.assemble((f"{copy.kind.value}: ", "red"), copy.problem))
        console.print(Padding(Text(copy.remedy, "dim"), (0, 0, 0, 4)))
    if len(found.copies) > _FINDINGS_SHOWN:
        console.print(f"… and {len(found.copies) - _FINDINGS_SHOWN:,} more; see --json")


def _print_plain(report: AuditReport) -> None:
    console.print(Text("\nPlain by design", "bold"))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(justify="right", no_wrap=True)
    facts.add_column()
    for files in report.plain:
        what = f"{files.files}: {files.reason}".replace("`", "")
        style = "yellow" if files.decision else ""
        facts.add_row(_plural(files.count, "file"), Text(what, style))
    console.print(facts)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _print_verdict(report: AuditReport) -> None:
    size = decimal(report.bytes_read)
    speed = decimal(int(report.bytes_read / max(report.seconds, 0.001)))
    read = f"{size} in {report.seconds:.1f} s, {speed}/s"
    canary = " The canary is in no file." if report.canary else ""
    copies = report.plain_copies
    if report.clean and copies.all_seen:
        console.print(
            Text.assemble(("\nEverything that should be ciphertext is.", "bold green"), canary)
        )
    elif report.clean:
        proven = "\nEvery file of the encrypted tablespaces is ciphertext."
        console.print(Text.assemble((proven, "bold green"), canary))
    else:
        counts = [_plural(len(report.findings), "finding")] if report.findings else []
        if copies.copies:
            what = "plaintext copy" if len(copies.copies) == 1 else "plaintext copies"
            counts.append(f"{len(copies.copies):,} {what} of encrypted tables")
        console.print(Text(f"\n{', '.join(counts)}, see above.", "bold red"))
    for line in not_seen(copies):
        console.print(Text(line, "bold yellow"))
    console.print(Text(read, "dim"))
