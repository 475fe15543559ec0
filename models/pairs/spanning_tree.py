"""The spanning tree of least mutual reachability distance, exact, from lists of neighbours.

Boruvka's rounds: each component is joined to the next by its cheapest edge. The neighbours listed
give a candidate; it is certified where no member could have a cheaper edge that is not listed, as
each of these is at least as long as the member's list reaches. Only members whose list ends too
early are searched for among all rows.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.pairs.nearest import Nearest, NearestBuffers, box_of
from models.pairs.products import (
    HUGE,
    QUERY_ROWS,
    TILE_ROWS,
    compiled,
    find_hits,
    limit_queries,
    squared_distance,
)
from models.pairs.projection import EXACT, MULTIPLY_ADD, Projection
from models.pairs.sides import Side, box_distance, load, load_one, row_distance
from models.workers import Workers

SLACK = 1e-6
PROBES = 64


@dataclass(frozen=True)
class Tree:
    """Edges between positions, lightest first.

    Parameters
    ----------
    first, second : ndarray of int32, shape (n - 1,)
    squares : ndarray of float64, shape (n - 1,)
        Squared mutual reachability distance.
    searched : int
        Rows that were searched for, over all rounds.
    """

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    squares: NDArray[np.float64]
    searched: int


class Forest(NamedTuple):
    """State of the rounds.

    Parameters
    ----------
    component : ndarray of int32, shape (n,)
        Position of the component's root.
    core : ndarray of float64, shape (n,)
        Squared core distance.
    bound : ndarray of float64, shape (n,)
        No edge of the row that leaves its component is lighter, unless it is listed.
    best : ndarray of float64, shape (n,)
        Of a component, at its root: square of the lightest edge known.
    best_first, best_second : ndarray of int32, shape (n,)
        Its ends.
    """

    component: NDArray[np.int32]
    core: NDArray[np.float64]
    bound: NDArray[np.float64]
    best: NDArray[np.float64]
    best_first: NDArray[np.int32]
    best_second: NDArray[np.int32]


def spanning_tree(
    side: Side,
    found: Nearest,
    min_samples: int,
    projection: Projection,
    workers: Workers,
    *,
    certify: bool = True,
) -> Tree:
    """Join all rows.

    Parameters
    ----------
    side : Side
    found : Nearest
        Of all rows among themselves, each row listed for itself; k at least min_samples.
    min_samples : int
        The core distance is that to the ``min_samples``-th row, itself counted; at least 1.
    projection : Projection
    workers : Workers
        Threads.
    certify : bool
        False: take the lightest edge listed, and search for components without any only.

    Returns
    -------
    Tree
    """
    n, k = found.squares.shape
    bound = found.squares[:, -1].copy() if k < n else np.full(n, np.inf)
    forest = Forest(
        component=np.arange(n, dtype=np.int32),
        core=found.squares[:, min_samples - 1].copy(),
        bound=bound,
        best=np.empty(n),
        best_first=np.empty(n, dtype=np.int32),
        best_second=np.empty(n, dtype=np.int32),
    )
    edges = Tree(
        np.empty(n - 1, dtype=np.int32), np.empty(n - 1, dtype=np.int32), np.empty(n - 1), 0
    )
    n_edges = searched = 0
    while n_edges < n - 1:
        _best_listed(found.squares, found.places, forest)
        open_rows, withheld = _uncertified(forest, certify)
        if len(open_rows):
            searched += len(open_rows)
            _probe(side, forest, open_rows)
            _search(side, forest, open_rows, projection, workers)
        if withheld >= 0:
            forest.best_first[withheld] = -1
        n_edges = _join_best(forest, edges.first, edges.second, edges.squares, n_edges)
    order = np.lexsort((edges.second, edges.first, edges.squares))
    return Tree(edges.first[order], edges.second[order], edges.squares[order], searched)


@compiled
def _better(square, first, second, forest, root):  # type: ignore[no-untyped-def]
    """Whether an edge comes before a component's best, by (square, ends)."""
    best = forest.best[root]
    if square != best:
        return square < best
    low, high = min(first, second), max(first, second)
    own, other = forest.best_first[root], forest.best_second[root]
    own_low, own_high = min(own, other), max(own, other)
    return low < own_low or (low == own_low and high < own_high)


@compiled
def _offer(square, first, second, forest):  # type: ignore[no-untyped-def]
    root = forest.component[first]
    if _better(square, first, second, forest, root):
        forest.best[root] = square
        forest.best_first[root] = first
        forest.best_second[root] = second


