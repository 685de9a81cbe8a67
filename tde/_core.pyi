"""The C extension over c_ext/batch, c_ext/format and c_ext/crypto.

Private: :mod:`tde.page` is the typed and checked face of it.  An identity is the tuple
(file class, word 0, word 1, word 2, fork) of ``struct tde_identity``; its block numbers
count from the start of the relation fork or WAL segment.
"""

import os
from typing import Any, Protocol, TypeAlias, TypeVar, final, overload, type_check_only

from typing_extensions import Buffer

@type_check_only
class _Array(Protocol):
    """A NumPy array, which NumPy's stubs call a Buffer only from Python 3.12 on."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...

#: What holds pages; for type checkers only, it does not exist at run time.
PageBuffer: TypeAlias = Buffer | _Array

_OutT = TypeVar("_OutT", bound=PageBuffer)
_Identity: TypeAlias = tuple[int, int, int, int, int]

BLOCK_SIZE: int
CLASS_PLAIN: int
CLASS_RELATION: int
CLASS_WAL: int
CLASS_TEMP_RELATION: int
CLASS_EPHEMERAL: int

#: The auditor's verdicts on a stored block, one byte each (c_ext/python/audit.c).
AUDIT_ZERO: int
AUDIT_VERIFIED: int
AUDIT_PLAIN_PAGE: int
AUDIT_NOT_RANDOM: int
AUDIT_BAD_CHECKSUM: int
AUDIT_NOISE: int

#: Verdicts of find_overwritten (c_ext/python/repair.c).
REPAIR_ZERO: int
REPAIR_UNTOUCHED: int
REPAIR_FOUND: int
REPAIR_AMBIGUOUS: int
REPAIR_NO_PAGE: int

@final
class Cipher:
    """One XTS key and a pool of OpenSSL contexts; threads may share it.

    It works with the library that was chosen for pages, or with the linked one where that is asked
    for.  Raises KeyLengthError or PageError when ``key`` does not fit the algorithm code.
    """

    def __new__(cls, algorithm: int, key: Buffer, *, linked: bool = False) -> Cipher: ...
    @property
    def algorithm(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @overload
    def encrypt_blocks(
        self, src: PageBuffer, dst: None, identity: _Identity, first_block: int, threads: int, /
    ) -> bytes: ...
    @overload
    def encrypt_blocks(
        self, src: PageBuffer, dst: _OutT, identity: _Identity, first_block: int, threads: int, /
    ) -> _OutT: ...
    @overload
    def encrypt_blocks(
        self,
        src: PageBuffer,
        dst: _OutT | None,
        identity: _Identity,
        first_block: int,
        threads: int,
        /,
    ) -> _OutT | bytes: ...
    @overload
    def decrypt_blocks(
        self, src: PageBuffer, dst: None, identity: _Identity, first_block: int, threads: int, /
    ) -> bytes: ...
    @overload
    def decrypt_blocks(
        self, src: PageBuffer, dst: _OutT, identity: _Identity, first_block: int, threads: int, /
    ) -> _OutT: ...
    @overload
    def decrypt_blocks(
        self,
        src: PageBuffer,
        dst: _OutT | None,
        identity: _Identity,
        first_block: int,
        threads: int,
        /,
    ) -> _OutT | bytes: ...
    def audit_pages(
        self, stored: Buffer, identity: _Identity, first_block: int, checksums: bool, /
    ) -> bytes:
        """Return the verdict on each stored block of a relation."""

    def audit_wal(
        self, stored: Buffer, identity: _Identity, first_block: int, address: int, magic: int, /
    ) -> bytes:
        """Return the verdict on each stored block of a segment.

        ``address`` is the WAL position of the segment's first byte, ``magic`` that of the pages
        of this major version.
        """

    def find_segment(
        self,
        stored: Buffer,
        block: int,
        timeline: int,
        newest: int,
        count: int,
        segment_bytes: int,
        magic: int,
        /,
    ) -> int | None:
        """Return the number of the segment whose block ``block`` these bytes are, if any.

        Of ``stored`` the first 16 bytes are used.  The candidates are ``newest`` and the
        ``count`` - 1 segments before it.
        """

    def close(self) -> None: ...

def parse_path(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes], /
) -> tuple[int, int, int, int, int, int, int, str | None]:
    """Classify a file name.

    Returns (file class, tablespace OID, word 0, word 1, word 2, fork, first block, name);
    the name is given for ephemeral files only: the part of the path that identifies them.
    """

def plain_rules() -> tuple[tuple[str, str, bool], ...]:
    """Return the list of files that are plain by design: (files, reason, decision)."""

def find_plain_rule(name: str, /) -> tuple[int, bool]:
    """Return the number of a file's rule (-1: it has none), and whether the server writes it."""

