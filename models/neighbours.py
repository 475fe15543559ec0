"""Exact k nearest neighbours in blocks of bounded memory.

A float32 matrix product finds all pairs that may be among the nearest; float64 differences of
these alone decide. With u = 2**-24 the product's error is at most (dim + 8) u (|x|^2 + |y|^2), so
no neighbour is lost. Ties are decided by the lower index.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.workers import Workers

QUERY_ROWS = 256
REFERENCE_ROWS = 8192
RECHECK_VALUES = 4_000_000  # float64 differences held at a time: 32 MB


class Neighbours(NamedTuple):
    """Nearest references of each query, by (distance, index).

    ``indices`` is int64 and ``distances`` float32, both of shape (n_queries, k).
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float32]


def nearest(queries: NDArray[np.floating], references: NDArray[np.floating], k: int) -> Neighbours:
    """Find the k nearest references of each query, by Euclidean distance.

    Parameters
    ----------
    queries : ndarray, shape (n_queries, dim)
        A query that is among the references finds itself, at distance 0.
    references : ndarray, shape (n_references, dim)
        At least one row.
    k : int
        At least 1; cut to the number of references.

    Raises
    ------
    ValueError
        Values that are not finite, no references, or rows of different lengths.
    """
    squares, indices = _nearest_squares(queries, references, k)
    return Neighbours(indices=indices, distances=np.sqrt(squares).astype(np.float32))


def distances_to_nearest(
    queries: NDArray[np.floating],
    rows: Any,
    k: int,
    chunk_rows: int = 65_536,
    workers: Workers | None = None,
) -> NDArray[np.float64]:
    """Measure the distance of each query to the k-th nearest row, reading the rows by chunks.

    Parameters
    ----------
    queries : ndarray, shape (n_queries, dim)
    rows : array, shape (n, dim)
        Anything that slices give arrays of: NumPy, Zarr.
    k : int
        At least 1. A query that is among the rows counts as its own nearest.
    chunk_rows : int
        Rows read at a time.
    workers : Workers or None
        Read a chunk each, and must reach the rows; None: this thread does.

    Returns
    -------
    ndarray of float64, shape (n_queries,)
        Infinite where n < k.
    """
    best = np.full((len(queries), k), np.inf)
    starts = range(0, rows.shape[0], chunk_rows)
    measure = partial(_squares_of_chunk, queries, rows, k, chunk_rows)
    for squares in map(measure, starts) if workers is None else workers.map(measure, starts):
        best = np.sort(np.concatenate([best, squares], axis=1), axis=1)[:, :k]
    distances: NDArray[np.float64] = np.sqrt(best[:, -1])
    return distances


def _squares_of_chunk(
    queries: NDArray[np.floating], rows: Any, k: int, chunk_rows: int, start: int
) -> NDArray[np.float64]:
    return _nearest_squares(queries, np.asarray(rows[start : start + chunk_rows]), k)[0]


def nearest_stored(
    queries: NDArray[np.floating], rows: Any, k: int, chunk_rows: int = 65_536
) -> Neighbours:
    """Find the k nearest rows of each query, as `nearest`, reading the rows by chunks.

    Parameters
    ----------
    queries : ndarray, shape (n_queries, dim)
    rows : array, shape (n, dim)
        Anything that slices give arrays of: NumPy, Zarr, Dask.
    k : int
        At least 1; cut to n.
    chunk_rows : int
        Rows read at a time.
    """
    k = min(k, rows.shape[0])
    squares = np.empty((len(queries), 0))
    indices = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, rows.shape[0], chunk_rows):
        found = _nearest_squares(queries, np.asarray(rows[start : start + chunk_rows]), k)
        squares = np.concatenate([squares, found[0]], axis=1)
        indices = np.concatenate([indices, found[1] + start], axis=1)
        order = np.argsort(squares, axis=1, kind="stable")[:, :k]  # indices rise: the lower first
        squares = np.take_along_axis(squares, order, axis=1)
        indices = np.take_along_axis(indices, order, axis=1)
    return Neighbours(indices=indices, distances=np.sqrt(squares).astype(np.float32))


def k_distances(rows: NDArray[np.floating], k: int) -> NDArray[np.float64]:
    """Measure the distance of each row to its k-th nearest, itself counted as the first.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
    k : int
        At least 1.

    Returns
    -------
    ndarray of float64, shape (n,)
        Infinite where n < k.
    """
    if len(rows) < k:
        return np.full(len(rows), np.inf)
    distances: NDArray[np.float64] = np.sqrt(_nearest_squares(rows, rows, k)[0][:, -1])
    return distances


