"""Judging the files in tar archives, each archive by one thread from first to last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tde.audit.findings import damaged_finding
from tde.audit.inventory import AuditedFile, Content, Place, classify
from tde.audit.report import FileClass, Finding
from tde.audit.scan import Task, scan_stream
from tde.audit.tally import Tally
from tde.audit.tar import Member, TarArchive, open_tar
from tde.audit.unpacking import Compression, DamagedContent


@dataclass(frozen=True)
class Judged:
    """A file in an archive, with what was found; ``None`` when it did not have to be read."""

    file: AuditedFile
    tally: Tally | None


def judge_archive(
    place: Place,
    tar: TarArchive,
    task_of: Callable[[AuditedFile], Task | None],
    report: Callable[[Judged | Finding], None],
) -> None:
    """Read an archive and judge the files in it.

    Args:
        task_of: says how a file is judged, or ``None`` when it need not be.
        report: is given what was found, in this thread.

    Raises:
        OSError: the archive cannot be read.
        Stopped: the audit was interrupted.
    """
    try:
        with open_tar(tar) as members:
            for member, stream in members:
                file = _file_of(place, tar, member)
                task = task_of(file) if file.size else None
                tally = None
                if task is not None:
                    assert file.content is not None
                    tally = scan_stream(file, stream, file.content, task)
                report(Judged(file, tally))
    except DamagedContent as error:
        archive = AuditedFile(place, tar.path, tar.path.name, 0, FileClass.UNKNOWN)
        report(damaged_finding(archive, f"is damaged: {error}"))


def _file_of(place: Place, tar: TarArchive, member: Member) -> AuditedFile:
    file = classify(place, member.name, tar.path, member.size)
    plain = tar.compression is Compression.NONE
    content = Content(
        tar.compression,
        part=(member.offset, member.size) if plain else None,
        size=member.size,
        addressable=plain,
    )
    return replace(file, content=content, member=member.name)
