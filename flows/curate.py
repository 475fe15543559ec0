"""The whole run: films in, curated manifest out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows import artifacts, steps, temporary_server
from flows.dask_cluster import dask_client
from flows.run_record import RunRecord
from flows.scalars import Scalars
from storage import augmented, collections
from storage.errors import MammosiftError
from storage.manifest import ManifestWriter, recover
from storage.records import FilmShard, Mammogram
from storage.tile_shards import read_films
from storage.verdicts import read_verdicts
from storage.workspace import ShardRef, Workspace
from tasks import (
    clusters,
    decisions,
    duplicates,
    encoders,
    evidence,
    films,
    reviews,
    scorers,
    tile_augmentations,
    tiles,
)
from tasks.planning import MOST_TASKS
from tasks.settings import CurationSettings

REMEMBER_EVERY_S = 20.0
"""A run killed while it reads headers and hashes has lost this much of it."""


def _run_name() -> str:
    from prefect.runtime import flow_run

    settings: Any = flow_run.parameters["settings"]
    source = settings["source"] if isinstance(settings, dict) else settings.source
    return f"{Path(source).name or 'films'} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(
    name="curate",
    flow_run_name=_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=MOST_TASKS),  # type: ignore[arg-type]
    validate_parameters=True,
)
def curate(settings: CurationSettings) -> dict[str, Any]:
    """Turn films into a curated training set: tiles, embeddings, clusters, decisions, manifest.

    A run in a workspace that an earlier one left unfinished goes on where that one stopped.
    """
    return alone(settings, _curate)


def alone(settings: CurationSettings, work: Callable[[RunRecord], None]) -> dict[str, Any]:
    """Do some work on films as the only run in the workspace; gives the run's record."""
    temporary_server.end_with_this_process()
    films.check_inputs(
        settings.source,
        films_csv=settings.films_csv,
        lesions_csv=settings.lesions_csv,
        exemplars=settings.exemplars,
    )
    if settings.verdicts is not None:
        read_verdicts(settings.verdicts)  # before anything long begins
    workspace = Workspace.create(settings.out)
    run = RunRecord(workspace, settings)
    scalars = Scalars.of(workspace, run.run_id, settings.tensorboard)
    with run.exclusive(wait_min=settings.wait_for_workspace_min):
        workspace.remove_abandoned()
        recover(workspace)
        with (
            run.recorded(),
            dask_client(settings.dask_address, settings.workers, settings.dask_cluster) as client,
            artifacts.listening(client, scalars),
        ):
            work(run)
        return run.write()


def _curate(run: RunRecord) -> None:
    settings = run.settings
    found, root = find_films(run)
    shards, tile_refs, used = cut(run, found, root)
    split = split_of_films(settings, used)
    scorer = _learn(run, tile_refs, used)
    encoder = train(run, tile_refs, split)
    embedded = _embed(run, tile_refs, encoder)
    clustered = _cluster(run, embedded)
    _take_verdicts(run, clustered)
    copies = _find_duplicates(run, tile_refs, embedded, used, split)
    publish(run, shards, tile_refs, embedded, clustered, scorer, copies, used, split)
    audit(run, tile_refs)
    described = gather_evidence(run, tile_refs, embedded, encoder, clustered)
    report(run, tile_refs, embedded, encoder, clustered, scorer, copies, described)


