"""Cluster any embeddings: rows in, one labelled row each out, in the order of the input."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.embeddings import Embeddings, open_embeddings
from storage.errors import InputError
from tasks.cluster_settings import ClusterFileSettings

BATCH_ROWS = 65_536


def cluster_file(settings: ClusterFileSettings, client: Any = None) -> dict[str, Any]:
    """Read, cluster and write.

    Parameters
    ----------
    settings : ClusterFileSettings
    client : distributed.Client or None
        Its workers do the work.

    Returns
    -------
    dict
        rows, columns, clusters, noise, seconds, and eps where it was used; these are in the file's
        metadata too, under ``mammosift``, with the settings.

    Raises
    ------
    InputError
        The embeddings cannot be used.
    """
    started = time.monotonic()
    _check_out(Path(settings.out).absolute())
    with open_embeddings(settings.embeddings) as opened, tempfile.TemporaryDirectory() as folder:
        embeddings = opened
        n, dim = embeddings.rows.shape
        if n == 0:
            raise InputError(f"{settings.embeddings} holds no rows.")
        try:
            if settings.standardise:
                embeddings = _standardised(opened, Path(folder))
            columns, figures = _columns(embeddings.rows, settings, client)
        except ValueError as e:
            raise InputError(f"{settings.embeddings}: {e}") from e
        figures = {"rows": n, "columns": dim} | figures
        if embeddings.ids is not None and embeddings.ids.null_count:
            figures["rows_without_tile_id"] = embeddings.ids.null_count
        figures["seconds"] = round(time.monotonic() - started, 3)
        _write(settings, embeddings, columns, figures)
    return figures


def _check_out(place: Path) -> None:
    """Refuse a place that could not be written at the end."""
    if place.is_dir():
        raise InputError(
            f"--out {place} is a folder; name a file in it, e.g. {place}/labels.parquet."
        )
    if not place.parent.is_dir():
        raise InputError(f"the folder of --out {place} does not exist; make it first.")


def _columns(
    rows: Any, settings: ClusterFileSettings, client: Any
) -> tuple[dict[str, pa.Array], dict[str, Any]]:
    if settings.method == "neighbours":
        return _neighbours(rows, settings), {"k": min(settings.k, len(rows))}
    estimator = _estimator(settings, client)
    if settings.method == "hdbscan" and not isinstance(rows, np.ndarray):
        rows = np.asarray(rows[...])
    estimator.fit(rows)
    columns = {
        "cluster_label": pa.array(estimator.labels_, pa.int32()),
        "membership": pa.array(estimator.membership_, pa.float32()),
        "outlier_score": pa.array(estimator.outlier_score_, pa.float32()),
    }
    figures: dict[str, Any] = {
        "clusters": int(estimator.labels_.max()) + 1,
        "noise": int(np.count_nonzero(estimator.labels_ < 0)),
    }
    if settings.method == "dbscan":
        columns["n_within_eps"] = pa.array(estimator.counts_, pa.int32())
        figures["eps"] = estimator.eps_
    if settings.method == "hdbscan" and hasattr(estimator, "core_distances_"):
        columns["core_distance"] = pa.array(estimator.core_distances_, pa.float64())
    if settings.method == "kmeans":
        columns["distance"] = pa.array(estimator.distances_, pa.float64())
        figures["inertia"] = estimator.inertia_
    return columns, figures


def _estimator(settings: ClusterFileSettings, client: Any) -> Any:
    from models.dbscan import DBSCANClusterer
    from models.hdbscan import HDBSCANClusterer
    from models.kmeans import KMeansClusterer

    where = {"n_jobs": settings.threads, "client": client, "scratch": settings.scratch}
    if settings.method == "dbscan":
        return DBSCANClusterer(settings.eps, min_samples=settings.min_samples, **where)
    if settings.method == "kmeans":
        return KMeansClusterer(settings.n_clusters, random_state=settings.seed, **where)
    return HDBSCANClusterer(
        settings.min_cluster_size,
        min_samples=settings.min_samples,
        exact=settings.exact,
        n_jobs=settings.threads,
    )


def _neighbours(rows: Any, settings: ClusterFileSettings) -> dict[str, pa.Array]:
    from models.pairs.nearest import nearest_rows
    from models.workers import ThreadWorkers

    values = np.asarray(rows[...]) if not isinstance(rows, np.ndarray) else rows
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise ValueError(f"row {int(np.argmin(finite))} holds a value that is not finite.")
    leaves, _, found = nearest_rows(values, settings.k, ThreadWorkers(settings.threads))
    k = found.places.shape[1]
    places = np.empty((len(values), k), dtype=np.int64)
    distances = np.empty((len(values), k), dtype=np.float32)
    places[leaves.order] = leaves.order[found.places]
    distances[leaves.order] = np.sqrt(found.squares)
    return {
        "neighbours": pa.FixedSizeListArray.from_arrays(pa.array(places.ravel()), k),
        "distances": pa.FixedSizeListArray.from_arrays(pa.array(distances.ravel()), k),
    }


def _standardised(embeddings: Embeddings, folder: Path) -> Embeddings:
    """Write standardised rows to a memory map, batch by batch."""
    from models.pairs.blocks import require_finite
    from models.scaling import fit_scaler

    rows = embeddings.rows
    n, dim = rows.shape
    starts = range(0, n, BATCH_ROWS)

    def batch(start: int) -> NDArray[Any]:
        values = np.asarray(rows[start : start + BATCH_ROWS])
        require_finite(values, start)
        return values

    scaler = fit_scaler(batch(start) for start in starts)
    out = np.lib.format.open_memmap(
        folder / "rows.npy", mode="w+", dtype=np.float32, shape=(n, dim)
    )
    for start in starts:
        out[start : start + BATCH_ROWS] = scaler.transform(batch(start))
    return Embeddings(out, embeddings.ids)


def _write(
    settings: ClusterFileSettings,
    embeddings: Embeddings,
    columns: dict[str, pa.Array],
    figures: dict[str, Any],
) -> None:
    """Write aside, then rename."""
    named = {} if embeddings.ids is None else {"tile_id": embeddings.ids}
    row = pa.array(np.arange(figures["rows"], dtype=np.int64))
    table = pa.table({"row": row} | named | columns)
    record = {"settings": settings.model_dump(), "figures": figures}
    table = table.replace_schema_metadata({"mammosift": json.dumps(record)})
    place = Path(settings.out).absolute()
    aside = place.with_name(f".{place.name}-{uuid.uuid4().hex}")
    try:
        pq.write_table(table, aside)
        aside.replace(place)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
