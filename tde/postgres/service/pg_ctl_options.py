"""pg_ctl.conf of a cluster of Debian's: the options for pg_ctl in it, and the server they name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tde.errors import DataDirectoryError, TdeError
from tde.postgres.cluster.bin_directory import is_bin_directory
from tde.postgres.server.cluster_files import read_cluster_file
from tde.postgres.server.os_user import user_of_files
from tde.postgres.server.owned_files import write_owned_file
from tde.postgres.service.places import own_place

OPTIONS_FILE = "pg_ctl.conf"

_OPTIONS = re.compile(r"^[ \t]*pg_ctl_options[ \t]*=?[ \t]*(?P<value>'[^'\n]*'|\S*)[^\n]*$", re.M)


@dataclass(frozen=True)
class PgCtlOptions:
    """pg_ctl.conf of a cluster, and the options for pg_ctl in it."""

    path: Path
    content: str

    @classmethod
    def of(cls, directory: Path) -> PgCtlOptions:
        """Read them in the directory of a cluster's configuration; no link is followed.

        The directory may belong to the server's user, to whom root would give a copy of any file.

        Raises:
            DataDirectoryError: it is no file of the directory's owner.
        """
        try:
            content = read_cluster_file(directory, OPTIONS_FILE)
        except FileNotFoundError:
            content = b""
        return cls(directory / OPTIONS_FILE, content.decode(errors="surrogateescape"))

    @property
    def _words(self) -> list[str]:
        """The options; pg_ctlcluster splits them at spaces, and takes the last line of several."""
        found = [match["value"] for match in _OPTIONS.finditer(self.content)]
        return found[-1].strip("'").split() if found else []

    @property
    def _servers(self) -> list[tuple[int, int]]:
        """Where in the words the server program is named: the first one, and behind the last."""
        words = self._words
        together = [(at, at + 1) for at, word in enumerate(words) if re.match("-p.", word)]
        apart = [(at, at + 2) for at, word in enumerate(words[:-1]) if word == "-p"]
        return sorted(together + apart)

    @property
    def server(self) -> Path | None:
        """The program that ``-p`` names, as getopt finds it: the last one counts."""
        if not self._servers:
            return None
        begin, end = self._servers[-1]
        return Path("".join(self._words[begin:end]).removeprefix("-p"))

    @property
    def programs(self) -> Path | None:
        """The directory of stand-ins whose server program is named, if any.

        One that is gone counts where only tde makes any: whoever removed it left the line.
        """
        if self.server is None:
            return None
        directory = self.server.parent
        is_ours = directory.parent == own_place() or is_bin_directory(directory)
        return directory if is_ours else None

    def require_replaceable(self, programs: Path) -> None:
        """Refuse to name a server program where another one is named, or cannot be.

        Raises:
            DataDirectoryError: another program than a stand-in is named.
            TdeError: pg_ctlcluster would not understand the name.
        """
        if self.server is not None and self.programs is None:
            raise DataDirectoryError(
                f"pg_ctl_options in {self.path} names another server program: {self.server}",
                remedy="Take -p out of it, or put that program's directory into PATH instead.",
            )
        if re.search(r"[\s'\"\\]", str(programs)):
            raise TdeError(
                f"pg_ctlcluster splits its options at spaces, and cannot be told of {programs}",
                remedy="Name a directory without spaces and quotes with --bin.",
            )

    def with_server(self, programs: Path) -> PgCtlOptions:
        """Return options that name the server program of a directory, and no other."""
        kept = self.without_server()
        return kept._with_words(["-p", str(programs / "postgres"), *kept._words])

    def without_server(self) -> PgCtlOptions:
        """Return options that name no server program."""
        named = {at for begin, end in self._servers for at in range(begin, end)}
        words = [word for at, word in enumerate(self._words) if at not in named]
        return self._with_words(words) if named else self

    def _with_words(self, words: list[str]) -> PgCtlOptions:
        line = f"pg_ctl_options = '{' '.join(words)}'"
        matches = list(_OPTIONS.finditer(self.content))
        if not matches:
            newline = "\n" if self.content and not self.content.endswith("\n") else ""
            return PgCtlOptions(self.path, f"{self.content}{newline}{line}\n")
        last = matches[-1]
        before, behind = self.content[: last.start()], self.content[last.end() :]
        return PgCtlOptions(self.path, before + line + behind)

    def write(self) -> None:
        """Write the file where that changes it; it belongs to the directory's owner.

        Raises:
            OSError: it cannot be written.
        """
        directory = self.path.parent
        if self == self.of(directory):
            return
        try:
            mode = 0o644 & self.path.lstat().st_mode
        except FileNotFoundError:
            mode = 0o644
        write_owned_file(self.path, self.content, user_of_files(directory), mode=mode)
