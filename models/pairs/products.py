"""Candidate pairs of a few rows and many, by one matrix product a tile.

A tile holds the squared distances of its pairs less the limit, as a single product: a query is
``[-2x, 1, |x|^2]``, a target ``[y, |y|^2 - limit, 1]``. Both are centred on the queries first, so
that float32 is enough; what rounding can do at most is taken off, so that an entry that is not
negative proves its pair to lie beyond the limit.

The functions here are compiled and hold no lock; they work on buffers given to them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.pairs.leaves import LEAF_ROWS
from models.pairs.projection import FAR

QUERY_ROWS = 256
TILE_ROWS = 512
STRIP = 64  # a tile's width is a multiple of this; a strip without hits costs one branch

WORDS = STRIP // 2
SIGNS = np.uint64(0x8000000080000000)

ROOM = QUERY_ROWS * (TILE_ROWS + LEAF_ROWS)  # pairs of one tile at most

UNIT = 2.0**-24
HUGE = 1e30
TINY = 1e-30  # a limit of 0 must not be lost: squares below 1e-38 are 0 in float32


class Queries(NamedTuple):
    """Up to `QUERY_ROWS` rows, centred on their mean, as one factor of a product.

    Parameters
    ----------
    x : ndarray of float32, 1-d
        Rows of columns + 2.
    squares : ndarray of float32, shape (QUERY_ROWS,)
        Squared lengths.
    positions : ndarray of int64, shape (QUERY_ROWS,)
    centre : ndarray of float64, shape (columns,)
    """

    x: NDArray[np.float32]
    squares: NDArray[np.float32]
    positions: NDArray[np.int64]
    centre: NDArray[np.float64]

    @classmethod
    def of(cls, columns: int) -> Queries:
        """Allocate for rows of so many columns at most."""
        return cls(
            x=np.empty(QUERY_ROWS * (columns + 2), dtype=np.float32),
            squares=np.empty(QUERY_ROWS, dtype=np.float32),
            positions=np.empty(QUERY_ROWS, dtype=np.int64),
            centre=np.empty(columns, dtype=np.float64),
        )


class Targets(NamedTuple):
    """Up to `TILE_ROWS` + `LEAF_ROWS` rows, centred on the queries, as the other factor.

    Parameters
    ----------
    y : ndarray of float32, 1-d
        Rows of columns + 2.
    squares : ndarray of float32, shape (n,)
    positions : ndarray of int64, shape (n,)
    """

    y: NDArray[np.float32]
    squares: NDArray[np.float32]
    positions: NDArray[np.int64]

    @classmethod
    def of(cls, columns: int) -> Targets:
        """Allocate for rows of so many columns at most."""
        width = TILE_ROWS + LEAF_ROWS
        return cls(
            y=np.empty(width * (columns + 2), dtype=np.float32),
            squares=np.empty(width, dtype=np.float32),
            positions=np.empty(width, dtype=np.int64),
        )


class Hits(NamedTuple):
    """A product and the places of its negative entries.

    Parameters
    ----------
    product : ndarray of float32, 1-d
    query, target : ndarray of int16
        Place of each hit.
    value : ndarray of float32
        Its squared distance less the limit and less the margin.
    """

    product: NDArray[np.float32]
    query: NDArray[np.int16]
    target: NDArray[np.int16]
    value: NDArray[np.float32]

    @classmethod
    def blank(cls) -> Hits:
        """Allocate for one tile."""
        return cls(
            product=np.empty(ROOM, dtype=np.float32),
            query=np.empty(ROOM, dtype=np.int16),
            target=np.empty(ROOM, dtype=np.int16),
            value=np.empty(ROOM, dtype=np.float32),
        )


def compiled(function: Any) -> Any:
    """Compile once for all runs on this machine, to run without the interpreter's lock."""
    return njit(nogil=True, cache=True)(function)


def summing(function: Any) -> Any:
    """Compile as `compiled` does, with sums in whatever order is fast: their bounds allow any."""
    return njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})(function)


@compiled
def margin(columns):  # type: ignore[no-untyped-def]
    """Bound of the product's rounding, relative to ``|x|^2 + |y|^2`` and the limit.

    K = columns + 2 products are added: K 2^-24 of the sum of their sizes, which is at most twice
    the squares and the limit; the squares are sums too; centring rounds each value once.
    """
    return (3 * (columns + 2) + 10) * UNIT


