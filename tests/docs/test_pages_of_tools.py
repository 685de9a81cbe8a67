"""The commands of the pages on backup tools, typed as a reader would."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tde.postgres import Cluster
from tde.postgres.server.os_user import current_user_name
from tests.docs.pages import commands
from tests.docs.reader import MAIN, RESTORED, SETTINGS, Reader
from tests.postgres.canaries import CANARY, files_with
from tests.postgres.cluster_copies import configure
from tests.tools.site import local_ssh, require_tools, wait_for

A_TIME = re.compile(r"'20\d\d-[^']+'")


def make(reader: Reader, *names: str) -> None:
    for name in names:
        path = reader.place(name)
        path.mkdir(parents=True)
        if reader.os_user is not None:
            os.chown(path, reader.os_user.uid, reader.os_user.gid)


def write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o644)


def configured(reader: Reader, lines: Sequence[str], **replaced: str) -> list[str]:
    """Return the lines of a tool's configuration, with some settings replaced."""
    found = [reader.here(line) for line in lines]
    return [
        f"{line.partition('=')[0]}={replaced.get(line.partition('=')[0], line.partition('=')[2])}"
        if "=" in line
        else line
        for line in found
    ]


def archiving(reader: Reader) -> set[str]:
    shown = reader.type(f"tde pg doctor -D {MAIN} --json", exit_codes=(0, 1))
    findings = re.findall(r'"check": "archiving".*?"verdict": "(\w+)"', shown, re.DOTALL)
    return set(findings)


def test_pgbackrest(reader, encrypted_cluster_factory, any_binaries):
    require_tools("pgbackrest")
    page = "pgbackrest.md"
    file = "/srv/etc/pgbackrest.conf"

    def typed(line: str) -> str:
        line = line.replace("/etc/pgbackrest.conf", file)
        return line.replace("pgbackrest --stanza", f"pgbackrest --config={file} --stanza")

    lines = [typed(line) for line in commands(page, "Settings")]
    *configuration, add, header, pages, mode, command = lines
    made = encrypted_cluster_factory(any_binaries, name="pg/main", start=False)
    configure(made, [*SETTINGS, mode, reader.here(command)])
    make(reader, "/srv/pgbackrest", "/srv/spool", "/srv/lock", "/srv/log", "/srv/etc")
    paths = [f"{name}-path={reader.here(f'/srv/{name}')}" for name in ("lock", "log")]
    at = configuration.index("[main]")
    configuration[at:at] = [*paths, "archive-timeout=20"]
    reader.place("/srv/tde/keystore").symlink_to(made.keystore.path)
    reader.type(f"tde pg start -D {MAIN}")
    server = Cluster(reader.place(MAIN), os_user=reader.os_user).connection_parameters()
    where = [f"pg1-port={server['port']}", f"pg1-user={server['user']}"]
    where.append(f"pg1-socket-path={server['host']}")
    write(reader.place(file), configured(reader, [*configuration, *where]))

    assert archiving(reader) == {"problem", "warning"}
    shown = reader.type(add)
    assert [line for line in shown.splitlines() if line in (header, pages)] == [header, pages]
    assert archiving(reader) <= {"ok", "problem"}  # It has failed until now.
    create, *rest = [typed(line) for line in commands(page, "Back up")]
    shown = reader.type(create, exit_codes=(0, 27, 28, 56, 58))
    if "unexpected control version" in shown or "unable to find" in shown:
        pytest.skip("this pgBackRest does not know this version of PostgreSQL")
    check, full, *others = rest
    reader.type(check)
    assert archiving(reader) == {"ok"}
    reader.fill(MAIN)
    shown = reader.type(full)
    for line in others:
        reader.query(MAIN, "INSERT INTO t SELECT 'more' FROM generate_series(1, 1000)")
        shown += reader.type(line)
    assert "invalid page" not in shown
    sealed, verify, *restore = commands(page, "A backup with a seal")
    reader.type(sealed)
    (seal,) = reader.place("/srv/seals").iterdir()
    assert "is what was taken on" in reader.type(re.sub(r"main-\S+\.seal\.json", seal.name, verify))
    then = reader.query(MAIN, "SELECT clock_timestamp()::text")
    reader.query(MAIN, "DELETE FROM t")
    reader.query(MAIN, "SELECT pg_switch_wal()")
    (audit,) = commands(page, "Verify")
    assert "Everything that should be ciphertext is" in reader.type(audit)
    reader.type(*(typed(A_TIME.sub(f"'{then}'", line)) for line in commands(page, "Restore")))
    reader.wait_until(MAIN, "SELECT pg_is_in_recovery()", False)
    assert reader.query(MAIN, "SELECT count(*) FROM t") == 3000
    label = seal.name.removeprefix("main-").removesuffix(".seal.json")
    reader.query(MAIN, "DELETE FROM t")
    reader.type(*(typed(re.sub(r"--set=\S+", f"--set={label}", line)) for line in restore))
    reader.wait_until(MAIN, "SELECT pg_is_in_recovery()", False)
    assert reader.query(MAIN, "SELECT count(*) FROM t") == 3000
    assert files_with(CANARY, *map(reader.place, (MAIN, "/srv/pgbackrest"))) == []


