"""``mammosift serve``, and a run started from the Prefect UI by a person with a browser."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.flows.serving import (
    CHROMIUM,
    FLAGS,
    Served,
    go,
    open_artifact,
    open_run_form,
    submit_run_form,
)

RUN_S = 240


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Server, worker and deployments that ``mammosift serve`` has started."""
    server = Served(tmp_path)
    yield server
    server.stop()


def assert_other_sites_cannot_use_the_api(served: str) -> None:
    """A page of another site must neither read answers nor start anything."""
    evil = {"Origin": "http://evil.example"}
    preflight = httpx.options(
        f"{served}/api/deployments/filter",
        headers=evil | {"Access-Control-Request-Method": "POST"},
    )
    assert "access-control-allow-origin" not in preflight.headers
    posted = httpx.post(f"{served}/api/flows/", headers=evil, json={"name": "planted"})
    assert posted.status_code == 403, "a request without the server's own token is refused"
    pool = httpx.get(f"{served}/api/work_pools/mammosift").json()
    assert "command" not in pool["base_job_template"]["variables"]["properties"]


def listening_addresses() -> set[str]:
    mine = psutil.Process().children(recursive=True)
    return {
        c.laddr.ip
        for process in mine
        for c in process.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")
@pytest.mark.timeout(600)
def test_a_run_started_in_the_ui_finishes_and_shows_its_artifacts(
    served: Served, film_folder: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    out = tmp_path / "from-ui"
    pictures = Path(os.environ.get("MAMMOSIFT_SCREENSHOTS", tmp_path))
    with sync_playwright() as playwright:
        assert_other_sites_cannot_use_the_api(served.url)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))

        open_run_form(page, served, deployment="films", titled="What a curation run is told")
        boxes = page.locator("textarea")
        boxes.nth(0).fill(str(film_folder))
        boxes.nth(1).fill(str(out))
        for label, value in (
            ("Tile size (Optional)", "64"),
            ("Epochs (Optional)", "2"),
            ("Tiles planted to learn from (Optional)", "150"),
        ):
            field = page.locator(".p-label", has=page.get_by_text(label, exact=True)).last
            field.locator("input").first.fill(value)
        page.screenshot(path=pictures / "ui-form.png")
        submit_run_form(page)

        deadline = time.monotonic() + RUN_S
        while not list(out.glob("runs/*.json")) or not (out / "manifest").is_dir():
            assert time.monotonic() < deadline, "the run did not finish"
            time.sleep(1)
        click = page.get_by_text(f"{film_folder.name} ").first.click
        go(page, f"{served.url}/runs", click, shows="Completed", exact=True)
        page.wait_for_timeout(1500)
        page.screenshot(path=pictures / "ui-run.png")
        open_artifact(page, page.url, "run-summary")
        expect(page.get_by_text("progress-tiles").first).to_be_visible()
        page.screenshot(path=pictures / "ui-artifacts.png")
        browser.close()

    (record,) = out.glob("runs/*.json")
    settings = json.loads(record.read_text())["settings"]
    assert (settings["tile_size_px"], settings["max_epochs"]) == (64, 2)
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {served.url[7:]}
    assert listening_addresses() <= {"127.0.0.1", "::1"}