def tweak(identity: _Identity, block: int, /) -> bytes:
    """Return the 16-byte tweak of a block; IdentityError when the file cannot have it."""

def xts(algorithm: int, key: Buffer, tweak: Buffer, data: Buffer, encrypt: bool, /) -> bytes:
    """Run XTS over one raw data unit, with neither pages nor the rule about zeros.

    It exists for published test vectors.  ``data`` is a multiple of 16 bytes, at most 8192.
    """

def tail_mask(tail_key: Buffer, tweak: Buffer, index: int, data: Buffer, /) -> bytes:
    """Mask, or unmask, the last partial AES block of a file; for tests.

    ``tail_key`` has 32 bytes, ``tweak`` 16 and ``data`` fewer than 16; ``index`` is the
    number of that AES block within its data unit.
    """

def unwrap_key_record(
    record: Buffer,
    keystore: Buffer,
    master_key_id: Buffer,
    master_key: Buffer,
    owner: int,
    oid: int,
    key_id: Buffer = ...,
    /,
) -> tuple[int, bytes]:
    """Check and unwrap a key record exactly as the server does; ``key_id`` of a named key.

    Returns (algorithm code, key), the key being empty for a plaintext entry.  Raises
    ValueError that says what is wrong with the record.
    """

def check_keymap(map: Buffer, keystore: Buffer, key: Buffer, /) -> int:
    """Check a key map exactly as the server does, and return how many bytes are authentic.

    Raises ValueError that says what is wrong with it.
    """

def control_state(sector: Buffer, hide: bool, /) -> bytes:
    """Return the first 512 bytes of pg_control with the state hidden, or shown again.

    They are returned unchanged where there is nothing to hide or to show.
    """

def control_checksums(sector: Buffer, /) -> bytes:
    """Return the first sector of pg_control, whose state is not hidden, with data checksums on.

    Raises:
        ValueError: it is not that of a supported version, or says something unknown of checksums.
    """

def find_overwritten(
    algorithm: int,
    key: Buffer,
    stored: Buffer,
    identity: _Identity,
    first_block: int,
    newest_lsn: int,
    /,
) -> bytes:
    """Find what stood in bytes 8 and 9 of stored blocks before pg_checksums without keys.

    Returns 3 bytes for each block: a verdict REPAIR_…, and with REPAIR_FOUND the two bytes.
    """

def audit_random(stored: Buffer, /) -> bytes:
    """Return ZERO, VERIFIED or NOT_RANDOM for each block of whole 512-byte sectors.

    The last block may be short.
    """

def sector_skew(sector: Buffer, /) -> int:
    """Return the sum of the squares of how often each byte value occurs in 512 bytes."""

def page_checksum(page: Buffer, block: int, /) -> int:
    """Return PostgreSQL's data checksum of a page, which is block ``block`` of its fork."""

def set_checksums(blocks: Buffer, first_block: int, /) -> bytes:
    """Give plain blocks of a fork their data checksums, in place; the first is ``first_block``.

    Blocks of zeros have none, and blocks that no server would read are left as they are. Returns a
    byte for each block, which is not zero for the latter.
    """

def find_bytes(data: Buffer, needle: Buffer, start: int, /) -> int:
    """Return the offset of ``needle`` from ``start`` on, or -1."""

def openssl_version() -> str:
    """Return the version text of the OpenSSL library that encrypts pages."""

def linked_openssl_version() -> str:
    """Return the version text of the OpenSSL library that does all else."""

def libcrypto_would_gain() -> bool:
    """Tell whether a newer OpenSSL would encrypt pages faster here; not where FIPS is demanded."""

def choose_libcrypto(path: str | os.PathLike[str], /) -> str | None:
    """Encrypt pages with another OpenSSL library; return what is wrong with it, if anything.

    It is asked for published results first, and for the same as the library that is linked.
    Ciphers that were made before stay with theirs.
    """
