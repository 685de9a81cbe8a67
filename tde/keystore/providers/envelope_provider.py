"""The master key from an envelope: the provider gives the KEK, and the KEK the master key."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, runtime_checkable

from tde.errors import (
    KeystoreDamagedError,
    KeystoreMissingError,
    ProviderError,
    ProviderRefusedError,
    ProviderUnreachableError,
)
from tde.keystore.crypto.derivation import derive_authentication_key
from tde.keystore.crypto.secret import SecretBuffer, wipe
from tde.keystore.crypto.wrapping import UnwrapError, unwrap
from tde.keystore.log.entry import LABEL as LOG_LABEL
from tde.keystore.log.providers import provider_entries, require_added
from tde.keystore.providers.acceptance import require_accepted
from tde.keystore.providers.apart import as_owner, unwrap_apart
from tde.keystore.providers.keyring import forget_key, keep_key, kept_key
from tde.keystore.providers.wrapper import KekProvider, make_provider, provider_class
from tde.keystore.store.contents import list_envelopes
from tde.keystore.store.document import KeystoreDocument
from tde.keystore.store.envelope import (
    KEK_BYTES,
    LABEL,
    Envelope,
    EnvelopeHeader,
    kek_context,
    read_envelope,
    remove_envelope_command,
)
from tde.keystore.store.layout import envelope_path

_warnings = logging.getLogger("tde.keystore")


@runtime_checkable
class TakesShares(Protocol):
    """A provider that people open together."""

    def use_shares(self, shares: Sequence[bytearray]) -> None:
        """Take these shares, and ask for no other."""
        ...


class EnvelopeProvider:
    """Takes the master key from an envelope of a keystore.

    Args:
        name: of the envelope.
        shares: of custodians, which stay the caller's to wipe.
        may_use_cache: whether a key that the kernel keeps will do, and is kept for the next time.
        unasked: whether nobody has named the envelope, so that it must have been accepted.

    Attributes:
        header: of the envelope that was used, after :meth:`unwrap_master_key`.
        by_cache: whether the KEK came from the kernel, because the provider was not reached.
    """

    def __init__(
        self,
        name: str,
        shares: Sequence[bytearray] = (),
        *,
        may_use_cache: bool = True,
        unasked: bool = False,
    ) -> None:
        self.header: EnvelopeHeader | None = None
        self.by_cache = False
        self._name = name
        self._shares = shares
        self._may_use_cache = may_use_cache
        self._unasked = unasked

    def unwrap_master_key(self, directory: Path, document: KeystoreDocument) -> SecretBuffer:
        """Return the master key; see :class:`~tde.keystore.providers.provider.MasterKeyProvider`.

        Raises:
            KeystoreMissingError: there is no such envelope.
            KeystoreDamagedError: it was altered.
            ProviderError: the provider does not unwrap the KEK, or was not accepted.
        """
        envelope = find_envelope(directory, self._name, document)
        self.header = envelope.header
        if self._unasked:
            # Of what was read just now: the file may be another one than when it was listed.
            require_accepted(directory, envelope.header)
        # Before anything that it names is run, and again when the codes of entries can be checked.
        require_added(directory, envelope.header, provider_entries(directory), None)
        master_key = self._unwrap(directory, envelope)
        try:
            author = document.header.master_key_id, _derived(master_key, LOG_LABEL)
            require_added(directory, envelope.header, provider_entries(directory, author), author)
        except BaseException:
            master_key.close()
            raise
        return master_key

    def _unwrap(self, directory: Path, envelope: Envelope) -> SecretBuffer:
        try:
            kek = unwrap_kek(directory, envelope.header, self._shares)
        except ProviderUnreachableError as error:
            cached = self._from_cache(directory, envelope)
            if cached is None:
                raise
            self.by_cache = True
            _warnings.warning("%s; the key that the kernel keeps for that is used", error)
            return cached
        except ProviderRefusedError:
            # Who was shut out must not come in later by cutting the line.
            with suppress(ProviderError):  # The refusal says more.
                forget_kek(directory, envelope.header)
            raise
        with kek:
            master_key = open_envelope(directory, envelope, kek)
            if envelope.header.cache_seconds and self._may_use_cache:
                _keep(directory, envelope.header, kek)
        return master_key

    def _from_cache(self, directory: Path, envelope: Envelope) -> SecretBuffer | None:
        if not envelope.header.cache_seconds or not self._may_use_cache:
            return None
        kek = _kept(directory, envelope.header)
        if kek is None:
            return None
        with kek:
            try:
                return open_envelope(directory, envelope, kek)
            except KeystoreDamagedError:
                return None  # A key of an envelope that has had this name before.


def find_envelope(directory: Path, name: str, document: KeystoreDocument) -> Envelope:
    """Return the envelope of a name, for the master key that counts.

    Raises:
        KeystoreMissingError: there is none.
        KeystoreError: another of its subclasses: it cannot be read.
    """
    header = document.header
    try:
        return read_envelope(directory, name, header.uuid, header.master_key_id)
    except FileNotFoundError:
        envelopes = list_envelopes(directory)
    path = shlex.quote(str(directory))
    if any(known == name for known, _ in envelopes):
        raise KeystoreMissingError(
            f"the envelope {name} of {directory} has another master key than keystore.json",
            remedy="One of them is from the other side of a rotation. Open the keystore in another "
            f"way, and make the envelope again: tde keystore provider add {name} --keystore {path}",
        )
    names = sorted({known for known, id_ in envelopes if id_ == header.master_key_id})
    raise KeystoreMissingError(
        f"the keystore {directory} has no provider {name}",
        remedy=f"It has: {', '.join(names)}."
        if names
        else f"It has none. To add one: tde keystore provider add {name} --keystore {path}",
    )


def open_envelope(directory: Path, envelope: Envelope, kek: SecretBuffer) -> SecretBuffer:
    """Return the master key in an envelope; the caller closes it.

    Raises:
        KeystoreDamagedError: the envelope was altered, or this is not its KEK.
    """
    header = envelope.header
    try:
        master_key = unwrap(kek, envelope.master_key, header.context())
    except UnwrapError:
        raise altered(directory, header) from None
    if not envelope.has_code_of(_derived(master_key, LABEL)):
        master_key.close()
        raise altered(directory, header)
    return master_key


def _derived(master_key: SecretBuffer, label: bytes) -> bytes:
    with master_key.view as view:
        content = bytearray(view)
    try:
        return derive_authentication_key(content, label)
    finally:
        wipe(content)


def altered(directory: Path, header: EnvelopeHeader) -> KeystoreDamagedError:
    """Return the error about an envelope that is not as tde has made it."""
    path = envelope_path(directory, header.name, header.master_key_id)
    return KeystoreDamagedError(
        f"{path} was altered, or its provider has given another key",
        remedy="Open the keystore in another way, and make the envelope again: "
        f"{remove_envelope_command(directory, header.name)}, then tde keystore provider add",
    )


def unwrap_kek(
    directory: Path, header: EnvelopeHeader, shares: Sequence[bytearray] = ()
) -> SecretBuffer:
    """Return the KEK of an envelope from its provider; the caller closes it.

    Raises:
        ProviderError: one of its subclasses, which names the envelope.
    """
    context = kek_context(header.keystore, header.master_key_id, header.name)
    try:
        provider = provider_of(header)
        if shares:
            _hand_shares(provider, shares)
        return unwrap_apart(
            directory,
            provider.timeout,
            lambda: provider.unwrap(header.wrapped_kek, context),
            KEK_BYTES,
        )
    except ProviderError as error:
        raise named(error, header.name, header.type) from error


def provider_of(header: EnvelopeHeader) -> KekProvider:
    """Return the provider of an envelope.

    Raises:
        ProviderError: it is not installed, or cannot use its parameters.
    """
    return make_provider(header.type, header.parameters)


def is_opened_by_people(header: EnvelopeHeader) -> bool:
    """Tell whether people have to come for it, as custodians, so that it is never tried unasked.

    Raises:
        ProviderError: its provider is not installed.
    """
    return provider_class(header.type).timeout is None


def named(error: ProviderError, name: str, type_: str) -> ProviderError:
    """Return an error that says of which envelope it is."""
    return type(error)(f"provider {name} ({type_}): {error}", remedy=error.remedy)


# The kernel keeps a key for one user: the keystore's owner, who starts its servers. So the commands
# of root act as the owner; else they would leave there what they say that they take away.


def forget_kek(directory: Path, header: EnvelopeHeader) -> bool:
    """Take the KEK of an envelope from the kernel; tell whether it had it.

    Raises:
        ProviderError: root could not act as the keystore's owner.
    """
    if not header.cache_seconds:
        return False
    name = _cache_name(header)
    return bool(as_owner(directory, lambda: bytearray(b"1" if forget_key(name) else b"")))


def is_kept(directory: Path, header: EnvelopeHeader) -> bool:
    """Tell whether the kernel has the KEK of an envelope at the moment."""
    kek = _kept(directory, header) if header.cache_seconds else None
    if kek is not None:
        kek.close()
    return kek is not None


def _kept(directory: Path, header: EnvelopeHeader) -> SecretBuffer | None:
    def find() -> bytearray:
        kek = kept_key(_cache_name(header), KEK_BYTES)
        if kek is None:
            return bytearray()
        with kek, kek.view as view:
            return bytearray(view)

    try:
        found = as_owner(directory, find)
    except ProviderError:
        return None
    if len(found) != KEK_BYTES:
        return None
    kek = SecretBuffer(KEK_BYTES)
    with kek.view as view:
        view[:] = found
    wipe(found)
    return kek


def _hand_shares(provider: KekProvider, shares: Sequence[bytearray]) -> None:
    if not isinstance(provider, TakesShares):
        raise ProviderError(
            "it is opened by no shares",
            remedy="--share-file is for a provider of type custodians; leave it out.",
        )
    provider.use_shares(shares)


def _keep(directory: Path, header: EnvelopeHeader, kek: SecretBuffer) -> None:
    def keep() -> bytearray:
        try:
            keep_key(_cache_name(header), kek, header.cache_seconds)
        except OSError as error:
            return bytearray((error.strerror or str(error)).encode())
        return bytearray()

    try:
        why = as_owner(directory, keep, [kek]).decode()
    except ProviderError as error:
        why = str(error)
    if why:
        _warnings.warning(
            "the kernel keeps no key of provider %s, so an outage would not be bridged: %s",
            header.name,
            why,
        )


def _cache_name(header: EnvelopeHeader) -> str:
    return kek_context(header.keystore, header.master_key_id, header.name).decode()
