"""Key records: the frozen layout, round trips, and what the parser refuses."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from tde.algorithms import Algorithm
from tde.errors import KeystoreDamagedError, KeystoreVersionError
from tde.keystore.store.record import (
    NAMED_RECORD_BYTES,
    RECORD_BYTES,
    KeyOwner,
    KeyRecord,
    OwnerKind,
    RecordHeader,
    parse_record,
)

oids = st.integers(1, 2**32 - 1)
# Only one tablespace by itself has a plaintext entry: the owner decides on the algorithms.
owners_and_algorithms = st.one_of(
    st.tuples(
        st.sampled_from([KeyOwner.wal(), KeyOwner.other_tablespaces()]),
        st.sampled_from(Algorithm),
    ),
    st.tuples(
        oids.map(KeyOwner.tablespace) | st.uuids().map(KeyOwner.named),
        st.none() | st.sampled_from(Algorithm),
    ),
)


@st.composite
def records(draw: st.DrawFn) -> KeyRecord:
    owner, algorithm = draw(owners_and_algorithms)
    return KeyRecord(
        RecordHeader(
            owner,
            algorithm,
            draw(st.uuids()),
            draw(st.uuids()),
            draw(st.binary(min_size=12, max_size=12)),
        ),
        draw(st.binary(min_size=64, max_size=64)),
        draw(st.binary(min_size=16, max_size=16)),
    )


@given(records())
def test_record_survives_packing_and_parsing(record: KeyRecord) -> None:
    packed = record.pack()
    named = record.header.owner.kind is OwnerKind.NAMED
    assert len(packed) == (NAMED_RECORD_BYTES if named else RECORD_BYTES)
    assert parse_record(packed, "x.key") == record


def example_record() -> KeyRecord:
    header = RecordHeader(
        KeyOwner.tablespace(0x01020304),
        Algorithm.AES256,
        UUID(int=0x11 << 120),
        UUID(int=0x22 << 120),
        b"nonce-nonce-",
    )
    return KeyRecord(header, b"c" * 64, b"t" * 16)


def test_layout_is_the_documented_one() -> None:
    # Written out by hand, field by field: C reads these offsets, so they must never move.
    assert example_record().pack() == (
        b"TDEKEY\x00\x01"
        b"\x02"
        b"\x02"
        b"\x00\x00"
        b"\x01\x02\x03\x04"
        + (b"\x11" + bytes(15))
        + (b"\x22" + bytes(15))
        + b"nonce-nonce-"
        + bytes(4)
        + b"c" * 64
        + b"t" * 16
    )


def named_record() -> KeyRecord:
    return replace(
        example_record(),
        header=replace(example_record().header, owner=KeyOwner.named(UUID(int=0x33 << 120))),
    )


def test_layout_of_version_2_is_the_documented_one() -> None:
    assert named_record().pack() == (
        b"TDEKEY\x00\x02"
        b"\x04"
        b"\x02"
        b"\x00\x00"
        b"\x00\x00\x00\x00"
        + (b"\x11" + bytes(15))
        + (b"\x22" + bytes(15))
        + b"nonce-nonce-"
        + bytes(4)
        + (b"\x33" + bytes(15))
        + b"c" * 64
        + b"t" * 16
    )
    assert named_record().header.owner.file_name == "33" + "0" * 30 + ".key"


@pytest.mark.parametrize("version", [1, 2])
def test_version_and_length_belong_together(version: int) -> None:
    other = named_record() if version == 1 else example_record()
    data = bytearray(other.pack())
    data[7] = version
    with pytest.raises(KeystoreDamagedError, match=f"bytes, and format {version}"):
        parse_record(bytes(data), "7.key")


@pytest.mark.parametrize("length", [*range(RECORD_BYTES), RECORD_BYTES + 1])
def test_any_other_length_is_refused(length: int) -> None:
    data = (example_record().pack() + b"\x00")[:length]
    with pytest.raises(KeystoreDamagedError, match=f"{length} bytes instead of 144 or 160"):
        parse_record(data, "7.key")


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, 0x55, "does not start like a key record"),
        (8, 0, "OwnerKind"),
        (8, 6, "OwnerKind"),
        (8, OwnerKind.LATER_WAL.value, "only a named key has an id|LATER_WAL key's owner"),
        (8, OwnerKind.NAMED.value, "NAMED key's owner"),
        (9, 3, "Algorithm"),
        (10, 1, "reserved bytes"),
        (11, 1, "reserved bytes"),
        (60, 1, "reserved bytes"),
        (63, 1, "reserved bytes"),
        (8, OwnerKind.WAL.value, "WAL key's owner"),
    ],
)
def test_field_outside_its_range_is_refused(offset: int, value: int, message: str) -> None:
    data = bytearray(example_record().pack())
    data[offset] = value
    with pytest.raises(KeystoreDamagedError, match=message):
        parse_record(bytes(data), "7.key")


def test_newer_format_version_is_refused_by_name() -> None:
    data = bytearray(example_record().pack())
    data[7] = 3
    with pytest.raises(KeystoreVersionError, match="format 3; this release knows 1 and 2"):
        parse_record(bytes(data), "7.key")


def test_wal_cannot_be_a_plaintext_entry() -> None:
    record = RecordHeader(KeyOwner.wal(), None, UUID(int=1), UUID(int=2), bytes(12))
    with pytest.raises(KeystoreDamagedError, match="plaintext entry"):
        parse_record(record.pack() + bytes(80), "wal.key")


@pytest.mark.parametrize("oid", [0, -1, 2**32])
def test_impossible_tablespace_oid_is_refused(oid: int) -> None:
    with pytest.raises(ValueError, match="OID"):
        KeyOwner.tablespace(oid)


def test_records_are_named_after_their_owners() -> None:
    assert KeyOwner.wal().file_name == "wal.key"
    assert KeyOwner.tablespace(1663).file_name == "1663.key"
