"""Cluster any embeddings: rows in, one labelled row each out, in the order of the input."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
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
            if settings.method == "neighbours":
                figures = {"k": min(settings.k, n)}
                tables = _neighbours(embeddings.rows, settings, client)
            else:
                columns, figures = _columns(embeddings.rows, settings, client)
                tables = iter([pa.table(columns)])
            figures = {"rows": n, "columns": dim} | figures
            if embeddings.ids is not None and embeddings.ids.null_count:
                figures["rows_without_tile_id"] = embeddings.ids.null_count
            _write(settings, embeddings, tables, figures, started)
        except ValueError as e:
            raise InputError(f"{settings.embeddings}: {e}") from e
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
    estimator = _estimator(settings, client)
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
        return KMeansClusterer(
            settings.n_clusters,
            algorithm=settings.algorithm,
            random_state=settings.seed,
            **where,
        )
    return HDBSCANClusterer(
        settings.min_cluster_size,
        min_samples=settings.min_samples,
        exact=settings.exact,
        **where,
    )


def _neighbours(rows: Any, settings: ClusterFileSettings, client: Any) -> Iterator[pa.Table]:
    from models.neighbour_graph import neighbour_chunks

    where = {"n_jobs": settings.threads, "client": client, "scratch": settings.scratch}
    for found in neighbour_chunks(rows, settings.k, **where):
        k = found.indices.shape[1]
        lists = pa.FixedSizeListArray.from_arrays
        neighbours = lists(pa.array(found.indices.ravel()), k)
        distances = lists(pa.array(found.distances.ravel()), k)
        yield pa.table({"neighbours": neighbours, "distances": distances})


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
    tables: Iterator[pa.Table],
    figures: dict[str, Any],
    started: float,
) -> None:
    """Write tables, whose rows follow each other, aside as they come; then rename.

    The seconds from the start to the first table are added to the figures.
    """
    place = Path(settings.out).absolute()
    aside = place.with_name(f".{place.name}-{uuid.uuid4().hex}")
    first = 0
    try:
        with ExitStack() as held:
            writer = None
            for table in tables:
                rows = slice(first, first + len(table))
                first += len(table)
                named = {} if embeddings.ids is None else {"tile_id": embeddings.ids[rows]}
                row = pa.array(np.arange(rows.start, rows.stop, dtype=np.int64))
                columns = dict(zip(table.column_names, table.columns, strict=True))
                whole = pa.table({"row": row} | named | columns)
                if writer is None:  # all is found: the rest is writing
                    figures["seconds"] = round(time.monotonic() - started, 3)
                    record = {"settings": settings.model_dump(), "figures": figures}
                    schema = whole.schema.with_metadata({"mammosift": json.dumps(record)})
                    writer = held.enter_context(pq.ParquetWriter(aside, schema))
                writer.write_table(whole.cast(writer.schema))
        aside.replace(place)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
