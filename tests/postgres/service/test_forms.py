"""Options that belong to another form of a command are refused, and not passed over."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "register 15 --bin /srv/x -k /srv/k",
            "--bin is for one cluster (tde pg register 15/main)",
        ),
        (
            "register 15 --bindir /srv/x -k /srv/k",
            "and not for a whole version (tde pg register 15)",
        ),
        ("register 15/main --scope cluster", "--scope is for a whole version (tde pg register 15)"),
        ("register 15/main --aes 256", "--aes is for a whole version"),
        ("register 15/main --passphrase-fd 0", "--passphrase-fd is for a whole version"),
        ("register 15/main --provider x", "--provider is for a whole version"),
        ("register --refresh --bin /srv/x", "--bin is for one cluster"),
        (
            "register --refresh --keystore /srv/x",
            "--keystore is for one cluster (tde pg register 15/main) and a whole version (tde pg "
            "register 15), and not for everything that is registered (tde pg register --refresh)",
        ),
        ("register 15/main --refresh", "--refresh is for everything that is registered, and"),
        ("register", "no cluster was named"),
        ("unregister 15 --all", "--all is for everything that is registered, and 15 was named too"),
        ("unregister", "no cluster was named"),
        (
            "unit 15/main -D /srv/x",
            "--pgdata is for any other cluster (tde pg unit -D DIR --bin DIR)",
        ),
        ("unit 15/main --bin /srv/x", "and not for a cluster of Debian's (tde pg unit 15/main)"),
        ("unit 15/main --os-user x", "--os-user is for a unit that names a user"),
        ("unit -D /srv/x", "no directory of programs was named"),
        ("unit", "no cluster was named"),
    ],
)
def test_an_option_of_another_form_is_refused(tde_command, arguments: str, message: str) -> None:
    refused = tde_command("pg", *arguments.split(), exit_code=2)
    # The message stands in a box.
    assert message in re.sub(r"[\s│]+", " ", refused.stderr)
    assert refused.stdout == ""


def test_a_variable_for_all_commands_is_no_option(tde_command, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TDE_KEYSTORE", str(tmp_path / "keystore"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    tde_command("pg", "register", "--refresh")
