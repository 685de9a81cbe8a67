"""The program in docs/library.md runs, and has an example of everything that the package offers."""

from __future__ import annotations

import contextlib
import io
import pydoc
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tde
import tde.keystore
import tde.postgres
from tde.keystore import Keystore
from tde.postgres import Cluster
from tests.docs.pages import DOCS
from tests.keystore.cheap_passphrase import CHEAP_KDF

PAGE = (DOCS / "library.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
_PLACE = "/srv"


def test_the_page_has_an_example_of_each_name() -> None:
    program = "\n".join(BLOCKS)
    # Importing a name is no example of it.
    used = re.sub(r"^from .*$", "", program, flags=re.MULTILINE)
    lacking = [name for name in tde.postgres.__all__ if not re.search(rf"\b{name}\b", used)]
    assert lacking == []


def test_the_program_of_the_page_runs(
    encrypted_cluster_factory: Any,
    os_user_tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("main", "plain"):
        encrypted_cluster_factory.track(Cluster(os_user_tmp_path / name))
    create = Keystore.create

    def cheaply(path: Path, passphrase: bytes, **options: Any) -> Keystore:
        return create(path, passphrase, kdf=CHEAP_KDF, **options)

    monkeypatch.setattr(Keystore, "create", cheaply)
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS, 1):
        here = block.replace(_PLACE, str(os_user_tmp_path))
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(here, f"block {number} of library.md", "exec"), names)


@pytest.mark.parametrize("package", [tde, tde.keystore, tde.postgres], ids=lambda p: p.__name__)
def test_help_shows_what_a_package_offers_before_it_is_used(package: ModuleType) -> None:
    shown = pydoc.plain(pydoc.render_doc(package))
    classes, functions = (
        shown.partition(f"\n{chapter}\n")[2].partition("\nFILE\n")[0]
        for chapter in ("CLASSES", "FUNCTIONS")
    )
    for name in package.__all__:
        offered = getattr(package, name)
        if isinstance(offered, type):
            assert f"class {name}" in classes
        elif callable(offered):
            assert f"\n    {name}(" in functions
