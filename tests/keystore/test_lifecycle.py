"""The life of keys as the key log tells it: states, times, ages, and what is unknown."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from socket import gethostname
from uuid import uuid4

import pytest

from tde.algorithms import Algorithm
from tde.errors import KeystoreError, KeystoreExistsError
from tde.keystore import (
    AgeVerdict,
    KeyLife,
    KeyOwner,
    KeyState,
    Keystore,
    KeystoreLife,
    KeyUse,
    add_missing_keys,
    age_findings,
    back_up_keystore,
    change_passphrase,
    list_keys,
    read_key_log,
    read_lives,
    rotate_master_key,
    verify_keystore,
)
from tde.keystore.lifecycle.changes import forget_place, mark_key, set_age_limit
from tde.keystore.lifecycle.destruction import destroy_key
from tde.keystore.lifecycle.events import (
    Place,
    activate_keys,
    deactivate_keys,
    last_told,
    tell_of_place,
    tell_of_use,
    told_active,
)
from tde.keystore.log.writing import write_entry
from tde.keystore.providers.passphrase import PassphraseProvider
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

ONE, TWO = Path("/srv/pg/one"), Path("/srv/pg/two")
WAL = KeyOwner.wal()
DAY = timedelta(days=1)


@pytest.fixture
def keystore(tmp_path: Path):
    with Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF) as created:
        created.create_key(WAL, Algorithm.AES256)
        yield created


def life_of(keystore: Keystore, owner: KeyOwner, **arguments: object) -> KeyLife:
    found = read_lives(keystore.path, keystore, **arguments).find(owner.file_name)
    assert found is not None
    return found


def named(keystore: Keystore) -> KeyOwner:
    return KeyOwner.named(keystore.create_named_key(Algorithm.AES256))


def earlier_key(keystore: Keystore) -> KeyOwner:
    """Make a key as a release does that writes down its creation only."""
    owner = KeyOwner.named(uuid4())
    keystore.log("create key", key=owner.file_name, algorithm="AES-256-XTS")
    file = keystore.path / "keys" / owner.file_name
    file.write_bytes(keystore.new_record(owner, Algorithm.AES256))
    file.chmod(0o600)
    return owner


def test_a_key_goes_through_the_states(keystore: Keystore) -> None:
    owner = named(keystore)
    states = [life_of(keystore, owner).state]
    activate_keys(keystore, {owner: "tablespace 16400"}, Place(ONE))
    states.append(life_of(keystore, owner).state)
    mark_key(keystore, find_id(owner), KeyState.SUSPENDED, "a laptop is missing")
    states.append(life_of(keystore, owner).state)
    mark_key(keystore, find_id(owner), KeyState.ACTIVE, "it was found")
    states.append(life_of(keystore, owner).state)
    deactivate_keys(keystore, {owner: "rekeyed"}, Place(ONE))
    states.append(life_of(keystore, owner).state)
    mark_key(keystore, find_id(owner), KeyState.COMPROMISED, "a copy was sold")
    states.append(life_of(keystore, owner).state)
    destroy_key(keystore, owner)
    life = life_of(keystore, owner)
    assert [*states, life.state] == [
        KeyState.PRE_ACTIVATION,
        KeyState.ACTIVE,
        KeyState.SUSPENDED,
        KeyState.ACTIVE,
        KeyState.DEACTIVATED,
        KeyState.COMPROMISED,
        KeyState.DESTROYED_COMPROMISED,
    ]
    entries = {entry.number: entry for entry in read_key_log(keystore.path).entries}
    for fact, event in (
        (life.created, "create key"),
        (life.activated, "activate keys"),
        (life.deactivated, "deactivate keys"),
        (life.compromised, "mark key"),
        (life.destroyed, "key destroyed"),
    ):
        assert fact is not None
        assert fact.entry is not None
        assert (fact.time, event) == (entries[fact.entry].time, entries[fact.entry].event)
    assert life.purposes == ("tablespace 16400",)
    assert life.algorithm is Algorithm.AES256
    assert [event.event for event in life.events] == [
        *("created", "activated", "marked suspended", "marked active", "deactivated"),
        *("marked compromised", "destruction begun", "destroyed"),
    ]


def find_id(owner: KeyOwner) -> str:
    return owner.file_name.removesuffix(".key")


def test_what_nobody_wrote_down_is_unknown_and_not_guessed(keystore: Keystore) -> None:
    owner = earlier_key(keystore)
    os.utime(keystore.path / "keys" / owner.file_name, (0, 0))
    assert life_of(keystore, owner).state is KeyState.UNKNOWN
    use = KeyUse(owner, ONE, "tablespace 16400", new_data=True)
    life = life_of(keystore, owner, uses=[use])
    assert (life.state, life.state_source) == (KeyState.ACTIVE, f"tablespace 16400 of {ONE}")
    assert life.activated is not None
    assert life.activated.time is None
    assert "earlier release" in life.activated.source
    old = KeyUse(owner, ONE, "WAL", new_data=False)
    life = life_of(keystore, owner, uses=[old])
    assert life.state is KeyState.DEACTIVATED
    assert life.deactivated is not None
    assert life.deactivated.time is None
    (keystore.path / "key.log").unlink()
    life = life_of(keystore, owner)
    assert life.created is not None
    assert (life.created.time, life.age(datetime.now(timezone.utc))) == (None, None)
    assert read_lives(keystore.path).master_key.since.time is None


def test_a_key_of_two_clusters_is_active_until_the_last_has_another(keystore: Keystore) -> None:
    owner = named(keystore)
    for cluster in (ONE, TWO):
        activate_keys(keystore, {owner: "tablespace 16400"}, Place(cluster))
    deactivate_keys(keystore, {owner: "rekeyed"}, Place(ONE))
    assert life_of(keystore, owner).state is KeyState.ACTIVE
    tell_of_place(keystore, TWO, 7)
    forget_place(keystore, TWO)
    assert life_of(keystore, owner).state is KeyState.DEACTIVATED
    assert [p.directory for p in read_lives(keystore.path).places] == [ONE]
    with pytest.raises(KeystoreError, match="knows no cluster"):
        forget_place(keystore, TWO)


def test_the_same_is_not_told_twice(keystore: Keystore) -> None:
    owner = named(keystore)
    before = len(read_key_log(keystore.path).entries)
    for _ in range(2):
        activate_keys(keystore, {owner: "tablespace 16400"}, Place(ONE))
        tell_of_place(keystore, ONE, 7)
        tell_of_place(keystore, ONE, 7, is_backup=True)
    for _ in range(2):
        deactivate_keys(keystore, {owner: "rekeyed"}, Place(ONE))
    events = [entry.event for entry in read_key_log(keystore.path).entries[before:]]
    assert events == ["activate keys", "serve cluster", "deactivate keys"]


def test_two_clusters_at_one_path_are_told_apart(keystore: Keystore) -> None:
    """An earlier release knew a cluster by its path: the second ended the use of the first."""
    owner = named(keystore)
    first, second = Place(ONE, "7"), Place(ONE, "8")
    activate_keys(keystore, {owner: "WAL"}, Place(ONE))  # Before initdb.
    tell_of_place(keystore, ONE, 7)
    assert told_active(keystore, first) == {owner.file_name: "WAL"}
    assert told_active(keystore, second) == {}
    activate_keys(keystore, {owner: "WAL"}, second)
    deactivate_keys(keystore, {owner: "decrypted"}, second)
    assert life_of(keystore, owner).state is KeyState.ACTIVE
    assert last_told(keystore, second) == {owner.file_name: "deactivate keys"}
    tell_of_place(keystore, ONE, 8)
    places = read_lives(keystore.path, keystore).places
    assert [place.system_identifier for place in places] == [7, 8]
    deactivate_keys(keystore, {owner: "decrypted"}, first)
    assert life_of(keystore, owner).state is KeyState.DEACTIVATED


def test_entries_of_earlier_releases_are_of_the_cluster_that_is_served(
    keystore: Keystore,
) -> None:
    owner = named(keystore)
    one = Place(ONE, "7")
    tell_of_place(keystore, ONE, 7)
    activate_keys(keystore, {owner: "WAL"}, Place(ONE))
    assert told_active(keystore, one) == {owner.file_name: "WAL"}
    deactivate_keys(keystore, {owner: "rotated"}, one)
    assert life_of(keystore, owner).state is KeyState.DEACTIVATED
    activate_keys(keystore, {owner: "WAL"}, Place(ONE))
    forget_place(keystore, ONE)
    tell_of_place(keystore, ONE, 8)
    assert told_active(keystore, Place(ONE, "8")) == {}


def test_one_path_on_two_hosts_is_two_places(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell_of_place(keystore, ONE, 7)
    with monkeypatch.context() as patched:
        for module in ("tde.keystore.log.entry.socket", "tde.keystore.lifecycle.events"):
            patched.setattr(f"{module}.gethostname", lambda: "another")
        for _ in range(2):
            tell_of_place(keystore, ONE, 7)
    hosts = [place.host for place in read_lives(keystore.path, keystore).places]
    assert hosts == [gethostname(), "another"]


@pytest.mark.parametrize("kind", ["directory", "mode 0640"])
def test_a_log_that_cannot_be_read_keeps_no_server_from_its_start(
    keystore: Keystore, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = keystore.path / "key.log"
    if kind == "directory":
        log.unlink()
        log.mkdir()
    else:
        log.chmod(0o640)
    tell_of_place(keystore, ONE, 7)
    tell_of_use(keystore, Place(ONE, "7"), {WAL: "WAL"})
    assert [str(log) in record.getMessage() for record in caplog.records] == [True, True]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert str(ONE) in caplog.text


def test_the_age_of_a_key_that_is_found_in_use_counts_from_its_creation(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of clusters that initdb of install-bin has made, of which nobody told the log."""
    assert life_of(keystore, WAL).state is KeyState.UNKNOWN
    set_age_limit(keystore, "all", 5)
    later = datetime.now(timezone.utc) + 6 * DAY
    findings = age_findings(read_lives(keystore.path, keystore), later)
    assert "over" in [finding.verdict.value for finding in findings]
    keystore.create_plaintext_entry(1663)
    uses = {
        WAL: "WAL",
        KeyOwner.tablespace(1663): "tablespace 1663",
        KeyOwner.other_tablespaces(): "tablespaces made in SQL",
    }
    for _ in range(2):
        tell_of_use(keystore, Place(ONE, "7"), uses)
    told = [e for e in read_key_log(keystore.path).entries if e.event == "activate keys"]
    assert [entry.details["keys"] for entry in told] == [{"wal.key": "WAL"}]
    life = life_of(keystore, WAL)
    assert life.state is KeyState.ACTIVE
    assert life.created is not None
    assert life.activated is not None
    assert (life.activated.time, life.since) == (None, life.created.time)
    assert "found in use" in life.activated.source


