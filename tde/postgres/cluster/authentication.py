"""Who may connect to a new cluster, where nobody has said it."""

from __future__ import annotations

import getopt
from collections.abc import Sequence

# Those of initdb from 15 to 19.
_LETTERS = "A:c:dD:E:gkL:nNsST:U:WX:"
_LONG = (
    *("pgdata=", "encoding=", "locale=", "lc-collate=", "lc-ctype=", "lc-monetary=", "lc-numeric="),
    *("lc-time=", "lc-messages=", "no-locale", "text-search-config=", "auth=", "auth-local="),
    *("auth-host=", "pwprompt", "pwfile=", "username=", "help", "version", "debug", "show"),
    *("noclean", "no-clean", "nosync", "no-sync", "no-instructions", "set=", "sync-only"),
    *("waldir=", "wal-segsize=", "data-checksums", "no-data-checksums", "allow-group-access"),
    *("discard-caches", "locale-provider=", "builtin-locale=", "icu-locale=", "icu-rules="),
    *("sync-method=", "no-sync-data-files"),
)
PEER = "peer"
PASSWORD = "scram-sha-256"


def initdb_options(initdb_args: Sequence[str]) -> dict[str, str]:
    """Return the options by their long names; what initdb itself refuses makes it empty."""
    long_of = {"A": "auth", "U": "username", "n": "no-clean"}
    try:
        found, _ = getopt.gnu_getopt([*initdb_args], _LETTERS, [*_LONG])
    except getopt.GetoptError:
        return {}
    names = ((name.lstrip("-"), value) for name, value in found)
    return {long_of.get(name, name): value for name, value in names}


def authentication_arguments(initdb_args: Sequence[str], os_user_name: str) -> list[str]:
    """Return what initdb needs so that not every local user is its superuser.

    On the Unix socket the kernel says who connects (``peer``); over TCP a password is asked for.
    A superuser who is no user of the system could not come in so: with such a name the socket
    takes a password too, and initdb insists on ``--pwfile`` or ``--pwprompt``.

    Args:
        initdb_args: what the caller gives to initdb. It goes behind what is returned, and wins.
        os_user_name: who runs initdb and the server.
    """
    given = initdb_options(initdb_args)
    if "auth" in given:
        return []
    local = PEER if given.get("username", os_user_name) == os_user_name else PASSWORD
    wanted = {"auth-local": local, "auth-host": PASSWORD}
    return [f"--{name}={method}" for name, method in wanted.items() if name not in given]
