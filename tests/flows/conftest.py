"""What the tests in a browser have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import new_page
from tests.flows.serving import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Server, worker and deployments that ``mammosift serve`` has started."""
    server = Served(tmp_path)
    yield server
    if server.serve.poll() is None:
        server.stop()


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of Chromium, for tests that are marked ``browser``."""
    with new_page(viewport={"width": 1400, "height": 1000}) as opened:
        yield opened


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures of the UI go: MAMMOSIFT_SCREENSHOTS, to look at them."""
    return Path(os.environ.get("MAMMOSIFT_SCREENSHOTS", tmp_path))
