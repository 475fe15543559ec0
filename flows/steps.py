"""Steps of a run: each is sent to a Dask worker, and waited for.

Those of one shard are plain functions, which `flows.shards` calls for the shards of a group in one
Prefect task; those of the whole run are tasks of their own. All of them run as threads beside the
flow, so Dask workers need neither Prefect nor a way to its server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import task

from flows.dask_cluster import EndsWorkers, on_gpu_worker, on_worker
from flows.shards import STEP
from storage import quarantine
from storage.records import FilmShard, Mammogram
from storage.workspace import ShardRef, Workspace
from tasks import (
    clusters,
    decisions,
    duplicates,
    encoders,
    evidence,
    films,
    reports,
    scorers,
    shortcuts,
    tile_augmentations,
    tiles,
)


def describe(
    files: Sequence[tuple[str, str]],
    max_film_megapixels: float,
    known: Mapping[str, Mammogram],
) -> list[Mammogram]:
    """Read the headers of a batch of files, but for those of films that are known."""
    of_batch = {source: known[source] for _, source in files if source in known}
    return on_worker(
        films.describe_batch, files, max_film_megapixels=max_film_megapixels, known=of_batch
    )


def cut(uri: str, root: str, shard: FilmShard, settings: tiles.TileSettings) -> ShardRef:
    """Cut and screen a shard of films; those that end their worker are put in quarantine."""
    try:
        return on_worker(tiles.cut_shard, uri, root, shard, settings)
    except EndsWorkers:
        for film in shard.films:
            if all(_ends_workers(uri, root, film, settings) for _ in range(TRIALS)):
                quarantine.put(Workspace.open(uri), film)
    return on_worker(tiles.cut_shard, uri, root, shard, settings)


TRIALS = 2
"""A worker that dies takes a waiting step with it now and then, which is not to blame."""


def _ends_workers(uri: str, root: str, film: Mammogram, settings: tiles.TileSettings) -> bool:
    try:
        on_worker(tiles.try_film, root, film, settings)
    except EndsWorkers:
        return True
    return False


@task(task_run_name="train encoder", **STEP)
def train(
    uri: str,
    tile_keys: Sequence[str],
    split_of_film: Mapping[str, str],
    settings: encoders.EncoderSettings,
) -> ShardRef:
    """Train the autoencoder."""
    return on_gpu_worker(encoders.train_encoder, uri, tile_keys, split_of_film, settings)


@task(task_run_name="learn annotations", **STEP)
def learn(
    uri: str,
    tile_keys: Sequence[str],
    fold_of_film: Mapping[str, int],
    source_of_film: Mapping[str, str],
    patients: int,
    settings: scorers.ScorerSettings,
) -> ShardRef:
    """Learn to tell annotations from tissue by the tile alone."""
    return on_worker(
        scorers.train_scorer, uri, tile_keys, fold_of_film, source_of_film, patients, settings
    )


def embed(uri: str, tile_key: str, encoder: str) -> ShardRef:
    """Encode the tiles of a shard."""
    return on_gpu_worker(encoders.embed_shard, uri, tile_key, encoder)


@task(task_run_name="cluster", **STEP)
def cluster(
    uri: str, embedding_keys: Sequence[str], settings: clusters.ClusterSettings
) -> ShardRef:
    """Cluster the embeddings of all shards."""
    return on_worker(clusters.cluster, uri, embedding_keys, settings)


@task(task_run_name="near-duplicates", **STEP)
def find_duplicates(
    uri: str,
    parts: Sequence[tuple[str, str]],
    settings: duplicates.DuplicateSettings,
    labelled: Sequence[str],
) -> ShardRef:
    """Find tiles that show nearly the same."""
    return on_worker(duplicates.find_duplicates, uri, parts, settings, labelled)


@task(task_run_name="evidence", **STEP)
def gather_evidence(
    uri: str,
    parts: Sequence[tuple[str, str]],
    clustered: str,
    encoder: str,
    settings: evidence.EvidenceSettings,
) -> ShardRef:
    """Say of each cluster what it holds."""
    return on_worker(evidence.gather_evidence, uri, parts, clustered, encoder, settings)


@task(task_run_name="calibrate", **STEP)
def calibrate(
    uri: str,
    tile_keys: Sequence[str],
    scanner_of_film: Mapping[str, str],
    settings: decisions.DecisionSettings,
    scorer: str | None,
    recall: float | None,
    precision: float | None,
) -> decisions.DecisionSettings:
    """Find the thresholds that give the recall or the precision that is wanted."""
    return on_worker(
        decisions.calibrated,
        uri,
        tile_keys,
        scanner_of_film,
        settings,
        scorer=scorer,
        recall=recall,
        precision=precision,
    )


def decide(
    uri: str,
    tile_key: str,
    cluster_part: tuple[str, str],
    films_of_shard: Mapping[str, Mammogram],
    split_of_film: Mapping[str, str],
    settings: decisions.DecisionSettings,
    run_id: str,
    staging: str,
    scorer: str | None,
    duplicates: str | None,
) -> decisions.PartCounts:
    """Write the manifest rows of a shard."""
    return on_worker(
        decisions.decide_shard,
        uri,
        tile_key,
        cluster_part,
        films_of_shard,
        split_of_film,
        settings,
        run_id=run_id,
        staging=staging,
        scorer=scorer,
        duplicates=duplicates,
    )


def augment(uri: str, tile_key: str, settings: tile_augmentations.TileCopySettings) -> ShardRef:
    """Write augmented copies of a shard's training tiles."""
    return on_worker(tile_augmentations.augment_tiles, uri, tile_key, settings)


@task(task_run_name="shortcuts", **STEP)
def audit_shortcuts(uri: str, tile_keys: Sequence[str], seed: int) -> dict[str, Any]:
    """Measure how well what is not breast predicts the label, before and after curation."""
    return on_worker(shortcuts.audit_shortcuts, uri, tile_keys, seed)


@task(task_run_name="report", **STEP)
def report(uri: str, run_id: str, exemplars: str | None) -> str:
    """Write the report; gives its path."""
    return on_worker(reports.write_report, uri, run_id, exemplars=exemplars)
