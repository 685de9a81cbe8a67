"""PageCipher against the slow reference, over random keys, identities, pages and layouts."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings, strategies as st

from tde import Algorithm, Fork, PageCipher, RelationIdentity, WalIdentity, _core
from tde.page import reference

PAGE = 8192
UINT32 = st.integers(0, 2**32 - 1)

relations = st.builds(
    RelationIdentity, UINT32, st.integers(1, 2**32 - 1), st.sampled_from(Fork), st.booleans()
)
segments = st.builds(WalIdentity, UINT32, UINT32, UINT32)


@dataclass(frozen=True)
class Case:
    """One batch of pages and how it lies in memory."""

    algorithm: Algorithm
    key: bytes
    identity: RelationIdentity | WalIdentity
    first_block: int
    pages: bytes
    threads: int
    source_offset: int
    target_offset: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    algorithm = draw(st.sampled_from(Algorithm))
    identity = draw(st.one_of(relations, segments))
    # Threads share only batches of 128 pages or more, so both kinds must be common.
    count = draw(st.one_of(st.integers(0, 4), st.integers(126, 136)))
    limit = 2**24 if isinstance(identity, WalIdentity) else 2**32
    # Bytes come from a seeded generator: Hypothesis could not shrink megabytes sensibly.
    source = random.Random(draw(st.integers(0, 2**64)))
    zeros = draw(st.sets(st.integers(0, max(count - 1, 0))))
    pages = [bytes(PAGE) if n in zeros else source.randbytes(PAGE) for n in range(count)]
    return Case(
        algorithm=algorithm,
        key=source.randbytes(algorithm.key_bytes),
        identity=identity,
        first_block=draw(st.integers(0, limit - max(count, 1))),
        pages=b"".join(pages),
        threads=draw(st.integers(1, 6)),
        source_offset=draw(st.integers(0, 64)),
        target_offset=draw(st.integers(0, 64)),
    )


def placed(data: bytes, offset: int) -> memoryview:
    """Return a writable view of a copy of the data at an offset from an aligned address."""
    return memoryview(bytearray(offset) + data)[offset:]


@given(cases())
def test_encryption_agrees_with_the_reference(case: Case) -> None:
    cipher = PageCipher(case.key, case.algorithm)
    expected = reference.encrypt_pages(case.key, case.pages, case.identity, case.first_block)
    source = placed(case.pages, case.source_offset)
    target = placed(b"\xa5" * len(case.pages), case.target_offset)
    where: dict[str, Any] = {"identity": case.identity, "first_block": case.first_block}
    assert cipher.encrypt_pages(source, **where) == expected
    cipher.encrypt_pages(source, target, threads=case.threads, **where)
    assert target == expected
    assert source == case.pages
    cipher.encrypt_pages(source, source, threads=case.threads, **where)
    assert source == expected


@given(cases())
def test_decryption_undoes_the_reference(case: Case) -> None:
    cipher = PageCipher(case.key, case.algorithm)
    stored = reference.encrypt_pages(case.key, case.pages, case.identity, case.first_block)
    source = placed(stored, case.source_offset)
    target = placed(b"\xa5" * len(stored), case.target_offset)
    where: dict[str, Any] = {"identity": case.identity, "first_block": case.first_block}
    cipher.decrypt_pages(source, target, threads=case.threads, **where)
    assert target == case.pages
    cipher.decrypt_pages(source, source, threads=case.threads, **where)
    assert source == case.pages


@given(cases())
def test_arbitrary_stored_bytes_survive_decryption_and_encryption(case: Case) -> None:
    # What XTS decrypts it encrypts to the same again: copies of damaged pages stay copies.
    cipher = PageCipher(case.key, case.algorithm)
    where: dict[str, Any] = {"identity": case.identity, "first_block": case.first_block}
    plain = cipher.decrypt_pages(case.pages, **where)
    assert cipher.encrypt_pages(plain, **where) == case.pages


#: Numbers so small that two drawn identities are often nearly the same.
few = st.integers(0, 2)
close_identities = st.one_of(
    st.builds(
        RelationIdentity, few, st.integers(1, 3), st.sampled_from(list(Fork)[:2]), st.booleans()
    ),
    st.builds(WalIdentity, few, few, few),
)


@settings(max_examples=1000)
@given(close_identities, few, close_identities, few)
def test_two_blocks_never_share_a_tweak(
    one: RelationIdentity | WalIdentity,
    block: int,
    other: RelationIdentity | WalIdentity,
    other_block: int,
) -> None:
    same = (one, block) == (other, other_block)
    tweaks = (_core.tweak(one.to_core(), block), _core.tweak(other.to_core(), other_block))
    assert (tweaks[0] == tweaks[1]) == same
