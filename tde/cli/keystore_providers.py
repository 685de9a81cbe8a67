"""``tde keystore provider``: what opens a keystore besides its passphrase."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tde.cli.keystore_keys import print_columns
from tde.cli.options import (
    JsonOption,
    KeystoreOption,
    ShareFileOption,
    opens_keystore,
    require_keystore,
)
from tde.console.apps import examples, new_app
from tde.console.output import console, error_console, print_json
from tde.keystore.opening import open_keystore, read_shares
from tde.keystore.providers.passphrase_source import PROMPT, PassphraseSource
from tde.printable import printable

if TYPE_CHECKING:
    from tde.keystore import EnvelopeInfo, EnvelopeTrial

_EXIT_FINDINGS = 1
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What it is called.")]

app = new_app(
    "Let key services, tokens, commands or custodians open a keystore besides its passphrase.",
    epilog=examples(
        "tde keystore provider types",
        "tde keystore provider add vault --type vault -o address=https://vault:8200 -o key=tde "
        "-o token-file=/etc/tde/token --unattended -k /etc/tde/main",
        "tde keystore provider test -k /etc/tde/main",
    ),
)


@app.command(
    epilog=examples(
        "# A key of HashiCorp Vault, also for starts that nobody watches:",
        "tde keystore provider add vault --type vault -o address=https://vault:8200 -o key=tde "
        "-o token-file=/etc/tde/token --unattended --cache 12h -k /etc/tde/main",
        "# Three of five people, each with a file of its own:",
        "tde keystore provider add officers --type custodians -o shares=5 -o threshold=3 "
        "--share-dir /root/shares -k /etc/tde/main",
    )
)
@opens_keystore
def add(
    name: NameArgument,
    type_: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="See: tde keystore provider types")
    ],
    keystore: KeystoreOption = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            metavar="KEY=VALUE",
            help="A parameter of the provider, which is no secret; may be given several times.",
        ),
    ] = None,
    unattended: Annotated[
        bool,
        typer.Option("--unattended", help="Open by it when nothing says how to open the keystore."),
    ] = False,
    level: Annotated[
        str | None,
        typer.Option(
            "--level",
            metavar="full|wal",
            help="With --unattended: wal starts servers with the keystore closed. Default: full.",
        ),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            metavar="TIME",
            help="Let the kernel keep the key for restarts while the provider is away: 30m, 12h, "
            "at most 7d.",
        ),
    ] = None,
    share_dir: Annotated[
        Path | None,
        typer.Option(
            "--share-dir",
            metavar="DIR",
            help="For custodians: write each share to a file there. Default: show them one by one.",
        ),
    ] = None,
    source: PassphraseSource = PROMPT,
) -> None:
    """Let a provider open the keystore: it wraps a key that wraps the master key.

    It is tried before anything is written. The passphrase goes on opening the keystore.
    """
    from tde.cli.custodian_shares import hand_out, require_a_way, take_back, tell_about
    from tde.keystore import add_envelope
    from tde.keystore.crypto.secret import wipe
    from tde.keystore.envelopes import require_free_name
    from tde.keystore.providers.custodians import CUSTODIANS, new_shares
    from tde.keystore.providers.wrapper import make_provider

    parameters = _parameters(option or ())
    if level is not None and not unattended:
        raise typer.BadParameter("--level is for --unattended")
    seconds = _seconds(cache)
    shares: list[bytearray] = []
    if type_ == CUSTODIANS:
        require_a_way(share_dir)
        parameters, shares = new_shares(parameters)
    elif share_dir is not None:
        raise typer.BadParameter(f"--share-dir is for --type {CUSTODIANS}")
    # What cannot be right is told before anybody types a passphrase.
    make_provider(type_, parameters)
    files: list[Path] = []
    try:
        with open_keystore(require_keystore(keystore), source) as opened:
            require_free_name(opened.path, name)
            files = hand_out(shares, name, share_dir)
            file = add_envelope(
                opened,
                name,
                type_,
                parameters,
                unattended=unattended,
                level=level or "full",
                cache_seconds=seconds,
                shares=shares,
            )
    except BaseException:
        take_back(files)
        raise
    finally:
        for share in shares:
            wipe(share)
    tell_about(files)
    console.print(
        f"Provider {name} opens the keystore: {file}. It was tried.", markup=False, soft_wrap=True
    )
    if not unattended:
        error_console.print(f"Name it to open by it: --provider {name}", soft_wrap=True)
    error_console.print(
        "Back the keystore up again. Whoever has a copy of it and the use of this provider needs "
        "no passphrase.",
        soft_wrap=True,
    )


@app.command(
    "list",
    epilog=examples(
        "tde keystore provider list --keystore /etc/tde/main",
        "tde keystore provider list -k /etc/tde/main --json | jq '.providers[].name'",
    ),
)
def list_(keystore: KeystoreOption = None, as_json: JsonOption = False) -> None:
    """List what opens the keystore besides its passphrase. Needs no passphrase."""
    from tde.keystore import list_providers

    directory = require_keystore(keystore)
    found = list_providers(directory)
    if as_json:
        print_json(
            {"path": str(directory.resolve()), "providers": [_document(one) for one in found]}
        )
        return
    if not found:
        console.print("The keystore has no provider: only its passphrase opens it.")
        return
    print_columns(
        ("Name", "Type", "Unattended", "Cache", "Parameters"), [_row(one) for one in found]
    )
    for one in found:
        if one.problem:
            error_console.print(f"problem: {one.problem}", markup=False, soft_wrap=True)
            error_console.print(f"  HINT: {one.remedy}", markup=False, soft_wrap=True)
    error_console.print("Whether each opens the keystore: tde keystore provider test")


@app.command(
    "test",
    epilog=examples(
        "tde keystore provider test --keystore /etc/tde/main",
        "tde keystore provider test vault -k /etc/tde/main --json | jq '.providers[].seconds'",
    ),
)
def try_(
    name: Annotated[
        str, typer.Argument(metavar="[NAME|all]", help="Which provider to try.")
    ] = "all",
    keystore: KeystoreOption = None,
    as_json: JsonOption = False,
    share_file: ShareFileOption = None,
) -> None:
    """Open the keystore by its providers, for real, and say how long each takes.

    Nothing comes from the kernel's cache. Exit code 1: one does not open it. All does not try those
    that ask people, such as custodians, nor those that were not accepted here: name them.
    """
    from tde.keystore import list_providers, try_envelope
    from tde.keystore.crypto.secret import wipe

    directory = require_keystore(keystore)
    found = list_providers(directory)
    names = [name] if name != "all" else _names_without_people(found)
    shares = read_shares(share_file or ())
    try:
        trials = [try_envelope(directory, one, shares, unasked=name == "all") for one in names]
    finally:
        for share in shares:
            wipe(share)
    if as_json:
        print_json(
            {
                "path": str(directory.resolve()),
                "good": not any(trial.problem for trial in trials),
                "providers": [_trial_document(trial) for trial in trials],
            }
        )
    else:
        for trial in trials:
            _print_trial(trial)
        if not trials:
            rest = ", ".join(one.name for one in found)
            console.print(f"Only when named: {rest}" if rest else "There is no provider to try.")
    if any(trial.problem for trial in trials):
        raise typer.Exit(_EXIT_FINDINGS)


@app.command(
    epilog=examples(
        "# On a standby, or after a restore, once you know what its command does:",
        "tde keystore provider list --keystore /etc/tde/main",
        "tde keystore provider accept vault --keystore /etc/tde/main",
    ),
)
@opens_keystore
def accept(
    name: NameArgument, keystore: KeystoreOption = None, source: PassphraseSource = PROMPT
) -> None:
    """Let a provider open the keystore on this machine when nobody names it. Asks the passphrase.

    A provider that runs a command, loads a library or sends something to a server is used unasked
    only where it was added or accepted: whoever can write to the keystore could have put it there.
    What is accepted stands outside of the keystore: root's counts for all users.
    """
    from tde.keystore import accept_envelope

    directory = require_keystore(keystore)
    with open_keystore(directory, source, by_passphrase=True) as opened:
        file = accept_envelope(opened, name)
    if file is None:
        console.print(f"Provider {name} runs nothing that could need to be accepted.", markup=False)
        return
    console.print(
        f"Provider {name} may open {directory} on this machine: {file}",
        markup=False,
        soft_wrap=True,
    )


@app.command(
    epilog=examples("tde keystore provider remove vault --keystore /etc/tde/main"),
)
def remove(name: NameArgument, keystore: KeystoreOption = None) -> None:
    """Let a provider open the keystore no more. Needs no passphrase; running servers go on."""
    from tde.keystore import remove_envelope

    directory = require_keystore(keystore)
    remove_envelope(directory, name)
    console.print(
        f"Provider {name} does not open {directory} any more.", markup=False, soft_wrap=True
    )
    error_console.print(
        "Copies and backups of the keystore made before still open by it. Rotate the master key "
        "(tde keystore rotate), and destroy them, if somebody has them who must not.",
        soft_wrap=True,
    )


@app.command(
    epilog=examples("tde keystore provider forget vault --keystore /etc/tde/main"),
)
def forget(name: NameArgument, keystore: KeystoreOption = None) -> None:
    """Drop what the kernel keeps for outages of a provider, for this user and at once."""
    from tde.keystore import forget_cached

    if forget_cached(require_keystore(keystore), name):
        console.print(f"The kernel has forgotten the key of provider {name}.", markup=False)
    else:
        console.print(f"The kernel keeps no key of provider {name} for you.", markup=False)


@app.command(epilog=examples("tde keystore provider types"))
def types(as_json: JsonOption = False) -> None:
    """List the types of providers that are installed, and the parameters of each."""
    from tde.errors import ProviderError
    from tde.keystore.providers.wrapper import provider_class, provider_types

    known: dict[str, Any] = {}
    for name in provider_types():
        try:
            found = provider_class(name)
        except ProviderError as error:
            known[name] = {"summary": str(error), "parameters": []}
            continue
        known[name] = {
            "summary": found.summary,
            "parameters": [
                {"name": one.name, "help": one.help, "required": one.required}
                for one in found.parameters
            ],
        }
    if as_json:
        print_json({"types": known})
        return
    for name, facts in known.items():
        typer.echo(f"{printable(name)}: {printable(facts['summary'])}")
        for one in facts["parameters"]:
            needed = "" if one["required"] else " (optional)"
            typer.echo(f"    {one['name']}: {printable(one['help'])}{needed}")


def _parameters(options: Sequence[str]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{option!r} is not of the form KEY=VALUE")
        if key in parameters:
            raise typer.BadParameter(f"the parameter {key} was given twice")
        parameters[key] = value
    return parameters


def _seconds(duration: str | None) -> int:
    from tde.keystore.store.envelope import LONGEST_CACHE

    if duration is None:
        return 0
    found = _DURATION.fullmatch(duration)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_CACHE:
        raise typer.BadParameter("--cache takes a time such as 30m, 12h or 2d, and at most 7d")
    return seconds


def _names_without_people(found: Sequence[EnvelopeInfo]) -> list[str]:
    from tde.errors import ProviderError
    from tde.keystore.providers.wrapper import provider_class

    names = []
    for one in found:
        try:
            if one.header is not None and provider_class(one.header.type).timeout is None:
                continue
        except ProviderError:
            pass  # Trying it says what is missing.
        if one.is_current:
            names.append(one.name)
    return names


def _row(one: EnvelopeInfo) -> tuple[str, str, str, str, str]:
    header = one.header
    if header is None:
        return (one.name, "", "", "", "damaged")
    unattended = f"yes, level {header.level}" if header.unattended else "no"
    cache = _duration(header.cache_seconds) if header.cache_seconds else "no"
    parameters = " ".join(f"{key}={value}" for key, value in header.parameters.items())
    return (
        one.name if one.is_current else f"{one.name} (of another master key, unused)",
        header.type,
        unattended,
        f"{cache}, in the kernel now" if one.is_cached else cache,
        printable(parameters),
    )


def _duration(seconds: int) -> str:
    unit = next(unit for unit in "dhms" if seconds % _SECONDS[unit] == 0)
    return f"{seconds // _SECONDS[unit]}{unit}"


def _document(one: EnvelopeInfo) -> dict[str, Any]:
    header = one.header
    return {
        "name": one.name,
        "file": str(one.file),
        "current": one.is_current,
        "type": header.type if header else None,
        "unattended": header.unattended if header else None,
        "level": header.level if header else None,
        "cache_seconds": header.cache_seconds if header else None,
        "cached": one.is_cached,
        "parameters": dict(header.parameters) if header else None,
        "problem": one.problem or None,
        "remedy": one.remedy or None,
    }


def _trial_document(trial: EnvelopeTrial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "opens": not trial.problem,
        "seconds": round(trial.seconds, 3),
        "problem": trial.problem or None,
        "remedy": trial.remedy or None,
    }


def _print_trial(trial: EnvelopeTrial) -> None:
    milliseconds = f"{trial.seconds * 1000:.0f} ms"
    if not trial.problem:
        console.print(f"{trial.name}: opens the keystore, {milliseconds}", markup=False)
        return
    console.print(f"{trial.name}: {trial.problem} ({milliseconds})", markup=False, soft_wrap=True)
    if trial.remedy:
        console.print(f"  HINT: {trial.remedy}", markup=False, soft_wrap=True)


def register(parent: typer.Typer) -> None:
    """Add the commands to those of ``tde keystore``."""
    parent.add_typer(app, name="provider")
