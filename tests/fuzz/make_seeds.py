"""Writes corpus/: one file for each class of names, each kind of record and hand-over."""

from __future__ import annotations

import shutil

from tests.fuzz.fuzz_targets import HERE

NAMES = (
    *("base/5/16384", "base/5/16384_fsm", "base/5/16384_vm.2", "base/1/t3_16385_init"),
    *("base/5/16384.32767", "global/1262", "pg_tblspc/16400/PG_15_202209061/5/16390.1"),
    *("pg_wal/000000010000000000000001", "000000010000000A000000FF.partial"),
    *("archive/archtemp.0000000200000000000000FE.12.1", "base/pgsql_tmp/pgsql_tmp77.0"),
    *("pg_tblspc/16400/PG_18_202506291/pgsql_tmp/pgsql_tmp7.1.fileset/i1of4.p0.0",),
    *("./pg_wal//xlogtemp.4711", "pg_notify/0000", "pg_replslot/s/xid-7-lsn-0-1000000.spill"),
    *("global/pg_control", "base/05/1", "base/5/4294967296", "pg_wal/00000002.history"),
    "archive/archtemp.0000000200000000000000FE.00000028.backup.12.1",
)
KEY = bytes(range(1, 65))
WRAPPED = {  # mode 2: owner, algorithm, tablespace OID, key
    "wal": bytes([2, 1, 2]) + bytes(4) + KEY,
    "tablespace": bytes([2, 2, 1]) + (1663).to_bytes(4, "big") + KEY[:32],
    "plaintext-entry": bytes([2, 2, 0]) + (16401).to_bytes(4, "big"),
    "other-tablespaces": bytes([2, 3, 2]) + bytes(4) + KEY,
    "equal-halves": bytes([2, 1, 1]) + bytes(4) + b"k" * 32,
    "unchanged": bytes([1]),
    "changed-algorithm": bytes([1, 9, 3]),
    "changed-tag": bytes([1, 143, 1]),
    "raw": bytes([0]) + b"TDEKEY\0\1\2\2\0\0" + bytes(132),
}


def hand_over(path: bytes) -> bytes:
    body = b"keystore of fuzz" + b"master key  fuzz" + KEY[:32]
    body += len(path).to_bytes(2, "big") + path
    return b"TDEHAND\1" + (len(body) + 16).to_bytes(4, "big") + bytes(4) + body


def tar_header(name: bytes, size: int = 0) -> bytes:
    """Return the header of a member of pg_wal.tar; the target itself makes its checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124:136] = b"%011o " % size
    block[156:157] = b"0"
    return bytes(block)


# Each byte pair is a write: the header at the end, blocks behind it, the header over itself.
WRITES = bytes([0, 0, 0, 1, 2, 2, 1, 0, 0x80, 4, 0, 0, 0x41, 0, 6, 3, 4, 5])
TAR = {
    "segment": tar_header(b"000000010000000A000000FF") + WRITES,
    "partial": tar_header(b"000000010000000A000000FF.partial", 8192) + WRITES,
    "history": tar_header(b"00000002.history.tmp") + WRITES,
    "status": tar_header(b"archive_status/000000010000000A000000FF.done") + WRITES,
    "unknown": tar_header(b"base/5/16384") + WRITES,
}


def map_entry(oid: int, kind: int, key_id: bytes = b"") -> bytes:
    """Return what the target makes an entry of: its kind, OID and key id."""
    return bytes([kind]) + oid.to_bytes(4, "big") + key_id.ljust(16, b"\0")


KEYMAP = {  # mode 0: raw; 1: entries; 2: entries, of which one byte is changed
    "raw": bytes([0]) + b"TDEMAP\0\1" + bytes(56),
    "empty": bytes([1]),
    "entries": bytes([1])
    + map_entry(16384, 1)
    + map_entry(16385, 2)
    + map_entry(16384, 3, KEY[:16]),
    "unknown-kind": bytes([1]) + map_entry(16384, 4),
    "changed": bytes([2, 100, 1]) + map_entry(16384, 1) + map_entry(16385, 3, KEY[:16]),
    "location": bytes([3]) + b"/srv/tde-00112233445566778899aabbccddeeff/x",
}


def main() -> None:
    seeds = {"identity": {f"{i:02}": name.encode() for i, name in enumerate(NAMES)}}
    seeds["keyrecord"] = WRAPPED
    seeds["tar"] = TAR
    seeds["keymap"] = KEYMAP
    seeds["handover"] = {
        "short": hand_over(b"/"),
        "usual": hand_over(b"/var/lib/tde/keystore"),
        "two-paths": hand_over(b"/var/lib/tde/keystore\0/tmp/keystore"),
        "longest": hand_over(b"/" + b"k" * 4095),
        "too-long": hand_over(b"/" + b"k" * 4096),
    }
    shutil.rmtree(HERE / "corpus", ignore_errors=True)
    for target, files in seeds.items():
        directory = HERE / "corpus" / target
        directory.mkdir(parents=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)


if __name__ == "__main__":
    main()
