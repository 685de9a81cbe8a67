"""A provider that is people: M of N of them open the keystore together.

An X25519 key is made once, and split into shares of words (SLIP-0039). Its public half stands in
the envelope. The KEK is sealed to it: an ephemeral X25519 key, HKDF-SHA256 and AES-256-GCM. So a
rotation of the master key needs nobody, and the keystore without the shares is worth nothing.
"""

from __future__ import annotations

import getpass
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tde.errors import ProviderError, ProviderRefusedError
from tde.keystore.crypto.secret import SecretBuffer, wipe
from tde.keystore.crypto.wrapping import TAG_BYTES, UnwrapError, Wrapped, unwrap, wrap
from tde.keystore.providers.wrapper import Parameter, require_library

CUSTODIANS = "custodians"
"""The type, by which it is registered."""
MOST_SHARES = 16  # As SLIP-0039 allows.
_KEY_BYTES = 32
_LABEL = b"tde custodians\x00"
# The key that seals comes from an ephemeral key and seals one message, so its nonce may be fixed.
_NONCE = bytes(12)


class CustodiansProvider:
    """Seals the KEK to a public key, and opens it with enough shares of the private one."""

    summary: ClassVar[str] = "People who open it together, M of N, each with a share of words"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("shares", f"how many there are, at most {MOST_SHARES}", required=True),
        Parameter("threshold", "how many of them open it", required=True),
        Parameter("public-key", "made by tde", required=True),
        Parameter("share-id", "what all shares begin with; made by tde", required=True),
    )
    timeout: ClassVar[float | None] = None  # People type.

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take the parameters.

        Raises:
            ProviderError: they are not those of :func:`new_shares`.
        """
        self._shares: Sequence[bytearray] = ()
        _, self._threshold = checked_counts(parameters)
        try:
            self._public = X25519PublicKey.from_public_bytes(
                bytes.fromhex(parameters["public-key"])
            )
            self._share_id = int(parameters["share-id"])
        except ValueError as error:
            raise ProviderError(
                "its public key or share id has another form than tde gives it",
                remedy="They are made by tde; leave them out.",
            ) from error

    @staticmethod
    def is_safe_unasked(parameters: Mapping[str, str]) -> bool:
        """Tell that it runs nothing, and sends nothing anywhere: see acceptance.py."""
        del parameters
        return True

    def use_shares(self, shares: Sequence[bytearray]) -> None:
        """Take these shares, and ask nobody; they stay the caller's to wipe."""
        self._shares = shares

    def wrap(self, kek: SecretBuffer, context: bytes) -> bytes:
        """Return the ephemeral public key, and the KEK under a key agreed with it."""
        ephemeral = X25519PrivateKey.generate()
        public = ephemeral.public_key().public_bytes_raw()
        with _sealing_key(ephemeral.exchange(self._public), public, self._raw_public()) as key:
            wrapped = wrap(key, kek, _NONCE, context)
        return public + wrapped.ciphertext + wrapped.tag

    def unwrap(self, wrapped: bytes, context: bytes) -> SecretBuffer:
        """Return the KEK, after enough custodians have given their shares."""
        public, rest = wrapped[:_KEY_BYTES], wrapped[_KEY_BYTES:]
        name = context.decode().rpartition(":")[2]
        secret = self._combine(self._given() if self._shares else self._asked(name))
        try:
            private = X25519PrivateKey.from_private_bytes(bytes(secret))
        finally:
            wipe(secret)
        if private.public_key().public_bytes_raw() != self._raw_public():
            raise ProviderRefusedError(
                "the shares belong together, and are not those of this provider",
                remedy="Give the shares that were made when it was added.",
            )
        try:
            agreed = private.exchange(X25519PublicKey.from_public_bytes(public))
            with _sealing_key(agreed, public, self._raw_public()) as key:
                return unwrap(key, Wrapped(_NONCE, rest[:-TAG_BYTES], rest[-TAG_BYTES:]), context)
        except (UnwrapError, ValueError):
            raise ProviderRefusedError(
                "the shares are right, but what they open was altered",
                remedy="Bring the envelope from a backup of the keystore.",
            ) from None

    def _raw_public(self) -> bytes:
        return self._public.public_bytes_raw()

    def _given(self) -> list[Any]:
        found: list[Any] = []
        for number, share in enumerate(self._shares, start=1):
            found.append(self._checked(share, found, f"share file {number}"))
        if len(found) < self._threshold:
            raise ProviderRefusedError(
                f"{len(found)} shares were given, and {self._threshold} are needed",
                remedy="Give --share-file once for each, or leave it out to be asked.",
            )
        return found[: self._threshold]

    def _asked(self, name: str) -> list[Any]:
        found: list[Any] = []
        while len(found) < self._threshold:
            words = _ask(f"Share {len(found) + 1} of {self._threshold} for {name}: ")
            try:
                found.append(self._checked(words, found, "this share"))
            except ProviderRefusedError as error:
                # One slip must not cost the words that others have typed already.
                print(f"{error}. Once more, or Ctrl-C.", file=sys.stderr, flush=True)
            finally:
                wipe(words)
        return found

    def _checked(self, words: bytearray, others: Sequence[Any], what: str) -> Any:
        """Return one share, when it is of this provider and no other has it.

        Raises:
            ProviderRefusedError: it is not, or was mistyped.
        """
        slip39 = require_library("shamir_mnemonic", "custodians")
        try:
            share = slip39.Share.from_mnemonic(" ".join(words.decode("ascii").lower().split()))
        except (slip39.MnemonicError, UnicodeDecodeError):
            # What the library says quotes the first words, which are no secret, but are noise.
            raise ProviderRefusedError(
                f"{what} is mistyped or incomplete: its checksum does not fit",
                remedy="A share is a line of 33 words.",
            ) from None
        if share.identifier != self._share_id or share.member_threshold != self._threshold:
            raise ProviderRefusedError(
                f"{what} belongs to another keystore or provider",
                remedy="Give the shares that were made when this one was added.",
            )
        if any(share.index == other.index for other in others):
            raise ProviderRefusedError(
                f"{what} was given already: it is number {share.index + 1}",
                remedy="Each custodian gives another one.",
            )
        return share

    def _combine(self, shares: Sequence[Any]) -> bytearray:
        slip39 = require_library("shamir_mnemonic", "custodians")
        try:
            secret = bytearray(slip39.combine_mnemonics([share.mnemonic() for share in shares]))
        except slip39.MnemonicError as error:
            raise ProviderRefusedError(
                "the shares do not fit together",
                remedy="One is of another set with the same number; try other custodians.",
            ) from error
        if len(secret) != _KEY_BYTES:
            wipe(secret)
            raise ProviderRefusedError("the shares are those of something else")
        return secret