def test_a_marked_key_that_is_in_use_is_told_of(keystore: Keystore) -> None:
    mark_key(keystore, "wal", KeyState.SUSPENDED, "a laptop is missing")
    tell_of_use(keystore, Place(ONE, "7"), {WAL: "WAL"})
    assert told_active(keystore, Place(ONE, "7")) == {"wal.key": "WAL"}
    assert life_of(keystore, WAL).state is KeyState.SUSPENDED


def test_thousands_of_names_stand_in_several_entries(keystore: Keystore) -> None:
    owners = [KeyOwner.tablespace(oid) for oid in range(20_000, 21_000)]
    activate_keys(keystore, {owner: f"tablespace {owner.oid}" for owner in owners}, Place(ONE))
    entries = [e for e in read_key_log(keystore.path).entries if e.event == "activate keys"]
    assert [len(entry.details["keys"]) for entry in entries] == [400, 400, 200]
    assert max(len(entry.line) for entry in entries) < 64 * 1024


def test_a_marked_key_protects_nothing_new_and_a_compromised_one_stays_it(
    keystore: Keystore,
) -> None:
    owner = named(keystore)
    mark_key(keystore, find_id(owner), KeyState.SUSPENDED, "wait")
    with pytest.raises(KeystoreError, match="marked as suspended"):
        activate_keys(keystore, {owner: "tablespace 16400"}, Place(ONE))
    mark_key(keystore, find_id(owner), KeyState.COMPROMISED, "sold")
    with pytest.raises(KeystoreError, match="cannot be taken back"):
        mark_key(keystore, find_id(owner), KeyState.ACTIVE, "")
    with pytest.raises(KeystoreError, match="more than 500"):
        mark_key(keystore, find_id(owner), KeyState.COMPROMISED, "x" * 501)
    keystore.create_plaintext_entry(16401)
    with pytest.raises(KeystoreError, match="plaintext entry"):
        mark_key(keystore, "16401", KeyState.SUSPENDED, "")