def _nearest_squares(
    queries: NDArray[np.floating], references: NDArray[np.floating], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared distances and indices, shape (n_queries, k)."""
    x, y = _require_rows(queries, "queries"), _require_rows(references, "references")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"queries have {x.shape[1]} columns, references {y.shape[1]}.")
    if len(y) == 0:
        raise ValueError("There are no references to search.")
    if k < 1:
        raise ValueError(f"k={k} must be at least 1.")
    k = min(k, len(y))
    # a pile of equal rows must not cost its square: equal queries are searched once, and of
    # equal references only the first k can be among the nearest
    x_rows, inverse = _distinct(x)
    kept = _first_copies(inverse if x is y else _distinct(y)[1], k)
    x, y = x[x_rows], y[kept]
    filters = _Filter.of(x, y)
    indices = np.empty((len(x), k), dtype=np.int64)
    squares = np.empty((len(x), k), dtype=np.float64)
    for start in range(0, len(x), QUERY_ROWS):
        rows = slice(start, start + QUERY_ROWS)
        squares[rows], indices[rows] = _nearest_of_block(x, y, rows, k, filters)
    return squares[inverse], kept[indices[inverse]]


def _distinct(rows: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the different rows: their numbers, and for each row which of these it equals."""
    plain = np.ascontiguousarray(
        rows + 0.0
    )  # -0.0 becomes 0.0, so that equal rows have equal bytes
    keys = plain.view(np.dtype((np.void, plain.itemsize * plain.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first, inverse


def _first_copies(group: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Numbers, rising, of the first k members of each group."""
    order = np.argsort(group, kind="stable")
    grouped = group[order]
    rank = np.arange(len(group)) - np.searchsorted(grouped, grouped)
    return np.sort(order[rank < k])


class _Filter(NamedTuple):
    """Float32 copies, centred and scaled to at most 1, with their squared norms."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    x_squares: NDArray[np.float32]
    y_squares: NDArray[np.float32]
    unit: float
    error: float

    @classmethod
    def of(cls, x: NDArray[np.floating], y: NDArray[np.floating]) -> _Filter:
        centre = y.mean(axis=0, dtype=np.float64)
        unit = max(np.abs(part - centre).max(initial=0.0) for part in (x, y)) or 1.0
        small_x = ((x - centre) / unit).astype(np.float32)
        small_y = ((y - centre) / unit).astype(np.float32)
        return cls(
            x=small_x,
            y=small_y,
            x_squares=np.square(small_x).sum(axis=1),
            y_squares=np.square(small_y).sum(axis=1),
            unit=float(unit),
            error=(x.shape[1] + 8) * 2.0**-23,  # twice the bound, as the norms are rounded too
        )

    def bounds(
        self, rows: slice, columns: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lower and upper bounds of the squared distances of a block, in the filter's unit."""
        sums = self.x_squares[rows, None] + self.y_squares[None, columns]
        lower = self.x[rows] @ self.y[columns].T
        lower *= -2
        lower += sums
        sums *= np.float32(self.error)
        lower -= sums
        sums *= 2
        sums += lower
        return lower, sums


def _nearest_of_block(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    rows: slice,
    k: int,
    filters: _Filter,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Squared distances and indices, shape (rows, k), over all blocks of references."""
    queries = x[rows].astype(np.float64)
    n = len(queries)
    best = np.full((n, k), np.inf)
    indices = np.full((n, k), len(y), dtype=np.int64)
    for start in range(0, len(y), REFERENCE_ROWS):
        columns = slice(start, min(start + REFERENCE_ROWS, len(y)))
        lower, upper = filters.bounds(rows, columns)
        found, candidates = _candidates(lower, upper, best[:, -1] / filters.unit**2, k)
        squares = _squared_distances(queries, y, found, candidates + start)
        best, indices = _merge(best, indices, found, candidates + start, squares)
    return best, indices


def _candidates(
    lower: NDArray[np.float32],
    upper: NDArray[np.float32],
    limit: NDArray[np.float64],
    k: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (row, column) of a block that may be among the k nearest; ``limit`` is the best so far.

    Where the k nearest so far all lie at distance 0, later references cannot win.
    """
    if k < upper.shape[1]:
        reach = np.partition(upper, k - 1, axis=1)[:, k - 1]
    else:
        reach = np.full(len(upper), np.inf, dtype=np.float32)
    reach = np.minimum(reach, np.nextafter(limit.astype(np.float32), np.float32(np.inf)))
    reach[limit == 0] = -np.inf
    found, candidates = np.nonzero(lower <= reach[:, None])
    return found, candidates


def _squared_distances(
    queries: NDArray[np.float64],
    y: NDArray[np.floating],
    found: NDArray[np.int64],
    candidates: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Exact squared distances of pairs, shape (n_pairs,)."""
    squares = np.empty(len(found), dtype=np.float64)
    step = max(1, RECHECK_VALUES // max(1, y.shape[1]))
    for start in range(0, len(found), step):
        part = slice(start, start + step)
        difference = queries[found[part]] - y[candidates[part]]
        squares[part] = np.einsum("ij,ij->i", difference, difference)
    return squares


def _merge(
    best: NDArray[np.float64],
    indices: NDArray[np.int64],
    found: NDArray[np.int64],
    candidates: NDArray[np.int64],
    squares: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Join the best so far with new pairs; the k lowest of each row by (square, index)."""
    n, k = best.shape
    row = np.concatenate([np.repeat(np.arange(n), k), found])
    square = np.concatenate([best.ravel(), squares])
    index = np.concatenate([indices.ravel(), candidates])
    order = np.lexsort((index, square, row))
    starts = np.searchsorted(row[order], np.arange(n))
    chosen = order[starts[:, None] + np.arange(k)]  # (n, k)
    return square[chosen], index[chosen]


def _require_rows(rows: NDArray[np.floating], name: str) -> NDArray[np.floating]:
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"{name} must have shape (n, dim), not {rows.shape}.")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"{name}: row {bad} holds a value that is not finite.")
    return rows
