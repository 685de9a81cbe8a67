"""PostgreSQL's source packages of Debian: fetch, unpack, build, install into a work folder.

The server that the suites run on is built from the very package that the suites come from.
So server, test modules (``regress.so``, ``test_decoding``, ``injection_points``) and expected
results always belong together, and a PostgreSQL that the machine has installed stays untouched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tde.errors import TdeError
from tde.postgres import OsUser, server_os_user

# What the build needs beyond a compiler, as Debian packages.
BUILD_PACKAGES = (
    *("bison", "flex", "libipc-run-perl", "liblz4-dev", "libssl-dev", "zlib1g-dev"),
    *("dpkg-dev", "gcc", "make", "perl", "xz-utils", "bzip2"),
)
# The release that carries the source of a major version; no stable one has 18 and 19 yet.
RELEASES = {15: "bookworm", 17: "trixie", 18: "sid", 19: "experimental"}
# Modules outside of contrib that TAP tests load, since the version that has them.
EXTRA_MODULES_SINCE = {17: ("injection_points",)}
CONFIGURE = (
    *("--enable-tap-tests", "--without-readline", "--without-icu"),
    *("--with-openssl", "--with-lz4", "CFLAGS=-O2"),
)
# Without them the tests of 17 and newer that stop a backend at a point are skipped.
CONFIGURE_SINCE = {17: ("--enable-injection-points",)}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class SuitesError(TdeError):
    """The suites cannot be fetched, built or run."""


@dataclass(frozen=True)
class Tree:
    """One version's folder: ``source`` (unpacked and built) and ``pgsql`` (the server)."""

    major: int
    folder: Path

    @property
    def source(self) -> Path:
        """The unpacked source package, in which the build happens."""
        return self.folder / "source"

    @property
    def prefix(self) -> Path:
        """Where the server is installed.

        Debian's package installs its modules into the system's directory, whatever the prefix
        is, unless the prefix holds "pgsql" or "postgres".
        """
        return self.folder / "pgsql"

    @property
    def bindir(self) -> Path:
        """The directory of the stock programs."""
        return self.prefix / "bin"

    @property
    def share(self) -> Path:
        """Where the extensions' files are."""
        return self.prefix / "share" / "postgresql"

    @property
    def stamp(self) -> Path:
        """Exists once everything is built; holds the version of the source package."""
        return self.folder / "built"


def prepare(tree: Tree, *, mirror: str | None = None) -> str:
    """Make sure that the tree is built, and return the version of its source package.

    Raises:
        SuitesError: something is missing on this machine, or a step of the build failed.
    """
    if not tree.stamp.exists():
        tree.folder.mkdir(parents=True, exist_ok=True)
        require_packages()
        if not tree.source.exists():
            _fetch(tree, mirror)
        _build(tree)
        tree.stamp.write_text(_source_version(tree) + "\n")
    return tree.stamp.read_text().strip()


def require_packages() -> None:
    """Install the Debian packages that the build needs; without root, say which are missing."""
    missing = [name for name in BUILD_PACKAGES if not _is_installed(name)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise SuitesError(
            f"missing on this machine: {' '.join(missing)}",
            remedy=f"As root: apt-get install {' '.join(missing)}",
        )
    _run(["apt-get", "update", "-q"])
    _run(
        ["apt-get", "install", "-qy", "--no-install-recommends", *missing],
        environment={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )


def _is_installed(package: str) -> bool:
    query = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Status}", package], capture_output=True, text=True
    )
    return query.stdout.startswith("install ok")


