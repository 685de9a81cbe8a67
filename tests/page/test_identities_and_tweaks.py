"""Identities: ranges, and the exact bytes of tweaks."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from tde import Fork, IdentityError, RelationIdentity, WalIdentity, _core
from tde.page import reference

MAX = 2**32 - 1


@pytest.mark.parametrize(
    ("database", "relfilenumber"), [(-1, 1), (MAX + 1, 1), (5, 0), (5, -1), (5, MAX + 1)]
)
def test_relation_numbers_out_of_range_are_refused(database: int, relfilenumber: int) -> None:
    with pytest.raises(IdentityError, match="must be"):
        RelationIdentity(database, relfilenumber)


def test_an_unknown_fork_is_refused() -> None:
    with pytest.raises(IdentityError, match="fork"):
        RelationIdentity(5, 16384, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("words", [(-1, 0, 0), (0, MAX + 1, 0), (0, 0, MAX + 1)])
def test_wal_words_out_of_range_are_refused(words: tuple[int, int, int]) -> None:
    with pytest.raises(IdentityError, match="must be"):
        WalIdentity(*words)


def test_identities_are_values() -> None:
    assert RelationIdentity(5, 7) == RelationIdentity(5, 7, Fork.MAIN, False)
    assert len({WalIdentity(1, 0, 1), WalIdentity(1, 0, 1), WalIdentity(1, 0, 2)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        RelationIdentity(5, 7).database = 6  # type: ignore[misc]


# The bytes of the format, written by hand.
@pytest.mark.parametrize(
    ("identity", "block", "expected"),
    [
        (RelationIdentity(5, 16384), 0, "00000005 00004000 00000000 00 0001 01"),
        (RelationIdentity(5, 16384, Fork.VM), 7, "00000005 00004000 00000007 02 0001 01"),
        (RelationIdentity(0, 1260), 131072, "00000000 000004ec 00020000 00 0001 01"),
        (RelationIdentity(MAX, MAX, Fork.INIT), MAX, "ffffffff ffffffff ffffffff 03 0001 01"),
        (
            RelationIdentity(5, 16384, Fork.FSM, temporary=True),
            1,
            "00000005 00004000 00000001 01 0001 03",
        ),
        (WalIdentity(1, 10, 255), 0, "00000001 0000000a 000000ff 000000 02"),
        (WalIdentity(3, 0, 1), 2**24 - 1, "00000003 00000000 00000001 ffffff 02"),
    ],
)
def test_tweaks_have_the_documented_bytes(
    identity: RelationIdentity | WalIdentity, block: int, expected: str
) -> None:
    assert _core.tweak(identity.to_core(), block).hex() == expected.replace(" ", "")
    assert reference.tweak(identity, block).hex() == expected.replace(" ", "")


def test_tweaks_of_ephemeral_files_have_the_documented_bytes() -> None:
    digest = hashlib.sha256(b"base/pgsql_tmp/pgsql_tmp1.0").digest()
    words = [int.from_bytes(digest[at : at + 4], "big") for at in (0, 4, 8)]
    core = (_core.CLASS_EPHEMERAL, words[0], words[1], words[2], 0)
    for block in (0, 1, MAX):
        expected = digest[:8] + block.to_bytes(4, "big") + digest[8:11] + b"\x04"
        assert _core.tweak(core, block) == expected
        assert reference.ephemeral_tweak(digest, block) == expected


def test_blocks_that_do_not_fit_have_no_tweak() -> None:
    with pytest.raises(IdentityError):
        _core.tweak(WalIdentity(1, 0, 1).to_core(), 2**24)
    with pytest.raises(IdentityError):
        _core.tweak((_core.CLASS_PLAIN, 0, 0, 0, 0), 0)
    with pytest.raises(OverflowError):
        _core.tweak(RelationIdentity(5, 7).to_core(), 2**32)


@pytest.mark.parametrize("identity", [(1, 2, 3), (1, -1, 0, 0, 0), (1, MAX + 1, 0, 0, 0), 5])
def test_malformed_core_identities_are_refused(identity: object) -> None:
    with pytest.raises((TypeError, OverflowError)):
        _core.tweak(identity, 0)  # type: ignore[arg-type]
