"""What the child in which a provider runs says that no code of tde has written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tde.errors import ProviderError
from tde.keystore.crypto.secret import SecretBuffer
from tde.keystore.providers.apart import unwrap_apart


@pytest.mark.parametrize(
    "said",
    [b"e", b"e{", b'e["x"]', b'e["StopIteration", "a", "b"]', b"e[[], 1, 2]", b"e" + b"[" * 9000],
)
def test_a_library_that_writes_to_the_pipe_is_an_error_of_the_provider(
    tmp_path: Path, said: bytes
) -> None:
    def unwrap() -> SecretBuffer:
        for file in list(Path("/proc/self/fd").iterdir()):
            if int(file.name) > 2 and os.path.lexists(file) and "pipe:" in str(file.readlink()):
                os.write(int(file.name), said)
        os._exit(0)

    with pytest.raises(ProviderError, match="answer"):
        unwrap_apart(tmp_path, 10.0, unwrap, 32)
