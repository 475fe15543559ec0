"""Lloyd's iterations over chunks of rows, on threads or Dask workers.

Most rows keep their centre from one iteration to the next, and bounds show it without a distance.
Where a number for each row and centre fits into memory, each centre has a bound of its own (Elkan
2003) and only pairs that may matter are measured, in float64. Else a row has one bound for all
other centres (Hamerly 2010): rows that may change are multiplied with the centres, in float32, and
measured in float64 where rounding could decide. Sums are changed by the rows that move alone. The
result is that of plain Lloyd; it does not depend on how many workers there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from models.pairs.blocks import require_finite
from models.pairs.products import STRIP, compiled, margin, squared_distance
from models.pairs.projection import ROUNDING, Projection, Rows
from models.workers import DaskWorkers, Workers

CHUNK_ROWS = 8_192
TILE_ROWS = 512
AHEAD = 3.0
MOST_EACH = 2**28  # bytes of bounds for each row and centre: 256 MiB

EACH_STRIP = 16
EACH_SLACK = 1e-6  # relative: above what float32 does to a bound, a way and their difference
UNDERFLOW = 1e-17  # what squares too small for float32 hide
LARGE = 1e18  # what float32 may take for infinite
EACH_TINY = 1e-36  # two centres at no distance are both within reach

Centres = NDArray[np.float64]


class Bounds(NamedTuple):
    """What is known of a chunk's rows.

    Parameters
    ----------
    labels : ndarray of int32, shape (n,)
        -1 before the first iteration.
    upper : ndarray of float64, shape (n,)
        The own centre is not farther.
    lower : ndarray of float64, shape (n,)
        No other centre is nearer.
    coordinates : ndarray of float32, shape (n, width), or None
        See `Projection`; None: products are of all columns.
    each : ndarray of float32, shape (n, k + padding), or None
        A centre was not nearer than this less its way when it was measured; plus its way since the
        start, so that the entry stays as it is while the centre moves. Infinite for the own one and
        for the padding. Changed in place.
    """

    labels: NDArray[np.int32]
    upper: NDArray[np.float64]
    lower: NDArray[np.float64]
    coordinates: NDArray[np.float32] | None
    each: NDArray[np.float32] | None = None

    @classmethod
    def blank(cls, n: int, coordinates: NDArray[np.float32] | None, k: int | None = None) -> Bounds:
        """Know nothing; bounds are for each of k centres where k is given."""
        labels = np.full(n, -1, dtype=np.int32)
        each = None
        if k is not None:
            each = np.full((n, _padded(k)), np.inf, dtype=np.float32)
        return cls(labels, np.full(n, np.inf), np.zeros(n), coordinates, each)


class Step(NamedTuple):
    """What one iteration did to a chunk.

    Parameters
    ----------
    bounds : Bounds
    sums : ndarray of float64, shape (k, dim)
        Change of the sum of each centre's rows, less the origin.
    counts : ndarray of int64, shape (k,)
        Change of their number.
    moved, measured : int
        Rows that changed their centre, and rows that were multiplied with all centres.
    """

    bounds: Bounds
    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    moved: int
    measured: int


@dataclass(frozen=True)
class Move:
    """The centres of an iteration.

    Parameters
    ----------
    centres : ndarray of float64, shape (k, dim)
    origin : ndarray of float64, shape (dim,)
        Near the rows' mean: what products are centred on.
    shifts : ndarray of float64, shape (k,)
        How far each centre went since the iteration before.
    projection : Projection
        Of the rows' coordinates.
    ways : ndarray of float64, shape (k,)
        How far each centre went since the start.
    """

    centres: Centres
    origin: NDArray[np.float64]
    shifts: NDArray[np.float64]
    projection: Projection
    ways: NDArray[np.float64]


def _padded(k: int) -> int:
    return (k + EACH_STRIP - 1) // EACH_STRIP * EACH_STRIP


def step_chunk(rows: Rows, bounds: Bounds, move: Move) -> Step:
    """Give each row of a chunk to its nearest centre; of two at the same distance, the first."""
    k, dim = move.centres.shape
    labels, upper, lower = bounds.labels.copy(), bounds.upper.copy(), bounds.lower.copy()
    known = Bounds(labels, upper, lower, bounds.coordinates, bounds.each)
    sums = np.zeros((k, dim))
    counts = np.zeros(k, dtype=np.int64)
    if bounds.each is not None and labels[0] >= 0:
        args = (rows, move.centres, move.shifts, _ways(move.ways), move.origin)
        moved, measured = _assign_open(*args, labels, upper, bounds.each, sums, counts)
        return Step(known, sums, counts, moved, measured)
    if known.coordinates is None or known.labels[0] < 0:
        small = (move.centres - move.origin).astype(np.float32)
        squares = np.square(small).sum(axis=1)
        todo = (
            np.arange(len(rows))
            if known.labels[0] < 0
            else _undecided(rows, move.centres, move.shifts, *_two_largest(move.shifts), *known[:3])
        )
        moved = _assign(
            rows, todo, move.centres, small, squares, move.origin, *known[:3], sums, counts
        )
        if bounds.each is not None:
            _bound_each(rows, small, squares, move.origin, labels, bounds.each)
    else:
        todo = _undecided(rows, move.centres, move.shifts, *_two_largest(move.shifts), *known[:3])
        small, _ = move.projection.apply(move.centres)
        moved = _assign_near(
            rows,
            known.coordinates,
            todo,
            move.centres,
            small,
            1.0 / move.projection.unit,
            AHEAD * float(np.median(move.shifts)),
            move.origin,
            *known[:3],
            sums,
            counts,
        )
    return Step(known, sums, counts, moved, len(todo))


def _two_largest(shifts: NDArray[np.float64]) -> tuple[int, float, float]:
    """Which centre went farthest, how far, and how far the next."""
    if len(shifts) == 1:
        return 0, float(shifts[0]), 0.0
    order = np.argsort(shifts)
    return int(order[-1]), float(shifts[order[-1]]), float(shifts[order[-2]])


def _ways(ways: NDArray[np.float64]) -> NDArray[np.float32]:
    """Ways of the centres for the compiled functions: not below, and padded."""
    padded = np.zeros(_padded(len(ways)), dtype=np.float32)
    padded[: len(ways)] = ways * (1.0 + EACH_SLACK)
    return padded


@compiled
def _bound_each(rows, small, squares, origin, labels, each):  # type: ignore[no-untyped-def]
    """Bound the distance of each row to each centre from below, by products of all columns."""
    n, dim = rows.shape
    k = len(small)
    error = np.float32(2.0 * margin(dim))
    kept = np.float32(1.0 - EACH_SLACK)
    tile = np.empty((TILE_ROWS, dim), dtype=np.float32)
    products = np.empty(TILE_ROWS * k, dtype=np.float32)
    for start in range(0, n, TILE_ROWS):
        waiting = min(TILE_ROWS, n - start)
        for i in range(waiting):
            for j in range(dim):
                tile[i, j] = np.float32(rows[start + i, j] - origin[j])
        product = products[: waiting * k].reshape(waiting, k)
        np.dot(tile[:waiting], small.T, product)
        for i in range(waiting):
            size = np.float32(0.0)
            for j in range(dim):
                size += tile[i, j] * tile[i, j]
            for c in range(k):
                sizes = size + squares[c]
                square = sizes - np.float32(2.0) * product[i, c] - error * sizes
                each[start + i, c] = np.sqrt(max(square, np.float32(0.0))) * kept
            each[start + i, labels[start + i]] = np.inf


@compiled
def _assign_open(rows, centres, shifts, ways, origin, labels, upper, each, sums, counts):  # type: ignore[no-untyped-def]
    """Find the nearest centre among those whose own bounds leave it open; rows moved, measured.

    Distances are measured in float32 first, and in float64 where that cannot tell the nearer one.
    """
    k, dim = centres.shape
    padded = each.shape[1]
    rough = centres.astype(np.float32)
    off = np.empty(k)  # what rounding a centre and a row does to their distance, beside `error`
    for c in range(k):
        off[c] = 2.0**-22 * np.sqrt((centres[c] * centres[c]).sum()) + UNDERFLOW
    error = (dim + 8) * 2.0**-24
    moved, measured = 0, 0
    signs = np.empty(padded, dtype=np.float32)
    bits = signs.view(np.int32)
    for row in range(len(rows)):
        own = labels[row]
        upper[row] += shifts[own]
        reach = np.float32(upper[row] * (1.0 + EACH_SLACK) + EACH_TINY)
        if not _any_open(each[row], ways, reach, signs, bits):
            continue
        distance = np.float64(_rough_distance(rows[row], rough[own])) * (1.0 + error) + off[own]
        if distance < upper[row]:
            upper[row] = distance
        reach = np.float32(upper[row] * (1.0 + EACH_SLACK) + EACH_TINY)
        if not _any_open(each[row], ways, reach, signs, bits):
            continue
        measured += 1
        at, exact, best = own, -1.0, -1.0
        for c in range(padded):
            if bits[c] >= 0:
                continue
            distance = np.float64(_rough_distance(rows[row], rough[c]))
            distance = distance * (1.0 - error) - off[c]
            if not upper[row] < distance <= LARGE:  # or no number
                if exact < 0.0:
                    exact = squared_distance(rows[row], centres[own])
                    best = exact
                square = squared_distance(rows[row], centres[c])
                if square < best or (square == best and c < at):
                    best, at = square, c
                    upper[row] = np.sqrt(best) * (1.0 + 1e-12)
                distance = np.sqrt(square)
            each[row, c] = (distance + ways[c]) * (1.0 - EACH_SLACK)
        if at != own:
            each[row, own] = (np.sqrt(exact) + ways[own]) * (1.0 - EACH_SLACK)
            each[row, at] = np.inf
            moved += _give(row, at, rows, origin, labels, sums, counts)
    return moved, measured


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _rough_distance(row, centre):  # type: ignore[no-untyped-def]
    """Distance in float32, relative error below (dim + 8) 2^-24 beside that of the values."""
    total = np.float32(0.0)
    for j in range(len(row)):
        difference = np.float32(row[j]) - centre[j]
        total += difference * difference
    return np.sqrt(total)


@compiled
def _any_open(bounds, ways, reach, signs, bits):  # type: ignore[no-untyped-def]
    """Whether any centre may be within reach; its sign is then set."""
    any_sign = np.int32(0)
    for c in range(len(bounds)):
        signs[c] = bounds[c] - ways[c] - reach
    for c in range(len(bounds)):
        any_sign |= bits[c]
    return any_sign < 0


@compiled
def _undecided(rows, centres, shifts, who, far, next_far, labels, upper, lower):  # type: ignore[no-untyped-def]
    """Rows that may have to change their centre; their upper bound is their exact distance."""
    chosen = np.empty(len(rows), dtype=np.int64)
    found = 0
    for row in range(len(rows)):
        own = labels[row]
        upper[row] += shifts[own]
        lower[row] -= next_far if own == who else far
        if upper[row] < lower[row]:
            continue
        exact = np.sqrt(squared_distance(rows[row], centres[own]))
        upper[row] = exact * (1.0 + 1e-12)
        if upper[row] < lower[row]:
            continue
        chosen[found] = row
        found += 1
    return chosen[:found]


@compiled
def _give(row, at, rows, origin, labels, sums, counts):  # type: ignore[no-untyped-def]
    """Give a row to a centre; whether that is another one."""
    own = labels[row]
    if own == at:
        return 0
    labels[row] = at
    counts[at] += 1
    for j in range(rows.shape[1]):
        sums[at, j] += rows[row, j] - origin[j]
    if own >= 0:
        counts[own] -= 1
        for j in range(rows.shape[1]):
            sums[own, j] -= rows[row, j] - origin[j]
    return 1


@compiled
def _assign(rows, todo, centres, small, squares, origin, labels, upper, lower, sums, counts):  # type: ignore[no-untyped-def]
    """Find the nearest centre by the products of all columns."""
    dim = rows.shape[1]
    k = len(centres)
    error = margin(dim)
    tile = np.empty((TILE_ROWS, dim), dtype=np.float32)
    sizes = np.empty(TILE_ROWS, dtype=np.float64)
    products = np.empty(TILE_ROWS * k, dtype=np.float32)
    moved = 0
    for start in range(0, len(todo), TILE_ROWS):
        waiting = min(TILE_ROWS, len(todo) - start)
        for i in range(waiting):
            size = np.float32(0.0)
            for j in range(dim):
                value = np.float32(rows[todo[start + i], j] - origin[j])
                tile[i, j] = value
                size += value * value
            sizes[i] = size
        product = products[: waiting * k].reshape(waiting, k)
        np.dot(tile[:waiting], small.T, product)
        for i in range(waiting):
            r = todo[start + i]
            limit = np.inf  # the nearest centre is not farther
            for c in range(k):
                square = np.float64(squares[c]) - 2.0 * product[i, c] + sizes[i]
                limit = min(limit, square + error * (sizes[i] + squares[c]))
            best, second, at = np.inf, np.inf, -1
            for c in range(k):
                square = np.float64(squares[c]) - 2.0 * product[i, c] + sizes[i]
                square -= error * (sizes[i] + squares[c])
                if square <= limit:
                    square = squared_distance(rows[r], centres[c])
                if square < best:
                    best, second, at = square, best, c
                elif square < second:
                    second = square
            upper[r] = np.sqrt(best) * (1.0 + 1e-12)
            lower[r] = np.sqrt(max(second, 0.0)) * (1.0 - 1e-12)
            moved += _give(r, at, rows, origin, labels, sums, counts)
    return moved


@compiled
def _assign_near(  # type: ignore[no-untyped-def]
    rows,
    coordinates,
    todo,
    centres,
    small,
    scale,
    ahead,
    origin,
    labels,
    upper,
    lower,
    sums,
    counts,
):
    """Find the nearest centre among those that the coordinates leave possible.

    Centres up to ``ahead`` beyond the own one are measured too, so that the row may be left alone
    until the centres have moved as far.
    """
    width = coordinates.shape[1]
    k = len(centres)
    padded = (k + STRIP - 1) // STRIP * STRIP
    error = margin(width)
    y = np.zeros((padded, width + 2), dtype=np.float32)
    off = 0.0
    for c in range(k):
        square = np.float32(0.0)
        for j in range(width):
            y[c, j] = small[c, j]
            square += small[c, j] * small[c, j]
        y[c, width] = square * (1.0 - error)
        y[c, width + 1] = 1.0
        off = max(off, np.sqrt(np.float64(square)))
    for c in range(k, padded):
        y[c, width] = np.inf
    x = np.empty((TILE_ROWS, width + 2), dtype=np.float32)
    products = np.empty(TILE_ROWS * padded, dtype=np.float32)
    moved = 0
    for start in range(0, len(todo), TILE_ROWS):
        waiting = min(TILE_ROWS, len(todo) - start)
        for i in range(waiting):
            r = todo[start + i]
            square = np.float32(0.0)
            for j in range(width):
                value = coordinates[r, j]
                x[i, j] = np.float32(-2.0) * value
                square += value * value
            x[i, width] = 1.0
            reach = (upper[r] + ahead) * scale
            reach += ROUNDING * (np.sqrt(np.float64(square)) + off)
            x[i, width + 1] = square * (1.0 - error) - reach * reach * (1.0 + error)
        product = products[: waiting * padded].reshape(waiting, padded)
        np.dot(x[:waiting], y.T, product)
        bits = product.view(np.int32)
        for i in range(waiting):
            r = todo[start + i]
            own = labels[r]
            at = own
            product[i, own] = 1.0  # its distance is known
            best = upper[r] * (1.0 - 1e-12)
            best *= best
            second = upper[r] + ahead
            second *= second
            for strip in range(0, padded, STRIP):
                any_sign = np.int32(0)
                for c in range(strip, strip + STRIP):
                    any_sign |= bits[i, c]
                if any_sign >= 0:
                    continue
                for c in range(strip, strip + STRIP):
                    if bits[i, c] < 0:
                        square = squared_distance(rows[r], centres[c])
                        if square < best or (square == best and c < at):
                            best, second, at = square, best, c
                        elif square < second:
                            second = square
            if at != own:
                exact = squared_distance(rows[r], centres[own])
                if exact < best or (exact == best and own < at):  # the bound was a little low
                    best, second, at = exact, best, own
                else:
                    second = min(second, exact)
            upper[r] = np.sqrt(best) * (1.0 + 1e-12)
            lower[r] = np.sqrt(second) * (1.0 - 1e-12)
            moved += _give(r, at, rows, origin, labels, sums, counts)
    return moved


@compiled
def _two_nearest(rows, centres, small, squares, origin, labels):  # type: ignore[no-untyped-def]
    """Squared distance to the own centre and to the nearest other; infinite where there is none."""
    n, dim = rows.shape
    k = len(centres)
    error = margin(dim)
    own, other = np.empty(n), np.full(n, np.inf)
    tile = np.empty((TILE_ROWS, dim), dtype=np.float32)
    for start in range(0, n, TILE_ROWS):
        stop = min(n, start + TILE_ROWS)
        for r in range(start, stop):
            for j in range(dim):
                tile[r - start, j] = rows[r, j] - origin[j]
        product = np.dot(tile[: stop - start], small.T)
        for r in range(start, stop):
            own[r] = squared_distance(rows[r], centres[labels[r]])
            size = np.float64((tile[r - start] * tile[r - start]).sum())
            at, least = -1, np.inf
            for c in range(k):
                square = squares[c] - 2.0 * product[r - start, c]
                if square < least and c != labels[r]:
                    at, least = c, square
            if at < 0:
                continue
            other[r] = squared_distance(rows[r], centres[at])
            for c in range(k):  # those that rounding may have hidden
                square = squares[c] - 2.0 * product[r - start, c] + size
                square -= error * (size + squares[c])
                if square < other[r] and c != labels[r] and c != at:
                    other[r] = min(other[r], squared_distance(rows[r], centres[c]))
    return own, other


class Chunks:
    """Rows by chunks of a fixed size, wherever they lie.

    Parameters
    ----------
    rows : ndarray or zarr.Array, shape (n, dim)
    workers : Workers
    """

    def __init__(self, rows: Any, workers: Workers) -> None:
        self.rows = rows
        self.workers = workers
        self.starts = range(0, rows.shape[0], CHUNK_ROWS)

    def map(self, function: Callable[..., Any], *parts: Any) -> Iterator[Any]:
        """Run a function on each chunk, and on its item of each of the parts; in order."""
        items = zip(self.starts, *parts, strict=True)
        remote = isinstance(self.workers, DaskWorkers)
        if remote and isinstance(self.rows, np.ndarray):
            raise ValueError("rows in memory cannot be read by the workers of a cluster.")
        return self.workers.map(partial(_on_chunk, self.rows, function), items)

    def holds_each(self, k: int) -> bool:
        """Whether bounds for each row and each of k centres lie in memory, and may be as large."""
        remote = isinstance(self.workers, DaskWorkers)
        return not remote and self.rows.shape[0] * _padded(k) * 4 <= MOST_EACH

    def sizes(self) -> list[int]:
        """Rows of each chunk."""
        return [min(CHUNK_ROWS, self.rows.shape[0] - start) for start in self.starts]


def _on_chunk(rows: Any, function: Callable[..., Any], item: tuple[Any, ...]) -> Any:
    start, *parts = item
    chunk = np.asarray(rows[start : start + CHUNK_ROWS])
    if not isinstance(rows, np.ndarray):
        require_finite(chunk, start)
    return function(chunk, *parts)


@dataclass(frozen=True)
class Lloyd:
    """The end of Lloyd's iterations.

    Parameters
    ----------
    centres : ndarray of float64, shape (k, dim)
    labels : ndarray of int32, shape (n,)
        Of the nearest of these centres.
    own, other : ndarray of float64, shape (n,)
        Distance to the own centre and to the next.
    n_iter : int
    measured : int
        Rows multiplied with all centres, over all iterations.
    """

    centres: Centres
    labels: NDArray[np.int32]
    own: NDArray[np.float64]
    other: NDArray[np.float64]
    n_iter: int
    measured: int

    @property
    def inertia(self) -> float:
        """Sum of squared distances to the own centre."""
        return float(np.square(self.own).sum())


def lloyd(
    chunks: Chunks, start: Centres, projection: Projection, max_iter: int, tolerance: float
) -> Lloyd:
    """Move centres to the mean of their rows until they stay.

    A centre that loses all its rows goes to the row that is farthest from its own.

    Parameters
    ----------
    chunks : Chunks
    start : ndarray of float64, shape (k, dim)
    projection : Projection
        Of a sample of the rows.
    max_iter : int
    tolerance : float
        Stop where the centres move by no more, as a sum of squares.
    """
    centres, origin = start, projection.mean
    each = len(start) if chunks.holds_each(len(start)) else None
    bounds = list(chunks.map(partial(_blank, projection, each)))
    sums, counts = np.zeros(start.shape), np.zeros(len(start), dtype=np.int64)
    shifts, ways = np.zeros(len(start)), np.zeros(len(start))
    measured = n_iter = 0
    settled = False

    def assign() -> int:
        nonlocal measured, bounds
        moved = 0
        steps = []
        move = Move(centres, origin, shifts, projection, ways)
        for step in chunks.map(partial(_step, move), bounds):
            sums[:] += step.sums
            counts[:] += step.counts
            moved += step.moved
            measured += step.measured
            steps.append(step.bounds)
        bounds = steps
        return moved

    while n_iter < max_iter and not settled:
        moved = assign()
        n_iter += 1
        if moved == 0:
            settled = True
            break
        filled = counts > 0
        new = np.where(filled[:, None], origin + sums / np.maximum(counts, 1)[:, None], centres)
        if not filled.all():
            new[~filled] = _farthest(chunks, centres, bounds, int((~filled).sum()))
        shifts = np.linalg.norm(new - centres, axis=1) * (1 + 1e-12)
        ways = ways + shifts
        centres = new
        if np.square(shifts).sum() <= tolerance:
            break
    if not settled:
        assign()  # labels are of the centres as they are
    nearest = list(chunks.map(partial(_measure, centres, origin), bounds))
    return Lloyd(
        centres,
        np.concatenate([b.labels for b in bounds]),
        np.concatenate([own for own, _ in nearest]),
        np.concatenate([other for _, other in nearest]),
        n_iter,
        measured,
    )


def _blank(projection: Projection, each: int | None, rows: Rows) -> Bounds:
    """Start a chunk: bounds for each centre, or its coordinates where these are cheaper."""
    if each is not None:
        return Bounds.blank(len(rows), None, each)
    pays = projection.pays and not projection.complete
    return Bounds.blank(len(rows), projection.apply(rows)[0] if pays else None)


def _step(move: Move, rows: Rows, bounds: Bounds) -> Step:
    return step_chunk(rows, bounds, move)


def _measure(
    centres: Centres, origin: NDArray[np.float64], rows: Rows, bounds: Bounds
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    small = (centres - origin).astype(np.float32)
    squares = np.square(small).sum(axis=1).astype(np.float64)
    own, other = _two_nearest(rows, centres, small, squares, origin, bounds.labels)
    return np.sqrt(own), np.sqrt(other)


def _farthest(chunks: Chunks, centres: Centres, bounds: list[Bounds], most: int) -> Centres:
    """Rows that are farthest from their own centre, shape (most, dim)."""
    found = list(chunks.map(partial(_far_rows, centres, most), bounds))
    distances = np.concatenate([far for far, _ in found])
    rows = np.concatenate([rows for _, rows in found])
    picked: Centres = rows[np.argsort(-distances, kind="stable")[:most]]
    return picked


def _far_rows(
    centres: Centres, most: int, rows: Rows, bounds: Bounds
) -> tuple[NDArray[np.float64], Centres]:
    distances = np.linalg.norm(rows - centres[bounds.labels], axis=1)
    order = np.argsort(-distances, kind="stable")[:most]
    return distances[order], rows[order].astype(np.float64)


def closest(rows: Rows, centres: Centres) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Squared distance to the nearest centre, and its number."""
    origin = centres.mean(axis=0)
    projection = Projection(origin, np.empty((len(origin), 0)), 1.0, pays=False)
    still = np.zeros(len(centres))
    move = Move(centres, origin, still, projection, still)
    bounds = step_chunk(rows, Bounds.blank(len(rows), None), move).bounds
    return np.square(bounds.upper), bounds.labels
