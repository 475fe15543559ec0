"""A review by a person with a browser, over the death of worker and server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from storage.manifest import read_manifest
from storage.workspace import Workspace
from tasks import reviews
from tasks.settings import CurationSettings

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S, STATE_S = 180, 240
READER = "A. Reader"


class Served:
    """Server, worker and deployments that ``mammosift serve`` has started, and starts again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port: int = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log, self.home = folder / "serve.log", folder / "prefect"
        self.start()

    def start(self) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        env |= {"PREFECT_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        with self.log.open("w") as out:
            self.serve = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "serve", "--port", str(self.port)],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
            )
        deadline = time.monotonic() + START_S
        while "mammosift is served" not in self.log.read_text():
            assert self.serve.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.5)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.serve.pid).children(recursive=True)

    def kill(self) -> None:
        """Worker, server and what started them, all at once and without a word."""
        for process in [psutil.Process(self.serve.pid), *self.processes()]:
            process.kill()
        self.serve.wait()

    def stop(self) -> None:
        children = self.processes()
        self.serve.send_signal(signal.SIGTERM)
        self.serve.wait(60)
        assert not psutil.wait_procs(children, timeout=30)[1]

    def runs(self) -> list[dict[str, Any]]:
        client, api = {"client": "reader"}, f"{self.url}/api"
        token = httpx.get(f"{api}/csrf-token", params=client, timeout=30).json()["token"]
        headers = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "reader"}
        found = httpx.post(f"{api}/flow_runs/filter", headers=headers, json={}, timeout=30)
        runs: list[dict[str, Any]] = found.json() if found.status_code == 200 else []
        return runs

    def wait(self, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the one run is as wanted; gives it."""
        deadline = time.monotonic() + STATE_S
        while True:
            runs = self.runs()
            if runs and reached(runs[0]):
                return runs[0]
            assert time.monotonic() < deadline, (runs, self.log.read_text()[-3000:])
            time.sleep(1)

    def suspended(self, *, form: int) -> dict[str, Any]:
        """Wait for the so-manieth form of the run."""
        return self.wait(
            lambda run: (
                run["state_name"] == "Suspended"
                and run["state"]["state_details"]["pause_key"].endswith(f"-{form}")
            )
        )


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path)
    yield server
    if server.serve.poll() is None:
        server.stop()


@pytest.fixture
def curated(
    prefect_server: str, film_folder: Path, small: dict[str, int], tmp_path: Path
) -> Workspace:
    from flows.curate import curate

    out = tmp_path / "curated"
    curate(CurationSettings(source=str(film_folder), out=str(out), **small))
    return Workspace.open(out)


def fill_in(page: Any, url: str, picture: Path, **fields: str) -> None:
    """Open the dialog of a suspended run, fill in fields by their titles, submit."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeout

    page.goto(url)
    page.get_by_role("button", name="Resume").click()
    page.get_by_text("Clusters to drop (Optional)").wait_for()
    for title, value in fields.items():
        label = page.get_by_text(title.replace("_", " ") + " (Optional)", exact=True)
        box = page.locator(".p-modal .p-label", has=label).last
        box.locator("textarea, input").first.fill(value)
    page.wait_for_timeout(500)
    page.screenshot(path=picture)
    done = page.locator(".p-modal__card").first
    for _ in range(10):  # SQLite may be locked for a moment: the dialog stays, and says so
        page.get_by_role("button", name="Submit").click()
        try:
            done.wait_for(state="hidden", timeout=10_000)
        except PlaywrightTimeout:
            continue
        return
    raise AssertionError("the form could not be submitted")


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")
@pytest.mark.timeout(900)
def test_a_person_decides_in_the_ui_and_the_wait_outlives_worker_and_server(
    curated: Workspace, served: Served, tmp_path: Path
) -> None:
    from playwright.sync_api import expect, sync_playwright

    before = read_manifest(curated).to_pandas().set_index("tile_id")
    shown, _ = reviews.show(curated, reviews.published(curated))
    label = shown.clusters[0].label
    pictures = Path(os.environ.get("MAMMOSIFT_SCREENSHOTS", tmp_path))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{served.url}/deployments")
        page.get_by_text("review", exact=True).first.click()
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Custom run").click()
        page.get_by_text("What a review is told").wait_for()
        page.locator("textarea").nth(0).fill(curated.uri)
        page.get_by_role("button", name="Submit").click()

        run = served.suspended(form=1)
        url = f"{served.url}/runs/flow-run/{run['id']}"
        page.goto(url)
        page.get_by_role("tab", name="Artifacts").or_(page.get_by_text("Artifacts")).first.click()
        page.get_by_text("review-clusters").first.click()
        sheet = page.locator("img[src^='data:image/jpeg']").first
        expect(sheet).to_be_visible(timeout=30_000)
        assert sheet.evaluate("picture => picture.naturalWidth") > 500
        page.screenshot(path=pictures / "review-artifact.png")

        wrong = {"Clusters_to_drop": "999", "Threshold_of_the_misinformative_score": "7"}
        fill_in(page, url, pictures / "review-wrong.png", **wrong)
        served.suspended(form=2)
        assert read_manifest(curated).to_pandas().set_index("tile_id").equals(before)

        served.kill()
        served.start()
        assert served.suspended(form=2)["id"] == run["id"], "the wait outlived both"

        right = {
            "Clusters_to_drop": "",
            "Clusters_to_keep": str(label),
            "Threshold_of_the_misinformative_score": "0.5",
            "Reviewer": READER,
        }
        page.goto(url)
        page.get_by_role("button", name="Resume").click()
        expect(page.get_by_text("NOT APPLIED, nothing was changed")).to_be_visible(timeout=30_000)
        page.screenshot(path=pictures / "review-told.png")
        fill_in(page, url, pictures / "review-right.png", **right)
        served.wait(lambda run: run["state_type"] in ("COMPLETED", "FAILED", "CRASHED"))
        page.goto(url)
        expect(page.get_by_text("Completed", exact=True).first).to_be_visible(timeout=60_000)
        page.screenshot(path=pictures / "review-done.png")
        browser.close()

    after = read_manifest(curated).to_pandas().set_index("tile_id")
    judged = after[after.reviewed_by.notna()]
    assert set(judged.index) == set(before.index[before.cluster_label == label])
    assert set(judged.decision + "/" + judged.reason) == {"keep/reviewer"}
    assert set(judged.reviewed_by) == {READER}
    assert judged.reviewed_at.notna().all()
    rest = after.drop(judged.index).drop(columns="run_id")
    assert rest.equals(before.drop(judged.index).drop(columns="run_id"))
    record = reviews.published(curated)
    assert record["reviewed_run"] == set(before.run_id).pop()
    assert json.dumps(record["review"]["by_fate"]) == f'{{"keep/reviewer": {len(judged)}}}'
