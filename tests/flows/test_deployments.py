from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def deployed(prefect_server: str) -> str:
    """Output of ``prefect deploy --all`` with our file, against a server with the work pool."""
    from flows.serve import register

    register()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"),
            *("--prefect-file", "deployments/prefect.yaml"),
        ],
        cwd=ROOT,
        env=os.environ | {"PREFECT_API_URL": prefect_server},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_deployments_are_flows_by_module_with_the_settings_as_their_form(
    prefect_server: str, deployed: str
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.flows import load_flow_from_entrypoint

    from tasks.cluster_settings import ClusterFileSettings
    from tasks.fetch_settings import FetchSettings
    from tasks.reproduce_settings import ReproduceSettings
    from tasks.review_settings import ReviewSettings
    from tasks.settings import CurationSettings

    expected = {
        "films": ("curate", CurationSettings),
        "nightly": ("curate", CurationSettings),
        "on-demand": ("curate", CurationSettings),
        "encoder": ("train", CurationSettings),
        "embeddings": ("cluster", ClusterFileSettings),
        "review": ("review", ReviewSettings),
        "collection": ("fetch", FetchSettings),
        "experiment": ("reproduce", ReproduceSettings),
    }
    with get_client(sync_client=True) as client:
        found = {d.name: d for d in client.read_deployments()}
    assert expected.keys() == found.keys()
    for name, (flow, model) in expected.items():
        deployment = found[name]
        assert deployment.entrypoint == f"flows.{flow}.{flow}"
        assert not deployment.pull_steps, "a path of the machine that deployed would not exist here"
        assert load_flow_from_entrypoint(deployment.entrypoint).name == flow
        assert "mammosift" in deployment.tags
        form = deployment.parameter_openapi_schema["definitions"][model.__name__]
        assert form["properties"].keys() == model.model_fields.keys()
        for field, told in form["properties"].items():
            assert told.get("title"), f"{name}: {field} has no title"
            assert told.get("description"), f"{name}: {field} has no sentence"
            assert "$ref" not in json.dumps(told), f"{name}: {field} is a form within the form"
        if name != "films":  # started with what a person fills in
            model(**deployment.parameters["settings"])
    for name in expected.keys() - {"review", "experiment"}:
        assert found[name].global_concurrency_limit.limit == 1
    assert found["review"].global_concurrency_limit is None, "a run that waits blocks no other"
    (schedule,) = found["nightly"].schedules
    assert schedule.schedule.cron == "0 1 * * *"
    assert not schedule.active


def test_runs_that_vanish_are_watched_by_one_automation_that_stays_as_it_is(
    prefect_server: str,
) -> None:
    import anyio
    from prefect.client.orchestration import get_client

    from flows import watch

    async def known() -> list[tuple[str, str]]:
        async with get_client() as client:
            found = await client.read_automations_by_name(watch.NAME)
            return [(str(a.id), a.actions[0].type) for a in found]

    watch.register()
    first = anyio.run(known)
    watch.register()
    assert [kind for _, kind in first] == ["change-flow-run-state"]
    assert anyio.run(known) == first, "a new one would forget the runs that it watches"
