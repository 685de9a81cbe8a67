"""What whoever can write to a keystore puts there, knowing its ids and no key of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tde.keystore import Keystore
from tde.keystore.crypto.secret import random_secret
from tde.keystore.crypto.wrapping import Wrapped
from tde.keystore.providers.auto_open import pack_auto_open
from tde.keystore.providers.bound_secret import HostSecretProvider
from tde.keystore.store.envelope import (
    KEK_BYTES,
    EnvelopeHeader,
    kek_context,
    make_envelope,
)
from tde.keystore.store.reading import read_document
from tests.keystore.cheap_passphrase import PASSPHRASE


def plant(
    keystore: Path,
    parameters: Mapping[str, str],
    *,
    name: str = "a",
    type_: str = "secret-command",
) -> Path:
    """Put an envelope there with nothing but noise for keys, as the ids in the clear allow."""
    found = read_document(keystore).header
    header = EnvelopeHeader(
        *(name, found.uuid, found.master_key_id, type_, True, "full", 0, dict(parameters)),
        wrapped_kek=bytes(92),
    )
    file = keystore / "unlock" / f"{name}.{header.master_key_id.hex}.json"
    noise = Wrapped(bytes(12), bytes(32), bytes(16))
    _write(file, make_envelope(header, noise, bytes(32)).encode())
    return file


def plant_auto_open(keystore: Path) -> None:
    """Let the keystore open by itself with another master key than that of keystore.json."""
    found = read_document(keystore).header
    with random_secret(32) as own:
        content = pack_auto_open(found.uuid, found.master_key_id, own)
        _write(keystore / "auto-open.key", content)


def forge(keystore: Path, secret: Path) -> None:
    """As :func:`plant_auto_open`, and by an envelope, with a host secret that is there."""
    with Keystore.open(keystore, PASSPHRASE) as opened, random_secret(32) as own:
        forger = Keystore(opened.path, read_document(keystore).header, own)
        header = EnvelopeHeader(
            *("a", opened.uuid, opened.master_key_id, "host-secret", True, "full", 0),
            *({"file": str(secret)}, b"-"),
        )
        context = kek_context(opened.uuid, opened.master_key_id, "a")
        with random_secret(KEK_BYTES) as kek:
            wrapped = HostSecretProvider(header.parameters).wrap(kek, context)
            envelope = forger.make_envelope(replace(header, wrapped_kek=wrapped), kek)
        file = keystore / "unlock" / f"a.{opened.master_key_id.hex}.json"
        _write(file, envelope.encode())
        _write(keystore / "auto-open.key", pack_auto_open(opened.uuid, opened.master_key_id, own))


def _write(file: Path, content: bytes) -> None:
    """Write as who may write to the keystore does: its owner."""
    owner = file.parent.stat() if file.parent.exists() else file.parent.parent.stat()
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_bytes(content)
    file.chmod(0o600)
    for path in (file, file.parent) if os.geteuid() == 0 else ():
        os.chown(path, owner.st_uid, owner.st_gid)