def find_films(run: RunRecord) -> tuple[list[Mammogram], Path]:
    """Find the films of a source, with what tables say of them; excluded ones with their reason."""
    settings, workspace = run.settings, run.workspace
    with run.stage("films"):
        root, batches = films.find(settings.source)
        known = films.known_headers(workspace)
        described: list[Mammogram] = []
        written = time.monotonic()
        for _, batch in run.follow(
            "headers",
            lambda batch: steps.describe(batch, settings.max_film_megapixels, known),
            batches,
        ):
            described += batch
            if time.monotonic() - written > REMEMBER_EVERY_S:
                films.remember_headers(workspace, described)
                written = time.monotonic()
        films.remember_headers(workspace, described)
        found, warnings = films.join(
            described, root, films_csv=settings.films_csv, lesions_csv=settings.lesions_csv
        )
        if settings.tile_size_mm is not None:
            found = collections.without_spacing_excluded(found)
        films.write(workspace, found)
    run.found = sum(len(batch) for batch in batches)
    run.facts["inputs"] = {
        "root": str(root),
        "films_sha256": hashlib.sha256(
            "\n".join(sorted(f.source_sha256 or f.source for f in found)).encode()
        ).hexdigest(),
        "warnings": warnings,
    }
    artifacts.warn(warnings)
    if all(f.excluded_reason for f in found):
        raise MammosiftError(
            f"no film in {settings.source} can be used: {len(found)} files found, excluded: "
            f"{films.count_exclusions(found) or 'none'}. See {workspace.path(films.TABLE)}."
        )
    return found, root


def cut(
    run: RunRecord, found: list[Mammogram], root: Path
) -> tuple[list[FilmShard], list[ShardRef], list[Mammogram]]:
    """Cut and screen the films; gives shards of films, their tiles, and the films as they fared."""
    settings, workspace = run.settings, run.workspace
    shards = films.form_shards(found, root, films_per_shard=settings.films_per_shard)
    cutting = tiles.TileSettings(
        **settings.only(
            "tile_size_px",
            "tile_size_mm",
            "stride_px",
            "edge",
            "black_samples_per_film",
            "max_film_megapixels",
            "context",
        )
    )
    with run.stage("tiles") as stage:
        refs = run.in_order(
            "tiles", lambda shard: steps.cut(workspace.uri, str(root), shard, cutting), shards
        )
        stage.add(refs)
    used = _with_late_exclusions(workspace, found, refs)
    films.write(workspace, used)
    run.facts["films"] = {
        "found": run.found,
        "used": sum(f.excluded_reason is None for f in used),
        "excluded": films.count_exclusions(used),
    }
    artifacts.exclusions(used)
    return shards, refs, used


def _with_late_exclusions(
    workspace: Workspace, found: list[Mammogram], refs: Sequence[ShardRef]
) -> list[Mammogram]:
    """Films with those excluded whose pixels turned out to be unusable."""
    late: dict[str, dict[str, Any]] = {}
    for ref in refs:
        if ref.counts["excluded"]:
            for row in read_films(workspace, ref.key).to_pylist():
                if row["excluded_reason"] is not None:
                    late[row["mammogram_id"]] = {
                        k: v for k, v in row.items() if k.startswith("excluded_")
                    }
    return [
        replace(f, **late[f.mammogram_id])
        if f.excluded_reason is None and f.mammogram_id in late
        else f
        for f in found
    ]


def _learn(run: RunRecord, tile_refs: list[ShardRef], used: list[Mammogram]) -> ShardRef:
    settings = run.settings
    how = scorers.ScorerSettings(**settings.only("context", "exemplars", "seed", "planted_tiles"))
    good = [f for f in used if f.excluded_reason is None]
    with run.stage("scorer") as stage:
        scorer = steps.learn(
            run.workspace.uri,
            [ref.key for ref in tile_refs],
            scorers.fold_films(good),
            {str(f.mammogram_id): f.source for f in good},
            len({f.patient_key for f in good}),
            how,
        )
        stage.add([scorer])
    return scorer


def train(run: RunRecord, tile_refs: list[ShardRef], split: dict[str, str]) -> ShardRef:
    """Train the autoencoder."""
    learning = encoders.EncoderSettings(
        **run.settings.only(
            "encoder",
            "training_tiles",
            "max_epochs",
            "patience",
            "batch_size",
            "learning_rate",
            "precision",
            "seed",
            "training_threads",
        )
    )
    with run.stage("encoder") as stage:
        encoder = steps.train(run.workspace.uri, [ref.key for ref in tile_refs], split, learning)
        stage.add([encoder])
    return encoder


