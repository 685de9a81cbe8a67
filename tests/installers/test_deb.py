"""The Debian package in a clean Debian of this machine's release, until it is purged."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_BUILT = sorted((Path(__file__).parents[2] / "build" / "deb").glob("tde_*.deb"))
_SCENARIO = Path(__file__).with_name("deb_scenario.sh")
_RELEASE = platform.freedesktop_os_release().get("VERSION_CODENAME", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not _BUILT, reason="there is no package; run: make deb"),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("debootstrap") is None,
        reason="needs root and debootstrap",
    ),
]


@pytest.fixture
def system() -> Iterator[Path]:
    """A minimal Debian, with the package lists and the name resolution of this machine."""
    # Not in memory: a server and all its packages have hundreds of megabytes.
    with tempfile.TemporaryDirectory(prefix="test-of-tde-debian-", dir="/tmp") as directory:
        root = Path(directory)
        root.chmod(0o755)  # The server's user has to enter it.
        subprocess.run(
            ["debootstrap", "--variant=minbase", _RELEASE, root, *_mirror()],
            check=True,
            capture_output=True,
        )
        shutil.rmtree(root / "etc/apt/sources.list.d")
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        for place in ("etc/apt/sources.list.d", "usr/share/keyrings"):
            shutil.copytree(Path("/") / place, root / place, dirs_exist_ok=True)
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        # Services are started by the scenario only.
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        yield root


def _mirror() -> list[str]:
    """Return the mirror of this machine's own sources."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    lines = sources.read_text().splitlines() if sources.exists() else []
    return [line.split()[1] for line in lines if line.startswith("URIs:")][:1]


def test_from_installation_to_purge(system):
    shutil.copy(_BUILT[-1], system / "tmp/tde.deb")
    shutil.copy(_SCENARIO, system / "scenario.sh")
    # What it mounts and starts ends with it.
    script = (
        "set -e; cd $0; mount -t proc proc proc; mount -t tmpfs tmpfs dev/shm; "
        "exec chroot . /bin/bash /scenario.sh"
    )
    private = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [*private, "/bin/bash", "-c", script, system],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert done.stdout.rstrip().endswith("ALL DONE")
