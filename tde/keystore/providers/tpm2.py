"""A provider that has the machine's TPM 2.0 seal the KEK, by the programs of tpm2-tools.

The KEK goes to ``tpm2_create`` and comes from ``tpm2_unseal`` through pipes. What these programs
exchange in files is not secret: contexts, which the TPM has encrypted for itself, and the sealed
object, which stands in the envelope anyway. They lie in memory all the same.

The parent is a primary key of the owner hierarchy, made anew each time from the TPM's seed: the
same template gives the same key, so that nothing of it has to be kept.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NoReturn

from tde.errors import ProviderError, ProviderRefusedError, ProviderUnreachableError
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.providers.wrapper import Parameter

_FORMAT = 1
_HEADER = struct.Struct(">BHH")  # Format, bytes of the public and of the private part.
_MEMORY = Path("/dev/shm")
# The kernel's resource manager, else the TPM itself.
_DEVICES = (Path("/dev/tpmrm0"), Path("/dev/tpm0"))
_TPM_DEVICE = re.compile(r"device:/dev/tpm(?:rm)?[0-9]+")
_PCRS = re.compile(r"((?:sha1|sha256|sha384|sha512):)?([0-9]{1,2}(?:[+,][0-9]{1,2})*)")
_LAST_PCR = 23
_OF_THE_LOADER = ("LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH")
# The object stays in this TPM, and wrong attempts, which there cannot be, lock nobody out. With a
# policy only that opens it.
_ATTRIBUTES = "fixedtpm|fixedparent|noda"
# TPM_RC_POLICY_FAIL, TPM_RC_VALUE of another policy, and TPM_RC_PCR_CHANGED.
_POLICY_ERRORS = ("policy check failed", "0x99d", "0x128", "PCR have changed", "a policy check")
_OTHER_TPM = ("integrity check failed", "0x1df")


class Tpm2Provider:
    """Seals the KEK in the TPM, on request for as long as the machine starts in the same way."""

    summary: ClassVar[str] = "The TPM 2.0 of this machine seals the key; needs tpm2-tools"
    parameters: ClassVar[Sequence[Parameter]] = (
        Parameter("pcrs", "only while these registers are as now, for example sha256:7+14"),
        Parameter("tcti", "how the TPM is reached, for example device:/dev/tpmrm0"),
    )
    timeout: ClassVar[float | None] = 60.0  # Seconds; some TPMs need several for a primary key.

    def __init__(self, parameters: Mapping[str, str]) -> None:
        """Take the registers and the way to the TPM.

        Raises:
            ProviderError: they are not written as tpm2-tools have them.
        """
        pcrs = parameters.get("pcrs")
        self._pcrs = None if pcrs is None else _pcr_list(pcrs)
        self._tcti = parameters.get("tcti")

    @staticmethod
    def is_safe_unasked(parameters: Mapping[str, str]) -> bool:
        """Tell whether it is a TPM of this machine; a TCTI may be a program or library."""
        return "tcti" not in parameters or bool(_TPM_DEVICE.fullmatch(parameters["tcti"]))

    def wrap(self, kek: SecretBuffer, context: bytes) -> bytes:
        """Return the sealed object: its public and its private part, with their lengths."""
        del context  # The envelope binds what is returned here to it.
        with self._session() as tpm, kek.view as view:
            policy: list[str] = []
            attributes = f"{_ATTRIBUTES}|userwithauth"
            if self._pcrs is not None:
                tpm.run("tpm2_createpolicy", "--policy-pcr", "-l", self._pcrs, "-L", tpm.policy)
                policy, attributes = ["-L", tpm.policy], _ATTRIBUTES
            tpm.run(
                "tpm2_create",
                *("-C", tpm.primary, "-g", "sha256", "-a", attributes, *policy),
                *("-u", tpm.public, "-r", tpm.private, "-i", "-"),
                content=bytes(view),
            )
            parts = [Path(part).read_bytes() for part in (tpm.public, tpm.private)]
        return _HEADER.pack(_FORMAT, *map(len, parts)) + b"".join(parts)

    def unwrap(self, wrapped: bytes, context: bytes) -> SecretBuffer:
        """Return what the TPM unseals."""
        del context
        public, private = _parts(wrapped)
        with self._session() as tpm:
            Path(tpm.public).write_bytes(public)
            Path(tpm.private).write_bytes(private)
            files = ("-u", tpm.public, "-r", tpm.private, "-c", tpm.object)
            tpm.run("tpm2_load", "-C", tpm.primary, *files)
            policy = [] if self._pcrs is None else ["-p", f"pcr:{self._pcrs}"]
            content = bytearray(tpm.run("tpm2_unseal", "-c", tpm.object, *policy))
        kek = SecretBuffer(max(1, len(content)))
        with kek.view as view:
            view[: len(content)] = content
        content[:] = bytes(len(content))
        return kek

    @contextmanager
    def _session(self) -> Iterator[_Tools]:
        """Yield the programs, with a primary key."""
        place = _MEMORY if _MEMORY.is_dir() else None
        with tempfile.TemporaryDirectory(prefix="tde-tpm2-", dir=place) as directory:
            tpm = _Tools(Path(directory), self._tcti)
            primary = ("-C", "o", "-g", "sha256", "-G", "ecc", "-c", tpm.primary)
            tpm.run("tpm2_createprimary", *primary)
            yield tpm


class _Tools:
    """Runs the programs of tpm2-tools, whose files are in one directory."""

    def __init__(self, directory: Path, tcti: str | None) -> None:
        self._tcti = ["-T", tcti or _machine_tpm()]
        self.primary = str(directory / "primary")
        self.object = str(directory / "object")
        self.public = str(directory / "public")
        self.private = str(directory / "private")
        self.policy = str(directory / "policy")

    def run(self, program: str, *arguments: str, content: bytes = b"") -> bytes:
        """Run one program, and leave nothing of it in the TPM; returns its output."""
        output = self._run(program, *arguments, content=content)
        # Without a resource manager (/dev/tpm0, a software TPM) a TPM has room for three objects.
        self._run("tpm2_flushcontext", "-t")
        return output

    def _run(self, program: str, *arguments: str, content: bytes = b"") -> bytes:
        if shutil.which(program) is None:
            raise ProviderError(
                f"there is no {program}", remedy="Install tpm2-tools: apt-get install tpm2-tools"
            )
        environment = {name: os.environ[name] for name in os.environ if name not in _OF_THE_LOADER}
        quiet = [] if program in ("tpm2_unseal", "tpm2_flushcontext") else ["-Q"]
        ran = subprocess.run(
            [program, *self._tcti, *quiet, *arguments],
            input=content,
            capture_output=True,
            env=environment,
            cwd="/",
        )
        if ran.returncode != 0:
            _refuse(program, ran.stderr.decode(errors="replace"))
        return ran.stdout


def _machine_tpm() -> str:
    """Return the way to the TPM of this machine, whether or not there is one.

    Left to themselves, tpm2-tools go on to a software TPM on port 2321 of this machine where no
    device opens, and any user can run that: it would be given the key.
    """
    found = next((device for device in _DEVICES if device.exists()), _DEVICES[0])
    return f"device:{found}"


def _refuse(program: str, message: str) -> NoReturn:
    last = " ".join(message.split())[-300:]
    if any(text in message for text in _POLICY_ERRORS):
        raise ProviderRefusedError(
            "the TPM does not unseal the key: its registers (PCRs) are not as they were, because "
            "firmware, boot loader or their settings have changed",
            remedy="If you have changed them, open the keystore with its passphrase and bind it "
            "anew: tde keystore auto-open disable, then enable --bind tpm2. If not, find out who "
            "has.",
        )
    if any(text in message for text in _OTHER_TPM):
        raise ProviderRefusedError(
            "this TPM has not sealed the key, or was cleared since",
            remedy="Open the keystore with its passphrase, and bind it anew: tde keystore "
            "auto-open disable, then enable --bind tpm2.",
        )
    if "tcti" in message.lower():
        raise ProviderUnreachableError(
            f"there is no TPM, or the owner of the keystore may not use it: {last}",
            remedy="ls -l /dev/tpmrm0 shows the group that may, usually tss: usermod -aG tss USER. "
            "Another way to the TPM: the parameter tcti.",
        )
    raise ProviderRefusedError(f"{program} says: {last}")


def _pcr_list(text: str) -> str:
    """Return registers as tpm2-tools want them: ``sha256:7,14``.

    Raises:
        ProviderError: they are not written so.
    """
    found = _PCRS.fullmatch(text)
    numbers = [int(number) for number in re.split("[+,]", found[2])] if found else []
    if found is None or max(numbers) > _LAST_PCR:
        raise ProviderError(
            f"{text} names no registers of a TPM", remedy="For example pcrs=7, or pcrs=sha256:7+14"
        )
    return f"{found[1] or 'sha256:'}{','.join(str(n) for n in sorted(set(numbers)))}"


def _parts(wrapped: bytes) -> tuple[bytes, bytes]:
    if len(wrapped) >= _HEADER.size:
        version, public, private = _HEADER.unpack_from(wrapped)
        if version == _FORMAT and len(wrapped) == _HEADER.size + public + private:
            end = _HEADER.size + public
            return wrapped[_HEADER.size : end], wrapped[end:]
    raise ProviderError("what it is to unseal is not what it has sealed")
