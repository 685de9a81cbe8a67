"""Install the lab's packages into its layer: run in a mount namespace of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.ha_lab.lab import PACKAGES, Lab
from tests.ha_lab.root import make_root, mount

# Debian 12's ocf-shellfuncs calls crm_attribute with a quoting that loses the resource's name, so
# that a promotion score is never deleted; the agent itself is not changed.
_DEFECT = re.compile(r"crm_attribute -p \$@")
_MENDED = 'crm_attribute -p "${OCF_RESOURCE_INSTANCE}" $@'


def main() -> None:
    """Build a root, install in it, and mend the one line."""
    lab = Lab(Path(sys.argv[1]), Path())
    root = lab.directory / "layer-root"
    make_root(root, lab.layer, None)
    mount("-t", "proc", "proc", root / "proc")
    shutil.copyfile("/etc/resolv.conf", root / "etc" / "resolv.conf")
    (root / "usr" / "sbin" / "policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr" / "sbin" / "policy-rc.d").chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    subprocess.run(["chroot", str(root), *install], check=True, env=environment)
    functions = root / "usr/lib/ocf/lib/heartbeat/ocf-shellfuncs"
    functions.write_text(_DEFECT.sub(lambda _: _MENDED, functions.read_text()))


if __name__ == "__main__":
    main()
