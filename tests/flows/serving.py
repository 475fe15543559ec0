"""``mammosift serve`` as a test starts it, and the moves of a person in the Prefect UI."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

START_S, STATE_S = 180, 900
SAID = ("mammosift is served", "started!")
"""What the command and then its worker say when they are ready."""
TRIES, TRY_S = 12, 15
"""How often a form is submitted: where SQLite is locked, the form stays and says so."""
SHORT = {
    "Tile size (Optional)": "64",
    "Epochs (Optional)": "2",
    "Tiles planted to learn from (Optional)": "150",
}
"""Fields of the form that make a run short."""


class Served:
    """Server, worker and deployments that ``mammosift serve`` has started, and starts again."""

    def __init__(self, folder: Path, *, auth: str | None = None) -> None:
        self.auth = auth
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port: int = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log, self.home = folder / "serve.log", folder / "prefect"
        self.start()

    def start(self) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        env |= {"PREFECT_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        if self.auth is not None:
            env["PREFECT_SERVER_API_AUTH_STRING"] = self.auth
        with self.log.open("w") as out:
            self.serve = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "serve", "--port", str(self.port)],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
            )
        deadline = time.monotonic() + START_S
        while not all(said in self.log.read_text() for said in SAID):
            assert self.serve.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.5)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.serve.pid).children(recursive=True)

    def kill(self) -> None:
        """Worker, server and what started them, all at once and without a word."""
        for process in [psutil.Process(self.serve.pid), *self.processes()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.serve.wait()

    def stop(self) -> None:
        children = self.processes()
        self.serve.send_signal(signal.SIGTERM)
        self.serve.wait(60)
        left = psutil.wait_procs(children, timeout=30)[1]
        assert not left, "serve leaves no process behind"

    def ask(self, path: str, sent: dict[str, Any] | None = None) -> httpx.Response:
        """The API's answer, to what is sent where something is."""
        api = f"{self.url}/api"
        if sent is None:
            return httpx.get(f"{api}/{path}", timeout=30)
        client = {"client": "reader"}
        token = httpx.get(f"{api}/csrf-token", params=client, timeout=30).json()["token"]
        headers = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "reader"}
        return httpx.post(f"{api}/{path}", headers=headers, json=sent, timeout=30)

    def runs(self) -> list[dict[str, Any]]:
        found = self.ask("flow_runs/filter", {})
        runs: list[dict[str, Any]] = found.json() if found.status_code == 200 else []
        return runs

    def wait(
        self, reached: Callable[[dict[str, Any]], bool], *, other_than: str | None = None
    ) -> dict[str, Any]:
        """Wait until the one run (beside a known one) is as wanted; gives it."""
        deadline = time.monotonic() + STATE_S
        while True:
            runs = [run for run in self.runs() if run["id"] != other_than]
            if runs and reached(runs[0]):
                return runs[0]
            assert time.monotonic() < deadline, (runs, self.log.read_text()[-3000:])
            time.sleep(0.5)

    def suspended(self, *, form: int) -> dict[str, Any]:
        """Wait for the so-manieth form of the run."""
        return self.wait(
            lambda run: (
                run["state_name"] == "Suspended"
                and run["state"]["state_details"]["pause_key"].endswith(f"-{form}")
            )
        )


def go(page: Any, url: str, *steps: Callable[[], Any], shows: str, exact: bool = False) -> None:
    """Open a page, take steps on it until a text is seen; all again where it does not come.

    The UI asks for what it shows once. Where that fails (a server that has just started, SQLite
    locked) a part of the page stays away, and a person would load it again.
    """
    from playwright.sync_api import TimeoutError as TooLong

    for _ in range(TRIES):
        page.goto(url)
        try:
            for step in steps:
                step()
            page.get_by_text(shows, exact=exact).first.wait_for(timeout=1000 * TRY_S)
        except TooLong:
            continue
        return
    raise AssertionError(f"{url} never showed {shows!r}")


def open_artifact(page: Any, url: str, name: str) -> None:
    """Go to an artifact of a run, as a person does."""
    tab = page.get_by_role("tab", name="Artifacts").or_(page.get_by_text("Artifacts")).first
    go(page, url, tab.click, shows=name)


def open_run_form(page: Any, served: Served, *, deployment: str, titled: str) -> None:
    """Go to the form of a deployment's run, as a person does."""
    go(
        page,
        f"{served.url}/deployments",
        page.get_by_text(deployment, exact=True).first.click,
        page.get_by_role("button", name="Run", exact=True).click,
        page.get_by_text("Custom run").click,
        shows=titled,
    )


def fill_run_form(page: Any, films: Path, out: Path, values: dict[str, str]) -> None:
    """Fill in the form of a run by the titles of its fields."""
    boxes = page.locator("textarea")
    boxes.nth(0).fill(str(films))
    boxes.nth(1).fill(str(out))
    for label, value in values.items():
        field = page.locator(".p-label", has=page.get_by_text(label, exact=True)).last
        field.locator("input").first.fill(value)


def submit_run_form(page: Any) -> None:
    """Submit the form of a run until the UI leaves it."""
    submit_until(page, lambda: not page.url.split("?")[0].endswith("/run"))


def submit_until(page: Any, done: Callable[[], bool]) -> None:
    """Press Submit until a condition holds; another try only where nothing happened."""
    page.wait_for_timeout(500)  # the form takes a field's value over after a moment
    for _ in range(TRIES):
        page.get_by_role("button", name="Submit").click()
        deadline = time.monotonic() + TRY_S
        while time.monotonic() < deadline:
            if done():
                return
            page.wait_for_timeout(250)
    raise AssertionError("the form could not be submitted")
