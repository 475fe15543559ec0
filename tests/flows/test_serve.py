"""``mammosift serve``, and a run started from the Prefect UI by a person with a browser."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.flows.serving import (
    SHORT,
    Served,
    fill_run_form,
    go,
    open_artifact,
    open_run_form,
    submit_run_form,
)

RUN_S = 240


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
@pytest.mark.timeout(600)
def test_a_run_started_in_the_ui_finishes_and_shows_its_artifacts(
    served: Served, page: Any, film_folder: Path, tmp_path: Path, pictures: Path
) -> None:
    from playwright.sync_api import expect

    out = tmp_path / "from-ui"
    assert_other_sites_cannot_use_the_api(served.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    open_run_form(page, served, deployment="films", titled="What a curation run is told")
    fill_run_form(page, film_folder, out, SHORT)
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

    (record,) = out.glob("runs/*.json")
    settings = json.loads(record.read_text())["settings"]
    assert (settings["tile_size_px"], settings["max_epochs"]) == (64, 2)
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {served.url[7:]}
    assert listening_addresses() <= {"127.0.0.1", "::1"}