def _fetch(tree: Tree, mirror: str | None) -> None:
    """Download the source package through an apt configuration of its own, and unpack it."""
    apt = _private_apt(tree, mirror)
    _run([*apt, "update", "-q"])
    name = f"postgresql-{tree.major}"
    wanted = f"{name}={installed}" if (installed := _installed_version(name)) else name
    download = ["source", "--download-only", "-q"]
    try:
        _run([*apt, *download, wanted], folder=tree.folder)
    except SuitesError:
        # The archive keeps only the newest version of a release.
        _run([*apt, *download, name], folder=tree.folder)
    (description,) = tree.folder.glob("*.dsc")
    _run(["dpkg-source", "--no-check", "-x", description.name, "source"], folder=tree.folder)


def _private_apt(tree: Tree, mirror: str | None) -> list[str]:
    """Return an ``apt-get`` that knows one source line and leaves the system's lists alone."""
    apt = tree.folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    line = (
        f"deb-src [signed-by={KEYRING}] {mirror or _system_mirror()} {RELEASES[tree.major]} main\n"
    )
    (apt / "sources.list").write_text(line)
    options = {
        "Dir::Etc::sourcelist": str(apt / "sources.list"),
        "Dir::Etc::sourceparts": "-",
        "Dir::State": str(apt / "state"),
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": str(apt / "cache"),
        # The folder may be one that apt's own user cannot reach.
        "APT::Sandbox::User": "root",
    }
    return ["apt-get", *(part for item in options.items() for part in ("-o", "=".join(item)))]


def _system_mirror() -> str:
    """Return the archive that this machine's apt uses for Debian itself."""
    query = subprocess.run(
        [
            *("apt-get", "indextargets", "--format", "$(REPO_URI)"),
            *("Created-By: Packages", "Origin: Debian", "Component: main"),
        ],
        capture_output=True,
        text=True,
    )
    mirrors = [line for line in query.stdout.split() if not line.rstrip("/").endswith("security")]
    if not mirrors:
        raise SuitesError(
            "apt knows no Debian archive on this machine",
            remedy="Run `apt-get update`, or name a Debian mirror with --mirror.",
        )
    return mirrors[0]


def _installed_version(package: str) -> str:
    query = subprocess.run(
        ["dpkg-query", "-W", "-f", "${source:Version}", package], capture_output=True, text=True
    )
    return query.stdout.strip() if query.returncode == 0 else ""


def _build(tree: Tree) -> None:
    user = server_os_user(None)
    if user is not None:
        _run(["chown", "-R", f"{user.uid}:{user.gid}", str(tree.folder)])
    options = [*CONFIGURE]
    for major, more in CONFIGURE_SINCE.items():
        options += more if tree.major >= major else ()
    log = tree.folder / "build.log"
    log.unlink(missing_ok=True)
    shutil.rmtree(tree.prefix, ignore_errors=True)

    def step(*command: str) -> None:
        # Never as root: then no makefile can touch the PostgreSQL that this machine has.
        _run(command, folder=tree.source, log=log, user=user)

    step("./configure", f"--prefix={tree.prefix}", *options)
    for target in ("all", "install"):
        for folder in (".", "contrib", *_module_folders(tree)):
            step("make", "-s", f"-j{os.cpu_count()}", "-C", folder, target)


def _module_folders(tree: Tree) -> list[str]:
    names = [
        name
        for major, modules in EXTRA_MODULES_SINCE.items()
        if tree.major >= major
        for name in modules
    ]
    return [f"src/test/modules/{name}" for name in names]


def _source_version(tree: Tree) -> str:
    changelog = (tree.source / "debian" / "changelog").read_text().splitlines()[0]
    return changelog.split("(")[1].split(")")[0]


def _run(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    log: Path | None = None,
    environment: dict[str, str] | None = None,
    user: OsUser | None = None,
) -> None:
    """Run one step; its output goes to the log, or is shown when the step fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        user=user.uid if user else None,
        group=user.gid if user else None,
        extra_groups=user.groups if user else None,
    )
    if log is not None:
        with log.open("a") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}")
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise SuitesError(
            f"{command[0]} failed with exit status {done.returncode}:\n{tail}",
            remedy=f"The whole output is in {log}." if log else "",
        )