def test_a_mark_and_a_destruction_survive_a_rotation_of_the_master_key(keystore: Keystore) -> None:
    owner = named(keystore)
    mark_key(keystore, find_id(owner), KeyState.COMPROMISED, "sold")
    set_age_limit(keystore, "master key", 10)
    destroy_key(keystore, owner)
    with rotate_master_key(keystore.path, PASSPHRASE) as rotated:
        life = read_lives(rotated.path, rotated)
        found = life.find(owner.file_name)
        assert found is not None
        assert found.state is KeyState.DESTROYED_COMPROMISED
        assert (life.master_key.max_age, life.master_key.changes) == (10, 1)
        assert life.master_key.since.entry == len(read_key_log(rotated.path).entries)
        assert life.proven


# Ages.


def findings(keystore: Keystore, days: int, **arguments: object) -> dict[str, AgeVerdict]:
    """Return what is said when so many days have gone by."""
    life = read_lives(keystore.path, keystore, **arguments)
    now = datetime.now(timezone.utc) + days * DAY
    return {found.file or found.what: found.verdict for found in age_findings(life, now)}


def test_limits_are_watched(keystore: Keystore) -> None:
    owner = named(keystore)
    activate_keys(keystore, {WAL: "WAL", owner: "tablespace 16400"}, Place(ONE))
    assert findings(keystore, 10_000) == {}
    set_age_limit(keystore, "all", 365)
    everything = {"master key", "passphrase", "wal.key", owner.file_name}
    assert findings(keystore, 0) == dict.fromkeys(everything, AgeVerdict.GOOD)
    assert findings(keystore, 334) == dict.fromkeys(everything, AgeVerdict.GOOD)
    assert findings(keystore, 336) == dict.fromkeys(everything, AgeVerdict.SOON)
    assert findings(keystore, 365) == dict.fromkeys(everything, AgeVerdict.OVER)
    set_age_limit(keystore, "wal", 90)
    set_age_limit(keystore, owner.file_name, None)
    assert findings(keystore, 100)["wal.key"] is AgeVerdict.OVER
    assert owner.file_name not in findings(keystore, 100)
    # One for all takes the place of those before.
    set_age_limit(keystore, "all", 1000)
    assert set(findings(keystore, 100).values()) == {AgeVerdict.GOOD}
    for bad in (0, 36_501):
        with pytest.raises(KeystoreError, match="1 to 36500 days"):
            set_age_limit(keystore, "all", bad)