@compiled
def _best_listed(squares, places, forest):  # type: ignore[no-untyped-def]
    """Find each component's lightest edge among the neighbours listed."""
    component, core = forest.component, forest.core
    forest.best[:] = np.inf
    forest.best_first[:] = -1
    forest.best_second[:] = -1
    n, k = squares.shape
    for p in range(n):
        root = component[p]
        for at in range(k):
            q = places[p, at]
            if q < 0 or squares[p, at] > forest.best[root]:
                break
            if component[q] != root:
                square = max(squares[p, at], max(core[p], core[q]))
                _offer(square, p, q, forest)
                _offer(square, q, p, forest)


@compiled
def _uncertified(forest, certify):  # type: ignore[no-untyped-def]
    """Members that may have a lighter edge than their component's best.

    The largest component is not searched for, as the others will join it: where it has such
    members its root is returned, and it must not choose; else -1.
    """
    n = len(forest.component)
    sizes = np.zeros(n, dtype=np.int64)
    for p in range(n):
        sizes[forest.component[p]] += 1
    largest = np.argmax(sizes)
    rows = np.empty(n, dtype=np.int64)
    found, withheld = 0, -1
    for p in range(n):
        root = forest.component[p]
        best = forest.best[root]
        if forest.bound[p] < best and (certify or best == np.inf):
            if root == largest:
                withheld = root
            else:
                rows[found] = p
                found += 1
    return rows[:found].copy(), withheld


@compiled
def _probe(side, forest, rows):  # type: ignore[no-untyped-def]
    """Give components without an edge one that is not too long: to rows near in the order."""
    n = len(forest.component)
    for p in rows:
        root = forest.component[p]
        if forest.best[root] < np.inf:
            continue
        for sign in (-1, 1):
            q, seen = p + sign, 0
            while 0 <= q < n and seen < PROBES:
                if forest.component[q] != root:
                    seen += 1
                    d = squared_distance(side.rows[side.order[p]], side.rows[side.order[q]], np.inf)
                    _offer(max(d, max(forest.core[p], forest.core[q])), p, q, forest)
                q += sign


def _search(
    side: Side,
    forest: Forest,
    rows: NDArray[np.int64],
    projection: Projection,
    workers: Workers,
) -> None:
    """Find the lightest edges of the components of some rows, among all that these have."""
    local = threading.local()
    lock = threading.Lock()
    columns = max(side.rows.shape[1], side.coordinates.shape[1])
    saved = MULTIPLY_ADD * (side.rows.shape[1] - projection.width) / EXACT
    dense_share = max(0.0, saved) if projection.pays else 0.0

    best = forest.best.copy()  # the same for all groups, whichever comes first

    def run(start: int) -> None:
        if not hasattr(local, "buffers"):
            local.buffers = NearestBuffers.of(columns)
            local.square = np.empty(QUERY_ROWS)
            local.place = np.empty(QUERY_ROWS, dtype=np.int64)
        members = rows[start : start + QUERY_ROWS]
        _lightest_of_group(
            side,
            members,
            forest,
            best,
            1.0 / projection.unit,
            dense_share,
            local.buffers,
            local.square,
            local.place,
        )
        with lock:
            _offer_all(members, local.square, local.place, forest)

    for _ in workers.map(run, range(0, len(rows), QUERY_ROWS)):
        pass
    _raise_bounds(rows, forest)


@compiled
def _offer_all(members, square, place, forest):  # type: ignore[no-untyped-def]
    for i in range(len(members)):
        if place[i] >= 0:
            _offer(square[i], members[i], place[i], forest)
            _offer(square[i], place[i], members[i], forest)


@compiled
def _raise_bounds(rows, forest):  # type: ignore[no-untyped-def]
    """Keep what a search has shown: a row searched for has no lighter edge than the best found."""
    for p in rows:
        forest.bound[p] = max(forest.bound[p], forest.best[forest.component[p]])


