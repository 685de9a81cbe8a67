"""Changing the user of a program without a copy of the test process.

:mod:`subprocess` forks where it is given a ``user``, and uses vfork(2) where it is not. A process
of pytest has 400 MB, whose page tables a fork copies, and every page that it writes afterwards is
copied too: a fourth of the time of all tests. So tests that run as root leave the change to
setpriv(1), which every Debian has. The commands that tests run, ``tde`` first of all, are processes
of their own and change the user as they always do.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SETPRIV = Path("/usr/bin/setpriv")
ENV = "/usr/bin/env"


class LightPopen(subprocess.Popen[Any]):
    """``subprocess.Popen``, with setpriv(1) for ``user``, ``group`` and ``extra_groups``."""

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        if isinstance(args, list | tuple) and args and _is_for_setpriv(options):
            args, options = _through_setpriv(args, options)
        super().__init__(args, *more, **options)


def _is_for_setpriv(options: Mapping[str, Any]) -> bool:
    ids = (options.get("user"), options.get("group"))
    return all(isinstance(number, int) for number in ids) and not (
        options.get("shell") or options.get("executable") or options.get("preexec_fn")
    )


def _through_setpriv(
    args: Sequence[Any], options: dict[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    user, group, groups = (options.pop(name, None) for name in ("user", "group", "extra_groups"))
    program, *arguments = map(os.fspath, args)
    if "/" in program and not Path(program).exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    environment = dict(os.environ if options.get("env") is None else options["env"])
    options["env"] = environment
    change = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    command = [os.fspath(SETPRIV), f"--reuid={user}", f"--regid={group}", *change, "--"]
    # What the dynamic loader is told is meant for the program alone.
    loader = [name for name in environment if name.startswith("LD_")]
    if loader:
        command += [ENV, *(f"{name}={environment.pop(name)}" for name in loader)]
    return [*command, program, *arguments], options


def use_setpriv() -> None:
    """Let all tests of this process change the user of programs this way, where they may at all."""
    if os.geteuid() == 0 and SETPRIV.exists():
        subprocess.Popen = LightPopen  # type: ignore[misc]
