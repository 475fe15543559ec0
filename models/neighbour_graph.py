"""The nearest rows of every row, exact, chunk by chunk: for graphs that no process holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_array

from models.neighbours import Neighbours
from models.pairs.block_search import nearest_of_blocks
from models.pairs.blocks import Blocks, is_stored, require_matrix, scratch_folder, stored
from models.pairs.nearest import nearest_rows
from models.pairs.projection import Rows
from models.workers import DaskWorkers, ThreadWorkers

CHUNK_ROWS = 32_768


def neighbour_chunks(
    rows: ArrayLike,
    k: int,
    *,
    n_jobs: int | None = None,
    client: Any = None,
    scratch: str | None = None,
) -> Iterator[Neighbours]:
    """Find the k nearest rows of each row, itself counted.

    Of rows at the same distance any may be taken; the distances are the same in every case.

    Parameters
    ----------
    rows : array, shape (n, dim)
        At least one: NumPy, a memory map, Dask or Zarr. Arrays of Dask and Zarr, and all rows where
        there is a client, are sorted into blocks on disk, and so is the graph.
    k : int
        At least 1; cut to n.
    n_jobs : int or None
        Threads; None is one a core.
    client : distributed.Client or None
        Its workers do the work.
    scratch : str or None
        Folder for the blocks that all workers reach; None: a temporary folder.

    Yields
    ------
    Neighbours
        Of the next rows in the order that they came, at most 32,768; nearest first.

    Raises
    ------
    ValueError
        A value is not finite, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1.")
    if is_stored(rows) or client is not None:
        source = rows if is_stored(rows) else _checked(rows)
        require_matrix(source)
        yield from _by_blocks(source, k, n_jobs, client, scratch)
    else:
        yield from _in_memory(_checked(rows), k, n_jobs)


def _checked(rows: ArrayLike) -> Rows:
    checked: Rows = check_array(rows, dtype=[np.float64, np.float32], order="C")
    return checked


def _in_memory(rows: Rows, k: int, n_jobs: int | None) -> Iterator[Neighbours]:
    order, _, _, found = nearest_rows(rows, k, ThreadWorkers(n_jobs))
    position = np.empty(len(rows), dtype=np.int64)
    position[order] = np.arange(len(rows))
    for start in range(0, len(rows), CHUNK_ROWS):
        part = position[start : start + CHUNK_ROWS]
        distances = np.sqrt(found.squares[part]).astype(np.float32)
        yield Neighbours(order[found.places[part]], distances)


def _by_blocks(
    rows: Any, k: int, n_jobs: int | None, client: Any, scratch: str | None
) -> Iterator[Neighbours]:
    """Bring the blocks' graphs into the rows' order by a file."""
    n = rows.shape[0]
    k = min(k, n)
    workers = ThreadWorkers(n_jobs) if client is None else DaskWorkers(client)
    with scratch_folder(scratch) as folder:
        blocks = Blocks.sort(stored(rows, folder, client), folder, workers, k=k)
        order = blocks.order()
        files = (
            np.memmap(f"{folder}/graph-{name}", dtype, "w+", shape=(n, k))
            for name, dtype in (("indices", np.int64), ("distances", np.float32))
        )
        indices, distances = files
        start = 0
        for found in nearest_of_blocks(blocks, k, workers):
            numbers = order[start : start + len(found.squares)]
            start += len(numbers)
            indices[numbers] = order[found.places]
            distances[numbers] = np.sqrt(found.squares)
        for start in range(0, n, CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            yield Neighbours(np.array(indices[chunk]), np.array(distances[chunk]))
