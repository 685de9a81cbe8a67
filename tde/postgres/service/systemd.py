"""Units of systemd for encrypted clusters: a whole one, or a drop-in for Debian's own.

What a unit adds for encryption is little: no core dumps, memory that may be locked, no swap, and
the credential with which the keystore opens, where it is bound to one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tde.errors import TdeError

_LOCKED_MEMORY = "16M"  # The server needs 8 at most (tde.machine.checks); programs beside it more.
# systemd takes "%" for a specifier, "$" for a variable and a space for the end of a word.
_AWKWARD = re.compile(r"[\s\"'\\$]")


@dataclass(frozen=True)
class Credential:
    """A credential that systemd hands to the unit.

    Attributes:
        name: as the keystore's binding calls it.
        source: the file with it.
        is_encrypted: by ``systemd-creds encrypt``.
    """

    name: str
    source: Path
    is_encrypted: bool

    @property
    def line(self) -> str:
        """The unit's line for it."""
        kind = "LoadCredentialEncrypted" if self.is_encrypted else "LoadCredential"
        return f"{kind}={_word(self.name)}:{_word(str(self.source))}"


def drop_in(user: str, credentials: Iterable[Credential] = ()) -> str:
    """Return what Debian's unit of a cluster needs beside its own lines.

    Args:
        user: who owns the cluster. systemd shows credentials to nobody but the unit's user, and
            Debian's unit is root's.

    Raises:
        TdeError: a name cannot stand in a unit.
    """
    given = list(credentials)
    lines = [
        "# Made by `tde pg unit`. Keys and rows are in the server's memory, so that is kept off",
        "# the disk: no core dumps, no swap, and memory for keys that the kernel does not move.",
        "[Service]",
        *([f"User={_word(user)}"] if given else []),
        *_service(given),
    ]
    return "\n".join(lines) + "\n"


def unit(
    data_directory: Path, programs: Path, user: str, credentials: Iterable[Credential] = ()
) -> str:
    """Return a whole unit that runs the server of a directory of stand-ins.

    Args:
        programs: made by ``tde pg install-bin``.
        user: who runs the server.

    Raises:
        TdeError: a name cannot stand in a unit.
    """
    data, bin_directory = _word(str(data_directory)), _word(str(programs))
    lines = [
        "[Unit]",
        f"Description=PostgreSQL, encrypted, in {data}",
        "After=network.target",
        f"RequiresMountsFor={data} {bin_directory}",
        "",
        "[Service]",
        # A build without libsystemd does not tell that it is ready, so pg_ctl is asked to wait.
        "Type=forking",
        f"User={_word(user)}",
        f"ExecStart={bin_directory}/pg_ctl start -D {data} -s -w -t 3600 -l {data}.log",
        f"ExecStop={bin_directory}/pg_ctl stop -D {data} -s -w -m fast",
        f"ExecReload={bin_directory}/pg_ctl reload -D {data} -s",
        f"PIDFile={data}/postmaster.pid",
        "# Recovery takes as long as it takes.",
        "TimeoutStartSec=0",
        "TimeoutStopSec=1h",
        "KillMode=mixed",
        "KillSignal=SIGINT",
        "# The postmaster is spared by the kernel when memory runs out; its children are not.",
        "OOMScoreAdjust=-900",
        "Environment=PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj PG_OOM_ADJUST_VALUE=0",
        *_service(credentials),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _service(credentials: Iterable[Credential]) -> list[str]:
    return [
        "LimitCORE=0",
        f"LimitMEMLOCK={_LOCKED_MEMORY}",
        "MemorySwapMax=0",
        *(credential.line for credential in credentials),
    ]


def _word(text: str) -> str:
    """Return a word for a unit's line.

    Raises:
        TdeError: there is a space, a quote, a backslash or a dollar sign in it.
    """
    if _AWKWARD.search(text):
        raise TdeError(
            f"{text!r} cannot stand in a unit of systemd: there is a space, a quote or a $ in it",
            remedy="Give it another name, or a link with one.",
        )
    return text.replace("%", "%%")
