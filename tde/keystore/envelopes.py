"""The providers of a keystore: adding an envelope for one, trying it, removing it."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tde.errors import (
    KeystoreError,
    KeystoreExistsError,
    ProviderError,
)
from tde.keystore.crypto.secret import SecretBuffer, random_secret
from tde.keystore.keystore import Keystore
from tde.keystore.log.providers import (
    ADDED,
    DIGEST,
    REMOVED,
    digest_of,
    provider_entries,
    require_added,
)
from tde.keystore.log.writing import write_entry, write_entry_if_possible
from tde.keystore.providers.acceptance import (
    accept,
    needs_acceptance,
    require_out_of_keystore,
    withdraw,
)
from tde.keystore.providers.apart import wrap_apart
from tde.keystore.providers.envelope_provider import (
    EnvelopeProvider,
    altered,
    find_envelope,
    forget_kek,
    is_kept,
    named,
    open_envelope,
    provider_of,
    unwrap_kek,
)
from tde.keystore.providers.wrapper import KekProvider
from tde.keystore.store.contents import is_envelope_name, list_envelopes
from tde.keystore.store.creation import prepare_unlock_directory
from tde.keystore.store.envelope import (
    KEK_BYTES,
    Envelope,
    EnvelopeHeader,
    kek_context,
    read_envelope,
    remove_envelope_command,
)
from tde.keystore.store.files import exclusive_lock, sync_directory, write_all_atomically
from tde.keystore.store.layout import envelope_path, unlock_path
from tde.keystore.store.reading import read_document

_warnings = logging.getLogger("tde.keystore")
ALL = "all"
"""No name of an envelope, because commands mean every one by it."""


@dataclass(frozen=True)
class EnvelopeInfo:
    """What an envelope says in the clear; only its provider proves that it is authentic.

    Attributes:
        envelope: None when the file cannot be read; ``problem`` says why then.
        is_current: whether it has the master key of keystore.json.
    """

    name: str
    file: Path
    is_current: bool
    envelope: Envelope | None
    problem: str = ""
    remedy: str = ""

    @property
    def header(self) -> EnvelopeHeader | None:
        """What it says; None when it cannot be read."""
        return self.envelope.header if self.envelope else None

    @property
    def is_cached(self) -> bool:
        """Whether the kernel keeps its KEK for the keystore's owner; root asks in a child."""
        return self.header is not None and is_kept(self.file.parent.parent, self.header)


@dataclass(frozen=True)
class EnvelopeTrial:
    """What came of trying a provider.

    Attributes:
        seconds: that it took; the process of the provider included.
        problem: why the keystore does not open by it; empty when it does.
    """

    name: str
    seconds: float
    problem: str = ""
    remedy: str = ""


def add_envelope(
    keystore: Keystore,
    name: str,
    type_: str,
    parameters: Mapping[str, str],
    *,
    unattended: bool = False,
    level: str = "full",
    cache_seconds: int = 0,
    shares: Sequence[bytearray] = (),
) -> Path:
    """Let a provider open a keystore, after a look whether it does, and return the envelope's file.

    Args:
        keystore: open.
        name: of the envelope: small letters, digits and hyphens, at most 31.
        unattended, level, cache_seconds: see :class:`~tde.keystore.store.envelope.EnvelopeHeader`.
        shares: of custodians, with which the look is done; they stay the caller's to wipe.

    Raises:
        KeystoreExistsError: there is an envelope of this name.
        ProviderError: the provider cannot wrap, does not unwrap what it has wrapped, or has
            something that it runs or reads in the keystore itself.
        KeystoreError: another of its subclasses: it cannot be written.
    """
    require_free_name(keystore.path, name)
    try:
        header = EnvelopeHeader(
            name,
            keystore.uuid,
            keystore.master_key_id,
            type_,
            unattended,
            level,
            cache_seconds,
            dict(parameters),
            b"-",
        )
    except ValueError as error:
        raise KeystoreError(
            f"provider {name} cannot have these parameters, this level or this time in a cache",
            remedy="Parameters are text without control characters, at most 4096 characters each.",
        ) from error
    if needs_acceptance(header):
        require_out_of_keystore(keystore.path, header)
    # The provider may take long to answer, so it is asked before the lock is taken.
    envelope = make_tried_envelope(keystore, header, shares)
    path = envelope_path(keystore.path, name, keystore.master_key_id)
    with exclusive_lock(keystore.path):
        keystore.require_rotated()
        require_free_name(keystore.path, name)
        prepare_unlock_directory(keystore.path)
        facts = {"unattended": unattended, "level": level, "cache seconds": cache_seconds}
        facts[DIGEST] = digest_of(envelope.header)
        keystore.log(ADDED, provider=name, type=type_, **facts)
        write_all_atomically({path: envelope.encode()})
    # Not under the lock, which root holds with the rights of the keystore's owner.
    _accept_if_possible(header)
    return path


