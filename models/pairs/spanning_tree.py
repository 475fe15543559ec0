"""The spanning tree of least mutual reachability distance, exact, from lists of neighbours.

Boruvka's rounds: each component is joined to the next by its cheapest edge. The neighbours listed
give a candidate; it is certified where no member could have a cheaper edge that is not listed, as
each of these is at least as long as the member's list reaches. Only members whose list ends too
early are searched for among all rows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
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
from models.pairs.sides import Side, box_distance, load, load_some, row_distance, wide_distance
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


Search = Callable[[Forest, NDArray[np.int64]], None]
"""Offers the forest the lightest edges of the components of some rows, among all that these have,
and raises the rows' bounds."""


def spanning_tree(
    found: Nearest, min_samples: int, search: Search, *, certify: bool = True
) -> Tree:
    """Join all rows.

    Parameters
    ----------
    found : Nearest
        Of all rows among themselves, each row listed for itself; k at least min_samples.
    min_samples : int
        The core distance is that to the ``min_samples``-th row, itself counted; at least 1.
    search : callable
        `SearchInMemory`, or one over blocks.
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
            search(forest, open_rows)
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
                    d = squared_distance(side.rows[side.order[p]], side.rows[side.order[q]])
                    _offer(max(d, max(forest.core[p], forest.core[q])), p, q, forest)
                q += sign


class SearchInMemory:
    """Searches one side, all groups of queries against the bests as they were before.

    Parameters
    ----------
    side : Side
        All rows.
    projection : Projection
    workers : Workers
        Threads.
    """

    def __init__(self, side: Side, projection: Projection, workers: Workers) -> None:
        self.side, self.projection, self.workers = side, projection, workers

    def __call__(self, forest: Forest, rows: NDArray[np.int64]) -> None:
        """Search for the rows at some positions."""
        _probe(self.side, forest, rows)
        lock = threading.Lock()
        known = Known(forest.component, forest.core)
        best = forest.best.copy()  # the same for all groups, whichever comes first
        search = GroupSearch(self.projection, self.side.rows.shape[1])

        def run(start: int) -> None:
            members = rows[start : start + QUERY_ROWS]
            square = best[forest.component[members]]
            place = np.full(len(members), -1, dtype=np.int64)
            search(self.side, members, known, self.side, known, square, place)
            with lock:
                offer_all(members, square, place, forest)

        for _ in self.workers.map(run, range(0, len(rows), QUERY_ROWS)):
            pass
        raise_bounds(rows, forest)


class Known(NamedTuple):
    """What a search knows of the rows of a side, by position in it; see `Forest`."""

    component: NDArray[np.int32]
    core: NDArray[np.float64]


class GroupSearch:
    """`lightest_of_group` with buffers of its own for each thread."""

    def __init__(self, projection: Projection, dim: int) -> None:
        saved = MULTIPLY_ADD * (dim - projection.width) / EXACT
        self.dense_share = max(0.0, saved) if projection.pays else 0.0
        self.scale = 1.0 / projection.unit
        self.columns = max(dim, projection.width)
        self.local = threading.local()

    def __call__(
        self,
        a: Side,
        members: NDArray[np.int64],
        of_a: Known,
        b: Side,
        of_b: Known,
        square: NDArray[np.float64],
        place: NDArray[np.int64],
    ) -> None:
        """Search for at most `QUERY_ROWS` members."""
        if not hasattr(self.local, "buffers"):
            self.local.buffers = NearestBuffers.of(self.columns)
        buffers = self.local.buffers
        lightest_of_group(
            a, members, of_a, b, of_b, self.scale, self.dense_share, buffers, square, place
        )


@compiled
def offer_all(members, square, place, forest):  # type: ignore[no-untyped-def]
    """Offer each member's edge to both its ends' components; place is -1 where there is none."""
    for i in range(len(members)):
        if place[i] >= 0:
            _offer(square[i], members[i], place[i], forest)
            _offer(square[i], place[i], members[i], forest)


@compiled
def raise_bounds(rows, forest):  # type: ignore[no-untyped-def]
    """Keep what a search has shown: a row searched for has no lighter edge than the best found."""
    for p in rows:
        forest.bound[p] = max(forest.bound[p], forest.best[forest.component[p]])


@compiled
def lightest_of_group(  # type: ignore[no-untyped-def]
    a, members, of_a, b, of_b, scale, dense_share, buffers, square, place
):
    """Find the lightest edge of each member of a to b that leaves its component.

    Parameters
    ----------
    a, b : Side
    members : ndarray of int64
        Positions in a.
    of_a, of_b : Known
    scale, dense_share : float
        See `models.pairs.within.Search`.
    buffers : NearestBuffers
    square : ndarray of float64, shape (n_members,)
        Of the lightest edge known; lowered.
    place : ndarray of int64, shape (n_members,)
        Set to the position of the far end, b's offset added, where ``square`` is lowered.
    """
    queries, targets, hits, limits = buffers
    n_queries = len(members)
    queries.positions[:n_queries] = members
    low, high, error = box_of(a, members)
    common = of_a.component[members[0]]
    for i in range(n_queries):
        if of_a.component[members[i]] != common:
            common = -1
    component, core = of_b
    coordinates, positions = b.coordinates, targets.positions
    n_leaves = len(b.starts) - 1
    worst = 0.0
    gaps = np.empty(n_leaves)
    for leaf in range(n_leaves):
        worst = max(worst, b.error[leaf])
        gaps[leaf] = box_distance(low, high, b.low[leaf], b.high[leaf], np.inf)
    order = np.argsort(gaps)
    full = dense_share <= 0.0
    load(a, scale, full, queries, n_queries)
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
            radius = reach + error + b.error[leaf]
            row_limit = np.float32(min(radius * radius * (1.0 + 1e-5), HUGE))
            for p in range(b.starts[leaf], b.starts[leaf + 1]):
                if component[p] == common or core[p] >= top:
                    continue
                if row_distance(coordinates[p], low, high) <= row_limit:
                    positions[n_targets] = p
                    n_targets += 1
        if n_targets < TILE_ROWS and not finished:
            continue
        if n_targets > 0:
            load_some(b, scale, full, 0.0, queries.centre, targets, 0, n_targets)
            width = b.rows.shape[1] if full else b.coordinates.shape[1]
            _limit(square, of_a.core, members, scale, 0.0 if full else error + worst, limits)
            limit_queries(queries, n_queries, width, limits[:n_queries])
            found = find_hits(queries, n_queries, targets, n_targets, width, hits)
            if not full and found > dense_share * n_queries * n_targets:
                full = True
                load(a, scale, full, queries, n_queries)
                load_some(b, scale, full, 0.0, queries.centre, targets, 0, n_targets)
                _limit(square, of_a.core, members, scale, 0.0, limits)
                limit_queries(queries, n_queries, b.rows.shape[1], limits[:n_queries])
                found = find_hits(queries, n_queries, targets, n_targets, b.rows.shape[1], hits)
                tiles_full = patience
                patience *= 2
            look_first = a.wide.shape[1] > 0 and b.wide.shape[1] > 0 and not full
            for h in range(found):
                i, q = hits.query[h], targets.positions[hits.target[h]]
                p = members[i]
                if look_first:
                    radius = np.sqrt(square[i]) * scale + error + worst
                    if wide_distance(a.wide[p], b.wide[q]) > radius * radius * (1.0 + 1e-5):
                        continue
                if of_a.component[p] == of_b.component[q] or of_b.core[q] >= square[i]:
                    continue
                d = squared_distance(a.rows[a.order[p]], b.rows[b.order[q]])
                weight = max(d, max(of_a.core[p], of_b.core[q]))
                if weight < square[i]:
                    square[i] = weight
                    place[i] = q + b.offset
            if common >= 0:  # one component needs one edge
                lightest = square[:n_queries].min()
                for i in range(n_queries):
                    if square[i] > lightest:
                        square[i] = lightest
                        place[i] = -1
            tiles_full -= 1
            if full and tiles_full == 0 and dense_share > 0.0:
                full = False
                load(a, scale, full, queries, n_queries)
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
