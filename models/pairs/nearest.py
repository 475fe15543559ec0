"""The k nearest neighbours of each row, exact."""

from __future__ import annotations

import itertools
import mmap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.neighbours import distances_to_nearest
from models.pairs.leaves import Leaves, split
from models.pairs.products import (
    HUGE,
    QUERY_ROWS,
    STRIP,
    TILE_ROWS,
    TINY,
    Hits,
    Queries,
    Targets,
    compiled,
    find_hits,
    limit_queries,
    margin,
    squared_distance,
)
from models.pairs.projection import EXACT, MULTIPLY_ADD, Projection, Rows, sample_rows
from models.pairs.sides import Side, box_distance, load, load_some, near_box, wide_distance
from models.workers import Workers

REACH_SHARES = (0.0, 0.4, 0.65, 0.8, 0.9, 0.96, 1.0)
PROBES = 128
REACH_ROWS = 4_096
OPENING_LEAVES = 4
SLACK = 1e-6  # relative; what rounding can do to the distance of two boxes


@dataclass(frozen=True)
class Nearest:
    """The nearest rows found so far, by position of the query; nearest first.

    Parameters
    ----------
    squares : ndarray of float64, shape (n, k)
        Squared distances; infinite where fewer than k rows have been seen.
    places : ndarray of int32, shape (n, k)
        Positions of the neighbours, the target's offset added; -1 where there is none.
    """

    squares: NDArray[np.float64]
    places: NDArray[np.int32]

    @classmethod
    def blank(cls, n: int, k: int) -> Nearest:
        """Start with none."""
        return cls(np.full((n, k), np.inf), np.full((n, k), -1, dtype=np.int32))


class NearestBuffers(NamedTuple):
    """Memory of one thread; see `models.pairs.products`."""

    queries: Queries
    targets: Targets
    hits: Hits
    limits: NDArray[np.float64]

    @classmethod
    def of(cls, columns: int) -> NearestBuffers:
        """Allocate for rows of so many columns at most."""
        return cls(Queries.of(columns), Targets.of(columns), Hits.blank(), np.empty(QUERY_ROWS))


