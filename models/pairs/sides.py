"""Rows as the compiled functions see them, and distances to boxes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.pairs.leaves import Leaves
from models.pairs.products import HUGE, compiled, load_queries, load_targets, summing
from models.pairs.projection import Projection


class Side(NamedTuple):
    """One set of rows as the compiled functions see it; see `Leaves`.

    Parameters
    ----------
    rows, order, coordinates, starts, low, high, error : ndarray
        As in `Leaves`.
    itself : ndarray of int64, shape (n,)
        0, 1, 2 ...: the order of rows that lie in it already.
    uniform : ndarray of bool, shape (n_leaves,)
        Leaves known to hold core rows of one cluster only.
    offset : int
        Of the positions in `Density`.
    wide : ndarray of float32, shape (n, more columns), or (n, 0)
        More coordinates, by position: see `Projection.widened`. Their error is that of the others.
    """

    rows: NDArray[np.floating]
    order: NDArray[np.int64]
    coordinates: NDArray[np.float32]
    starts: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    error: NDArray[np.float64]
    itself: NDArray[np.int64]
    uniform: NDArray[np.bool_]
    offset: int
    wide: NDArray[np.float32]

    @classmethod
    def of(cls, leaves: Leaves, offset: int = 0) -> Side:
        """Look at leaves whose positions start at ``offset``."""
        return cls(
            leaves.rows,
            leaves.order,
            leaves.coordinates,
            leaves.starts,
            leaves.low,
            leaves.high,
            leaves.error,
            np.arange(len(leaves.order)),
            np.zeros(len(leaves), dtype=np.bool_),
            offset,
            np.empty((len(leaves.order), 0), dtype=np.float32),
        )

    def gathered(self) -> Side:
        """Give the side with a copy of its rows in the order of their positions: read faster."""
        return self._replace(rows=np.ascontiguousarray(self.rows[self.order]), order=self.itself)

    def widened(self, projection: Projection) -> Side:
        """Give the side with more coordinates, where the projection has any and rows lie in order.

        Searches for few of very many are faster by them.
        """
        wider = projection.widened()
        if wider is None or self.order is not self.itself:
            return self
        return self._replace(wide=wider.apply(self.rows)[0])


@compiled
def box_distance(low_a, high_a, low_b, high_b, limit):  # type: ignore[no-untyped-def]
    """Squared distance of two boxes; where it exceeds the limit, a part that does too."""
    total = 0.0
    for k in range(len(low_a)):
        gap = max(np.float64(low_b[k]) - high_a[k], np.float64(low_a[k]) - high_b[k])
        if gap > 0:
            total += gap * gap
            if total > limit:
                break
    return total


@summing
def row_distance(row, low, high):  # type: ignore[no-untyped-def]
    """Squared distance of a row to a box."""
    total = np.float32(0.0)
    for k in range(len(row)):
        gap = max(max(low[k] - row[k], row[k] - high[k]), np.float32(0.0))
        total += gap * gap
    return total


@summing
def wide_distance(a, b):  # type: ignore[no-untyped-def]
    """Squared distance of two rows of coordinates, relative error below 1e-5."""
    total = np.float32(0.0)
    for k in range(len(a)):
        difference = a[k] - b[k]
        total += difference * difference
    return total


@summing
def near_box(coordinates, start, stop, low, high, limit, positions, found):  # type: ignore[no-untyped-def]
    """Append the positions, start up to stop, of rows near a box; how many there are then."""
    for p in range(start, stop):
        if row_distance(coordinates[p], low, high) <= limit:
            positions[found] = p
            found += 1
    return found


@compiled
def load(side, scale, full, queries, n_queries):  # type: ignore[no-untyped-def]
    """Load the queries of a side: all columns, or the coordinates; see `load_queries`."""
    if full:
        load_queries(side.rows, side.order, scale, queries, n_queries)
    else:
        load_queries(side.coordinates, side.itself, 1.0, queries, n_queries)


@compiled
def load_some(side, scale, full, limit, centre, targets, first, last):  # type: ignore[no-untyped-def]
    """Load targets of a side: all columns, or the coordinates; see `load_targets`."""
    if full:
        load_targets(side.rows, side.order, scale, limit, centre, targets, first, last)
    else:
        load_targets(side.coordinates, side.itself, 1.0, limit, centre, targets, first, last)


@compiled
def reaching(side, rows, squares, scale, low, high, error):  # type: ignore[no-untyped-def]
    """Rows (positions in a side) whose reach, given as squared distance, leads into a box."""
    chosen = np.empty(len(rows), dtype=np.int64)
    found = 0
    leaf_rows, coordinates, errors = side.starts[1], side.coordinates, side.error
    for p, square in zip(rows, squares):  # noqa: B905  compiled: zip has no strict
        radius = np.sqrt(square) * scale + errors[p // leaf_rows] + error
        limit = np.float32(min(radius * radius * (1.0 + 1e-5), HUGE))
        if row_distance(coordinates[p], low, high) <= limit:
            chosen[found] = p
            found += 1
    return chosen[:found].copy()
