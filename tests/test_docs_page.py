"""The page at `/docs` in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.harness import Server
from tests.test_page import ARTIFACTS, CHROMIUM, QUIET, SHOTS

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For this file alone: while it is open no other test can have an event loop of its own."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_context().new_page()
    page.set_default_timeout(10_000)
    yield page
    page.context.close()


def test_calls_go_to_the_address_of_the_page(fake_server: Server, page: Page):
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda said: complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{fake_server.url}/docs")
    shown = page.locator("pre.call").all_text_contents()
    assert shown and all(f"curl -s {fake_server.url}/" in call for call in shown)
    assert asked and all(url.startswith(fake_server.url) for url in asked)
    assert complaints == []


def test_a_call_is_copied(fake_server: Server, page: Page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{fake_server.url}/docs")
    page.locator(".copied button").first.click()
    page.get_by_text("Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("pre.call").first.text_content()


def test_the_two_pages_lead_to_each_other(fake_server: Server, page: Page):
    page.goto(fake_server.url)
    page.get_by_role("link", name="API").click()
    page.wait_for_url("**/docs")
    page.locator("nav").get_by_role("link", name="Errors").click()
    assert page.locator("#errors").is_visible()
    page.get_by_role("link", name="Try it").click()
    page.wait_for_url(f"{fake_server.url}/")


@pytest.mark.parametrize("name", SHOTS)
def test_pictures_for_people(fake_server: Server, browser: Browser, name: str):
    options: dict[str, Any] = SHOTS[name]
    page = browser.new_context(**options).new_page()
    page.goto(f"{fake_server.url}/docs")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(17, 22, 28)") == (options.get("color_scheme") == "dark")
    ARTIFACTS.mkdir(exist_ok=True)
    picture = ARTIFACTS / f"docs-{name}.png"
    page.screenshot(path=picture)
    page.context.close()
    assert Path(picture).stat().st_size > 10_000
