"""Rows in small groups that lie close together, each with its box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.pairs.projection import ROUNDING, Projection, Rows

LEAF_ROWS = 128


@dataclass(frozen=True)
class Leaves:
    """Rows ordered so that neighbours in the order are neighbours in space.

    A *position* is a row's number in that order.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
        As they came.
    order : ndarray of int64, shape (n,)
        Row number at each position.
    coordinates : ndarray of float32, shape (n, width)
        By position, see `Projection`.
    starts : ndarray of int64, shape (n_leaves + 1,)
        Positions of each leaf: ``starts[i]`` up to ``starts[i + 1]``.
    low, high : ndarray of float32, shape (n_leaves, width)
        Box of each leaf.
    error : ndarray of float64, shape (n_leaves,)
        How far, at most, the coordinates of a leaf's rows are off.
    """

    rows: Rows
    order: NDArray[np.int64]
    coordinates: NDArray[np.float32]
    starts: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    error: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, rows: Rows, projection: Projection, leaf_rows: int = LEAF_ROWS) -> Leaves:
        """Group rows, shape (n, dim), into leaves of at most ``leaf_rows``."""
        coordinates, lengths = projection.apply(rows)
        order = np.arange(len(rows))
        starts = split(coordinates, order, leaf_rows)
        coordinates = coordinates[order]
        if len(rows):
            low = np.minimum.reduceat(coordinates, starts[:-1], axis=0)
            high = np.maximum.reduceat(coordinates, starts[:-1], axis=0)
            error = ROUNDING * np.maximum.reduceat(lengths[order], starts[:-1])
        else:
            low = high = np.empty((0, coordinates.shape[1]), dtype=np.float32)
            error = np.empty(0)
        return cls(rows, order, coordinates, starts, low, high, error)


def split(
    coordinates: NDArray[np.float32], order: NDArray[np.int64], leaf_rows: int
) -> NDArray[np.int64]:
    """Order rows by halving the widest side again and again; the starts of the leaves.

    All leaves have a multiple of ``leaf_rows`` rows but the last.
    """
    starts: list[int] = []
    todo = [(0, len(order))]
    while todo:
        start, stop = todo.pop()
        if stop - start <= leaf_rows:
            starts.append(start)
            continue
        part = order[start:stop]
        axis = _widest(coordinates, part)
        half = -(-(stop - start) // (2 * leaf_rows)) * leaf_rows
        order[start:stop] = part[np.argpartition(coordinates[part, axis], half - 1)]
        todo.append((start + half, stop))
        todo.append((start, start + half))
    return np.array([*sorted(set(starts)), len(order)], dtype=np.int64)


@njit(nogil=True, cache=True)
def _widest(coordinates, part):  # type: ignore[no-untyped-def]
    width = coordinates.shape[1]
    low, high = coordinates[part[0]].copy(), coordinates[part[0]].copy()
    for i in part:
        for j in range(width):
            low[j] = min(low[j], coordinates[i, j])
            high[j] = max(high[j], coordinates[i, j])
    return np.argmax(high - low)
