"""Units that `tde pg unit` prints, looked at by systemd itself."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)


def verify(unit: Path) -> str:
    """Return what systemd says of a unit; nothing for a good one."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
    )
    own = [line for line in done.stderr.splitlines() if unit.name in line]
    assert done.returncode == 0 or not own, done.stderr
    return "\n".join(own)


@pytest.fixture
def programs(tmp_path) -> Path:
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "pg_ctl").symlink_to("/bin/true")
    return directory


@needs_systemd
def test_a_whole_unit_is_good_for_systemd(tde_command, tmp_path, programs, os_user):
    user = () if os_user is None else ("--os-user", os_user.name)
    credentials = ("--credential", "tde:/etc/hostname", "--encrypted-credential", "b:/etc/x.cred")
    shown = tde_command(
        *("pg", "unit", "-D", tmp_path / "50%", "--bin", programs, *user, *credentials)
    ).stdout
    unit = tmp_path / "pg-main.service"
    unit.write_text(shown)
    assert verify(unit) == ""
    for line in ("LimitCORE=0", "MemorySwapMax=0", "LoadCredential=tde:/etc/hostname"):
        assert f"\n{line}\n" in shown
    assert "LoadCredentialEncrypted=b:/etc/x.cred" in shown
    assert f"-D {tmp_path}/50%%" in shown
    # A word that systemd does not know is seen, so the look above means something.
    unit.write_text(shown.replace("LimitCORE=0", "LimitCOR=0"))
    assert "LimitCOR" in verify(unit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no cluster was named"),
        (("-D", "/srv/a b", "--bin", "/opt/x"), "a space, a quote"),
        (("-D", "/srv/a", "--bin", "/opt/x", "--credential", "tde"), "is not NAME:FILE"),
        (("99/none",), "there is no cluster 99/none"),
    ],
)
def test_what_cannot_stand_in_a_unit_is_refused(tde_command, arguments, message):
    refused = tde_command("pg", "unit", *arguments, exit_code=None)
    assert refused.returncode != 0
    assert message in refused.stderr
    assert refused.stdout == ""
