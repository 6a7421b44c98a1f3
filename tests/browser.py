"""What a person sees in a browser: Debian's Chromium without a window, and this machine alone."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, ViewportSize, expect, sync_playwright

SCREENSHOTS = Path(__file__).parent / "screenshots"
"""Git-ignored; for people, and to be kept by whatever runs the tests."""
LAPTOP: ViewportSize = {"width": 1366, "height": 768}
PATIENCE = 90_000.0
"""Milliseconds until a page must show what it should: seconds are usual, a minute on a loaded machine."""
CLOSED = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
"""MLflow opens a chat beside the first page that a browser sees; as it is once somebody has closed it."""


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page as on a laptop; whatever it asks for beyond this machine fails the test. Skips where no Chromium is."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed here: apt-get install chromium")
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.abort()

    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        context = browser.new_context(viewport=LAPTOP)
        context.set_default_timeout(PATIENCE)
        context.add_init_script(CLOSED)
        context.route(re.compile(r"^https?://(?!127\.0\.0\.1[:/])"), refuse)
        yield context.new_page()
        browser.close()
    assert asked == []


def followed(page: Page, name: str) -> Page:
    """What a link of a description leads to, in the tab of its own that MLflow opens; its own list stands below."""
    with page.context.expect_page() as opened:
        page.get_by_role("link", name=name, exact=True).first.click()
    return opened.value


def keep(page: Page, name: str) -> None:
    """The screenshot, once charts and pictures stand still."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.wait_for_timeout(1500)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