@compiled
def _lightest_of_group(  # type: ignore[no-untyped-def]
    side, members, forest, best, scale, dense_share, buffers, square, place
):
    """Find the lightest edge of each member that leaves its component and beats its ``best``."""
    queries, targets, hits, limits = buffers
    component, core = forest.component, forest.core
    n_queries = len(members)
    queries.positions[:n_queries] = members
    low, high, error = box_of(side, members)
    common = component[members[0]]
    for i in range(n_queries):
        square[i] = best[component[members[i]]]
        place[i] = -1
        if component[members[i]] != common:
            common = -1
    n_leaves = len(side.starts) - 1
    worst = 0.0
    gaps = np.empty(n_leaves)
    for leaf in range(n_leaves):
        worst = max(worst, side.error[leaf])
        gaps[leaf] = box_distance(low, high, side.low[leaf], side.high[leaf], np.inf)
    order = np.argsort(gaps)
    full = dense_share <= 0.0
    load(side, scale, full, queries, n_queries)
    n_targets = 0
    tiles_full, patience = 0, 1
    for step in range(n_leaves):
        leaf = order[step]
        finished = step == n_leaves - 1
        top = 0.0
        for i in range(n_queries):
            top = max(top, square[i])
        reach = np.sqrt(top) * scale
        radius = reach + error + worst
        if gaps[leaf] > radius * radius * (1.0 + SLACK):
            finished = True
        else:
            radius = reach + error + side.error[leaf]
            row_limit = np.float32(min(radius * radius * (1.0 + 1e-5), HUGE))
            for p in range(side.starts[leaf], side.starts[leaf + 1]):
                if component[p] == common or core[p] >= top:
                    continue
                if row_distance(side.coordinates[p], low, high, row_limit) <= row_limit:
                    load_one(side, p, scale, full, 0.0, queries.centre, targets, n_targets)
                    n_targets += 1
        if n_targets < TILE_ROWS and not finished:
            continue
        if n_targets > 0:
            width = side.rows.shape[1] if full else side.coordinates.shape[1]
            _limit(square, core, members, scale, 0.0 if full else error + worst, limits)
            limit_queries(queries, n_queries, width, limits[:n_queries])
            found = find_hits(queries, n_queries, targets, n_targets, width, hits)
            if not full and found > dense_share * n_queries * n_targets:
                full = True
                load(side, scale, full, queries, n_queries)
                for at in range(n_targets):
                    p = targets.positions[at]
                    load_one(side, p, scale, full, 0.0, queries.centre, targets, at)
                _limit(square, core, members, scale, 0.0, limits)
                limit_queries(queries, n_queries, side.rows.shape[1], limits[:n_queries])
                found = find_hits(queries, n_queries, targets, n_targets, side.rows.shape[1], hits)
                tiles_full = patience
                patience *= 2
            for h in range(found):
                i, q = hits.query[h], targets.positions[hits.target[h]]
                p = members[i]
                if component[p] == component[q] or core[q] >= square[i]:
                    continue
                d = squared_distance(side.rows[side.order[p]], side.rows[side.order[q]], square[i])
                weight = max(d, max(core[p], core[q]))
                if weight < square[i]:
                    square[i] = weight
                    place[i] = q
            if common >= 0:  # one component needs one edge
                lightest = square[:n_queries].min()
                for i in range(n_queries):
                    if square[i] > lightest:
                        square[i] = lightest
                        place[i] = -1
            tiles_full -= 1
            if full and tiles_full == 0 and dense_share > 0.0:
                full = False
                load(side, scale, full, queries, n_queries)
        n_targets = 0
        if finished:
            break


@compiled
def _limit(square, core, members, scale, error, limits):  # type: ignore[no-untyped-def]
    for i in range(len(members)):
        if core[members[i]] >= square[i]:
            limits[i] = -1.0  # no edge of this row can be lighter
        else:
            radius = np.sqrt(square[i]) * scale + error
            limits[i] = radius * radius


@compiled
def _join_best(forest, first, second, squares, n_edges):  # type: ignore[no-untyped-def]
    """Add each component's best edge, unless it closes a ring; how many edges there are then."""
    component = forest.component
    n = len(component)
    parents = np.arange(n).astype(np.int32)
    for root in range(n):
        if component[root] != root or forest.best_first[root] < 0:
            continue
        a, b = component[forest.best_first[root]], component[forest.best_second[root]]
        while parents[a] != a:
            parents[a] = parents[parents[a]]
            a = parents[a]
        while parents[b] != b:
            parents[b] = parents[parents[b]]
            b = parents[b]
        if a == b:
            continue
        parents[max(a, b)] = min(a, b)
        first[n_edges] = forest.best_first[root]
        second[n_edges] = forest.best_second[root]
        squares[n_edges] = forest.best[root]
        n_edges += 1
    for p in range(n):
        root = component[p]
        while parents[root] != root:
            root = parents[root]
        component[p] = root
    return n_edges
