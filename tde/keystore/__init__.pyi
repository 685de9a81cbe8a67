from tde.keystore.crypto.kdf import KdfParameters as KdfParameters
from tde.keystore.handover import HandOver as HandOver
from tde.keystore.keystore import Keystore as Keystore
from tde.keystore.providers.auto_open import can_open_automatically as can_open_automatically
from tde.keystore.status import (
    KeyRecordInfo as KeyRecordInfo,
    KeystoreStatus as KeystoreStatus,
    inspect_keystore as inspect_keystore,
    keystore_uuid as keystore_uuid,
)
from tde.keystore.store.record import KeyOwner as KeyOwner, OwnerKind as OwnerKind
