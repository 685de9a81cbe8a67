"""A provider that is a token or HSM with a PKCS#11 library: its key never leaves it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from tde.errors import ProviderError, ProviderRefusedError, ProviderUnreachableError
from tde.keystore.crypto.secret import SecretBuffer, wipe
from tde.keystore.providers.secret_parameter import (
    read_secret_parameter,
    require_absolute,
    secret_parameters,
)
from tde.keystore.providers.wrapper import Parameter, require_library

_GCM, _OAEP = b"\x01", b"\x02"
_NONCE_BYTES = 12
_TAG_BITS = 128
# What a token says when it is not there, or has just gone.
_UNREACHABLE = (
    "NoSuchToken",
    "TokenNotPresent",
    "TokenNotRecognised",
    "DeviceError",
    "DeviceRemoved",
    "DeviceMemory",
    "SlotIDInvalid",
    "SessionCount",
    "SessionHandleInvalid",
    "SessionClosed",
)


class Pkcs11Provider:
    """Has a key of a token encrypt the KEK.

    With an AES key it is AES-GCM, whose nonce is random: 96 bits, for as many messages as there are
    envelopes. With a pair of RSA keys it is OAEP with SHA-1, the form that every token has, and
    which binds the KEK to no context; the envelope does that in any case.
    """

    summary: ClassVar[str] = "A token or HSM with a PKCS#11 library: AES-GCM or RSA-OAEP in it"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Parameter("module", "the PKCS#11 library of the token: an absolute path", required=True),
        Parameter("token", "the label of the token", required=True),
        Parameter("key", "the label of the AES key, or of the pair of RSA keys", required=True),
        *secret_parameters("pin", "the PIN of the token"),
    )
    timeout: ClassVar[float | None] = 20.0

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take the parameters; the token is asked later."""
        require_absolute("module", parameters)
        require_absolute("pin-file", parameters)
        self._parameters = parameters

    def wrap(self, kek: SecretBuffer, context: bytes) -> bytes:
        """Return the KEK as the token's key encrypts it."""
        with self._session() as (pkcs11, session), kek.view as view:
            key = self._key(pkcs11, session, for_wrapping=True)
            if key.key_type == pkcs11.KeyType.RSA:
                mechanism = {"mechanism": pkcs11.Mechanism.RSA_PKCS_OAEP}
                return _OAEP + self._ask(lambda: key.encrypt(bytes(view), **mechanism))
            nonce = os.urandom(_NONCE_BYTES)
            mechanism = _gcm(pkcs11, nonce, context)
            return _GCM + nonce + self._ask(lambda: key.encrypt(bytes(view), **mechanism))

    def unwrap(self, wrapped: bytes, context: bytes) -> SecretBuffer:
        """Return the KEK as the token's key decrypts it."""
        kind, rest = wrapped[:1], wrapped[1:]
        with self._session() as (pkcs11, session):
            key = self._key(pkcs11, session, for_wrapping=False)
            is_rsa = key.key_type == pkcs11.KeyType.RSA
            if kind != (_OAEP if is_rsa else _GCM):
                raise ProviderRefusedError(
                    f"the token's key {self._parameters['key']} is of another type than the one "
                    "that has wrapped",
                    remedy="See which keys the token has: pkcs11-tool --list-objects",
                )
            if is_rsa:
                mechanism = {"mechanism": pkcs11.Mechanism.RSA_PKCS_OAEP}
            else:
                mechanism = _gcm(pkcs11, rest[:_NONCE_BYTES], context)
                rest = rest[_NONCE_BYTES:]
            content = bytearray(self._ask(lambda: key.decrypt(rest, **mechanism)))
        kek = SecretBuffer(max(1, len(content)))
        with kek.view as view:
            view[: len(content)] = content
        wipe(content)
        return kek

    def _ask(self, operation: Callable[[], bytes]) -> bytes:
        """Have the token do something with its key; what it does not like is a refusal."""
        pkcs11 = require_library("pkcs11", "pkcs11")
        try:
            return operation()
        except pkcs11.PKCS11Error as error:
            if type(error).__name__ in _UNREACHABLE:
                raise
            raise ProviderRefusedError(
                f"the token's key {self._parameters['key']} does not do it: {_text(error)}",
                remedy="It is another key than the one that has wrapped, or must not be used for "
                "that: pkcs11-tool --list-objects shows its usage.",
            ) from error

    @contextmanager
    def _session(self) -> Iterator[tuple[Any, Any]]:
        pkcs11 = require_library("pkcs11", "pkcs11")
        pin = read_secret_parameter("pin", self._parameters)
        label = self._parameters["token"]
        try:
            token = pkcs11.lib(self._parameters["module"]).get_token(token_label=label)
            with token.open(user_pin=None if pin is None else pin.decode()) as session:
                yield pkcs11, session
        except pkcs11.PKCS11Error as error:
            raise _told(error, label) from error
        except UnicodeDecodeError as error:
            raise ProviderError("its PIN is no text in UTF-8") from error
        finally:
            if pin is not None:
                wipe(pin)

    def _key(self, pkcs11: Any, session: Any, *, for_wrapping: bool) -> Any:
        label = self._parameters["key"]
        half = pkcs11.ObjectClass.PUBLIC_KEY if for_wrapping else pkcs11.ObjectClass.PRIVATE_KEY
        for kind in (pkcs11.ObjectClass.SECRET_KEY, half):
            wanted = {pkcs11.Attribute.LABEL: label, pkcs11.Attribute.CLASS: kind}
            found = list(session.get_objects(wanted))
            if len(found) > 1:
                raise ProviderRefusedError(
                    f"the token has {len(found)} keys {label}",
                    remedy="Give the key another label, and name that.",
                )
            if found:
                return found[0]
        raise ProviderRefusedError(
            f"the token {self._parameters['token']} has no AES or RSA key {label}",
            remedy="To make one: pkcs11-tool --module MODULE --login --keygen --key-type AES:32 "
            f"--label {label}",
        )


def _gcm(pkcs11: Any, nonce: bytes, context: bytes) -> dict[str, Any]:
    return {
        "mechanism": pkcs11.Mechanism.AES_GCM,
        "mechanism_param": pkcs11.GCMParams(nonce, context, _TAG_BITS),
    }


def _told(error: Exception, token: str) -> ProviderError:
    """Return what a PKCS#11 error means to a person."""
    name = type(error).__name__
    if name in ("PinIncorrect", "PinInvalid", "PinLenRange"):
        return ProviderRefusedError(
            f"the PIN of the token {token} is wrong",
            remedy="Tokens lock themselves after a few wrong ones: correct it before the next try.",
        )
    if name == "PinLocked":
        return ProviderRefusedError(
            f"the token {token} is locked after too many wrong PINs",
            remedy="Its security officer can set another PIN.",
        )
    if name in _UNREACHABLE:
        return ProviderUnreachableError(
            f"the token {token} is not there: {_text(error)}",
            remedy="See whether it is plugged in and its service runs: pkcs11-tool --list-slots",
        )
    if name == "UserNotLoggedIn":
        return ProviderRefusedError(
            f"the token {token} wants a PIN", remedy="Give pin-file or pin-command."
        )
    return ProviderError(
        f"the PKCS#11 library failed: {_text(error)}",
        remedy="See whether its path is right and its own configuration can be read by the owner "
        "of the keystore.",
    )


def _text(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
