"""The interface of providers that wrap a key for an envelope, and how one is found by its type.

A provider is a class that an entry point of the group ``tde.keystore.providers`` names; the name of
the entry point is its type. Those of tde are registered in the same way as those of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from types import ModuleType
from typing import ClassVar, Protocol

from tde.errors import ProviderError
from tde.keystore.crypto.secret import SecretBuffer

GROUP = "tde.keystore.providers"
_PACKAGE = "tde"


@dataclass(frozen=True)
class Parameter:
    """What a provider has to know, and may be read by everybody: never a secret itself.

    Attributes:
        name: small letters, digits and hyphens.
        help: one line for a person.
        required: whether the provider cannot do without it.
    """

    name: str
    help: str
    required: bool = False


class KekProvider(Protocol):
    """Wraps and unwraps the key of an envelope (KEK), in a process of its own.

    That process has the rights of the keystore's owner, and ends with the call. Secrets that a
    provider needs by itself, such as a PIN or a token, come from files or commands, which
    parameters name; never from an argument or the environment.

    One that runs nothing, and sends nothing anywhere, that parameters name says so by a static
    method ``is_safe_unasked(parameters) -> bool``. Any other is used without being named only after
    it was accepted on the machine: see acceptance.py.

    Attributes:
        summary: one line for a person.
        parameters: all that it knows; the order is kept in lists.
        timeout: seconds after which its process is ended; None where a person has to type.
    """

    summary: ClassVar[str]
    parameters: ClassVar[Sequence[Parameter]]
    timeout: ClassVar[float | None]

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take the parameters, whose names were checked.

        Raises:
            ProviderError: a value cannot be used.
        """
        ...

    def wrap(self, kek: SecretBuffer, context: bytes) -> bytes:
        """Return what :meth:`unwrap` needs to give the KEK back: 1 to 16384 opaque bytes.

        Args:
            kek: 32 random bytes, which stay the caller's.
            context: names keystore, master key and envelope, in printable ASCII. A provider that
                can do so binds what it returns to it.

        Raises:
            ProviderUnreachableError: it gave no answer.
            ProviderRefusedError: it would not.
            ProviderError: another cause.
        """
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> SecretBuffer:
        """Return the KEK; the caller closes it.

        Raises:
            ProviderUnreachableError, ProviderRefusedError, ProviderError: as :meth:`wrap`.
        """
        ...


def provider_types() -> dict[str, EntryPoint]:
    """Return the types of providers that are installed, in order of name."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    return dict(sorted({**found, **_own()}.items()))


def provider_class(type_: str) -> type[KekProvider]:
    """Return the class of a type of providers.

    Raises:
        ProviderError: there is none, or it cannot be loaded.
    """
    point = _own().get(type_) or provider_types().get(type_)
    if point is None:
        raise ProviderError(
            f"no provider of type {type_} is installed",
            remedy="tde keystore provider types lists those that are. Install the package that "
            "brings it on this machine.",
        )
    try:
        found: type[KekProvider] = point.load()
    except (ImportError, AttributeError) as error:
        raise ProviderError(
            f"the provider of type {type_} ({point.value}) cannot be loaded: {error}",
            remedy="Install the package again that brings it.",
        ) from error
    return found


def _own() -> dict[str, EntryPoint]:
    """Return those of this package, which no other one can take the place of.

    They are looked for first, because a look at all packages takes longer than a round trip.
    """
    try:
        points = distribution(_PACKAGE).entry_points
    except PackageNotFoundError:  # A checkout that was never installed.
        return {}
    return {point.name: point for point in points if point.group == GROUP}


def make_provider(type_: str, parameters: Mapping[str, str]) -> KekProvider:
    """Return a provider with its parameters.

    Raises:
        ProviderError: a parameter is unknown, missing or cannot be used; or there is no such type.
    """
    found = provider_class(type_)
    names = [parameter.name for parameter in found.parameters]
    unknown = [name for name in parameters if name not in names]
    missing = [one.name for one in found.parameters if one.required and one.name not in parameters]
    if unknown or missing:
        what = f"has no parameter {unknown[0]}" if unknown else f"needs the parameter {missing[0]}"
        raise ProviderError(
            f"a provider of type {type_} {what}",
            remedy=f"Its parameters: {', '.join(names)}. See: tde keystore provider types",
        )
    try:
        return found(parameters)
    except ValueError as error:  # As of a path with characters that no file can have.
        raise ProviderError(
            f"a provider of type {type_} cannot use its parameters: {error}",
            remedy="See: tde keystore provider list",
        ) from error


def require_library(module: str, extra: str) -> ModuleType:
    """Return a library that only one provider needs.

    Raises:
        ProviderError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ProviderError(
            f"a provider of type {extra} needs the Python module {module}: {error}",
            remedy=f"pip install 'tde[{extra}]'",
        ) from error
