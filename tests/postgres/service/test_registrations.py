"""What is registered, taken back, and left behind, among several clusters of one version."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.postgres.service.apart import (
    KEYSTORE,
    OLD_MAJOR,
    create_cluster,
    enter_directories,
    needs_mounts,
    run,
    run_apart,
)

pytestmark = needs_mounts

BY_FD = ("--passphrase-fd", 0)
OWN = Path("/var/lib/tde/bin")
RECORDS = Path("/var/lib/tde/registered")


def name(cluster: str) -> str:
    return f"{OLD_MAJOR}/{cluster}"


def data(cluster: str) -> Path:
    return Path(f"/var/lib/postgresql/{name(cluster)}")


def tde_pg(verb: str, *words: object, exit_code: int = 0) -> str:
    """Return what a command says, as one line: usage errors come in a box."""
    return re.sub(r"[\s│]+", " ", run("tde", "pg", verb, *words, exit_code=exit_code))


def make_keystore(path: Path) -> None:
    run("tde", "keystore", "create", "-k", path, *BY_FD)
    run("tde", "keystore", "auto-open", "enable", "-k", path, *BY_FD)


def encrypt(cluster: str, keystore: Path) -> None:
    """Make a cluster with a keystore of its own."""
    make_keystore(keystore)
    create_cluster(cluster)
    run("tde", "pg", "encrypt", "-D", data(cluster), "-k", keystore, *BY_FD)


def require_start(cluster: str) -> None:
    """Start and stop it as Debian does; all clusters have one port for a while."""
    run("pg_ctlcluster", OLD_MAJOR, cluster, "start")
    assert "the server encrypts" in run("tde", "pg", "status", "-D", data(cluster))
    run("pg_ctlcluster", OLD_MAJOR, cluster, "stop")


def stop_all() -> None:
    listed = subprocess.run(["pg_lsclusters", "-h"], capture_output=True, text=True, check=True)
    for line in listed.stdout.splitlines():
        version, cluster, _, state = line.split()[:4]
        if state.startswith("online"):
            subprocess.run(["pg_ctlcluster", version, cluster, "stop", "-m", "immediate"])


def version_and_back(place: Path) -> None:
    enter_directories(place)
    other = Path("/var/lib/postgresql/other-keystore")
    elsewhere = Path("/var/lib/tde/elsewhere")
    encrypt("alone", KEYSTORE)
    encrypt("foreign", other)
    try:
        # A cluster with the keys of another one is made by the programs of the version.
        tde_pg("register", OLD_MAJOR, "-k", KEYSTORE)
        create_cluster("moved")
        tde_pg("unregister", OLD_MAJOR)
        tde_pg("register", name("alone"))
        tde_pg("register", name("moved"), "--bin", elsewhere)
        tde_pg("register", name("foreign"))
        shown = tde_pg("register", OLD_MAJOR, "-k", KEYSTORE)
        for cluster in ("alone", "moved"):
            assert f"{name(cluster)} is no longer registered by itself" in shown
        create_cluster("born")  # Encrypted from its first file on, and never registered.
        for cluster in ("alone", "moved", "foreign", "born"):
            require_start(cluster)
        # Repeating it, as after an upgrade, forgets nothing.
        tde_pg("register", OLD_MAJOR, "-k", KEYSTORE)

        shown = tde_pg("unregister", OLD_MAJOR)
        assert shown.count("is registered by itself again") == 3
        assert f"tde pg register {name('born')}" in shown
        assert shown.count("tde pg register") == 1
        for cluster in ("alone", "moved", "foreign"):
            require_start(cluster)
        run("pg_ctlcluster", OLD_MAJOR, "born", "start", exit_code=1)
        assert str(elsewhere) in Path(f"/etc/postgresql/{name('moved')}/pg_ctl.conf").read_text()
        assert "is not registered" in tde_pg("unregister", OLD_MAJOR)

        # Who wants one of them no more is not given it back.
        tde_pg("register", OLD_MAJOR, "-k", KEYSTORE)
        shown = tde_pg("unregister", name("moved"))
        assert f"PostgreSQL {OLD_MAJOR} is, as a whole, so pg_ctlcluster starts it" in shown
        # A keystore that does not open keeps a cluster from being registered, and no other one.
        run("tde", "keystore", "auto-open", "disable", "-k", other)
        shown = tde_pg("unregister", OLD_MAJOR, exit_code=1)
        assert f"{name('alone')} is registered by itself again" in shown
        assert f"{name('foreign')} is not registered by itself again: " in shown
        for cluster in ("foreign", "moved", "born"):
            assert f"to start it: tde pg register {name(cluster)}" in shown
        # And once it does, the same command goes on where it stopped.
        run("tde", "keystore", "auto-open", "enable", "-k", other, *BY_FD)
        assert f"{name('foreign')} is registered by itself again" in tde_pg("unregister", OLD_MAJOR)
        require_start("foreign")

        # All of it goes, and nobody is told to register what is to be removed.
        tde_pg("register", OLD_MAJOR, "-k", KEYSTORE)
        shown = tde_pg("unregister", "--all")
        assert "tde pg register" not in shown
        assert "tde pg start" not in shown
        assert f"starts them: {name('alone')}, {name('born')}, " in shown
        assert f"decrypt each with its server stopped (tde pg decrypt -D {data('alone')})" in shown
        assert list(OWN.iterdir()) == []
        assert list(RECORDS.iterdir()) == []
        assert "is not registered" in tde_pg("unregister", OLD_MAJOR)
    finally:
        stop_all()


def dropped_clusters(place: Path) -> None:
    enter_directories(place)
    elsewhere = Path("/var/lib/tde/elsewhere")
    make_keystore(KEYSTORE)
    for cluster in ("one", "two-b", "three", "four", "renamed"):
        encrypt(cluster, KEYSTORE.with_name(f"keystore-of-{cluster}"))
        where = ("--bin", elsewhere) if cluster == "three" else ()
        tde_pg("register", name(cluster), *where)
    own = {
        cluster: OWN / f"{OLD_MAJOR}-{cluster}" for cluster in ("one", "two-b", "four", "renamed")
    }
    # Made by hand in the same place: nothing says for which cluster.
    by_hand = OWN / f"{OLD_MAJOR}-hand"
    tde_pg(
        *("install-bin", by_hand, "-k", KEYSTORE, *BY_FD),
        *("--bindir", f"/usr/lib/postgresql/{OLD_MAJOR}/bin"),
    )
    try:
        assert "was dropped" not in tde_pg("register", "--refresh")
        for cluster in ("one", "three"):
            run("pg_dropcluster", OLD_MAJOR, cluster)
        run("pg_renamecluster", OLD_MAJOR, "renamed", "other")
        shown = tde_pg("register", "--refresh")
        assert f"{name('one')} was dropped, and {own['one']} was removed." in shown
        assert f"{name('three')} was dropped. The programs in {elsewhere}, which" in shown
        assert not own["one"].exists()
        assert elsewhere.exists()
        for directory in (own["two-b"], own["four"], own["renamed"], by_hand):
            assert f"{directory} is up to date" in shown
        # Those of a cluster that was renamed are in use; afterwards they are nobody's.
        require_start("other")
        shown = tde_pg("unregister", name("other"))
        assert f"{own['renamed']} was removed" in shown
        assert not own["renamed"].exists()
        # A cluster that is gone is no longer found, and its programs are.
        run("pg_dropcluster", OLD_MAJOR, "two-b")
        shown = tde_pg("unregister", f"{OLD_MAJOR}-two-b")
        assert f"{own['two-b']} was removed" in shown
        assert f"there is no cluster {name('two-b')}" in tde_pg(
            "unregister", name("two-b"), exit_code=1
        )
        # Another cluster of the same name, with other keys, has the place of the first.
        run("pg_dropcluster", OLD_MAJOR, "four")
        encrypt("four", KEYSTORE.with_name("another-keystore"))
        tde_pg("register", name("four"))
        require_start("four")
        # A file system that is not mounted hides a cluster, and nothing was dropped.
        hide(Path(f"/etc/postgresql/{name('four')}"), data("four"), own["four"])
        tde_pg("unregister", "--all")
        assert [path.name for path in OWN.iterdir()] == [by_hand.name]
    finally:
        stop_all()


def hide(configuration: Path, data_directory: Path, programs: Path) -> None:
    """Register a cluster on a file system of its own, and look without that."""
    for directory in (configuration, data_directory):
        kept = directory.with_name("kept")
        shutil.copytree(directory, kept)
        run("chown", "-R", "--reference", directory, kept)
        shutil.rmtree(directory)
        directory.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", directory)
        run("cp", "-a", f"{kept}/.", directory)
        shutil.rmtree(kept)
    tde_pg("register", name("four"))
    for directory in (configuration, data_directory):
        run("mount", "--move", directory, "/mnt")
        assert f"{programs} is up to date" in tde_pg("register", "--refresh")
        run("mount", "--move", "/mnt", directory)
    require_start("four")


def plain_and_registered(place: Path) -> None:
    enter_directories(place)
    encrypt("main", KEYSTORE)
    tde_pg("register", name("main"))
    run("tde", "pg", "decrypt", "-D", data("main"), *BY_FD)
    options = Path(f"/etc/postgresql/{name('main')}/pg_ctl.conf")
    try:
        for verb in (("register", OLD_MAJOR, "-k", KEYSTORE), ("unregister", OLD_MAJOR)):
            tde_pg(*verb)
            assert "-p" not in options.read_text()
            run("pg_ctlcluster", OLD_MAJOR, "main", "start")
            run("pg_ctlcluster", OLD_MAJOR, "main", "stop")
        assert list(RECORDS.iterdir()) == []
    finally:
        stop_all()


def test_what_a_version_took_over_is_registered_again(tmp_path: Path) -> None:
    run_apart(version_and_back, tmp_path)


def test_programs_of_dropped_clusters_go(tmp_path: Path) -> None:
    run_apart(dropped_clusters, tmp_path)


def test_a_cluster_that_was_decrypted_does_not_stop_its_version(tmp_path: Path) -> None:
    run_apart(plain_and_registered, tmp_path)
