"""The system's Chromium, driven by playwright, for tests of pages: what a page logs, fails at and asks for is part of the result."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

__all__ = ["Opened", "chromium", "open_page"]


@dataclass
class Opened:
    """A page that is open.

    Attributes:
        page: playwright's.
        complaints: what the console showed as a warning or an error, and exceptions that no script caught.
        requests: the address of everything that was asked for, the page itself included.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser. Skips the test, with the reason, where there is none."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no Chromium on this machine: install the system's package `chromium`")
    with driver.sync_playwright() as playwright:
        # The sandbox needs rights that a container does not give; the pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, address: str, width: int = 1280, height: int = 900, scheme: str = "light") -> Iterator[Opened]:
    """A page of its own, without the storage of any other."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
    opened = Opened(context.new_page())
    opened.page.on("console", lambda said: opened.complaints.append(said.text) if said.type in ("warning", "error") else None)
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.page.on("request", lambda request: opened.requests.append(request.url))
    try:
        opened.page.set_default_timeout(10_000)
        opened.page.goto(address)
        yield opened
    finally:
        context.close()
