"""Scenarios of tde's own commands: keystore, rotation, init, encrypt and decrypt."""

from __future__ import annotations

from random import Random
from typing import ClassVar

from tde.algorithms import Algorithm
from tde.errors import TdeError
from tde.keystore import KeyOwner, Keystore, inspect_keystore, rotate_master_key
from tde.postgres import decrypt_cluster, encrypt_cluster, run_program
from tests.keystore.cheap_passphrase import PASSPHRASE
from tests.power_loss.checks import Checker, Kind, Problem, Told
from tests.power_loss.recording import Notes
from tests.power_loss.scenario import Scenario
from tests.power_loss.site import INITDB, REPLAY_SETTINGS, Side, Site, try_to

TABLES = ("k_default", "k_inside", "k_toast")
ROWS = 5000
OWNERS = (KeyOwner.wal(), *map(KeyOwner.tablespace, range(16384, 16404)))


class Init(Scenario):
    """``tde keystore create`` and ``tde pg init``, then the first start and the first row."""

    name = "init"

    def prepare(self, site: Site) -> None:
        pass

    def act(self, site: Site, notes: Notes, seconds: float) -> None:
        site.create_keystore()
        notes.write("keystore")
        with site.keystore() as keystore:
            arguments = [argument for argument in INITDB if argument != "--no-sync"]
            site.cluster().init(keystore=keystore, initdb_args=arguments)
        notes.write("init")
        site.start()
        site.query("CREATE TABLE rows (n int PRIMARY KEY)")
        for n in range(20):
            site.query(f"INSERT INTO rows VALUES ({n})")
            notes.write("row", "rows", n)

    def check(self, site: Site, told: Told, random: Random) -> list[Problem]:
        if "keystore" not in told.words or (site.side is Side.STOCK and "init" not in told.words):
            return []
        if "init" in told.words:
            return super().check(site, told, random)
        error = try_to(lambda: _open_and_close(site))
        return [Problem(Kind.LOST, f"the keystore does not open: {error}")] if error else []


def _open_and_close(site: Site) -> None:
    with site.keystore():
        pass


class KeystoreWrites(Scenario):
    """A keystore, and one key after the other; each that was reported is still there."""

    name = "keystore"
    sides = (Side.TDE,)

    def prepare(self, site: Site) -> None:
        pass

    def act(self, site: Site, notes: Notes, seconds: float) -> None:
        site.create_keystore()
        notes.write("keystore")
        with site.keystore() as keystore:
            assert keystore is not None
            for owner in OWNERS:
                keystore.create_key(owner, Algorithm.AES256)
                notes.write(f"{owner.file_name} {keystore.unwrap_key(owner).hex()}")
            keystore.enable_auto_open()
            notes.write("auto-open")

    def check(self, site: Site, told: Told, random: Random) -> list[Problem]:
        if "keystore" not in told.words:
            return []  # Nobody was told that there is one.
        try:
            with Keystore.open(site.keystore_path, PASSPHRASE) as keystore:
                return list(_lost_keys(keystore, told))
        except (TdeError, OSError) as error:
            return [Problem(Kind.LOST, f"the keystore does not open: {error}")]


def _lost_keys(keystore: Keystore, told: Told) -> list[Problem]:
    owners = {owner.file_name: owner for owner in OWNERS}
    lost = []
    for word in sorted(told.words):
        name, _, key = word.partition(" ")
        if name in owners and keystore.unwrap_key(owners[name]).hex() != key:
            lost.append(Problem(Kind.LOST, f"the key {name} is another"))
    if "auto-open" in told.words:
        Keystore.open_automatically(keystore.path).close()
    return lost


class Rotation(KeystoreWrites):
    """``tde keystore rotate``, three times; after the cut another one finishes what is left."""

    name = "rotation"
    leftovers = ("keys.new", "keys.old", "auto-open.key.new")

    def prepare(self, site: Site) -> None:
        site.create_keystore()
        with site.keystore() as keystore:
            assert keystore is not None
            for owner in OWNERS:
                keystore.create_key(owner, Algorithm.AES256)
            keystore.enable_auto_open()

    def act(self, site: Site, notes: Notes, seconds: float) -> None:
        with site.keystore() as keystore:
            assert keystore is not None
            notes.write("keystore")
            for owner in OWNERS:
                notes.write(f"{owner.file_name} {keystore.unwrap_key(owner).hex()}")
            notes.write("auto-open")
        for number in range(3):
            with rotate_master_key(site.keystore_path, PASSPHRASE) as rotated:
                notes.write(f"rotation {number} {rotated.master_key_id}")

    def check(self, site: Site, told: Told, random: Random) -> list[Problem]:
        problems = super().check(site, told, random)
        if problems:
            return problems
        now = str(inspect_keystore(site.keystore_path).master_key_id)
        rotations = sorted(word.split() for word in told.words if word.startswith("rotation "))
        if any(word[2] == now for word in rotations[:-1]):
            return [Problem(Kind.LOST, "a rotation that had ended is undone")]
        error = try_to(lambda: rotate_master_key(site.keystore_path, PASSPHRASE).close())
        if error is not None:
            return [Problem(Kind.NOT_STARTED, f"the rotation cannot be finished: {error}")]
        left = [name for name in self.leftovers if (site.keystore_path / name).exists()]
        if left:
            return [Problem(Kind.NOT_STARTED, f"a whole rotation has left {', '.join(left)}")]
        return super().check(site, told, random)


