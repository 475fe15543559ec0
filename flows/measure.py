"""Pictures in, areas of their colours out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from flows import temporary_server
from flows.dask_cluster import dask_client, on_worker
from flows.pictures import find_pictures, record_pictures, run_name, with_late_exclusions
from flows.run_record import RunRecord
from flows.shards import STEP
from storage import area_shards
from storage.errors import MammosiftError
from storage.records import FilmShard, Mammogram
from storage.workspace import ShardRef, Workspace
from tasks import films, measure_reports, measures
from tasks.picture_settings import MeasureSettings
from tasks.planning import MOST_TASKS


@flow(
    name="measure",
    flow_run_name=run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_TASKS),  # type: ignore[arg-type]
    validate_parameters=True,
)
def measure(settings: MeasureSettings) -> dict[str, Any]:
    """Cluster the pixels of a set of pictures by colour and measure what each cluster covers.

    A run in a workspace that an earlier one left unfinished goes on where that one stopped.
    """
    temporary_server.end_with_this_process()
    films.check_inputs(
        settings.source, films_csv=settings.films_csv, lesions_csv=None, exemplars=None
    )
    workspace = Workspace.create(settings.out)
    run = RunRecord(workspace, settings)  # type: ignore[arg-type]
    with (
        run.exclusive(),
        run.recorded(),
        dask_client(settings.dask_address, settings.workers, settings.dask_cluster),
    ):
        workspace.remove_abandoned()
        found, root = find_pictures(run, settings)
        shards = films.form_shards(found, root, films_per_shard=settings.images_per_shard)
        samples = _sample(run, settings, root, shards)
        fit = _fit(run, settings, samples)
        areas = _measure(run, settings, root, shards, fit)
        used = with_late_exclusions(found, area_shards.exclusions(workspace, [*samples, *areas]))
        record_pictures(run, used)
        table = _publish(run, used, areas)
        _report(run, table, fit, areas)
    return run.write()


def _sample(
    run: RunRecord, settings: MeasureSettings, root: Path, shards: list[FilmShard]
) -> list[ShardRef]:
    how = measures.SampleSettings(
        **settings.only(
            "kind", "balance", "sample_fraction", "max_sample_px", "seed", "max_film_megapixels"
        )
    )
    with run.stage("samples") as stage:
        uri = run.workspace.uri
        refs = run.in_order(
            "samples",
            lambda shard: on_worker(measures.sample_shard, uri, str(root), shard, how),
            shards,
        )
        stage.add(refs)
    return refs


def _fit(run: RunRecord, settings: MeasureSettings, samples: list[ShardRef]) -> ShardRef:
    how = measures.FitSettings(
        colour_space="grey" if settings.kind == "films" else settings.colour_space,
        n_clusters=settings.n_clusters,
        **settings.only("max_sample_px", "starts", "most_clusters", "seed"),
    )
    with run.stage("colours") as stage:
        ref: ShardRef = fit(run.workspace.uri, [ref.key for ref in samples], how)
        stage.add([ref])
    return ref


def _measure(
    run: RunRecord,
    settings: MeasureSettings,
    root: Path,
    shards: list[FilmShard],
    fitted: ShardRef,
) -> list[ShardRef]:
    how = measures.AreaSettings(
        masks=bool(settings.masks),
        **settings.only("kind", "balance", "pixel_spacing_mm", "max_film_megapixels"),
    )
    with run.stage("areas") as stage:
        uri = run.workspace.uri
        refs = run.in_order(
            "areas",
            lambda shard: on_worker(measures.measure_shard, uri, str(root), shard, fitted.key, how),
            shards,
        )
        stage.add(refs)
    return refs


def _publish(run: RunRecord, used: list[Mammogram], areas: list[ShardRef]) -> pa.Table:
    with run.stage("table"):
        table = measures.publish(run.workspace, [ref.key for ref in areas], used)
    counted = pc.sum(table["pixel_count"]).as_py() or 0
    run.facts["pixels"] = {"measured": counted, "table": run.workspace.path(area_shards.TABLE)}
    if counted != run.stages["areas"].counts.get("pixels", 0):
        raise MammosiftError(
            f"the counts of run {run.run_id} do not add up: the table has {counted} pixels, the "
            "shards others. Please report this with the run's log."
        )
    return table


def _report(run: RunRecord, table: pa.Table, fitted: ShardRef, areas: list[ShardRef]) -> None:
    run.facts["shards"] = {"colours": fitted.key, "areas": [ref.key for ref in areas]}
    run.write()  # the report reads it; written again when the report's own time is known
    with run.stage("report"):
        run.facts["report"] = report(run.workspace.uri, run.run_id)


@task(task_run_name="fit colours", **STEP)
def fit(uri: str, keys: Sequence[str], settings: measures.FitSettings) -> ShardRef:
    """Fit the clusters."""
    return on_worker(measures.fit_colours, uri, keys, settings)


@task(task_run_name="report", **STEP)
def report(uri: str, run_id: str) -> str:
    """Write the report; gives its path."""
    return on_worker(measure_reports.write_report, uri, run_id)
