"""M of N people who open a keystore together, each with a share of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import (
    KeystoreDamagedError,
    KeystoreMissingError,
    ProviderError,
    ProviderRefusedError,
)
from tde.keystore import KeyOwner, Keystore, add_envelope, rotate_master_key
from tde.keystore.crypto.secret import random_secret
from tde.keystore.opening import open_unattended
from tde.keystore.providers.custodians import CUSTODIANS, CustodiansProvider, new_shares
from tde.keystore.providers.envelope_provider import EnvelopeProvider
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE
from tests.keystore.planting import plant

#: A vector of SLIP-0039 (its reference's vectors.json, number 4): two of these three words.
WORDS = (
    "shadow pistol academic always adequate wildlife fancy gross oasis cylinder mustang wrist "
    "rescue view short owner flip making coding armed",
    "shadow pistol academic acid actress prayer class unknown daughter sweater depict flip twice "
    "unkind craft early superior advocate guest smoking",
)


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    made = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    made.create_key(KeyOwner.wal(), Algorithm.AES256)
    return made


def add(keystore: Keystore, shares: int = 5, threshold: int = 3) -> list[bytearray]:
    parameters, made = new_shares({"shares": str(shares), "threshold": str(threshold)})
    add_envelope(keystore, "officers", "custodians", parameters, shares=made)
    return made


def opens(keystore: Keystore, shares: Sequence[bytearray]) -> bytes:
    provider = EnvelopeProvider("officers", shares)
    with Keystore.open_with(keystore.path, provider) as opened:
        return bytes(opened.unwrap_key(KeyOwner.wal()))


def test_the_library_reads_what_the_standard_has() -> None:
    import shamir_mnemonic

    secret = shamir_mnemonic.combine_mnemonics(list(WORDS), b"TREZOR")
    assert secret.hex() == "b43ceb7e57a0ea8766221624d01b0864"


def test_any_threshold_of_them_opens_and_fewer_do_not(keystore: Keystore) -> None:
    shares = add(keystore)
    wanted = keystore.unwrap_key(KeyOwner.wal())
    for chosen in ((0, 1, 2), (4, 2, 0), (3, 4, 1), (0, 1, 2, 3, 4)):
        assert opens(keystore, [shares[number] for number in chosen]) == wanted
    with pytest.raises(ProviderRefusedError, match="2 shares were given, and 3 are needed"):
        opens(keystore, shares[:2])


def test_a_rotation_needs_nobody(keystore: Keystore) -> None:
    shares = add(keystore)
    wanted = keystore.unwrap_key(KeyOwner.wal())
    for _ in range(2):
        rotate_master_key(keystore.path, PASSPHRASE).close()
        assert opens(keystore, shares[1:4]) == wanted


def test_nothing_of_custodians_has_to_be_accepted_on_a_machine(
    keystore: Keystore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run nothing; a rotation after a restore elsewhere needs neither them nor an officer."""
    add(keystore)
    monkeypatch.setenv("TDE_ACCEPTED", str(place / "another machine"))
    rotate_master_key(keystore.path, PASSPHRASE).close()


def test_a_planted_envelope_has_no_shares_asked_unasked(keystore: Keystore) -> None:
    """The attack: whoever opens the keystore at a terminal is asked for words of custodians."""
    plant(keystore.path, new_shares({"shares": "2", "threshold": "2"})[0], type_=CUSTODIANS)
    with pytest.raises(KeystoreMissingError, match="people open it, so it is used only where"):
        open_unattended(keystore.path)


def test_wrong_shares_are_named(keystore: Keystore, tmp_path: Path) -> None:
    shares = add(keystore)
    with Keystore.create(tmp_path / "other", PASSPHRASE, kdf=CHEAP_KDF) as other:
        foreign = add(other)
        said = refusals(keystore, shares, foreign)
        # The words of other shares change nothing in what is said.
        assert refusals(other, foreign, shares) == said
    # As people type.
    shouted = bytearray(b"  " + shares[1].upper().replace(b" ", b"   ") + b"\r")
    opens(keystore, [shares[0], shouted, shares[2]])


