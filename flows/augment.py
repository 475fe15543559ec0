"""Pictures in, altered copies of them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from flows import temporary_server
from flows.dask_cluster import dask_client, on_worker
from flows.pictures import find_pictures, record_pictures, run_name, with_late_exclusions
from flows.run_record import RunRecord
from flows.shards import STEP
from storage import area_shards, copy_shards
from storage.records import FilmShard
from storage.workspace import ShardRef, Workspace
from tasks import augment_reports, augmentations, films
from tasks.picture_settings import AugmentSettings
from tasks.planning import MOST_TASKS


@flow(
    name="augment",
    flow_run_name=run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_TASKS),  # type: ignore[arg-type]
    validate_parameters=True,
)
def augment(settings: AugmentSettings) -> dict[str, Any]:
    """Write altered copies of a set of pictures, with the table of what was done to each.

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
        copies, how = _copy(run, settings, root, shards)
        used = with_late_exclusions(found, area_shards.exclusions(workspace, copies))
        record_pictures(run, used)
        table = augmentations.publish(workspace, [ref.key for ref in copies], used)
        run.facts["copies"] = {
            "written": table.num_rows,
            "views": len(augmentations.views_of(how)),
            "folder": workspace.path(copy_shards.FOLDER),
            "table": workspace.path(copy_shards.TABLE),
        }
        run.facts["shards"] = {"augmented": [ref.key for ref in copies]}
        run.write()  # the report reads it; written again when the report's own time is known
        with run.stage("report"):
            run.facts["report"] = report(workspace.uri, run.run_id)
    return run.write()


def _copy(
    run: RunRecord, settings: AugmentSettings, root: Path, shards: list[FilmShard]
) -> tuple[list[ShardRef], augmentations.CopySettings]:
    how = augmentations.CopySettings(
        operations=tuple(settings.operations.items()),
        only_copies=bool(settings.only_copies),
        **settings.only("copies", "format", "quality", "kind", "seed", "max_film_megapixels"),
    )
    with run.stage("copies") as stage:
        uri = run.workspace.uri
        refs = run.in_order(
            "copies",
            lambda shard: on_worker(augmentations.augment_shard, uri, str(root), shard, how),
            shards,
        )
        stage.add(refs)
    return refs, how


@task(task_run_name="report", **STEP)
def report(uri: str, run_id: str) -> str:
    """Write the report; gives its path."""
    return on_worker(augment_reports.write_report, uri, run_id)