def checked_counts(parameters: Mapping[str, str]) -> tuple[int, int]:
    """Return how many shares there are and how many are needed.

    Raises:
        ProviderError: it is no number, or no number that can be.
    """
    try:
        shares, threshold = int(parameters["shares"]), int(parameters["threshold"])
    except (KeyError, ValueError):
        shares = threshold = 0
    if not 2 <= threshold <= shares <= MOST_SHARES:
        raise ProviderError(
            "it needs 2 to 16 shares, and a threshold of 2 to that number",
            remedy="For example three of five: -o shares=5 -o threshold=3",
        )
    return shares, threshold


def new_shares(parameters: Mapping[str, str]) -> tuple[dict[str, str], list[bytearray]]:
    """Make a key and split it.

    Args:
        parameters: `shares` and `threshold`.

    Returns:
        All parameters, and the words of each share, which the caller wipes.

    Raises:
        ProviderError: the numbers cannot be used, or a library is missing.
    """
    unknown = set(parameters) - {"shares", "threshold"}
    if unknown:
        raise ProviderError(
            f"a provider of type custodians takes no {min(unknown)} from you",
            remedy="It takes shares and threshold, and makes the rest.",
        )
    count, threshold = checked_counts(parameters)
    slip39 = require_library("shamir_mnemonic", "custodians")
    private = X25519PrivateKey.generate()
    secret = bytearray(private.private_bytes_raw())
    try:
        # No further passphrase protects the shares, so stretching it would only cost time.
        (group,) = slip39.generate_mnemonics(
            1, [(threshold, count)], bytes(secret), iteration_exponent=0
        )
    finally:
        wipe(secret)
    complete = {
        **parameters,
        "public-key": private.public_key().public_bytes_raw().hex(),
        "share-id": str(slip39.Share.from_mnemonic(group[0]).identifier),
    }
    return complete, [bytearray(words.encode()) for words in group]


def _ask(prompt: str) -> bytearray:
    try:
        with warnings.catch_warnings():
            # Without a terminal getpass falls back to reading with echo, after this warning.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return bytearray(getpass.getpass(prompt).encode("utf-8", "surrogateescape"))
    except (getpass.GetPassWarning, EOFError, OSError) as error:
        raise ProviderError(
            "its custodians cannot be asked, because there is no terminal",
            remedy="Give --share-file for each of them.",
        ) from error


def _sealing_key(agreed: bytes, ephemeral: bytes, recipient: bytes) -> SecretBuffer:
    """Return the key that seals one KEK; both public keys are bound in."""
    derived = HKDF(SHA256(), _KEY_BYTES, salt=None, info=_LABEL + ephemeral + recipient).derive(
        agreed
    )
    key = SecretBuffer(_KEY_BYTES)
    with key.view as view:
        view[:] = derived
    return key
