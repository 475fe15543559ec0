"""A run as a person starts it from the Prefect UI, and what befalls its worker."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from flows.serve import FILMS
from tests.flows.serving import Served

AGAIN_S, RUN_S, TRIES = 300.0, 1800.0, 4
"""A run that gives no sign of life is found after 180 s (flows.watch)."""
PERSON_S = 5.0  # until Retry is chosen; the worker tells of a crash twice, a second apart
ENDED = {"Completed", "Failed", "Crashed", "Cancelled"}


class ServedRun:
    """``mammosift serve``, and one run of its deployment for films."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir()
        self.served = Served(folder)
        films = self.served.ask(f"deployments/name/curate/{FILMS}").json()["id"]
        given = {"parameters": {"settings": settings}}
        made = self.served.ask(f"deployments/{films}/create_flow_run", given)
        self.path = f"flow_runs/{made.raise_for_status().json()['id']}"

    def state(self, what: str = "name") -> str:
        """Name of the run's state; empty while nobody answers."""
        with contextlib.suppress(httpx.HTTPError, KeyError):
            return str(self.served.ask(self.path).json()["state"][what])
        return ""

    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.state() in ENDED

    def begin(self) -> None:
        """Wait until it runs."""
        self._wait({"Running"} | ENDED, AGAIN_S)

    def kill_worker(self) -> None:
        """Kill the Prefect worker alone; the command ends by it, and is given again."""
        for process in self.served.processes():
            with contextlib.suppress(psutil.Error):
                if {"worker", "start"} <= set(process.cmdline()):
                    process.kill()
        self.served.serve.wait(AGAIN_S)
        self.served.start()

    def kill_all(self) -> float:
        """Kill server, worker, run and Dask workers at once; the command is given again.

        Returns
        -------
        float
            Seconds until the server knows that the run is gone.
        """
        started, before, known = time.monotonic(), self.state(), self.state("id")
        processes = self._flows()
        for flow in list(processes):
            with contextlib.suppress(psutil.Error):
                processes += flow.children(recursive=True)
        self.served.kill()
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.served.start()
        by = time.monotonic() + AGAIN_S
        while before not in ENDED and self.state("id") in ("", known):
            if time.monotonic() > by:
                raise SystemExit("nobody noticed that the run is gone")
            time.sleep(0.5)
        return time.monotonic() - started

    def kill_flow(self) -> float:
        """Kill the run's process; its worker says that it crashed, and a person chooses Retry.

        Returns
        -------
        float
            Seconds until the server knows.
        """
        started, before = time.monotonic(), self.state()
        flows = self._flows()
        while before not in ENDED and not flows:  # between two of its processes
            time.sleep(0.5)
            flows, before = self._flows(), self.state()
        for flow in flows:
            with contextlib.suppress(psutil.Error):
                flow.kill()
        if before not in ENDED:
            self._wait(ENDED, AGAIN_S)
        seconds = time.monotonic() - started
        self._retry()
        return seconds

    def finish(self) -> bool:
        """Wait for its end, with Retry where it did not end well; whether it did at last."""
        for _ in range(TRIES):
            self._wait(ENDED, RUN_S)
            if self.state() == "Completed":
                return True
            self._retry()
        return False

    def stop(self) -> None:
        """End server and worker."""
        self.served.stop()

    def _retry(self) -> None:
        time.sleep(PERSON_S)
        if self.state() in ENDED - {"Completed"}:
            state = {"type": "SCHEDULED", "name": "AwaitingRetry"}
            self.served.ask(f"{self.path}/set_state", {"state": state}).raise_for_status()

    def _wait(self, states: set[str], seconds: float) -> None:
        by = time.monotonic() + seconds
        while self.state() not in states:
            if time.monotonic() > by:
                raise SystemExit(f"the run is {self.state()!r}, and did not come to {states}")
            time.sleep(0.5)

    def _flows(self) -> list[psutil.Process]:
        """Processes of runs, also those whose worker is gone."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("PREFECT_HOME") == str(self.served.home)
                if (
                    ours
                    and "PREFECT__FLOW_RUN_ID" in process.environ()
                    and "prefect" in " ".join(process.cmdline())
                ):
                    found.append(process)
        return found
