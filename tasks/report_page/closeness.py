"""Nearest neighbours of a few tiles among all embeddings, exact, one block in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models.neighbours import nearest
from models.scaling import fit_scaler
from storage.workspace import Workspace

KIND = "embeddings"
ARRAY = "embeddings.zarr"
TABLE = "embeddings.parquet"
BLOCK_ROWS = 64 * 1024

Block = npt.NDArray[np.float32]


def neighbours(
    workspace: Workspace, embedding_keys: Sequence[str], tile_ids: Sequence[str], *, k: int
) -> dict[str, list[tuple[str, float]]]:
    """Nearest tiles of each tile, itself left out.

    Parameters
    ----------
    workspace : Workspace
        Where the embeddings lie.
    embedding_keys : sequence of str
        Shards to search, which together also set the scale (mean 0, standard deviation 1).
    tile_ids : sequence of str
        Whose neighbours; a tile without an embedding is missing from the result.
    k : int
        How many at most.

    Returns
    -------
    dict of str to list of (tile_id, distance)
        Nearest first; distance in standardised embedding space.
    """
    keys = sorted(embedding_keys)
    names, queries = _embeddings_of(workspace, keys, sorted(set(tile_ids)))
    if not names:
        return {}
    scaler = fit_scaler(block for _, _, block in _blocks(workspace, keys))
    scaled = scaler.transform(queries)
    best = np.full((len(names), k + 1), np.inf)
    places = np.full((len(names), k + 1, 2), -1, dtype=np.int64)  # shard, row
    for shard, start, block in _blocks(workspace, keys):
        if not len(block):
            continue
        indices, distances = nearest(scaled, scaler.transform(block), k + 1)
        here = np.stack([np.full_like(indices, shard), indices + start], axis=2)
        best, places = _merged(best, places, distances.astype(np.float64), here, k + 1)
    found = _names_of(workspace, keys, places)
    out: dict[str, list[tuple[str, float]]] = {}
    for i, name in enumerate(names):
        near = [
            (found[(int(s), int(r))], float(d))
            for (s, r), d in zip(places[i], best[i], strict=True)
            if s >= 0
        ]
        out[name] = [pair for pair in near if pair[0] != name][:k]
    return out


def _blocks(workspace: Workspace, keys: Sequence[str]) -> Iterator[tuple[int, int, Block]]:
    """Place of the shard, first row, rows: (at most BLOCK_ROWS, dim)."""
    for shard, key in enumerate(keys):
        array = workspace.shard(KIND, key).array(ARRAY)
        for start in range(0, max(1, array.shape[0]), BLOCK_ROWS):
            yield shard, start, np.asarray(array[start : start + BLOCK_ROWS])


def _ids(workspace: Workspace, key: str) -> pa.ChunkedArray:
    return workspace.shard(KIND, key).table(TABLE, columns=["tile_id"])["tile_id"]


def _embeddings_of(
    workspace: Workspace, keys: Sequence[str], tile_ids: Sequence[str]
) -> tuple[list[str], Block]:
    """Names that have an embedding, and these: (n, dim)."""
    wanted = pa.array(tile_ids, pa.string())
    names: list[str] = []
    rows: list[Block] = []
    for key in keys:
        ids = _ids(workspace, key)
        at = np.flatnonzero(np.asarray(pc.is_in(ids, wanted)))
        if len(at):
            array = workspace.shard(KIND, key).array(ARRAY)
            rows += [np.asarray(array[int(row)]) for row in at]
            names += ids.take(pa.array(at)).to_pylist()
    return names, np.stack(rows) if rows else np.empty((0, 0), np.float32)


def _merged(
    best: npt.NDArray[np.float64],
    places: npt.NDArray[np.int64],
    distances: npt.NDArray[np.float64],
    here: npt.NDArray[np.int64],
    k: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Nearest of two lists a query; equal distances go by shard and row."""
    both = np.concatenate([best, distances], axis=1)
    where = np.concatenate([places, here], axis=1)
    order = np.lexsort((where[..., 1], where[..., 0], both), axis=1)[:, :k]
    return (
        np.take_along_axis(both, order, axis=1),
        np.take_along_axis(where, order[..., None], axis=1),
    )


def _names_of(
    workspace: Workspace, keys: Sequence[str], places: npt.NDArray[np.int64]
) -> dict[tuple[int, int], str]:
    out: dict[tuple[int, int], str] = {}
    flat = places.reshape(-1, 2)
    for shard in np.unique(flat[flat[:, 0] >= 0, 0]):
        rows = np.unique(flat[flat[:, 0] == shard, 1])
        names = _ids(workspace, keys[int(shard)]).take(pa.array(rows)).to_pylist()
        out |= {(int(shard), int(r)): str(n) for r, n in zip(rows, names, strict=True)}
    return out
