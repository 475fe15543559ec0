"""``mammosift serve``, and a run started from the Prefect UI by a person with a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S, RUN_S = 180, 240


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Address of a server, worker and deployment that ``mammosift serve`` has started."""
    port = free_port()
    log = tmp_path / "serve.log"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as out:
        serve = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
        )
    deadline = time.monotonic() + START_S
    while "mammosift is served" not in log.read_text():
        assert serve.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    children = psutil.Process(serve.pid).children(recursive=True)
    yield f"http://127.0.0.1:{port}"
    serve.send_signal(signal.SIGTERM)
    serve.wait(60)
    assert not psutil.wait_procs(children, timeout=30)[1], "serve leaves no process behind"


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
    served: str, film_folder: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    out = tmp_path / "from-ui"
    pictures = Path(os.environ.get("MAMMOSIFT_SCREENSHOTS", tmp_path))
    with sync_playwright() as playwright:
        assert_other_sites_cannot_use_the_api(served)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))

        page.goto(f"{served}/deployments")
        page.get_by_text("films", exact=True).first.click()
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Custom run").click()
        page.get_by_text("What a curation run is told").wait_for()
        boxes = page.locator("textarea")
        boxes.nth(0).fill(str(film_folder))
        boxes.nth(1).fill(str(out))
        for label, value in (("Tile size (Optional)", "64"), ("Epochs (Optional)", "2")):
            field = page.locator(".p-label", has=page.get_by_text(label, exact=True)).last
            field.locator("input").first.fill(value)
        page.screenshot(path=pictures / "ui-form.png")
        page.get_by_role("button", name="Submit").click()

        deadline = time.monotonic() + RUN_S
        while not list(out.glob("runs/*.json")) or not (out / "manifest").is_dir():
            assert time.monotonic() < deadline, "the run did not finish"
            time.sleep(1)
        page.goto(f"{served}/runs")
        page.get_by_text(f"{film_folder.name} ").first.click()
        expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=90_000)
        page.wait_for_timeout(1500)
        page.screenshot(path=pictures / "ui-run.png")
        page.get_by_role("tab", name="Artifacts").or_(page.get_by_text("Artifacts")).first.click()
        expect(page.get_by_text("run-summary").first).to_be_visible(timeout=30_000)
        expect(page.get_by_text("progress-tiles").first).to_be_visible()
        page.screenshot(path=pictures / "ui-artifacts.png")
        browser.close()

    (record,) = out.glob("runs/*.json")
    settings = json.loads(record.read_text())["settings"]
    assert (settings["tile_size_px"], settings["max_epochs"]) == (64, 2)
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {served[7:]}
    assert listening_addresses() <= {"127.0.0.1", "::1"}
