"""What the tests in a browser have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.serving import CHROMIUM, FLAGS, Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Server, worker and deployments that ``mammosift serve`` has started."""
    server = Served(tmp_path)
    yield server
    if server.serve.poll() is None:
        server.stop()


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of Chromium."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures of the UI go: MAMMOSIFT_SCREENSHOTS, to look at them."""
    return Path(os.environ.get("MAMMOSIFT_SCREENSHOTS", tmp_path))
