"""Real processes, and Debian's Chromium looking at them. A missing browser is a failure, never a skip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from perdure.local import LocalServices
from tests.e2e.conftest import Stack, stack
from tests.support.processes import Server

__all__ = ["stack"]

AGENT = str(Path(__file__).parent / "agent.py")
expect.set_options(timeout=20_000)
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage"]


@contextmanager
def opened_browser() -> Iterator[Browser]:
    """Chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with opened_browser() as browser:
        yield browser


@contextmanager
def opened_stack(folder: Path, services: LocalServices) -> Iterator[Stack]:
    """For what is no test."""
    with ExitStack() as processes:
        yield Stack(folder, services, processes)


@pytest.fixture
def door(stack: Stack) -> Server:
    """A front door and a worker of the travel desk."""
    stack.settings["AGENT"] = AGENT
    stack.settings["TURNS__PATIENCE"] = "60"
    server, _ = stack.front_door()
    stack.worker()
    return server


@pytest.fixture
def page(browser: Browser, door: Server) -> Iterator[Page]:
    """A window on the page; whatever its scripts complain about fails the test."""
    complaints: list[Any] = []
    window = browser.new_page(base_url=door.url)
    window.set_default_timeout(20_000)
    window.on("pageerror", lambda error: complaints.append(str(error)))
    window.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    yield window
    window.close()
    assert not complaints