def accept_envelope(keystore: Keystore, name: str) -> Path | None:
    """Let an envelope be used on this machine when nobody names it, and return where that stands.

    Args:
        keystore: opened with its passphrase; nothing else proves that the envelope is its own.

    Returns:
        None where nothing has to be accepted, because the envelope runs nothing that it names.

    Raises:
        KeystoreMissingError: there is no such envelope.
        KeystoreDamagedError: it was not made by who had the master key.
        KeystoreError: another of its subclasses.
    """
    keystore.require_opened_by_passphrase("accept a provider")
    envelope = find_envelope(keystore.path, name, read_document(keystore.path))
    require_own(keystore, envelope)
    if not needs_acceptance(envelope.header):
        return None
    require_out_of_keystore(keystore.path, envelope.header)
    file = accept(envelope.header)
    # A keystore that is mounted read-only has no log here, and opens all the same.
    author = keystore.log_author()
    write_entry_if_possible(keystore.path, "accept provider", {"provider": name}, author)
    return file


def require_free_name(directory: Path, name: str) -> None:
    """Refuse a name that an envelope cannot have, or one of a keystore has already.

    Raises:
        KeystoreExistsError: there is an envelope of this name.
        KeystoreError: it is no name.
    """
    if not is_envelope_name(name) or name == ALL:
        raise KeystoreError(
            f"a provider cannot be called {name!r}",
            remedy="Use small letters, digits and hyphens, at most 31, and a letter first; and not "
            f"{ALL}.",
        )
    if any(known == name for known, _ in list_envelopes(directory)):
        raise KeystoreExistsError(
            f"the keystore {directory} has a provider {name} already",
            remedy="Choose another name, or remove that one first: "
            f"{remove_envelope_command(directory, name)}",
        )


def list_providers(directory: Path) -> list[EnvelopeInfo]:
    """Return the envelopes of a keystore, in order of name; needs no passphrase.

    Raises:
        KeystoreError: the keystore, or the directory of the envelopes, cannot be used.
    """
    directory = directory.resolve()
    document = read_document(directory)
    found = []
    for name, master_key_id in list_envelopes(directory):
        file = envelope_path(directory, name, master_key_id)
        is_current = master_key_id == document.header.master_key_id
        try:
            envelope = read_envelope(directory, name, document.header.uuid, master_key_id)
        except FileNotFoundError:
            continue  # Removed meanwhile.
        except KeystoreError as error:
            found.append(EnvelopeInfo(name, file, is_current, None, str(error), error.remedy))
        else:
            found.append(EnvelopeInfo(name, file, is_current, envelope))
    return found


def unattended_providers(directory: Path) -> list[EnvelopeInfo]:
    """Return the envelopes that open a keystore when nobody says what does, in their order."""
    return [
        info
        for info in list_providers(directory)
        if info.is_current and info.header is not None and info.header.unattended
    ]


def try_envelope(
    directory: Path,
    name: str,
    shares: Sequence[bytearray] = (),
    *,
    unasked: bool = False,
    logged: bool = True,
) -> EnvelopeTrial:
    """Open a keystore by a provider, for real and not from a cache, and say what came of it.

    The master key is compared with what the records of the keystore are wrapped with.

    Args:
        unasked: whether nobody has named the provider; then it must have been accepted.
        logged: whether the key log tells of a failure.
    """
    start = time.monotonic()
    provider = EnvelopeProvider(name, shares, may_use_cache=False, unasked=unasked)
    try:
        with Keystore.open_with(directory, provider, logged=logged) as opened:
            seconds = time.monotonic() - start
            opened.require_fitting_record()
    except KeystoreError as error:
        return EnvelopeTrial(name, time.monotonic() - start, str(error), error.remedy)
    return EnvelopeTrial(name, seconds)


