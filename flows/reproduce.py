"""A published experiment, done again: its table beside the published one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts, steps, temporary_server
from flows.dask_cluster import dask_client, on_gpu_worker, on_worker
from flows.run_record import RunRecord
from flows.scalars import Scalars
from flows.shards import STEP
from storage import image_sets
from storage.errors import InputError
from storage.workspace import ShardRef, Workspace
from tasks import film_study, films, reproduce_reports, reproduce_settings, tiles, trials
from tasks.planning import MOST_TASKS
from tasks.published import SUPERVISED
from tasks.reproduce_settings import UNTRAINED, ReproduceSettings

FILMS_PER_SHARD = 16
MAX_MEGAPIXELS = 100.0


def _run_name() -> str:
    from prefect.runtime import flow_run

    settings: Any = flow_run.parameters["settings"]
    name = settings["name"] if isinstance(settings, dict) else settings.name
    return f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(
    name="reproduce",
    flow_run_name=_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_TASKS),  # type: ignore[arg-type]
    validate_parameters=True,
)
def reproduce(settings: ReproduceSettings) -> dict[str, Any]:
    """Run a published experiment on data of the user's, and hold its figures against the paper's.

    A run in a workspace that an earlier one left unfinished goes on where that one stopped.
    """
    temporary_server.end_with_this_process()
    reproduce_settings.check_inputs(settings)
    workspace = Workspace.create(settings.out)
    run = RunRecord(workspace, settings)  # type: ignore[arg-type]
    scalars = Scalars.of(workspace, run.run_id, settings.tensorboard)
    with (
        run.exclusive(),
        run.recorded(),
        dask_client(settings.dask_address, settings.workers, settings.dask_cluster) as client,
        artifacts.listening(client, scalars),
    ):
        workspace.remove_abandoned()
        made = _study(run, settings) if settings.name == "ddsm-study" else _trials(run, settings)
        run.facts["shards"] = {"trials": [ref.key for ref in made], "kind": made[0].kind}
        run.write()  # the report reads it; written again when the report's own time is known
        with run.stage("report"):
            run.facts["report"] = report(workspace.uri, run.run_id)
    run.facts["results"] = workspace.path(reproduce_reports.RESULTS)
    return run.write()


def _trials(run: RunRecord, settings: ReproduceSettings) -> list[ShardRef]:
    with run.stage("trials") as stage:
        digest = image_sets.fingerprint(settings.data)
        run.facts["inputs"] = {"data": settings.data, "sha256": digest}
        weights = settings.imagenet_weights
        weights_digest = None if weights is None else trials.weights_sha256(weights)
        wanted = [
            trials.TrialSettings(
                experiment=settings.name,
                recipe=recipe,
                seed=seed,
                quick=bool(settings.quick),
                epochs=None if recipe in UNTRAINED else settings.epochs,
                weights_sha256=weights_digest if recipe == SUPERVISED else None,
                **settings.only("precision", "training_threads"),
            )
            for recipe in settings.recipes
            for seed in range(settings.n_seeds)
        ]
        uri = run.workspace.uri
        refs = run.in_order(
            "trials",
            lambda how: on_gpu_worker(
                trials.run_trial,
                uri,
                settings.data,
                digest,
                how,
                weights if how.recipe == SUPERVISED else None,
            ),
            wanted,
        )
        stage.add(refs)
    return refs


def _study(run: RunRecord, settings: ReproduceSettings) -> list[ShardRef]:
    root, found = _find_films(run, settings)
    shards = films.form_shards(found, root, films_per_shard=FILMS_PER_SHARD)
    how = tiles.TileSettings(
        tile_size_px=settings.tile_size_px,
        tile_size_mm=None,
        stride_px=None,
        edge="shift",
        black_samples_per_film=0,
        max_film_megapixels=MAX_MEGAPIXELS,
        context="film",
    )
    uri = run.workspace.uri
    with run.stage("tiles") as stage:
        cut_shards = run.in_order(
            "tiles", lambda shard: steps.cut(uri, str(root), shard, how), shards
        )
        stage.add(cut_shards)
    keys = [ref.key for ref in cut_shards]
    sources = {str(f.mammogram_id): f.source for f in found if f.excluded_reason is None}
    with run.stage("studies") as stage:
        wanted = [
            film_study.StudySettings(
                network=network,
                seed=seed,
                quick=bool(settings.quick),
                **settings.only("encoder", "epochs", "max_tiles", "precision", "training_threads"),
            )
            for network in film_study.NETWORKS
            for seed in range(settings.n_seeds)
        ]
        refs = run.in_order(
            "studies",
            lambda how: on_gpu_worker(
                film_study.run_study, uri, keys, sources, settings.truth, how
            ),
            wanted,
        )
        stage.add(refs)
    return refs


def _find_films(run: RunRecord, settings: ReproduceSettings) -> tuple[Path, list[Any]]:
    with run.stage("films"):
        root, batches = films.find(settings.data)
        of_batches = run.in_order(
            "headers", lambda batch: steps.describe(batch, MAX_MEGAPIXELS, {}), batches
        )
        described = [film for batch in of_batches for film in batch]
        found, warnings = films.join(described, root, films_csv=None, lesions_csv=None)
        films.write(run.workspace, found)
    artifacts.warn(warnings)
    artifacts.exclusions(found)
    used = [f for f in found if f.excluded_reason is None]
    if not used:
        raise InputError(f"--data {settings.data} holds no film that can be used.")
    run.facts["films"] = {"found": len(found), "used": len(used)}
    return root, found


@task(task_run_name="report", **STEP)
def report(uri: str, run_id: str) -> str:
    """Write results.json, figures and page; gives the page's path."""
    return on_worker(reproduce_reports.write_report, uri, run_id)
