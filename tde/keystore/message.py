"""A master key on its way to a server that runs already: sealed to that server alone.

Layout, integers big-endian (the interposer reads it in C, c_ext/format/message.c):

     0   8  magic "TDEMSG", 0, and the format version, 1
     8   4  kind: 1, a master key; 2, a WAL key that is in the keystore; 3, withhold a tablespace
            from sessions, or 4, give it
    12   4  length of the payload
    16   8  number; a server looks at each number once, in rising order
    24   8  zero
    32  16  keystore UUID
    48  32  public key of the sender, X25519
    80  80  the payload, under AES-256-GCM: id of the key, or the tablespace's OID (16), master key
            or zeros (32), code (32)
   160  16  tag

The sealing key is HKDF-SHA256 of the X25519 secret of a key pair that the sender makes for this
message and the one that the server has made at its start. The label and both public keys are its
info, as in HPKE (RFC 9180), which OpenSSL 3.0 does not have. It seals one message, so the nonce
is zeros. Whoever knows the public key could seal, so the code authenticates the sender: HMAC with
a key that is derived from that of the WAL, over all bytes before it.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tde.keystore.crypto.secret import SecretBuffer

LABEL = b"tde message"
MESSAGE_BYTES = 176
_MAGIC = b"TDEMSG\x00\x01"
# No message begins so, thus a code of the one kind is never one of the other.
_SERVER_LABEL = b"tde server\x00"
_MASTER_KEY = 1
_WAL_KEY = 2
_WITHHOLD = 3
_GIVE = 4
_PAYLOAD_BYTES = 80
_HEADER = struct.Struct(">8sIIQ8x16s32s")


def server_code(keystore: UUID, pid: int, start_time: int, key: bytes, code_key: bytes) -> bytes:
    """Return what proves that a public key is that of a server with the keys; 32 bytes.

    Programs that the server runs as its own user can write what it publishes.

    Args:
        start_time: of the process, field 22 of /proc/<pid>/stat.
        key: the public key that it publishes, 32 bytes.
        code_key: the authentication key of :data:`LABEL`.
    """
    process = keystore.bytes + pid.to_bytes(8, "big") + start_time.to_bytes(8, "big")
    return hmac.digest(code_key, _SERVER_LABEL + process + key, hashlib.sha256)


def seal_master_key(
    server: bytes,
    number: int,
    keystore: UUID,
    master_key_id: UUID,
    master_key: SecretBuffer,
    code_key: bytes,
) -> bytes:
    """Return the message for one server.

    Args:
        server: the public key that the server publishes, 32 bytes.
        number: higher than that of the last message that the server has looked at.
        code_key: the authentication key of :data:`LABEL`.
    """
    with master_key.view as plain:
        return _seal(_MASTER_KEY, server, number, keystore, master_key_id, plain, code_key)


def seal_wal_key(
    server: bytes, number: int, keystore: UUID, key_id: UUID, code_key: bytes
) -> bytes:
    """Return the message that lets one server write WAL with a key that is in the keystore.

    Args:
        server, number, code_key: as for :func:`seal_master_key`.
        key_id: of the key; the server reads it itself.
    """
    return _seal(_WAL_KEY, server, number, keystore, key_id, memoryview(bytes(32)), code_key)


def seal_withheld(
    server: bytes, number: int, keystore: UUID, oid: int, code_key: bytes, *, give: bool
) -> bytes:
    """Return the message that withholds a tablespace from sessions, or gives it to them.

    Args:
        server, number, code_key: as for :func:`seal_master_key`.
        oid: of the tablespace; 0 for the whole keystore.
    """
    kind = _GIVE if give else _WITHHOLD
    nothing = memoryview(bytes(32))
    return _seal(kind, server, number, keystore, UUID(int=oid), nothing, code_key)


def _seal(
    kind: int,
    server: bytes,
    number: int,
    keystore: UUID,
    key_id: UUID,
    secret: memoryview,
    code_key: bytes,
) -> bytes:
    sender = X25519PrivateKey.generate()
    sender_public = sender.public_key().public_bytes_raw()
    shared = sender.exchange(X25519PublicKey.from_public_bytes(server))
    info = LABEL + b"\x00" + server + sender_public
    key = HKDF(SHA256(), 32, salt=None, info=info).derive(shared)
    header = _HEADER.pack(_MAGIC, kind, _PAYLOAD_BYTES, number, keystore.bytes, sender_public)
    encryptor = Cipher(AES(key), GCM(bytes(12))).encryptor()
    encryptor.authenticate_additional_data(header)
    with SecretBuffer(_PAYLOAD_BYTES) as payload, payload.view as view:
        view[:16] = key_id.bytes
        view[16:48] = secret
        code = hmac.new(code_key, header, hashlib.sha256)
        code.update(view[:48])
        view[48:] = code.digest()
        sealed = encryptor.update(view) + encryptor.finalize()
    return header + sealed + encryptor.tag
