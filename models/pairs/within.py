"""Pairs within a radius: their number a row, and what connects the rows that have enough."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.pairs import bfloat16
from models.pairs.density import DensityRecord, root_of
from models.pairs.every_pair import scan_every_pair, scan_on_device
from models.pairs.leaves import LEAF_ROWS
from models.pairs.products import (
    QUERY_ROWS,
    ROOM,
    TILE_ROWS,
    TINY,
    Hits,
    Queries,
    Targets,
    compiled,
    find_hits,
    margin,
    squared_distance,
)
from models.pairs.projection import CUT, EXACT, MULTIPLY_ADD, Projection
from models.pairs.sides import Side, box_distance, load, load_some, row_distance
from models.workers import Workers

GROUP_LEAVES = QUERY_ROWS // LEAF_ROWS
SAMPLED_LEAVES, EVERY_SHARE = 64, 0.5  # where boxes leave more over, every pair is cheaper
SLACK = 1e-9  # relative; what float64 can do to a bound


class Search(NamedTuple):
    """What is searched.

    Parameters
    ----------
    limit : float
        Squared radius, in the rows' own scale.
    radius : float
        The radius in the coordinates' units.
    scale : float
        Units per length.
    dense_share : float
        Share of candidates in a tile above which the product of all columns is cheaper.
    """

    limit: float
    radius: float
    scale: float
    dense_share: float

    @classmethod
    def of(cls, radius: float, projection: Projection) -> Search:
        """Look for pairs within a radius, in the rows' own scale."""
        saved = MULTIPLY_ADD * (len(projection.mean) - projection.width) / EXACT
        return cls(
            limit=float(radius) ** 2,
            radius=radius / projection.unit,
            scale=1.0 / projection.unit,
            dense_share=max(0.0, saved) if projection.pays else 0.0,
        )


class Buffers(NamedTuple):
    """Memory of one thread.

    Parameters
    ----------
    queries : Queries
    targets, settled : Targets
        Those to be measured against all queries, and against the open ones alone.
    hits : Hits
    first, second : ndarray of int32
        Pairs found, by position.
    """

    queries: Queries
    targets: Targets
    settled: Targets
    hits: Hits
    first: NDArray[np.int32]
    second: NDArray[np.int32]

    @classmethod
    def of(cls, columns: int) -> Buffers:
        """Allocate for rows of so many columns at most."""
        return cls(
            Queries.of(columns),
            Targets.of(columns),
            Targets.of(columns),
            Hits.blank(),
            np.empty(2 * ROOM, dtype=np.int32),
            np.empty(2 * ROOM, dtype=np.int32),
        )


