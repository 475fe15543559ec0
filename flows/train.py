"""The first half of a run: films in, a trained encoder out, which later runs use as it is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts, curate
from flows.run_record import RunRecord
from tasks import encoders
from tasks.planning import MOST_TASKS
from tasks.settings import CurationSettings


def _run_name() -> str:
    from prefect.runtime import flow_run

    settings: Any = flow_run.parameters["settings"]
    source = settings["source"] if isinstance(settings, dict) else settings.source
    return f"train on {Path(source).name or 'films'} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(
    name="train",
    flow_run_name=_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_TASKS),  # type: ignore[arg-type]
    validate_parameters=True,
)
def train(settings: CurationSettings) -> dict[str, Any]:
    """Cut the films and train the encoder, on the machine with the GPU, say.

    A curation run with the same films and settings in this workspace finds tiles and encoder there.
    The manifest, if there is one, stays as it is.
    """
    return curate.alone(settings, _train)


def _train(run: RunRecord) -> None:
    found, root = curate.find_films(run)
    _, tile_refs, used = curate.cut(run, found, root)
    encoder = curate.train(run, tile_refs, curate.split_of_films(run.settings, used))
    run.facts["shards"] = {"tiles": [ref.key for ref in tile_refs], "encoder": encoder.key}
    shard = run.workspace.shard(encoders.KIND, encoder.key)
    artifacts.trained(shard.table(encoders.HISTORY).to_pylist(), encoder.key)
