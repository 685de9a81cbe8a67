"""The pages as people see them: in Chromium, at three widths, in both languages and schemes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

import tde.manager
from tde.manager import language
from tests.manager.conftest import SECRET, Browser, Running

PACKAGE = Path(tde.manager.__file__).parent
SCREENSHOTS = "MANAGER_SCREENSHOTS"
"""Names a directory for them; docs/manager.md shows those of the tests."""

WIDTHS = (390, 1280, 1920)
# Of an audit by axe: what keeps somebody from using a page at all, or nearly.
SERIOUS = ("serious", "critical")


@pytest.fixture
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        # As root its sandbox does not work; it opens nothing but these pages.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        yield started.chromium.launch(executable_path=program, args=options)


@pytest.fixture
def pages(browser: Browser, encrypted_cluster_factory, any_binaries, os_user_tmp_path) -> list[str]:
    """Addresses, of a server with a name that is long, and one that is not there any more."""
    made = encrypted_cluster_factory(any_binaries)
    made.keystore.enable_auto_open()
    page = browser.register("Production, the first of three in the cellar", made.data_directory)
    gone = os_user_tmp_path / "a" / ("long-" * 12)
    gone.mkdir(parents=True)
    (gone / "PG_VERSION").write_text("15\n")
    browser.register("gone", gone)
    shutil.rmtree(gone)
    browser.run(f"{page}/encryption/verify", passphrase="")
    job = browser.path_of(browser.post(f"{page}/encryption/open", passphrase=SECRET))
    browser.wait(job.rpartition("/")[2], "failed")
    names = ("", "/encryption", "/tablespaces", "/settings", "/clients", "/replication", "/backups")
    names += (
        "/convert",
        "/checks",
        "/settings/change?name=work_mem",
        "/settings/change?name=work_mem&value=1",
    )
    return ["/", "/new", "/jobs", job, "/nowhere", *(f"{page}{name}" for name in names)]


@pytest.mark.parametrize("tongue", sorted(language.LANGUAGES))
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_everybody_can_use_it(
    chromium: Any, manager: Running, browser: Browser, pages: list[str], tongue: str, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    kept = os.environ.get(SCREENSHOTS)
    for width in WIDTHS:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, locale=tongue
        )
        cookie = browser.client.cookies["tde_manager"]
        context.add_cookies([{"name": "tde_manager", "value": cookie, "url": manager.base}])
        page = context.new_page()
        complaints: list[str] = []
        page.on(
            "console",
            lambda message, found=complaints: (
                message.type == "error" and found.append(message.text)
            ),
        )
        for address in pages:
            page.goto(manager.base + address)
            wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(wide) == 0, (address, width)
            if kept:
                name = address.strip("/").partition("/")[2].partition("/")[2] or address.strip("/")
                path = f"{name.replace('/', '-')[:12] or 'servers'}-{tongue}-{scheme}-{width}.png"
                page.screenshot(path=str(Path(kept) / path), full_page=True)
        # A page that was not found is told of, and nothing else.
        assert [text for text in complaints if "404" not in text] == []
        if width == WIDTHS[0]:
            for address in pages:
                page.goto(manager.base + address)
                found = Axe().run(page, options={"resultTypes": ["violations"]})
                bad = [one for one in found.response["violations"] if one["impact"] in SERIOUS]
                assert bad == [], (address, bad)
        context.close()


def test_a_job_is_seen_going_on(chromium: Any, manager: Running, browser: Browser, pages) -> None:
    """Pressed in the page, with its script: progress, then the end, without a click."""
    context = chromium.new_context(locale="en")
    context.add_cookies(
        [
            {
                "name": "tde_manager",
                "value": browser.client.cookies["tde_manager"],
                "url": manager.base,
            }
        ]
    )
    page = context.new_page()
    page.goto(manager.base + next(one for one in pages if one.endswith("/checks")))
    page.get_by_role("button", name="Run the audit").click()
    page.locator("[data-state=done]").wait_for(timeout=60_000)
    assert "Everything that should be ciphertext is" in page.content()
    context.close()


def test_every_text_is_translated() -> None:
    methods = [("**.py", "python"), ("**/templates/**.html", "jinja2.ext.babel_extract")]
    found = {
        message if isinstance(message, str) else message[0]
        for _, _, message, _, _ in extract_from_dir(PACKAGE, methods)
    }
    found |= set(language.JOBS.values())
    for tongue in language.LANGUAGES:
        if tongue != "en":
            with (PACKAGE / "locale" / tongue / "manager.po").open("rb") as file:
                known = {str(one.id) for one in read_po(file, locale=tongue) if one.string}
            assert sorted(found - known) == []