@compiled
def find_pairs(a, first, last, b, begin, end, full, search, density, buffers, work):  # type: ignore[no-untyped-def]
    """Find the pairs within the radius of leaves first to last of a and begin to end of b.

    A row is *settled* where it is core and of the cluster that most queries are of; else *open*.
    Pairs of two settled rows are not looked for, as they would tell nothing.

    Parameters
    ----------
    a, b : Side
        The same one: leaves of b before ``first`` are left out, and each pair is found once.
    full : bool
        Whether to multiply all columns rather than the coordinates.
    search : Search
    density : Density
    buffers : Buffers
        Pairs are left in ``first`` and ``second``, by position with the sides' offsets added.
    work : ndarray of int64, shape (2,)
        Pairs multiplied and pairs measured in float64 are added.

    Returns
    -------
    n_pairs : int
    next_leaf : int
        Where to go on: below ``end`` as soon as there are pairs, since they may settle rows.
    full : bool
        For the next call.
    """
    same = a.offset == b.offset
    low, high, error = group_box(a, first, last)
    root, n_open, n_queries = _arrange(a, first, last, density, buffers.queries)
    load(a, search.scale, full, buffers.queries, n_queries)
    centre = buffers.queries.centre
    exact = max(search.radius * search.radius * (1.0 + SLACK), TINY)
    n_pairs, n_targets, n_settled = 0, 0, 0
    coordinates = b.coordinates
    of_targets, of_settled = buffers.targets.positions, buffers.settled.positions
    leaf = max(begin, first) if same else begin
    while leaf < end and n_pairs == 0:
        own = same and leaf < last
        reach = search.radius + error + b.error[leaf]
        limit = reach * reach * (1.0 + SLACK)
        near = own or box_distance(low, high, b.low[leaf], b.high[leaf], limit) <= limit
        leaf_settled = near and root >= 0 and _leaf_root(b, leaf, density) == root
        if near and not (leaf_settled and n_open == 0):
            goal = exact if full else max(limit, TINY)
            row_limit = np.float32(limit * (1.0 + 1e-5))
            known_targets, known_settled = n_targets, n_settled
            for p in range(b.starts[leaf], b.starts[leaf + 1]):
                settled = leaf_settled or _is_settled(density, p + b.offset, root)
                if settled and n_open == 0:
                    continue
                if not own and row_distance(coordinates[p], low, high) > row_limit:
                    continue
                if settled:
                    of_settled[n_settled] = p
                    n_settled += 1
                else:
                    of_targets[n_targets] = p
                    n_targets += 1
            load_some(
                b, search.scale, full, goal, centre, buffers.targets, known_targets, n_targets
            )
            load_some(
                b, search.scale, full, goal, centre, buffers.settled, known_settled, n_settled
            )
        leaf += 1
        if max(n_targets, n_settled) < TILE_ROWS and leaf < end:
            continue
        if not full and n_targets > 0:
            found = find_hits(
                buffers.queries,
                n_queries,
                buffers.targets,
                n_targets,
                a.coordinates.shape[1],
                buffers.hits,
            )
            work[0] += n_queries * n_targets
            if found > search.dense_share * n_queries * n_targets:
                full = True
                load(a, search.scale, full, buffers.queries, n_queries)
                load_some(b, search.scale, full, exact, centre, buffers.targets, 0, n_targets)
                load_some(b, search.scale, full, exact, centre, buffers.settled, 0, n_settled)
            else:
                n_pairs = _accept(
                    a, b, full, found, search, density, buffers, buffers.targets, n_pairs, work
                )
        columns = a.rows.shape[1] if full else a.coordinates.shape[1]
        if full and n_targets > 0:
            found = find_hits(
                buffers.queries, n_queries, buffers.targets, n_targets, columns, buffers.hits
            )
            work[0] += n_queries * n_targets
            n_pairs = _accept(
                a, b, full, found, search, density, buffers, buffers.targets, n_pairs, work
            )
        if n_settled > 0:
            found = find_hits(
                buffers.queries, n_open, buffers.settled, n_settled, columns, buffers.hits
            )
            work[0] += n_open * n_settled
            n_pairs = _accept(
                a, b, full, found, search, density, buffers, buffers.settled, n_pairs, work
            )
        n_targets, n_settled = 0, 0
    return n_pairs, leaf, full


@compiled
def group_box(side, first, last):  # type: ignore[no-untyped-def]
    """Box and error of leaves first to last."""
    low, high, error = side.low[first].copy(), side.high[first].copy(), side.error[first]
    for leaf in range(first + 1, last):
        error = max(error, side.error[leaf])
        for k in range(len(low)):
            low[k] = min(low[k], side.low[leaf, k])
            high[k] = max(high[k], side.high[leaf, k])
    return low, high, error


@compiled
def _arrange(side, first, last, density, queries):  # type: ignore[no-untyped-def]
    """Choose the root that most core rows have, and put the open rows first.

    Returns
    -------
    root : int
        -1 where no row is core.
    n_open, n_queries : int
    """
    start, stop = side.starts[first], side.starts[last]
    root, votes = -1, 0
    for p in range(start, stop):
        row = p + side.offset
        if density.counts[row] >= density.enough:
            own = root_of(density.parents, row)
            if votes == 0:
                root, votes = own, 1
            elif own == root:
                votes += 1
            else:
                votes -= 1
    n_open = 0
    n_queries = stop - start
    n_settled = 0
    for p in range(start, stop):
        if _is_settled(density, p + side.offset, root):
            n_settled += 1
            queries.positions[n_queries - n_settled] = p
        else:
            queries.positions[n_open] = p
            n_open += 1
    return root, n_open, n_queries


@compiled
def _is_settled(density, row, root):  # type: ignore[no-untyped-def]
    return (
        root >= 0
        and density.counts[row] >= density.enough
        and root_of(density.parents, row) == root
    )


@compiled
def _leaf_root(side, leaf, density):  # type: ignore[no-untyped-def]
    """Root of the one cluster that a leaf's rows are core rows of; -1 where there is none."""
    start, stop = side.starts[leaf] + side.offset, side.starts[leaf + 1] + side.offset
    if side.uniform[leaf]:
        return root_of(density.parents, start)
    root = -1
    for row in range(start, stop):
        if density.counts[row] < density.enough:
            return -1
        own = root_of(density.parents, row)
        if root == -1:
            root = own
        elif own != root:
            return -1
    side.uniform[leaf] = True
    return root