def test_what_is_rotated_is_young_again(keystore: Keystore) -> None:
    activate_keys(keystore, {WAL: "WAL"}, Place(ONE))
    set_age_limit(keystore, "all", 365)
    later = keystore.create_wal_key(Algorithm.AES256)
    activate_keys(keystore, {later: "WAL"}, Place(ONE))
    deactivate_keys(keystore, {WAL: "WAL was rotated"}, Place(ONE))
    change_passphrase(keystore.path, PassphraseProvider(PASSPHRASE), b"another passphrase")
    life = read_lives(keystore.path, keystore)
    found = {one.file or one.what: one for one in age_findings(life)}
    assert set(found) == {"master key", "passphrase", later.file_name}
    assert life.passphrase.changes == 1
    assert life.passphrase.since.entry == len(read_key_log(keystore.path).entries)


def test_an_age_that_cannot_be_told_does_not_pass(keystore: Keystore) -> None:
    owner = earlier_key(keystore)
    activate_keys(keystore, {WAL: "WAL"}, Place(ONE))
    set_age_limit(keystore, "all", 365)
    # A clock that was set back makes keys look young.
    assert set(findings(keystore, -1).values()) == {AgeVerdict.UNKNOWN}
    life = read_lives(keystore.path, keystore)
    now = datetime.now(timezone.utc) - 2 * DAY
    assert all("the clock of this machine" in one.detail for one in age_findings(life, now))
    # A key that was copied here, and nobody knows when it was made.
    (keystore.path / "key.log").unlink()
    keystore.log("set age limit", of="all", days=365)
    assert findings(keystore, 0)[owner.file_name] is AgeVerdict.UNKNOWN
    assert findings(keystore, 0)["master key"] is AgeVerdict.UNKNOWN


def test_an_altered_log_is_told_where_ages_are(keystore: Keystore) -> None:
    set_age_limit(keystore, "all", 365)
    log = keystore.path / "key.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], *lines[2:]]))
    assert findings(keystore, 0)["key.log"] is AgeVerdict.UNKNOWN


def test_a_marked_key_in_use_is_told_with_and_without_a_limit(keystore: Keystore) -> None:
    activate_keys(keystore, {WAL: "WAL"}, Place(ONE))
    mark_key(keystore, "wal", KeyState.SUSPENDED, "a laptop")
    assert findings(keystore, 0) == {"wal.key": AgeVerdict.MARKED}
    use = KeyUse(WAL, ONE, "WAL", new_data=False)
    assert findings(keystore, 0, uses=[use]) == {}