def _embed(run: RunRecord, tile_refs: list[ShardRef], encoder: ShardRef) -> list[ShardRef]:
    keys = [ref.key for ref in tile_refs]
    with run.stage("embeddings") as stage:
        uri = run.workspace.uri
        embedded = run.in_order("embeddings", lambda key: steps.embed(uri, key, encoder.key), keys)
        stage.add(embedded)
    return embedded


def _cluster(run: RunRecord, embedded: list[ShardRef]) -> ShardRef:
    how = clusters.ClusterSettings(
        **run.settings.only(
            "cluster_method", "n_clusters", "eps", "min_samples", "min_cluster_size", "seed"
        )
    )
    with run.stage("clusters") as stage:
        clustered = steps.cluster(run.workspace.uri, [ref.key for ref in embedded], how)
        stage.add([clustered])
    return clustered


def _find_duplicates(
    run: RunRecord,
    tile_refs: list[ShardRef],
    embedded: list[ShardRef],
    used: list[Mammogram],
    split: dict[str, str],
) -> ShardRef | None:
    settings, uri = run.settings, run.workspace.uri
    if settings.near_duplicates == "off":
        return None
    with run.stage("duplicates") as stage:
        found = steps.find_duplicates(
            uri,
            _parts(tile_refs, embedded),
            duplicates.DuplicateSettings(**settings.only("misinformative_threshold")),
            [str(f.mammogram_id) for f in used if f.label is not None],
        )
        stage.add([found])
    patients = {str(f.mammogram_id): str(f.patient_key) for f in used}
    run.facts["near_duplicates"] = duplicates.count_duplicates(
        uri, found.key, [ref.key for ref in tile_refs], patients, split
    )
    return found


def gather_evidence(
    run: RunRecord,
    tile_refs: list[ShardRef],
    embedded: list[ShardRef],
    encoder: ShardRef,
    clustered: ShardRef,
) -> ShardRef:
    """Say of each cluster what it holds."""
    how = evidence.EvidenceSettings(**run.settings.only("misinformative_threshold"))
    with run.stage("evidence") as stage:
        parts = _parts(tile_refs, embedded)
        found = steps.gather_evidence(run.workspace.uri, parts, clustered.key, encoder.key, how)
        stage.add([found])
    return found


def _parts(tile_refs: list[ShardRef], embedded: list[ShardRef]) -> list[tuple[str, str]]:
    return [(t.key, e.key) for t, e in zip(tile_refs, embedded, strict=True)]


def _take_verdicts(run: RunRecord, clustered: ShardRef) -> None:
    """Take down the verdicts of the table that the settings name, beside those of earlier runs."""
    if (path := run.settings.verdicts) is not None:
        given = read_verdicts(path)
        reviews.record(run.workspace, given, name=path, now=run.started, present=clustered.key)