def refusals(keystore: Keystore, shares: list[bytearray], foreign: list[bytearray]) -> list[str]:
    """Open with one wrong share after the other; return what was said."""
    typo = bytearray(shares[1].replace(shares[1].split()[-1], b"academic"))
    said = []
    for third, message in (
        (foreign[2], "share file 2 belongs to another keystore or provider"),
        (shares[0], "share file 2 was given already: it is number 1"),
        (typo, "share file 2 is mistyped or incomplete"),
        (shares[1][:-9], "share file 2 is mistyped or incomplete"),
        (bytearray(b"\xff\xfe"), "share file 2 is mistyped or incomplete"),
        (bytearray(), "share file 2 is mistyped or incomplete"),
    ):
        with pytest.raises(ProviderRefusedError, match=message) as caught:
            opens(keystore, [shares[0], third, shares[2]])
        said.append(f"{caught.value}{caught.value.remedy}")
    return said


def test_a_foreign_set_with_the_same_number(keystore: Keystore) -> None:
    """The number has 15 bits; the public key tells sets apart in any case."""
    from dataclasses import replace

    import shamir_mnemonic

    parameters, shares = new_shares({"shares": "2", "threshold": "2"})
    _, others = new_shares({"shares": "2", "threshold": "2"})
    forged = [
        bytearray(
            replace(
                shamir_mnemonic.Share.from_mnemonic(share.decode()),
                identifier=int(parameters["share-id"]),
            )
            .mnemonic()
            .encode()
        )
        for share in others
    ]
    add_envelope(keystore, "officers", "custodians", parameters, shares=shares)
    with pytest.raises(ProviderRefusedError, match="are not those of this provider"):
        opens(keystore, forged)
    with pytest.raises(ProviderRefusedError, match="do not fit together"):
        opens(keystore, [shares[0], forged[1]])


def test_what_is_sealed_is_bound_and_different_each_time() -> None:
    parameters, shares = new_shares({"shares": "3", "threshold": "2"})
    provider = CustodiansProvider(parameters)
    provider.use_shares(shares)
    with random_secret(32) as kek:
        first, second = provider.wrap(kek, b"here"), provider.wrap(kek, b"here")
        assert first != second
        with provider.unwrap(first, b"here") as found, found.view as ours, kek.view as wanted:
            assert ours == wanted
    with pytest.raises(ProviderRefusedError, match="what they open was altered"):
        provider.unwrap(first, b"elsewhere")
    for position in range(len(first)):
        changed = bytearray(first)
        changed[position] ^= 1
        if position == 31:
            continue  # X25519 ignores the highest bit, and only that; HKDF binds the bytes.
        with pytest.raises(ProviderRefusedError, match="what they open was altered"):
            provider.unwrap(bytes(changed), b"here")
    with pytest.raises(ProviderRefusedError, match="what they open was altered"):
        provider.unwrap(bytes(32) + first[32:], b"here")  # A point of low order.


def test_another_public_key_in_the_envelope(keystore: Keystore) -> None:
    """Whoever can write there could have the next rotation sealed to a key of their own."""
    from tests.keystore.test_envelopes import rewrite

    shares = add(keystore)
    (file,) = (keystore.path / "unlock").iterdir()
    parameters, theirs = new_shares({"shares": "5", "threshold": "3"})
    rewrite(file, parameters=dict(sorted(parameters.items())))
    for words in (shares, theirs):
        with pytest.raises(KeystoreDamagedError, match="is another one than was added"):
            opens(keystore, words)
    with pytest.raises(KeystoreDamagedError, match="cannot be rotated"):
        rotate_master_key(keystore.path, PASSPHRASE)


@pytest.mark.parametrize(
    ("shares", "threshold"), [("1", "1"), ("17", "2"), ("3", "1"), ("3", "4"), ("x", "2")]
)
def test_numbers(shares: str, threshold: str) -> None:
    with pytest.raises(ProviderError, match="it needs 2 to 16 shares"):
        new_shares({"shares": shares, "threshold": threshold})


def test_what_it_makes_itself_and_what_people_cannot_be(keystore: Keystore) -> None:
    with pytest.raises(ProviderError, match="takes no public-key from you"):
        new_shares({"shares": "3", "threshold": "2", "public-key": "00"})
    parameters, shares = new_shares({"shares": "3", "threshold": "2"})
    for options in ({"unattended": True}, {"cache_seconds": 60}):
        with pytest.raises(ProviderError, match="people open it"):
            add_envelope(keystore, "p", "custodians", parameters, shares=shares, **options)  # type: ignore[arg-type]
    with pytest.raises(ProviderError, match="is opened by no shares"):
        add_envelope(
            keystore,
            "p",
            "command",
            {"wrap-command": "cat", "unwrap-command": "cat"},
            shares=shares,
        )
