"""The provider that two commands make, and what the documents say of the tools of clouds."""

from __future__ import annotations

import os
import re
import select
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tde.algorithms import Algorithm
from tde.errors import ProviderError, ProviderRefusedError, ProviderUnreachableError
from tde.keystore import (
    KeyOwner,
    Keystore,
    add_envelope,
    remove_envelope,
    rotate_master_key,
    try_envelope,
)
from tests.keystore.cheap_passphrase import CHEAP_KDF, PASSPHRASE

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"

#: Behaves as `aws kms encrypt` and `decrypt` of version 2: blobs as files, one field as text, and
#: exit status 254 for what the service refuses, 255 for no answer.
AWS = """#!{python}
import base64, hashlib, json, os, sys
arguments = sys.argv[1:]
state = os.path.dirname(os.path.abspath(__file__))
assert arguments[0] == "kms", arguments
verb, options, rest = arguments[1], {{}}, arguments[2:]
while rest:
    name, value = rest.pop(0), rest.pop(0)
    options[name] = value
if os.path.exists(state + "/away"):
    sys.stderr.write("\\nCould not connect to the endpoint URL\\n")
    sys.exit(255)
if os.path.exists(state + "/denied"):
    sys.stderr.write("\\nAn error occurred (AccessDeniedException) when calling the operation\\n")
    sys.exit(254)
assert options["--key-id"] == "alias/tde" and options["--output"] == "text", options
name, _, context = options["--encryption-context"].partition("=")
assert name == "tde" and context.startswith("tde-unlock:1:"), context
pad = hashlib.sha256(("kms" + context).encode()).digest()
blob = {{"encrypt": "--plaintext", "decrypt": "--ciphertext-blob"}}[verb]
assert options[blob].startswith("fileb://"), options
data = open(options[blob][len("fileb://"):], "rb").read()
if verb == "decrypt":
    if not data.startswith(b"AWS"):
        sys.stderr.write("\\nAn error occurred (InvalidCiphertextException)\\n")
        sys.exit(254)
    data = data[3:]
result = bytes(a ^ b for a, b in zip(data, pad, strict=True))
field = {{"encrypt": "CiphertextBlob", "decrypt": "Plaintext"}}[verb]
assert options["--query"] == field, options
if verb == "encrypt":
    result = b"AWS" + result
print(base64.b64encode(result).decode())
"""


@pytest.fixture
def keystore(tmp_path: Path) -> Keystore:
    made = Keystore.create(tmp_path / "ks", PASSPHRASE, kdf=CHEAP_KDF)
    made.create_key(KeyOwner.wal(), Algorithm.AES256)
    return made


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Makes programs in a directory that is first in PATH."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    def make(name: str, text: str) -> Path:
        file = directory / name
        file.write_text(text)
        file.chmod(0o755)
        return file

    return make


def recipe(heading: str, place: Path) -> dict[str, str]:
    """Return the parameters of a recipe in the documents, with its script at another place."""
    section = PAGE.read_text().split(f"### {heading}\n")[1].split("\n###")[0]
    (script,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    (path,) = set(re.findall(r"/etc/tde/[a-z.]+", section))
    file = place / Path(path).name
    file.write_text(script)
    file.chmod(0o755)
    found = dict(re.findall(r"-o (wrap-command|unwrap-command)='([^']*)'", section))
    return {name: command.replace(path, str(file)) for name, command in found.items()}


def test_the_recipe_for_aws(keystore: Keystore, programs: Callable[[str, str], Path]) -> None:
    aws = programs("aws", AWS.format(python=sys.executable))
    parameters = recipe("AWS KMS", aws.parent)
    assert parameters.keys() == {"wrap-command", "unwrap-command"}
    add_envelope(keystore, "aws", "command", parameters)
    assert try_envelope(keystore.path, "aws").problem == ""
    rotate_master_key(keystore.path, PASSPHRASE).close()
    (aws.parent / "denied").touch()
    with pytest.raises(ProviderRefusedError, match="AccessDeniedException"):
        opened_by(keystore.path, "aws")
    (aws.parent / "denied").unlink()
    (aws.parent / "away").touch()
    with pytest.raises(ProviderUnreachableError, match="Could not connect to the endpoint"):
        opened_by(keystore.path, "aws")


def opened_by(path: Path, name: str) -> None:
    from tde.keystore.providers.envelope_provider import EnvelopeProvider

    Keystore.open_with(path, EnvelopeProvider(name)).close()


COPY = {"wrap-command": "cat", "unwrap-command": "cat"}


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        ("exit 3", ProviderRefusedError, "wrap-command ended with exit status 3"),
        ("echo no network >&2; exit 75", ProviderUnreachableError, "status 75: no network"),
        ("echo 'not base64!'", ProviderError, "has not printed base64"),
        ("true", ProviderError, "has not printed base64"),
        ("head -c 40000 /dev/zero | base64", ProviderError, "prints more than"),
        ("echo AAAA", ProviderRefusedError, "gave 3 bytes instead of a key of 32 bytes"),
    ],
)
def test_a_command_that_fails(
    keystore: Keystore, command: str, error: type[Exception], message: str
) -> None:
    for changed in ("wrap-command", "unwrap-command"):
        if "gave 3 bytes" in message and changed == "wrap-command":
            continue
        with pytest.raises(error, match=message):
            add_envelope(keystore, "cmd", "command", {**COPY, changed: command})
    assert not (keystore.path / "unlock").exists()


def test_what_a_command_sees(
    keystore: Keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key in its arguments or environment, no preload of a server, and what it serves."""
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    seen = tmp_path / "seen"
    look = f"tr '\\0' '\\n' < /proc/self/environ > {seen}; pwd >> {seen}; tee {tmp_path}/key"
    add_envelope(keystore, "cmd", "command", {**COPY, "wrap-command": look})
    text = seen.read_text()
    context = f"tde-unlock:1:{keystore.uuid.hex}:{keystore.master_key_id.hex}:cmd"
    assert f"TDE_CONTEXT={context}\n" in text
    assert text.endswith("\n/\n")
    assert "LD_LIBRARY_PATH" not in text
    assert (tmp_path / "key").read_text().strip() not in text


def test_a_command_that_hangs_is_ended_with_its_children(
    keystore: Keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tde.keystore.providers.command import CommandProvider

    monkeypatch.setattr(CommandProvider, "timeout", 0.5)
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    hanging = f"sleep 600 > {fifo} & wait"
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ProviderUnreachableError, match="has not answered in"):
            add_envelope(keystore, "cmd", "command", {**COPY, "wrap-command": hanging})
        # Who would still write has gone, or is about to: the end of the file can be read.
        assert select.select([reader], [], [], 60)[0] == [reader]
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


def test_what_a_command_leaves_in_the_background_is_not_waited_for(keystore: Keystore) -> None:
    """As ssh does where connections are shared: it keeps the standard error of the command."""
    stays = "sleep 600 < /dev/null > /dev/null & cat"
    add_envelope(keystore, "cmd", "command", {**COPY, "wrap-command": stays})
    secret = "sleep 600 < /dev/null > /dev/null & printf %064d 1"
    add_envelope(keystore, "secret", "secret-command", {"command": secret}, unattended=True)


def test_a_command_that_does_nothing_protects_nothing_and_is_one(keystore: Keystore) -> None:
    """What commands do is the officer's; tde holds the rest of the envelope against forgers."""
    file = add_envelope(keystore, "cmd", "command", COPY)
    assert try_envelope(keystore.path, "cmd").problem == ""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    remove_envelope(keystore.path, "cmd")
