"""The keystore: a directory of wrapped keys that one passphrase opens.

with Keystore.open(Path("/etc/tde/main"), passphrase) as keystore:
    keystore.create_key(KeyOwner.tablespace(16400), Algorithm.AES256)
"""

from tde.keystore.crypto.kdf import KdfParameters
from tde.keystore.handover import HandOver
from tde.keystore.keystore import Keystore
from tde.keystore.providers.auto_open import can_open_automatically
from tde.keystore.status import KeyRecordInfo, KeystoreStatus, inspect_keystore, keystore_uuid
from tde.keystore.store.record import KeyOwner, OwnerKind

__all__ = [
    "HandOver",
    "KdfParameters",
    "KeyOwner",
    "KeyRecordInfo",
    "Keystore",
    "KeystoreStatus",
    "OwnerKind",
    "can_open_automatically",
    "inspect_keystore",
    "keystore_uuid",
]
