"""Runs that a schedule starts, and two that want the same workspace at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from storage import lease
from storage.workspace import Workspace
from tasks.settings import CurationSettings
from tests.flows.local_run import manifest_bytes
from tests.flows.serving import Served

AUTH = "reader:made-up-server-password"
RUN_S, EVERY_S = 900, 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.xdist_group("local-run"),
]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path, auth=AUTH)
    yield server
    server.stop()
    assert AUTH.partition(":")[2] not in server.log.read_text(), "no password is logged"


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    from prefect.client.orchestration import SyncPrefectClient

    with SyncPrefectClient(api=f"{served.url}/api", auth_string=AUTH) as opened:
        yield opened


def wait_for(client: Any, reached: Callable[[list[Any]], Any]) -> Any:
    """Wait until the runs are as wanted; gives what was found."""
    deadline = time.monotonic() + RUN_S
    while not (found := reached(client.read_flow_runs())):
        assert time.monotonic() < deadline, [
            (run.name, run.state.name, run.state.message) for run in client.read_flow_runs()
        ]
        time.sleep(0.5)
    return found


def ended(run_id: Any) -> Callable[[list[Any]], Any]:
    return lambda runs: next((r for r in runs if r.id == run_id and r.state.is_final()), None)


def test_a_schedule_fires_and_of_two_runs_in_a_workspace_one_is_refused_or_waits(
    served: Served, client: Any, local_run: CurationSettings, tmp_path: Path
) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.schedules import IntervalSchedule

    def parameters(out: str, **more: Any) -> dict[str, Any]:
        given = local_run.model_copy(update={"out": str(tmp_path / out), **more})
        return {"settings": given.model_dump(mode="json", exclude_unset=True)}

    asked = f"{served.url}/api/work_pools/mammosift"
    assert httpx.get(asked).status_code == 401, "the password is asked for"
    assert httpx.get(asked, auth=("reader", "guessed")).status_code == 401

    by_name = {d.name: d.id for d in client.read_deployments()}
    films, encoder = by_name["films"], by_name["encoder"]
    client.update_deployment(films, DeploymentUpdate(parameters=parameters("nightly")))
    often = IntervalSchedule(interval=timedelta(seconds=EVERY_S))
    (schedule,) = client.create_deployment_schedules(films, [(often, True)])
    nightly = wait_for(
        client, lambda runs: [r for r in runs if r.auto_scheduled and r.state.is_completed()]
    )
    client.update_deployment_schedule(films, schedule.id, active=False)
    assert nightly[0].name.startswith(Path(local_run.source).name)
    assert manifest_bytes(tmp_path / "nightly") == manifest_bytes(local_run.out)
    wait_for(client, lambda runs: all(r.state.is_final() or r.state.is_scheduled() for r in runs))

    def start(deployment: Any, **more: Any) -> Any:
        return client.create_flow_run_from_deployment(
            deployment, parameters=parameters("contested", **more)
        ).id

    workspace = Workspace.create(tmp_path / "contested")
    first = start(films)
    wait_for(client, lambda _: lease.read(workspace))
    holder = lease.read(workspace)
    process = psutil.Process(holder["pid"])
    process.suspend()  # it must not end before the others have come
    try:
        refused = wait_for(client, ended(start(encoder)))
        assert refused.state.is_failed()
        assert f"is in use: run {holder['run_id']}" in refused.state.message
        waiting = start(encoder, wait_for_workspace_min=60.0)
        wait_for(client, lambda runs: [r for r in runs if r.id == waiting and r.state.is_running()])
        assert lease.read(workspace)["run_id"] == holder["run_id"]
    finally:
        process.resume()
    assert wait_for(client, ended(first)).state.is_completed()
    assert wait_for(client, ended(waiting)).state.is_completed()
    assert manifest_bytes(tmp_path / "contested") == manifest_bytes(local_run.out)
    assert lease.read(workspace) == {}