@pytest.mark.parametrize("has_code", [True, False])
def test_malformed_entries_break_nothing(keystore: Keystore, has_code: bool) -> None:
    author = keystore.log_author() if has_code else None
    for event, details in (
        ("activate keys", {"cluster": 7, "keys": 7}),
        ("activate keys", {"cluster": str(ONE), "keys": 7}),
        ("deactivate keys", {"cluster": str(ONE), "keys": 7}),
        ("create key", {"key": 7, "algorithm": []}),
        ("activate keys", {"keys": ["wal.key"]}),
        ("deactivate keys", {}),
        ("add keys", {"keys": {"wal.key": 1}, "created": []}),
        ("mark key", {"state": []}),
        ("set age limit", {"of": [], "days": "x"}),
        ("destroy key", {"key": None}),
        ("forget cluster", {"directory": []}),
        ("serve cluster", {"directory": 7, "system_identifier": []}),
    ):
        write_entry(keystore.path, event, details, author)
    life: KeystoreLife = read_lives(keystore.path, keystore)
    assert len(life.problems) == (0 if has_code else 12)
    activate_keys(keystore, {WAL: "WAL"}, Place(ONE))
    assert life_of(keystore, WAL).state is KeyState.ACTIVE
    verify_keystore(keystore.path, keystore)


# What verify says, and copies.


def problems_of(keystore: Keystore) -> dict[str, str]:
    found = verify_keystore(keystore.path, keystore)
    return {file.file.name: file.problem for file in found if not file.good}


@pytest.fixture
def whole(keystore: Keystore) -> Keystore:
    for oid in (1663, 1664):
        keystore.create_key(KeyOwner.tablespace(oid), Algorithm.AES256)
    keystore.create_key(KeyOwner.other_tablespaces(), Algorithm.AES256)
    assert problems_of(keystore) == {}
    return keystore


def test_verify_misses_a_used_key_and_no_destroyed_one(whole: Keystore) -> None:
    lost, destroyed, unused = named(whole), named(whole), named(whole)
    activate_keys(whole, {lost: "tablespace 1", destroyed: "tablespace 2"}, Place(ONE))
    destroy_key(whole, destroyed)
    for owner in (lost, unused):
        (whole.path / "keys" / owner.file_name).unlink()
    assert list(problems_of(whole)) == [lost.file_name]


def test_verify_tells_of_a_log_that_lacks_its_end(whole: Keystore) -> None:
    log = whole.path / "key.log"
    before = log.read_bytes()
    owner = named(whole)
    set_age_limit(whole, "all", 30)
    log.write_bytes(before)
    problem = problems_of(whole)["key.log"]
    assert f"does not tell of keys/{owner.file_name}" in problem
    assert "age limits and marks may be missing" in problem


def test_a_copy_knows_when_a_key_was_made(whole: Keystore, tmp_path: Path) -> None:
    back_up_keystore(whole.path, tmp_path / "standby")
    owner, old = named(whole), named(whole)
    created = life_of(whole, owner).created
    # The other log does not tell of one of them.
    log = whole.path / "key.log"
    log.write_bytes(log.read_bytes().replace(old.file_name.encode(), b"0" * 36))
    with Keystore.open(tmp_path / "standby", PASSPHRASE) as standby:
        add_missing_keys(whole.path, standby)
        copied, unknown = life_of(standby, owner), life_of(standby, old)
        assert problems_of(standby) == {}
    assert created is not None
    assert copied.created is not None
    assert copied.created.time == created.time
    assert unknown.created is not None
    assert (unknown.created.time, "copied on" in unknown.created.source) == (None, True)


def test_a_copy_does_not_bring_back_what_was_destroyed(whole: Keystore, tmp_path: Path) -> None:
    owner, another = named(whole), named(whole)
    back_up_keystore(whole.path, tmp_path / "old")
    destroy_key(whole, owner)
    (whole.path / "keys" / another.file_name).unlink()
    number = life_of(whole, owner).events[-2].entry
    with pytest.raises(KeystoreExistsError, match=rf"destroyed on .* \(entry {number} of") as error:
        add_missing_keys(tmp_path / "old", whole)
    assert f"tde keystore restore {tmp_path}/old --keystore" in error.value.remedy
    assert another not in [key.owner for key in list_keys(whole)]
    (tmp_path / "old" / "keys" / owner.file_name).unlink()
    assert add_missing_keys(tmp_path / "old", whole) == [another]
