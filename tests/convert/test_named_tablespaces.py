"""Tablespaces given by name, when the catalog that has the names may be encrypted already."""

from __future__ import annotations

import pytest

from tde.convert.tablespace_names import resolve_tablespaces
from tde.errors import ConversionError
from tde.postgres import Scope, encrypt_cluster
from tde.postgres.cluster.unfinished_conversion import MOVED_CONTROL
from tests.convert.interruptions import die_at_sync, run_until

NAMES = ["secret", "pg_global", "pg_default"]


def encrypt_names(copy, keystore) -> None:
    encrypt_cluster(copy, keystore, scope=Scope.TABLESPACES, tablespaces=NAMES, jobs=1)


def command(cluster, keystore, *names: str) -> list[object]:
    named = [word for name in names for word in ("--tablespace", name)]
    place = [cluster.data_directory, "--keystore", keystore.path, "--passphrase-fd", 0]
    return ["pg", "encrypt", *place, "--scope", "tablespaces", *named]


def test_the_same_command_continues_when_the_names_are_encrypted(
    original, copy, keystore_factory, tde_command
):
    keystore = keystore_factory()
    # All blocks are encrypted, those of pg_tablespace too, and the conversion is not finished.
    assert run_until(die_at_sync(0, of_finish=True), lambda: encrypt_names(copy, keystore))
    assert (copy.data_directory / MOVED_CONTROL).exists()
    with pytest.raises(ConversionError, match="does not have its plain form"):
        resolve_tablespaces(copy.data_directory, ["secret"])

    for other in (["secret"], ["other"], [*NAMES, "nosuch"]):
        refused = tde_command(*command(copy, keystore, *other), exit_code=1)
        assert "was begun with other tablespaces" in refused.stderr
    tde_command(*command(copy, keystore, *NAMES))
    assert copy.marker is not None
    protections = copy.status().protections
    assert protections[str(original.tablespace)] == protections["pg_global"] == "AES-256-XTS"


def test_names_are_not_looked_up_in_a_cluster_that_is_encrypted_already(
    original, copy, keystore_factory, tde_command
):
    keystore = keystore_factory()
    encrypt_names(copy, keystore)
    refused = tde_command(*command(copy, keystore, *NAMES), exit_code=1)
    assert "is encrypted already" in refused.stderr


def test_a_catalog_with_impossible_rows_is_told_with_a_remedy(original, copy):
    catalog = copy.data_directory / "global/1213"
    page = bytearray(catalog.read_bytes())
    # The line pointers lie behind the page header: this one leads out of the page.
    page[24:28] = (8000 | 1 << 15 | 500 << 17).to_bytes(4, "little")
    catalog.write_bytes(page)
    with pytest.raises(ConversionError, match="does not have its plain form") as caught:
        resolve_tablespaces(copy.data_directory, ["secret"])
    assert "OIDs" in caught.value.remedy


def test_what_is_wrong_is_told_before_the_passphrase(
    original, copy, keystore_factory, tde_command, any_binaries
):
    keystore = keystore_factory()
    prompt = ["--keystore", keystore.path, "--passphrase-command", "exit 1"]
    directory = copy.data_directory
    named = ["--scope", "tablespaces", "--tablespace", "nosuch"]
    unknown = tde_command("pg", "encrypt", directory, *prompt, *named, exit_code=1)
    assert 'there is no tablespace "nosuch"' in unknown.stderr
    plain = tde_command("pg", "decrypt", directory, *prompt, exit_code=1)
    assert "is not encrypted" in plain.stderr

    copy.start(None, options={"listen_addresses": ""})
    running = tde_command("pg", "encrypt", directory, *prompt, exit_code=1)
    assert f"the server in {directory} is running" in running.stderr
    copy.stop()

    encrypt_cluster(copy, keystore)
    already = tde_command("pg", "encrypt", directory, *prompt, exit_code=1)
    assert "is encrypted already" in already.stderr


def test_the_command_that_finishes_an_encryption_can_be_typed(
    original, copy, keystore_factory, tde_command
):
    keystore = keystore_factory()
    assert run_until(die_at_sync(0, of_finish=True), lambda: encrypt_names(copy, keystore))
    place = [copy.data_directory, "--keystore", keystore.path, "--passphrase-fd", 0]
    refused = tde_command("pg", "decrypt", *place, exit_code=1)
    _, _, typed = refused.stderr.strip().partition("Finish it first: tde ")
    assert "--keystore" in typed
    tde_command(*typed.split(), "--passphrase-fd", 0)
    assert copy.marker is not None