def find_nearest(
    a: Side,
    b: Side,
    found: Nearest,
    projection: Projection,
    workers: Workers,
    members: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Find the rows of b that are nearest to each row of a, and put them into ``found``.

    A row finds itself where it is in b. Of rows at the same distance any may be taken, but always
    the same ones.

    Rows whose k-th neighbour is far away would make a whole group of queries look far: after a
    first look at the nearest leaves, queries are grouped anew with others of like reach.

    Parameters
    ----------
    a, b : Side
    found : Nearest
        Of the rows of a; what is in it stays where it is nearer.
    projection : Projection
        That the sides were made with.
    workers : Workers
        Threads.
    members : ndarray of int64, or None
        Positions in a that ask; None: all.

    Returns
    -------
    ndarray of int64, shape (2,)
        Pairs multiplied, and pairs measured in float64.
    """
    local = threading.local()
    columns = max(a.rows.shape[1], a.coordinates.shape[1])
    saved = MULTIPLY_ADD * (a.rows.shape[1] - projection.width) / EXACT
    dense_share = max(0.0, saved) if projection.pays else 0.0
    scale = 1.0 / projection.unit

    def run(task: tuple[NDArray[np.int64], bool]) -> NDArray[np.int64]:
        if not hasattr(local, "buffers"):
            local.buffers = NearestBuffers.of(columns)
        work = np.zeros(2, dtype=np.int64)
        group, opening = task
        _nearest_of_group(
            a,
            group,
            b,
            found.squares,
            found.places,
            scale,
            opening,
            dense_share,
            local.buffers,
            work,
        )
        return work

    if members is None:
        members = np.arange(len(a.order))
    fresh = members[np.isinf(found.squares[members, -1])]
    opening = ((fresh[s : s + QUERY_ROWS], True) for s in range(0, len(fresh), QUERY_ROWS))
    work = sum(workers.map(run, opening), np.zeros(2, dtype=np.int64))
    groups = ((group, False) for group in alike(a.coordinates, found.squares[:, -1], members))
    return sum(workers.map(run, groups), work)


def alike(
    coordinates: NDArray[np.float32], squares: NDArray[np.float64], members: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Group positions that lie together and reach alike far; at most `QUERY_ROWS` each.

    Parameters
    ----------
    coordinates : ndarray of float32, shape (n, width)
    squares : ndarray of float64, shape (n,)
        Squared reach of each.
    members : ndarray of int64
        Positions to group.
    """
    by_reach = members[np.argsort(squares[members], kind="stable")]
    edges = [int(len(members) * share) for share in REACH_SHARES]
    for start, stop in itertools.pairwise(edges):
        part = np.sort(by_reach[start:stop])
        order = np.arange(len(part))
        cuts = split(coordinates[part], order, QUERY_ROWS)
        for first, last in itertools.pairwise(cuts):
            if first < last:
                yield np.sort(part[order[first:last]])


@compiled
def _nearest_of_group(  # type: ignore[no-untyped-def]
    a, members, b, squares, places, scale, opening, dense_share, buffers, work
):
    """Search for the queries at the positions ``members``; opening: in the nearest leaves only."""
    queries, targets, hits, limits = buffers
    n_queries = len(members)
    queries.positions[:n_queries] = members
    low, high, error = box_of(a, members)
    n_leaves = len(b.starts) - 1
    reach = _reach(squares, members, scale)
    worst = 0.0
    gaps = np.empty(n_leaves)
    for leaf in range(n_leaves):
        worst = max(worst, b.error[leaf])
        gaps[leaf] = box_distance(low, high, b.low[leaf], b.high[leaf], np.inf)
    order = np.argsort(gaps)
    columns = a.rows.shape[1]
    full = opening or dense_share <= 0.0  # coordinates give no upper bound of a distance
    load(a, scale, full, queries, n_queries)
    n_targets = 0
    tiles_full, patience = 0, 1
    for step in range(n_leaves):
        leaf = order[step]
        finished = step == n_leaves - 1
        radius = reach + error + worst
        if gaps[leaf] > radius * radius * (1.0 + SLACK):
            finished = True
        else:
            radius = reach + error + b.error[leaf]
            row_limit = np.float32(min(radius * radius * (1.0 + 1e-5), HUGE))
            start, stop = b.starts[leaf], b.starts[leaf + 1]
            n_targets = near_box(
                b.coordinates, start, stop, low, high, row_limit, targets.positions, n_targets
            )
        if n_targets < TILE_ROWS and not finished:
            continue
        if n_targets > 0:
            load_some(b, scale, full, 0.0, queries.centre, targets, 0, n_targets)
            work[0] += n_queries * n_targets
            off = 0.0 if full else error + worst  # by which coordinates may show too much
            if opening:
                found = _nearest_of_tile(
                    queries, n_queries, targets, n_targets, columns, squares, scale, hits
                )
            else:
                _limit(full, off, queries, n_queries, a, squares, scale, limits)
                width = columns if full else a.coordinates.shape[1]
                found = find_hits(queries, n_queries, targets, n_targets, width, hits)
                if not full and found > dense_share * n_queries * n_targets:
                    full, off = True, 0.0
                    load(a, scale, full, queries, n_queries)
                    load_some(b, scale, full, 0.0, queries.centre, targets, 0, n_targets)
                    _limit(full, off, queries, n_queries, a, squares, scale, limits)
                    found = find_hits(queries, n_queries, targets, n_targets, columns, hits)
                    work[0] += n_queries * n_targets
                    tiles_full = patience
                    patience *= 2
            work[1] += _insert(
                a, b, found, queries, targets, hits, squares, places, opening, off, scale, limits
            )
            reach = _reach(squares, members, scale)
            tiles_full -= 1
            if full and tiles_full == 0 and dense_share > 0.0 and not opening:
                full = False  # the neighbours may be near enough by now
                load(a, scale, full, queries, n_queries)
        n_targets = 0
        if finished or (opening and step > OPENING_LEAVES):
            break


@compiled
def box_of(side, members):  # type: ignore[no-untyped-def]
    """Box and error of the rows at some positions."""
    low = side.coordinates[members[0]].copy()
    high = low.copy()
    error = 0.0
    for p in members:
        error = max(error, side.error[p // side.starts[1]])
        for k in range(len(low)):
            low[k] = min(low[k], side.coordinates[p, k])
            high[k] = max(high[k], side.coordinates[p, k])
    return low, high, error


@compiled
def _reach(squares, members, scale):  # type: ignore[no-untyped-def]
    """Largest distance to a k-th nearest row so far, in units."""
    largest = 0.0
    for p in members:
        largest = max(largest, squares[p, -1])
    return np.sqrt(largest) * scale


@compiled
def _nearest_of_tile(queries, n_queries, targets, n_targets, columns, squares, scale, hits):  # type: ignore[no-untyped-def]
    """Multiply all columns; hits are what may be among a query's k nearest of the tile.

    The targets are looked at in classes. If the least values of k classes lie below a limit, so do
    k values at least; with more neighbours than classes, all values are ranked. What rounding may
    have done to a value is within its slack.
    """
    width = columns + 2
    k = squares.shape[1]
    for i in range(n_queries):  # no limit: the product is the squared distance
        queries.x[i * width + columns + 1] = queries.squares[i]
    find_hits(queries, n_queries, targets, n_targets, columns, hits)
    padded = (n_targets + STRIP - 1) // STRIP * STRIP
    product = hits.product[: n_queries * padded].reshape(n_queries, padded)
    error = np.float32(2.0 * margin(columns))
    slack = np.full(padded, np.float32(np.inf), dtype=np.float32)
    for t in range(n_targets):
        slack[t] = error * targets.squares[t]
    most, least = np.empty(STRIP, dtype=np.float32), np.empty(STRIP, dtype=np.float32)
    lowest = np.empty(k, dtype=np.float32)
    found = 0
    for i in range(n_queries):
        values = product[i]
        _least_of_classes(values, slack, most, least)
        own = np.float64(error) * queries.squares[i]
        limit = squares[queries.positions[i], -1] * scale * scale
        highest = most if k <= STRIP else values + slack
        limit = min(limit, np.float64(_kth(highest, len(highest), lowest)) + own)
        limit = np.float32((limit + own) * (1.0 + 1e-6))
        for c in range(STRIP):
            if least[c] > limit:
                continue
            for t in range(c, n_targets, STRIP):
                if values[t] - slack[t] <= limit:
                    hits.query[found] = i
                    hits.target[found] = t
                    found += 1
    return found


@compiled
def _least_of_classes(values, slack, most, least):  # type: ignore[no-untyped-def]
    """Find the least value of each class of places, at most and at least."""
    most[:] = np.inf
    least[:] = np.inf
    for start in range(0, len(values), STRIP):
        for c in range(STRIP):
            high, low = values[start + c] + slack[start + c], values[start + c] - slack[start + c]
            most[c] = high if high < most[c] else most[c]
            least[c] = low if low < least[c] else least[c]


@compiled
def _kth(values, n, lowest):  # type: ignore[no-untyped-def]
    """The len(lowest)-th smallest of the first n values; few of them are ever put in."""
    k = len(lowest)
    lowest[:] = np.inf
    for j in range(n):
        value = values[j]
        if value < lowest[k - 1]:
            at = k - 1
            while at > 0 and lowest[at - 1] > value:
                lowest[at] = lowest[at - 1]
                at -= 1
            lowest[at] = value
    return lowest[k - 1]


@compiled
def _limit(full, error, queries, n_queries, a, squares, scale, limits):  # type: ignore[no-untyped-def]
    """Set each query's limit to what its k-th nearest so far leaves open."""
    columns = a.rows.shape[1] if full else a.coordinates.shape[1]
    for i in range(n_queries):
        square = squares[queries.positions[i], -1]
        # a row that has k at no distance at all is done: equal rows would come without end
        limits[i] = _limit_of(square, error, scale) if square > 0.0 else -1.0
    limit_queries(queries, n_queries, columns, limits[:n_queries])


@compiled
def _insert(  # type: ignore[no-untyped-def]
    a, b, found, queries, targets, hits, squares, places, opening, error, scale, limits
):
    """Measure the hits and put them where they belong; how many were measured.

    As a query's neighbours come nearer, what its product has shown rules further hits out.
    """
    k = squares.shape[1]
    rows_a, order_a, rows_b, order_b, offset = a.rows, a.order, b.rows, b.order, b.offset
    queried, asked = queries.positions, targets.positions
    hit_query, hit_target, hit_value = hits.query, hits.target, hits.value
    look_first = a.wide.shape[1] > 0 and b.wide.shape[1] > 0 and error > 0.0
    measured, last, least, farthest = 0, -1, np.inf, np.inf
    for h in range(found):
        i = hit_query[h]
        p, q = queried[i], asked[hit_target[h]]
        if i != last:
            last, least = i, np.inf
            farthest = _limit_of(squares[p, k - 1], error, scale) * (1.0 + 1e-5)
        if not opening and hit_value[h] >= least:  # while opening, no value is set
            continue
        if look_first and wide_distance(a.wide[p], b.wide[q]) > farthest:
            continue
        worst = squares[p, k - 1]
        measured += 1
        d = squared_distance(rows_a[order_a[p]], rows_b[order_b[q]])
        if d >= worst or _is_in(squares[p], places[p], d, q + offset):
            continue
        at = k - 1
        while at > 0 and squares[p, at - 1] > d:
            squares[p, at] = squares[p, at - 1]
            places[p, at] = places[p, at - 1]
            at -= 1
        squares[p, at] = d
        places[p, at] = q + offset
        if not opening:
            limit = _limit_of(squares[p, k - 1], error, scale)
            least = limit - min(max(limits[i], TINY), HUGE)
            farthest = limit * (1.0 + 1e-5)
    return measured


@compiled
def _limit_of(square, error, scale):  # type: ignore[no-untyped-def]
    """Square, in units, that coordinates may show for a pair of this squared distance."""
    radius = np.sqrt(square) * scale + error
    return radius * radius


@compiled
def _is_in(squares, places, d, place):  # type: ignore[no-untyped-def]
    for at in range(len(squares)):
        if squares[at] >= d:
            if squares[at] > d:
                return False
            if places[at] == place:
                return True
    return False


def is_mapped(rows: Rows | None) -> bool:
    """Whether an array looks at a file, as views of a memory map do."""
    base: Any = rows
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return isinstance(base, mmap.mmap)


def probes_of(sample: Rows) -> Rows:
    """Choose some rows of a sample, to see how far neighbours are."""
    return sample[:: max(1, len(sample) // PROBES)][:PROBES]


def nearest_rows(
    rows: Rows, k: int, workers: Workers
) -> tuple[NDArray[np.int64], Side, Projection, Nearest]:
    """Find the k nearest rows of each row, itself the first.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
        Finite, in memory or a memory map; n at least 1.
    k : int
        Cut to n.
    workers : Workers
        Threads.

    Returns
    -------
    order : ndarray of int64, shape (n,)
        Row number at each position.
    side : Side
        The rows, copied in that order where they are in memory.
    projection : Projection
    found : Nearest
        By position.
    """
    k = min(k, len(rows))
    sample = sample_rows(rows)
    queries = probes_of(sample)
    some = rows[:: max(1, len(rows) // REACH_ROWS)]  # a little too far is near enough
    projection = Projection.fit(sample, distances_to_nearest(queries, some, k), queries)
    leaves = Leaves.of(rows, projection)
    side = Side.of(leaves)
    if not is_mapped(rows):
        side = side.gathered().widened(projection)
    found = Nearest.blank(len(rows), k)
    find_nearest(side, side, found, projection, workers)
    return leaves.order, side, projection, found
