"""A published experiment, done again: its table beside the published one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, task, unmapped
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts, steps, temporary_server
from flows.curate import MAX_SHARDS_AT_ONCE
from flows.dask_cluster import dask_client, on_worker
from flows.pictures import STEP
from flows.run_record import RunRecord
from storage import image_sets
from storage.errors import InputError
from storage.workspace import ShardRef, Workspace
from tasks import film_study, films, reproduce_reports, reproduce_settings, tiles, trials
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
    task_runner=ThreadPoolTaskRunner(max_workers=MAX_SHARDS_AT_ONCE),  # type: ignore[arg-type]
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
    with (
        run.exclusive(),
        run.recorded(),
        dask_client(settings.dask_address, settings.workers, settings.dask_cluster) as client,
    ):
        workspace.remove_abandoned()
        artifacts.listen(client)
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
        wanted = [
            trials.TrialSettings(
                experiment=settings.name,
                recipe=recipe,
                seed=seed,
                quick=bool(settings.quick),
                epochs=None if recipe in UNTRAINED else settings.epochs,
                **settings.only("precision", "training_threads"),
            )
            for recipe in settings.recipes
            for seed in range(settings.n_seeds)
        ]
        futures = run_trial.map(
            [f"{how.recipe} {how.seed}" for how in wanted],
            unmapped(run.workspace.uri),
            unmapped(settings.data),
            unmapped(digest),
            wanted,
        )
        refs: list[ShardRef] = run.in_order("trials", futures)
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
        names = [s.name for s in shards]
        futures = steps.cut.map(names, unmapped(uri), unmapped(str(root)), shards, unmapped(how))
        cut_shards: list[ShardRef] = run.in_order("tiles", futures)
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
        futures = study.map(
            [f"{how.network} {how.seed}" for how in wanted],
            unmapped(uri),
            unmapped(keys),
            unmapped(sources),
            unmapped(settings.truth),
            wanted,
        )
        refs: list[ShardRef] = run.in_order("studies", futures)
        stage.add(refs)
    return refs


def _find_films(run: RunRecord, settings: ReproduceSettings) -> tuple[Path, list[Any]]:
    with run.stage("films"):
        root, batches = films.find(settings.data)
        futures = steps.describe.map(
            list(range(len(batches))), batches, unmapped(MAX_MEGAPIXELS), unmapped({})
        )
        described = [film for batch in run.in_order("headers", futures) for film in batch]
        found, warnings = films.join(described, root, films_csv=None, lesions_csv=None)
        films.write(run.workspace, found)
    artifacts.warn(warnings)
    artifacts.exclusions(found)
    used = [f for f in found if f.excluded_reason is None]
    if not used:
        raise InputError(f"--data {settings.data} holds no film that can be used.")
    run.facts["films"] = {"found": len(found), "used": len(used)}
    return root, found


@task(task_run_name="trial {name}", **STEP)
def run_trial(
    name: str, uri: str, folder: str, digest: str, settings: trials.TrialSettings
) -> ShardRef:
    """Run one trial."""
    return on_worker(trials.run_trial, uri, folder, digest, settings)


@task(task_run_name="study {name}", **STEP)
def study(
    name: str,
    uri: str,
    tile_keys: list[str],
    sources: dict[str, str],
    truth: str | None,
    settings: film_study.StudySettings,
) -> ShardRef:
    """Train one network on tiles, and see what DBSCAN makes of its embeddings."""
    return on_worker(film_study.run_study, uri, tile_keys, sources, truth, settings)


@task(task_run_name="report", **STEP)
def report(uri: str, run_id: str) -> str:
    """Write results.json, figures and page; gives the page's path."""
    return on_worker(reproduce_reports.write_report, uri, run_id)
