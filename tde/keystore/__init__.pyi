from tde.keystore.copies.adding import add_missing_keys as add_missing_keys
from tde.keystore.copies.backup import (
    back_up_keystore as back_up_keystore,
    restore_keystore as restore_keystore,
)
from tde.keystore.copies.content import KeystoreContent as KeystoreContent
from tde.keystore.crypto.kdf import KdfParameters as KdfParameters
from tde.keystore.envelopes import (
    EnvelopeInfo as EnvelopeInfo,
    EnvelopeTrial as EnvelopeTrial,
    accept_envelope as accept_envelope,
    add_envelope as add_envelope,
    forget_cached as forget_cached,
    list_providers as list_providers,
    remove_envelope as remove_envelope,
    try_envelope as try_envelope,
    unattended_providers as unattended_providers,
)
from tde.keystore.handover import HandOver as HandOver
from tde.keystore.inventory import KeyInfo as KeyInfo, list_keys as list_keys
from tde.keystore.keystore import Keystore as Keystore
from tde.keystore.lifecycle.ages import (
    AgeFinding as AgeFinding,
    AgeVerdict as AgeVerdict,
    age_findings as age_findings,
)
from tde.keystore.lifecycle.lives import read_lives as read_lives
from tde.keystore.lifecycle.receipt import (
    ReceiptCheck as ReceiptCheck,
    check_receipt as check_receipt,
)
from tde.keystore.lifecycle.states import (
    Fact as Fact,
    KeyLife as KeyLife,
    KeyState as KeyState,
    KeystoreLife as KeystoreLife,
    KeyUse as KeyUse,
    KnownPlace as KnownPlace,
    LifeEvent as LifeEvent,
    SecretLife as SecretLife,
)
from tde.keystore.log.entry import LogEntry as LogEntry
from tde.keystore.log.reading import KeyLog as KeyLog, read_key_log as read_key_log
from tde.keystore.passphrase_change import change_passphrase as change_passphrase
from tde.keystore.providers.auto_open import can_open_automatically as can_open_automatically
from tde.keystore.rotation import rotate_master_key as rotate_master_key
from tde.keystore.status import (
    KeyRecordInfo as KeyRecordInfo,
    KeystoreStatus as KeystoreStatus,
    inspect_keystore as inspect_keystore,
    keystore_uuid as keystore_uuid,
)
from tde.keystore.store.record import KeyOwner as KeyOwner, OwnerKind as OwnerKind
from tde.keystore.verification import (
    CheckedFile as CheckedFile,
    verify_keystore as verify_keystore,
)
