"""The commands of the pages, typed on real servers as a reader would, page by page."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from tde.postgres.server.os_user import current_user_name
from tests.docs.pages import DOCS, commands
from tests.docs.reader import MAIN, RESTORED, SETTINGS, Reader
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.pdf_libraries import pdf_libraries
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import configure

__all__ = ["pdf_libraries"]


STANDBY = "/srv/pg/standby"


def archive_all(reader: Reader) -> None:
    """Finish a segment and wait until it is in the archive.

    Where nothing was written since the last one was finished, that one is meant: the server then
    returns where the next begins, which from version 17 on is a place in that.
    """
    segment = reader.query(MAIN, "SELECT pg_walfile_name(pg_switch_wal() - 1)")
    reader.wait_until(MAIN, f"SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver", True)


def test_encrypt_a_cluster_and_decrypt_it(reader, encrypted_cluster_factory, any_binaries):
    made = encrypted_cluster_factory.plain(any_binaries, name="pg/main", start=False)
    configure(made, [*SETTINGS, reader.here("port = 5432")])
    reader.type(f"tde pg start -D {MAIN}")
    reader.fill(MAIN)
    page = "encrypt-a-cluster.md"
    shown = reader.type(*commands(page, "Encrypt an existing cluster"))
    assert "Server started, encrypted" in shown
    assert reader.query(MAIN, "SELECT count(*) FROM t") == 1000
    assert files_with(CANARY, reader.place(MAIN)) == []
    # There is nothing left to continue.
    reader.type(f"tde pg stop -D {MAIN}")
    (again,) = commands(page, "If it was interrupted")
    assert "encrypted already" in reader.type(again, exit_codes=(1,))
    reader.type(f"tde pg start -D {MAIN}", *commands(page, "The way back"))
    assert files_with(CANARY, reader.place(MAIN))
    assert "not encrypted" in reader.type(f"tde pg start -D {MAIN}")
    assert reader.query(MAIN, "SELECT count(*) FROM t") == 1000


def test_doctor(reader, main):
    lines = [
        line.partition("#")[0]
        for line in commands("doctor.md", "Is this machine fit for encryption?")
    ]
    # This machine need not be fit for encryption; 2 and more would be another failure.
    *_, document = [reader.type(line, exit_codes=(0, 1)) for line in lines]
    assert json.loads(document)["data_directory"] == reader.here(MAIN)
    reader.type(f"tde pg stop -D {MAIN}")
    off = f"tde pg exec -D {MAIN} pg_checksums --disable -D {MAIN}"
    reader.type(off, f"tde pg start -D {MAIN}")
    assert verdict_on_checksums(reader) == "problem"
    reader.type(*commands("doctor.md", "Data checksums"))
    assert verdict_on_checksums(reader) == "ok"


def verdict_on_checksums(reader: Reader) -> str:
    shown = reader.type(f"tde pg doctor -D {MAIN} --json", exit_codes=(0, 1))
    (found,) = [f for f in json.loads(shown)["findings"] if f["check"] == "checksums"]
    return str(found["verdict"])


def test_audit(reader, main):
    reader.type(commands("backup-and-restore.md", "Take a base backup")[0])
    archive_all(reader)
    reader.type(*commands("audit.md", "Prove that everything is encrypted"))
    reader.type(*commands("audit.md", "Look for a row"))
    # Somebody writes past tde: the same commands say so.
    reader.place("/srv/archive/000000010000000000000001").write_bytes(CANARY * 40_000)
    *_, with_archive = commands("audit.md", "Prove that everything is encrypted")
    assert "plaintext" in reader.type(with_archive, exit_codes=(1,))


def test_report(reader, main, pdf_libraries):
    reader.place("/srv/tde/keystore").symlink_to(main.keystore.path)
    reader.type(commands("backup-and-restore.md", "Take a base backup")[0])
    archive_all(reader)
    # What is found on this machine is not ours to choose.
    reader.type(*commands("report.md", "A report for auditors"), exit_codes=(0, 1))
    page, paper, data = commands("report.md", "Prove that it was not altered")
    for line in (page, paper):
        assert "is as tde has made it" in reader.type(line)
    shown = reader.type(data)
    report = json.loads(shown[shown.index("{") :])["report"]
    places = {line["place"] for line in report["audit"]["lines"]}
    expected = {
        f"archive {reader.here('/srv/archive')}",
        f"backup {reader.here('/srv/backup/monday')}",
    }
    assert places == {"cluster", *expected}
    assert report["audit"]["clean"] is True
    file = reader.place("/srv/report.html")
    file.write_bytes(file.read_bytes().replace(b"Proof of encryption", b"Proof of encryptiom"))
    assert "not proven" in reader.type(page, exit_codes=(1,))


def test_back_up_and_restore(reader, main):
    page = "backup-and-restore.md"
    reader.type(*commands(page, "Take a base backup"))
    restore = commands(page, "Restore it")
    reader.type(*restore)
    assert reader.query(RESTORED, "SELECT count(*) FROM t") == 1000
    reader.type(f"tde pg stop -D {RESTORED}", *commands(page, "Backups in tar format"))
    assert reader.query("/srv/pg/unpacked", "SELECT count(*) FROM t") == 1000
    reader.type("tde pg stop -D /srv/pg/unpacked", f"rm -r {RESTORED}")

    reader.query(MAIN, "INSERT INTO t VALUES ('later')")
    then = reader.query(MAIN, "SELECT clock_timestamp()::text")
    reader.query(MAIN, "DELETE FROM t")
    archive_all(reader)
    reader.type(f"tde pg stop -D {MAIN}", *restore[:2])
    recovery = [re.sub(r"'20\d\d-[^']+'", f"'{then}'", line) for line in recovery_of(page)]
    assert f"recovery_target_time = '{then}'" in "".join(recovery)
    reader.type(*recovery)
    reader.wait_until(RESTORED, "SELECT pg_is_in_recovery()", False)
    assert reader.query(RESTORED, "SELECT count(*) FROM t") == 1001
    assert files_with(CANARY, *map(reader.place, (MAIN, RESTORED, "/srv/archive"))) == []


def test_a_sealed_backup(reader, main):
    reader.place("/srv/tde/keystore").symlink_to(main.keystore.path)
    take, verify, restore, start = commands("backup-and-restore.md", "A backup with a seal")
    assert "Sealed in" in reader.type(take)
    assert "is what was taken on" in reader.type(verify)
    assert "Restored the backup" in reader.type(restore, start)
    assert reader.query(RESTORED, "SELECT count(*) FROM t") == 1000
    reader.place("/srv/scratch").mkdir()
    chown(reader, "/srv/scratch")
    (drill,) = commands("backup-and-restore.md", "Try a restore")
    assert "can be restored." in reader.type(drill)
    archive = reader.place("/srv/backup/sealed/base.tar")
    archive.write_bytes(archive.read_bytes() + bytes(512))
    assert "is NOT what was taken" in reader.type(verify, exit_codes=(1,))


def recovery_of(page: str) -> list[str]:
    """Return the commands of a recovery, without the setting for compressed archives."""
    lines = commands(page, "Recover to a point in time")
    return [line for line in lines if not line.startswith("restore_command")]


def test_standby_failover_and_rewind(reader, main):
    page = "standbys.md"
    make_standby(reader, main)
    reader.query(MAIN, "INSERT INTO t VALUES ('streamed')")
    reader.wait_until(STANDBY, "SELECT count(*) FROM t", 1001)
    reader.type(*commands(page, "Fail over"))
    reader.query(STANDBY, "INSERT INTO t VALUES ('of the new primary')")
    reader.type(*commands(page, "Bring the old primary back"))
    reader.wait_until(MAIN, "SELECT count(*) FROM t", 1002)
    assert reader.query(MAIN, "SELECT pg_is_in_recovery()") is True


def test_a_standby_on_another_machine(reader, main):
    """The line with node1, from this machine; the role may do all that it asks for."""
    reader.place("/srv/tde/keystore").symlink_to(main.keystore.path)
    password = reader.place("/srv/tde/repli.password")
    password.touch(mode=0o600)
    password.write_text("of the role")
    prepare, other, *_ = commands("standbys.md", "Make a standby")
    assert "the role repli" in reader.type(prepare)
    assert "host=node1" in other
    assert "follows" in reader.type(other.replace("host=node1", "port=5432") + " -o '-p 5433'")
    assert reader.query(MAIN, "SELECT slot_name FROM pg_replication_slots") == "node2"


def test_switchover(reader, main):
    make_standby(reader, main)
    reader.query(MAIN, "INSERT INTO t VALUES ('the last one')")
    assert "is the primary now" in reader.type(*commands("standbys.md", "Change roles"))
    assert reader.query(STANDBY, "SELECT count(*) FROM t") == 1001
    assert reader.query(MAIN, "SELECT pg_is_in_recovery()") is True


def make_standby(reader, main) -> None:
    """Make one as the page says, but for the line that is typed on another machine."""
    reader.place("/srv/tde/keystore").symlink_to(main.keystore.path)
    password = reader.place("/srv/tde/repli.password")
    password.touch(mode=0o600)
    password.write_text("of the role")
    prepare, _, standby, status = commands("standbys.md", "Make a standby")
    assert "the role repli" in reader.type(prepare)
    assert "follows" in reader.type(standby)
    assert "streaming" in reader.type(status)


def test_the_nodes_of_a_pair_get_other_keys(reader, main):
    page = "standbys.md"
    make_standby(reader, main)
    stop, rekey, start, *old, same_keys, rejoin = commands(page, "Give the nodes other keys")
    reader.type(stop, rekey, start)
    reader.query(MAIN, "INSERT INTO t VALUES ('streamed')")
    reader.wait_until(STANDBY, "SELECT count(*) FROM t", 1001)
    shown = reader.type(*old, same_keys)
    assert "The rekeyed tablespaces have the keys of the other node." in shown
    reader.wait_until(STANDBY, "SELECT count(*) FROM t", 1001)
    reader.type(rejoin)
    reader.wait_until(MAIN, "SELECT pg_is_in_recovery()", True)


def test_keystore(reader):
    page = "keystore.md"
    reader.type(*commands(page, "Make one"))
    reader.type(f"tde pg init -D {MAIN} --keystore /srv/tde/keystore", f"tde pg start -D {MAIN}")
    reader.type(*commands(page, "Look at it"))
    (change,) = commands(page, "Change the passphrase")
    another = b"another passphrase"
    for old, new in ((PASSPHRASE, another), (another, PASSPHRASE)):
        shown = reader.type(change, answers=(old, new, new))
        assert "still open with the old passphrase" in shown
    assert "keys wrapped anew" in reader.type(*commands(page, "Rotate the master key"))
    assert "writes WAL with it" in reader.type(*commands(page, "Rotate the key of WAL"))
    close, open_ = commands(page, "Close it while the server runs")
    assert reader.type(close).splitlines()[-1].endswith("is closed")
    assert "closed for sessions" in reader.type(f"tde pg status -D {MAIN}")
    assert reader.type(open_).splitlines()[-1].endswith("is open")
    assert "close for sessions" in reader.type(*commands(page, "See who has used it"))
    enable, disable = commands(page, "Start without a passphrase")
    shown = reader.type(enable, *commands(page, "Back it up"), disable)
    assert "auto-open.key was left out" in shown
    shown = reader.type(*commands(page, "Restore it"))
    assert "every file is as tde wrote it" in shown
    assert not reader.place("/srv/tde/restored/auto-open.key").exists()
    assert "lacks no key" in reader.type(*commands(page, "Copy keys to a standby"))
    reader.type(*commands(page, "Move it"))
    reader.type(f"tde pg restart -D {MAIN}")


def test_tablespaces(reader, main):
    page = "tablespaces.md"
    shown = reader.type(*commands(page, "Tablespaces and what each is encrypted with"))
    assert "Created tablespace secret" in shown
    reader.type("mkdir /srv/pg/archive")
    reader.query(MAIN, f"CREATE TABLESPACE archive LOCATION '{reader.here('/srv/pg/archive')}'")
    listed = reader.type(f"tde tablespace list -D {MAIN}")
    assert "archive" in listed
    assert "NO KEY" not in listed
    reader.query(MAIN, "CREATE TABLE in_secret TABLESPACE secret AS SELECT 1 AS x")
    *lines, whole_database = commands(page, "Give data another key")
    shown = reader.type(*lines)
    assert "1 objects to move" in shown
    assert "Moved 1 objects" in shown
    assert "secret is empty: DROP TABLESPACE secret is possible" in shown
    lock, unlock = commands(page, "Lock a tablespace")
    assert "Tablespace secret is locked" in reader.type(lock)
    assert "Tablespace secret is unlocked" in reader.type(unlock)
    *lines, _ = commands(page, "Give a tablespace another key")  # The last: test_keystore.
    shown = reader.type(*lines)
    assert shown.count("Rekeyed tablespaces of") == 2
    reader.query(MAIN, "CREATE DATABASE app TABLESPACE other")
    reader.query(MAIN, whole_database.replace("third", "archive"))
    reader.query(MAIN, "DROP TABLESPACE secret")
    (prepare,) = commands(page, "With standbys")
    prepared = reader.type(prepare)
    (key,) = set(re.findall(r"--key (\S+)", prepared))
    assert "Created tablespace secret" in reader.type(prepare.replace("--prepare", f"--key {key}"))


def test_init_scripts(reader):
    page = "init-scripts-and-cluster-managers.md"
    *lines, stop = commands(page, "Init scripts, cluster managers and test suites")
    reader.type(*lines)
    reader.fill(MAIN)
    assert reader.query(MAIN, "SELECT count(*) FROM t") == 1000
    assert files_with(CANARY, reader.place(MAIN)) == []
    reader.type(stop)


@pytest.mark.slow
def test_auto_open(reader):
    page = "auto-open.md"
    reader.place("/srv/elsewhere").mkdir()
    chown(reader, "/srv/elsewhere")
    reader.type(*commands("keystore.md", "Make one"))
    reader.type(f"tde pg init -D {MAIN} --keystore /srv/tde/keystore")
    enable, status, disable = commands(page, "Start without a passphrase")
    assert "A thief of the disk" in reader.type(enable)
    assert "opens it right now" in reader.type(status)
    assert "needed again" in reader.type(disable)
    at_level_wal, start, open_ = commands(page, "Two levels")
    assert "at level wal" in reader.type(at_level_wal)
    # Nobody types anything at the start.
    reader.type(start, answers=())
    assert "closed for sessions" in reader.type(f"tde pg status -D {MAIN}")
    assert reader.type(open_).splitlines()[-1].endswith("is open")
    reader.type(f"tde pg stop -D {MAIN}", disable)

    make, fill, bind = commands(page, "A credential of systemd")
    user = current_user_name() if reader.os_user is None else reader.os_user.name
    reader.type(*(line.replace("-o postgres", f"-o {user}") for line in (make, fill)))
    variable, bind = bind.split(" ", 1)
    reader.environment["CREDENTIALS_DIRECTORY"] = reader.here(variable.partition("=")[2])
    assert "bound to credential name=tde" in reader.type(bind)
    reader.type(start, answers=())
    reader.type(f"tde pg stop -D {MAIN}")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_keystore_of_a_container(reader):
    page, heading = "auto-open.md", "A container: a read-only keystore"
    reader.type(*commands("keystore.md", "Make one"))
    reader.type(f"tde pg init -D {MAIN} --keystore /srv/tde/keystore")
    keystore, secret = reader.place("/srv/tde/keystore"), reader.place("/srv/tde/secret")
    shutil.copytree(keystore, secret)
    for path in (secret, *secret.rglob("*")):
        os.chown(path, 0, reader.os_user.gid)
        path.chmod(0o550 if path.is_dir() else 0o440)
    assert "key log" in reader.type(*commands(page, heading))
    reader.type(f"tde pg stop -D {MAIN}")
    # A volume of Kubernetes of type secret, and what the init container does.
    volume = reader.place("/srv/volume")
    shutil.copytree(secret, volume / "..2026")
    (volume / "..data").symlink_to("..2026")
    for path in (volume, *volume.rglob("*")):
        os.chown(path, 0, reader.os_user.gid, follow_symlinks=False)
    for path in (volume, volume / "..2026", volume / "..2026/keys"):
        path.chmod(0o755)
    refused = reader.type("tde keystore status -k /srv/volume/..data", exit_codes=(5,))
    assert "is open to other users" in refused
    text = (DOCS / page).read_text(encoding="utf-8")
    (command,) = re.findall(r'"sh", "-c", "([^"]+)"', text)
    place = reader.place("/srv/tde/copy")
    place.mkdir()
    chown(reader, "/srv/tde/copy")
    # In the pod the group of the server's user may read the volume.
    typed = command.replace("/secret/", "/srv/volume/").replace("/keystore", "/srv/tde/copy")
    reader.type(typed, f"tde pg start -D {MAIN} --keystore /srv/tde/copy")


def chown(reader: Reader, path: str) -> None:
    if reader.os_user is not None:
        os.chown(reader.place(path), reader.os_user.uid, reader.os_user.gid)