def test_barman(reader, encrypted_cluster_factory, any_binaries):
    require_tools("barman")
    page = "barman.md"
    # Where several versions are installed, the one that PATH names is that of the cluster.
    reader.environment["PATH"] = f"{any_binaries.bindir}:{reader.environment['PATH']}"
    *configuration, add, prefix, compression = commands(page, "Settings")
    cluster = encrypted_cluster_factory(any_binaries, name="pg/main", start=False)
    configure(cluster, SETTINGS)
    cluster.keystore.enable_auto_open()
    reader.place("/srv/tde/keystore").symlink_to(cluster.keystore.path)
    reader.type(f"tde pg start -D {MAIN}")
    reader.fill(MAIN)
    made = Cluster(reader.place(MAIN), os_user=reader.os_user)
    make(reader, "/srv/barman", "/srv/etc")
    server = made.connection_parameters()
    conninfo = f"host={server['host']} port={server['port']} user={server['user']}"
    user = current_user_name() if reader.os_user is None else reader.os_user.name
    lines = configured(
        reader,
        configuration,
        barman_user=user,
        conninfo=f"{conninfo} dbname=postgres",
        streaming_conninfo=conninfo,
    )
    ssh = local_ssh(reader.place("/srv/etc"))
    write(reader.place("/srv/etc/barman.conf"), [*lines, f"ssh_command={ssh} localhost"])
    home = reader.here("/srv/barman")
    defaults = [f"barman_lock_directory={home}", f"log_file={home}/log", "immediate_checkpoint=on"]
    file = reader.place("/srv/etc/barman.conf")
    file.write_text(file.read_text().replace("[main]", "\n".join([*defaults, "[main]"])))
    reader.environment["BARMAN_CONFIG_FILE"] = str(file)
    shown = reader.type(add.replace("/etc/", "/srv/etc/"))
    assert {reader.here(prefix), compression} <= set(shown.splitlines())
    cron, switch, check, backup, *whole = commands(page, "Back up")
    reader.type(cron)
    slot = "SELECT count(*) FROM pg_replication_slots WHERE active"
    wait_for("pg_receivewal", lambda: reader.query(MAIN, slot) == 1)
    assert "FAILED" not in reader.type(switch, check)
    reader.type(backup, *whole)
    assert "WAITING_FOR_WALS" not in reader.type("barman list-backup main")
    then = reader.query(MAIN, "SELECT clock_timestamp()::text")
    reader.query(MAIN, "DELETE FROM t")
    reader.type(switch)
    (audit,) = commands(page, "Verify")
    assert "Everything that should be ciphertext is" in reader.type(audit)
    reader.type(*(A_TIME.sub(f"'{then}'", line) for line in commands(page, "Restore")))
    reader.wait_until(RESTORED, "SELECT pg_is_in_recovery()", False)
    assert reader.query(RESTORED, "SELECT count(*) FROM t") == 1000
    reader.type("barman receive-wal --stop main")
    assert files_with(CANARY, *map(reader.place, (RESTORED, "/srv/barman"))) == []