@compiled
def _accept(a, b, full, found, search, density, buffers, targets, n_pairs, work):  # type: ignore[no-untyped-def]
    """Append the hits that are within the radius to the buffers' pairs; how many there are then."""
    same = a.offset == b.offset
    counts, parents, enough = density
    hits = buffers.hits
    error = 2.0 * margin(a.rows.shape[1])
    limit = search.radius * search.radius
    joined_first, joined_second = -1, -1
    for h in range(found):
        i, j = hits.query[h], hits.target[h]
        p, q = buffers.queries.positions[i], targets.positions[j]
        if same and q <= p:
            continue
        first, second = p + a.offset, q + b.offset
        root_a = root_b = -1
        both_core = counts[first] >= enough and counts[second] >= enough
        if both_core:
            root_a, root_b = root_of(parents, first), root_of(parents, second)
            if root_a == root_b or (root_a == joined_first and root_b == joined_second):
                continue
        within = False
        squares = np.float64(buffers.queries.squares[i]), np.float64(targets.squares[j])
        if full and limit >= TINY and max(squares) < CUT:  # the product alone may prove it
            within = hits.value[h] < -error * (squares[0] + squares[1] + limit)
        if not within:
            work[1] += 1
            d = squared_distance(a.rows[a.order[p]], b.rows[b.order[q]])
            within = d <= search.limit
        if within:
            buffers.first[n_pairs] = first
            buffers.second[n_pairs] = second
            n_pairs += 1
            if both_core:
                joined_first, joined_second = root_a, root_b
    return n_pairs


@compiled
def _share_in_reach(a, b, radius):  # type: ignore[no-untyped-def]
    """Share of pairs of leaves whose boxes are within reach, by some leaves of a."""
    n_a, n_b = len(a.starts) - 1, len(b.starts) - 1
    near, seen = 0, 0
    for i in range(0, n_a, max(1, n_a // SAMPLED_LEAVES)):
        for j in range(n_b):
            reach = radius + a.error[i] + b.error[j]
            limit = reach * reach
            near += box_distance(a.low[i], a.high[i], b.low[j], b.high[j], limit) <= limit
            seen += 1
    return near / max(1, seen)


def scan_within(
    a: Side, b: Side, record: DensityRecord, search: Search, workers: Workers
) -> NDArray[np.int64]:
    """Bring all pairs of a and b within the radius to a record.

    Parameters
    ----------
    a, b : Side
        The same one, for the pairs inside it; else their offsets differ.
    record : DensityRecord
        Of the rows of both.
    search : Search
    workers : Workers
        Threads.

    Returns
    -------
    ndarray of int64, shape (2,)
        Pairs multiplied, and pairs measured in float64.
    """
    many = bfloat16.pays(len(a.order) * len(b.order), a.rows.shape[1])
    if search.dense_share <= 0 and many and _share_in_reach(a, b, search.radius) > EVERY_SHARE:
        device = bfloat16.gpu()
        if device is None:
            return scan_every_pair(a, b, record, search, workers)
        done = scan_on_device(a, b, record, search, device)
        if done is not None:
            return done
    local = threading.local()
    nothing = np.zeros(2, dtype=np.int64)
    n_a, n_b = len(a.starts) - 1, len(b.starts) - 1
    groups = [(i, min(i + GROUP_LEAVES, n_a)) for i in range(0, n_a, GROUP_LEAVES)]

    def run(task: tuple[int, int, int, int]) -> NDArray[np.int64]:
        first, last, begin, end = task
        if not hasattr(local, "buffers"):
            local.buffers = Buffers.of(max(a.rows.shape[1], a.coordinates.shape[1]))
        buffers = local.buffers
        work = np.zeros(2, dtype=np.int64)
        full = search.dense_share <= 0
        while begin < end:
            n_pairs, begin, full = find_pairs(
                a, first, last, b, begin, end, full, search, record.density, buffers, work
            )
            if n_pairs:
                record.add(buffers.first, buffers.second, n_pairs)
        return work

    if a is not b:
        return sum(workers.map(run, [(*group, 0, n_b) for group in groups]), nothing)
    # what lies together first: it settles most rows, and settled rows save work
    near = workers.map(run, [(first, last, first, last) for first, last in groups])
    far = workers.map(run, [(first, last, last, n_a) for first, last in groups if last < n_a])
    return sum(far, sum(near, nothing))
