"""From a passphrase to the key-encryption key: Argon2id (RFC 9106) with bounded cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from tde.errors import KdfParametersError, KeystoreError
from tde.keystore.crypto.secret import SecretBuffer

KDF_NAME = "argon2id"
KEK_BYTES = 32
SALT_BYTES = 16

# The cost is read from a file, before anything could authenticate that file. The upper
# bounds keep a forged one from taking the machine's memory or hours of its time; the lower
# ones keep it from making a stolen passphrase hash cheap to attack.
MEMORY_KIB = range(8 * 1024, 1024 * 1024 + 1)
ITERATIONS = range(1, 17)
LANES = range(1, 5)


@dataclass(frozen=True)
class KdfParameters:
    """The cost of one derivation; the default is the second choice of RFC 9106, section 4.

    Attributes:
        memory_kib: memory in KiB, 8 MiB to 1 GiB.
        iterations: passes over that memory, 1 to 16.
        lanes: degree of parallelism, 1 to 4.

    Raises:
        KdfParametersError: a value is out of bounds.
    """

    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4

    def __post_init__(self) -> None:
        for name, allowed in (
            ("memory_kib", MEMORY_KIB),
            ("iterations", ITERATIONS),
            ("lanes", LANES),
        ):
            value: object = getattr(self, name)
            # bool is an int to Python, but `true` is not a number in a keystore file.
            if type(value) is not int or value not in allowed:
                raise KdfParametersError(
                    f"key derivation parameter {name} = {value!r} is outside "
                    f"{allowed.start} to {allowed.stop - 1}",
                    remedy="Restore keystore.json from a backup if you did not choose this value.",
                )


def derive_kek(
    passphrase: bytes | bytearray, salt: bytes, parameters: KdfParameters
) -> SecretBuffer:
    """Return the 32-byte key-encryption key; the caller closes it.

    Raises:
        KeystoreError: this machine cannot compute Argon2id.
    """
    try:
        # Any buffer will do, whatever the annotation says; bytes(passphrase) would be a copy
        # that cannot be wiped.
        derived = Argon2id(
            salt=salt,
            length=KEK_BYTES,
            iterations=parameters.iterations,
            lanes=parameters.lanes,
            memory_cost=parameters.memory_kib,
        ).derive(cast(bytes, passphrase))
    except UnsupportedAlgorithm as error:
        raise KeystoreError(
            "OpenSSL offers no Argon2id to the installed cryptography package",
            remedy="If OPENSSL_CONF or openssl.cnf asks for FIPS (fips = yes), run tde with "
            "OPENSSL_CONF=/dev/null: the FIPS provider has no Argon2id. Else install the wheel "
            "from PyPI: pip install --force-reinstall cryptography",
        ) from error
    except MemoryError as error:
        raise KeystoreError(
            f"deriving the key needs {parameters.memory_kib // 1024} MiB of memory",
            remedy="Free memory, or raise the memory limit of this process.",
        ) from error
    kek = SecretBuffer(KEK_BYTES)
    with kek.view as view:
        view[:] = derived
    return kek