def publish(
    run: RunRecord,
    shards: list[FilmShard],
    tile_refs: list[ShardRef],
    embedded: list[ShardRef],
    clustered: ShardRef,
    scorer: ShardRef | None,
    copies: ShardRef | None,
    used: list[Mammogram],
    split: dict[str, str],
) -> None:
    """Decide on every tile, check that the counts add up, publish the manifest."""
    settings, workspace = run.settings, run.workspace
    by_id = {f.mammogram_id: f for f in used if f.excluded_reason is None}
    of_shard = [
        {str(f.mammogram_id): by_id[f.mammogram_id] for f in s.films if f.mammogram_id in by_id}
        for s in shards
    ]
    staging = ManifestWriter.staging_name()
    key = None if scorer is None else scorer.key
    deciding = decisions.DecisionSettings(
        **settings.only("misinformative_threshold", "tissue_for_review", "near_duplicates")
    )
    with run.stage("manifest"):
        if settings.wanted_recall is not None or settings.wanted_precision is not None:
            deciding = steps.calibrate(
                workspace.uri,
                [ref.key for ref in tile_refs],
                {str(i): f.scanner or "unknown" for i, f in by_id.items()},
                deciding,
                key,
                settings.wanted_recall,
                settings.wanted_precision,
            )
        run.facts["thresholds"] = {
            "all": deciding.misinformative_threshold,
            "by_scanner": dict(deciding.thresholds),
        }
        parts = run.in_order(
            "manifest",
            lambda shard: steps.decide(
                workspace.uri,
                shard[0].key,
                (clustered.key, shard[1].key),
                shard[2],
                {i: split[i] for i in shard[2]},
                deciding,
                run.run_id,
                staging,
                key,
                None if copies is None else copies.key,
            ),
            list(zip(tile_refs, embedded, of_shard, strict=True)),
        )
        by_fate, kept_by_split = decisions.count_tiles(parts)
        by_decision: dict[str, int] = {}
        for fate, n in by_fate.items():
            decision = fate.split("/")[0]
            by_decision[decision] = by_decision.get(decision, 0) + n
        run.facts["tiles"] = {
            "cut": sum(ref.rows for ref in tile_refs),
            "by_decision": by_decision,
            "by_fate": by_fate,
            "kept_by_split": kept_by_split,
        }
        run.facts["planted"] = decisions.count_planted(parts)
        run.facts["lesions"] = decisions.count_guarded(parts)
        run.facts["review"] = decisions.count_verdicts(parts)
        run.check()
        augmented.withdraw(workspace)
        ManifestWriter(workspace, staging).publish()
    artifacts.verdicts(run.facts["review"])
    _augment(run, tile_refs)


def _augment(run: RunRecord, tile_refs: list[ShardRef]) -> None:
    """Write altered copies of the training tiles of some labels, where the settings ask for it."""
    settings, uri = run.settings, run.workspace.uri
    if not settings.augment_copies:
        return
    how = tile_augmentations.TileCopySettings(
        settings.labels_to_copy, settings.augment_copies, settings.copy_operations, settings.seed
    )
    with run.stage("augmented") as stage:
        made = run.in_order("augmented", lambda ref: steps.augment(uri, ref.key, how), tile_refs)
        stage.add(made)
        tile_augmentations.publish(uri, [ref.key for ref in made], run.run_id)
    run.facts["augmented"] = {
        name: sum(ref.counts[name] for ref in made) for name in ("tiles", "copies")
    }


def audit(run: RunRecord, tile_refs: list[ShardRef]) -> None:
    """Measure what predicts the films' labels without the breast, before and after curation."""
    keys = [ref.key for ref in tile_refs]
    with run.stage("shortcuts"):
        run.facts["shortcuts"] = steps.audit_shortcuts(run.workspace.uri, keys, run.settings.seed)


def report(
    run: RunRecord,
    tile_refs: list[ShardRef],
    embedded: list[ShardRef],
    encoder: ShardRef,
    clustered: ShardRef,
    scorer: ShardRef | None,
    copies: ShardRef | None,
    described: ShardRef,
) -> None:
    """Write the report and the run's record."""
    run.facts["shards"] = {
        "tiles": [ref.key for ref in tile_refs],
        "embeddings": [ref.key for ref in embedded],
        "encoder": encoder.key,
        "clusters": clustered.key,
        "scorer": None if scorer is None else scorer.key,
        "evidence": described.key,
        "duplicates": None if copies is None else copies.key,
    }
    run.write()  # the report reads it; written again when the report's own time is known
    with run.stage("report"):
        path = steps.report(run.workspace.uri, run.run_id, run.settings.exemplars)
    run.facts["report"] = path
    artifacts.summary(run.facts, run.run_id, path)


def split_of_films(settings: CurationSettings, used: list[Mammogram]) -> dict[str, str]:
    """Part of each film used, by mammogram_id."""
    how = settings.only("seed", "validation_fraction", "test_fraction")
    return decisions.split_films(used, decisions.SplitSettings(**how))
