"""Servers that ask for a password, which the commands do not have."""

from __future__ import annotations

from tde.postgres.server.os_user import current_user_name


def test_commands_tell_how_a_password_is_given(
    encrypted_cluster_factory, any_binaries, os_user_tmp_path, tde_command, monkeypatch
):
    made = encrypted_cluster_factory(any_binaries)
    user = made.cluster.connection_parameters()["user"]
    made.query(f"ALTER ROLE \"{user}\" PASSWORD 'a password'")
    (made.data_directory / "pg_hba.conf").write_text("local all all scram-sha-256\n")
    made.cluster.stop()
    made.start()
    monkeypatch.setenv("PGPASSFILE", str(os_user_tmp_path / "pgpass"))
    place = ["-D", made.data_directory]
    location = ["--location", os_user_tmp_path / "space", "--passphrase-fd", 0]
    for command in (["list", *place], ["create", "secret", *place, *location]):
        refused = tde_command("tablespace", *command, exit_code=1)
        assert "no password supplied" in refused.stderr
        assert (
            f"HINT: Let {current_user_name()} connect (a .pgpass file), or name a superuser with "
            "--username." in refused.stderr
        )
    passwords = os_user_tmp_path / "pgpass"
    passwords.write_text("*:*:*:*:a password\n")
    passwords.chmod(0o600)
    assert "pg_default" in tde_command("tablespace", "list", *place).stdout