@summing
def load_queries(values, order, scale, queries, n_queries):  # type: ignore[no-untyped-def]
    """Centre the rows at ``queries.positions`` into ``queries.x``, (n_queries, columns + 2).

    ``order`` gives the number of the row at a position, ``scale`` brings values to units. The
    limit is put in with the targets, or by `limit_queries`.
    """
    columns = values.shape[1]
    width = columns + 2
    centre = queries.centre
    for k in range(columns):
        centre[k] = 0.0
    for i in range(n_queries):
        row = values[order[queries.positions[i]]]
        for k in range(columns):
            centre[k] += row[k]
    for k in range(columns):
        centre[k] /= n_queries
    kept = np.float32(1.0 - margin(columns))
    for i in range(n_queries):
        row = values[order[queries.positions[i]]]
        out = queries.x[i * width : (i + 1) * width]
        square = np.float32(0.0)
        for k in range(columns):
            value = np.float32(max(-FAR, min(FAR, (row[k] - centre[k]) * scale)))
            out[k] = np.float32(-2.0) * value
            square += value * value
        queries.squares[i] = square
        out[columns] = 1.0
        out[columns + 1] = square * kept


@compiled
def limit_queries(queries, n_queries, columns, limits):  # type: ignore[no-untyped-def]
    """Give each query a squared limit of its own, in units; the targets' are then 0.

    A limit below 0 lets nothing pass.
    """
    width = columns + 2
    error = margin(columns)
    for i in range(n_queries):
        limit = min(max(limits[i], TINY), HUGE) * (1.0 + error) if limits[i] >= 0 else -HUGE
        queries.x[i * width + columns + 1] = queries.squares[i] * (1.0 - error) - limit


@summing
def load_targets(values, order, scale, limit, centre, targets, first, last):  # type: ignore[no-untyped-def]
    """Centre the rows at ``targets.positions``, places first up to last, into ``targets.y``."""
    columns = values.shape[1]
    width = columns + 2
    y, squares, positions = targets
    error = margin(columns)
    less = limit * (1.0 + error)
    for at in range(first, last):
        row = values[order[positions[at]]]
        out = y[at * width : (at + 1) * width]
        square = np.float32(0.0)
        for k in range(columns):
            value = np.float32(max(-FAR, min(FAR, (row[k] - centre[k]) * scale)))
            out[k] = value
            square += value * value
        squares[at] = square
        out[columns] = square * (1.0 - error) - less
        out[columns + 1] = 1.0


@compiled
def find_hits(queries, n_queries, targets, n_targets, columns, hits):  # type: ignore[no-untyped-def]
    """Multiply, and list the places of all negative entries; how many there are."""
    width = columns + 2
    padded = (n_targets + STRIP - 1) // STRIP * STRIP
    targets.y[n_targets * width : padded * width] = 0.0
    for at in range(n_targets, padded):
        targets.y[at * width + columns] = np.inf
    x = queries.x[: n_queries * width].reshape(n_queries, width)
    y = targets.y[: padded * width].reshape(padded, width)
    product = hits.product[: n_queries * padded].reshape(n_queries, padded)
    np.dot(x, y.T, product)
    # the signs of two entries a word, a strip a row: scanned far faster than floats
    signs = hits.product[: n_queries * padded].view(np.uint64).reshape(-1, WORDS)
    strips = padded // STRIP
    found = 0
    for line in range(len(signs)):
        words = signs[line]
        any_word = np.uint64(0)
        for w in range(WORDS):
            any_word |= words[w]
        if any_word & SIGNS == 0:
            continue
        i, first = line // strips, line % strips * STRIP
        for w in range(WORDS):
            if words[w] & SIGNS == 0:
                continue
            for j in range(first + 2 * w, first + 2 * w + 2):
                if product[i, j] <= 0.0:  # -0 has the sign too; that 0 passes does no harm
                    hits.query[found] = i
                    hits.target[found] = j
                    hits.value[found] = product[i, j]
                    found += 1
    return found


@summing
def squared_distance(a, b):  # type: ignore[no-untyped-def]
    """Squared distance of two rows in float64.

    One plain loop: to stop where a limit is passed costs more than the columns that it saves.
    """
    total = 0.0
    for k in range(len(a)):
        difference = np.float64(a[k]) - np.float64(b[k])
        total += difference * difference
    return total