def remove_envelope(directory: Path, name: str) -> None:
    """Remove the envelope of a name, for good also after a power failure; needs no passphrase.

    Raises:
        KeystoreMissingError: there is none.
        KeystoreError: it cannot be removed.
    """
    directory = directory.resolve()
    document = read_document(directory)  # What is no keystore must not get a lock file.
    forget_cached(directory, name)
    with exclusive_lock(directory):
        files = [
            envelope_path(directory, known, id_)
            for known, id_ in list_envelopes(directory)
            if known == name
        ]
        if not files:
            find_envelope(directory, name, document)
        write_entry(directory, REMOVED, {"provider": name}, None)
        try:
            for file in files:
                file.unlink(missing_ok=True)
            sync_directory(unlock_path(directory))
        except OSError as error:
            raise KeystoreError(f"could not remove {files[0]}: {error.strerror}") from error
    withdraw(document.header.uuid, name)


def forget_cached(directory: Path, name: str) -> bool:
    """Take what the kernel keeps of an envelope from it; tell whether it had something.

    Raises:
        KeystoreError: the keystore cannot be used.
    """
    infos = [info for info in list_providers(directory) if info.name == name]
    return sum(forget_kek(directory, info.header) for info in infos if info.header is not None) > 0


def require_own(keystore: Keystore, envelope: Envelope) -> None:
    """Refuse an envelope that was not made by who had the master key, or is not the last added.

    Raises:
        KeystoreDamagedError: it was altered, or put back.
    """
    if not keystore.is_own_envelope(envelope):
        raise altered(keystore.path, envelope.header)
    author = keystore.log_author()
    entries = provider_entries(keystore.path, author)
    require_added(keystore.path, envelope.header, entries, author)


def _accept_if_possible(header: EnvelopeHeader) -> None:
    """Accept what was just added; a provider that is named needs no acceptance, so it is added."""
    if not needs_acceptance(header):
        return
    try:
        accept(header)
    except KeystoreError as error:
        _warnings.warning(
            "%s; until then the keystore does not open by provider %s when nobody names it",
            error,
            header.name,
        )


def make_tried_envelope(
    keystore: Keystore,
    header: EnvelopeHeader,
    shares: Sequence[bytearray],
    *,
    is_rotation: bool = False,
) -> Envelope:
    """Return an envelope with a new KEK, after a look whether its provider gives that back.

    Args:
        shares: of custodians, with which the look is done.
        is_rotation: whether people are spared that look.

    Raises:
        ProviderError: the provider cannot wrap, or gives another key back.
    """
    context = kek_context(header.keystore, header.master_key_id, header.name)
    with random_secret(KEK_BYTES) as kek:
        try:
            provider = provider_of(header)
            _refuse_unwatched(header, provider)
            wrapped = wrap_apart(
                keystore.path, provider.timeout, lambda: provider.wrap(kek, context), kek
            )
            header = _with_wrapped_kek(header, wrapped)
        except ProviderError as error:
            raise named(error, header.name, header.type) from error
        envelope = keystore.make_envelope(header, kek)
        # People are not called together for a rotation; what they have is not asked of them.
        if is_rotation and provider.timeout is None:
            return envelope
        with unwrap_kek(keystore.path, header, shares) as found:
            _compare(header, kek, found)
            open_envelope(keystore.path, envelope, found).close()
    return envelope


def _refuse_unwatched(header: EnvelopeHeader, provider: KekProvider) -> None:
    if provider.timeout is None and (header.unattended or header.cache_seconds):
        raise ProviderError(
            "people open it, so it can neither be unattended nor bridge an outage",
            remedy="Leave --unattended and --cache out.",
        )


def _with_wrapped_kek(header: EnvelopeHeader, wrapped: bytes) -> EnvelopeHeader:
    try:
        return replace(header, wrapped_kek=wrapped)
    except ValueError as error:
        raise ProviderError(
            f"it gave {len(wrapped)} bytes for the wrapped key",
            remedy="It may give 1 to 16384 bytes; see what it writes.",
        ) from error


def _compare(header: EnvelopeHeader, wanted: SecretBuffer, found: SecretBuffer) -> None:
    with wanted.view as ours, found.view as given:
        if not hmac.compare_digest(ours, given):
            raise ProviderError(
                f"provider {header.name} ({header.type}): it gives back another key than it was "
                "given",
                remedy="Nothing was changed. Look at its parameters, and at its own log.",
            )