class Encrypt(Scenario):
    """``tde pg encrypt``; after the cut the command is given again, as its message says.

    The cluster's pages have no checksums, or old ones, so the conversion turns them on.
    """

    name = "encrypt"
    sides = (Side.TDE,)
    settings: ClassVar[dict[str, str]] = {"allow_in_place_tablespaces": "on"}

    def prepare(self, site: Site) -> None:
        stock = Site(site.root, Side.STOCK, site.binaries, site.os_user)
        stock.init()
        run = run_program(
            site.binaries, "pg_checksums", ["-d", "-D", str(site.data)], os_user=site.os_user
        )
        assert run.returncode == 0, run.stderr
        stock.start({**self.settings, "fsync": "off"})
        stock.query("CREATE TABLESPACE inside LOCATION ''")
        for table in TABLES:
            place = "TABLESPACE inside" if table == "k_inside" else ""
            stock.query(f"CREATE TABLE {table} (n int PRIMARY KEY, x text) {place}")
            stock.query(
                f"INSERT INTO {table} SELECT g, md5(g::text) || repeat('z', g % 200)"
                f" FROM generate_series(1, {ROWS}) g"
            )
        stock.stop()
        site.create_keystore()

    def act(self, site: Site, notes: Notes, seconds: float) -> None:
        self._convert(site)
        notes.write("converted")

    def _convert(self, site: Site) -> None:
        with site.keystore() as keystore:
            assert keystore is not None
            encrypt_cluster(site.cluster(), keystore)

    def is_done(self, site: Site) -> bool:
        """Tell whether nothing says any more that the conversion is unfinished."""
        return (site.data / "global/pg_control").exists() and site.cluster().marker is not None

    def recover(self, site: Site, told: Told) -> list[Problem]:
        if not self.is_done(site):
            if "converted" in told.words:
                return [Problem(Kind.LOST, "the conversion had ended and is not there")]
            error = try_to(lambda: self._convert(site))
            if error is not None:
                return [Problem(Kind.NOT_STARTED, f"the conversion cannot be finished: {error}")]
        with site.keystore() as keystore:
            wrong = _wrong_checksums(site, keystore)
        return wrong or super().recover(site, told)

    def check(self, site: Site, told: Told, random: Random) -> list[Problem]:
        problems = self.recover(site, told)
        if problems:
            return problems
        for table in TABLES:
            told.tables[table] = ROWS
            told.rows[table] = set(range(1, ROWS + 1))
        problems = Checker(site, random).run(told)
        for table in TABLES:
            error = try_to(lambda table=table: _require_same_text(site, table))
            if error is not None:
                problems.append(Problem(Kind.CORRUPT, error))
        return problems


def _wrong_checksums(site: Site, keystore: Keystore | None) -> list[Problem]:
    """Check that checksums are on, and right in every page of a cluster that was not started."""
    run = run_program(
        site.binaries,
        "pg_checksums",
        ["--check", "-D", str(site.data)],
        keystore=keystore,
        os_user=site.os_user,
    )
    return [] if run.returncode == 0 else [Problem(Kind.CORRUPT, run.stdout + run.stderr)]


def _require_same_text(site: Site, table: str) -> None:
    wrong = site.query(
        f"SELECT count(*) FROM {table} WHERE x <> md5(n::text) || repeat('z', n % 200)"
    )[0][0]
    if wrong:
        raise OSError(f"{table} has {wrong} rows with another text")


class Decrypt(Encrypt):
    """``tde pg decrypt``, the same way back."""

    name = "decrypt"

    def prepare(self, site: Site) -> None:
        super().prepare(site)
        super()._convert(site)

    def _convert(self, site: Site) -> None:
        with site.keystore() as keystore:
            assert keystore is not None
            decrypt_cluster(site.cluster(), keystore)

    def is_done(self, site: Site) -> bool:
        return (site.data / "global/pg_control").exists() and site.cluster().marker is None

    def recover(self, site: Site, told: Told) -> list[Problem]:
        problems = []
        if not self.is_done(site):
            if "converted" in told.words:
                return [Problem(Kind.LOST, "the conversion had ended and is not there")]
            error = try_to(lambda: self._convert(site))
            if error is not None:
                problems = [
                    Problem(Kind.NOT_STARTED, f"the conversion cannot be finished: {error}")
                ]
        problems = problems or _wrong_checksums(site, None)
        if problems:
            return problems
        stock = Site(site.root, Side.STOCK, site.binaries, site.os_user)
        error = try_to(lambda: stock.start({**REPLAY_SETTINGS, **self.settings}))
        return [Problem(Kind.NOT_STARTED, site.server_errors() or error)] if error else []
