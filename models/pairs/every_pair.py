"""Pairs within a radius where boxes prune nothing: every pair, by products in bfloat16.

A tile is some hundred rows by a thousand. It is left out where all its rows are core rows of one
cluster already, and so are parts of it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.pairs.bfloat16 import (
    SIGNS,
    BriefRows,
    centre_of,
    full_sums,
    hold_thread,
    limit_left,
    load_left,
    most_above,
    multiply,
    on_device,
    one_thread,
)
from models.pairs.density import DensityRecord, root_of
from models.pairs.products import STRIP, compiled, squared_distance
from models.pairs.sides import Side
from models.workers import Workers

if TYPE_CHECKING:
    import torch

    from models.pairs.within import Search

ROWS, COLUMNS = 512, 1024  # of a tile: its product stays in the second cache
DEVICE_ROWS, DEVICE_COLUMNS = 2048, 8192  # what is negative of a tile fits into this machine
WORDS = STRIP // 4  # of four numbers


class _Tile:
    """Memory of one thread."""

    def __init__(self, width: int) -> None:
        hold_thread()
        self.left = np.zeros((ROWS, width), dtype=np.int16)
        self.product = np.empty(ROWS * COLUMNS, dtype=np.int16)
        self.first = np.empty(ROWS * COLUMNS, dtype=np.int32)
        self.second = np.empty(ROWS * COLUMNS, dtype=np.int32)


def scan_every_pair(
    a: Side, b: Side, record: DensityRecord, search: Search, workers: Workers
) -> NDArray[np.int64]:
    """Bring all pairs of a and b within the radius to a record; see `within.scan_within`.

    Holds twice the bytes of `bfloat16.BriefRows`: about as many as rows of float32 have.
    """
    brief_a, brief_b = _rounded(a, b, search)
    local = threading.local()
    limit = search.radius * search.radius

    def run(task: tuple[int, int, int]) -> NDArray[np.int64]:
        start, begin, end = task
        if not hasattr(local, "tile"):
            local.tile = _Tile(brief_a.values.shape[1])
        tile: _Tile = local.tile
        members = np.arange(start, min(start + ROWS, len(a.order)))
        left = tile.left[: len(members)]
        load_left(brief_a, members, left)
        limit_left(brief_a, members, np.full(len(members), limit), left)
        work = np.zeros(2, dtype=np.int64)
        for at in range(begin, end, COLUMNS):
            n = min(COLUMNS, end - at)
            if _is_settled(record.density, start + a.offset, len(members), at + b.offset, n):
                continue
            right = brief_b.values[at : at + -(-n // STRIP) * STRIP]
            product = tile.product[: len(left) * len(right)].reshape(len(left), len(right))
            multiply(left, right, product)
            n_pairs = _hits(a, b, brief_a, brief_b, start, at, n, product, search, record.density,
                            tile.first, tile.second, work)  # fmt: skip
            if n_pairs:
                record.add(tile.first, tile.second, n_pairs)
        return work

    n_a, n_b = len(a.order), len(b.order)
    nothing = np.zeros(2, dtype=np.int64)
    with one_thread():
        if a is not b:
            return sum(workers.map(run, [(s, 0, n_b) for s in range(0, n_a, ROWS)]), nothing)
        # what lies together first: it settles most rows, and settled rows save work
        near = [(s, s, min(s + ROWS, n_a)) for s in range(0, n_a, ROWS)]
        far = [(s, s + ROWS, n_a) for s in range(0, n_a - ROWS, ROWS)]
        return sum(workers.map(run, far), sum(workers.map(run, near), nothing))


def _rounded(a: Side, b: Side, search: Search) -> tuple[BriefRows, BriefRows]:
    centre = centre_of(a.rows)
    brief = BriefRows.of(a.rows, a.order, centre, search.scale)
    return brief, brief if a is b else BriefRows.of(b.rows, b.order, centre, search.scale)


@compiled
def _is_settled(density, first, n_first, second, n_second):  # type: ignore[no-untyped-def]
    """Whether all rows of a tile are core rows of one cluster."""
    root = _root(density, first)
    settled = root >= 0
    row = first + 1
    while settled and row < first + n_first:
        settled = _root(density, row) == root
        row += 1
    row = second
    while settled and row < second + n_second:
        settled = _root(density, row) == root
        row += 1
    return settled


@compiled
def _root(density, row):  # type: ignore[no-untyped-def]
    """Root of a core row; -1 for any other."""
    if density.counts[row] < density.enough:
        return -1
    return root_of(density.parents, row)


@compiled
def _hits(  # type: ignore[no-untyped-def]
    a, b, brief_a, brief_b, start, at, n_columns, product, search, density, first, second, work
):
    """Put the pairs of a tile that are within the radius into first and second; how many."""
    n_rows = len(product)
    four = product.view(np.int64)
    same = a.offset == b.offset
    roots = np.empty(n_columns, dtype=np.int64)
    strips = np.empty((n_columns + STRIP - 1) // STRIP, dtype=np.int64)
    for j in range(n_columns):
        roots[j] = _root(density, at + j + b.offset)
        if j % STRIP == 0:
            strips[j // STRIP] = roots[j]
        elif roots[j] != strips[j // STRIP]:
            strips[j // STRIP] = -1
    bits = np.empty(1, dtype=np.int32)
    value = bits.view(np.float32)
    n_pairs = 0
    work[0] += n_rows * n_columns
    for i in range(n_rows):
        p = start + i
        root = _root(density, p + a.offset)
        joined = -1
        for strip in range(len(strips)):
            if root >= 0 and strips[strip] == root:
                continue
            any_sign = np.int64(0)
            for word in range(strip * WORDS, (strip + 1) * WORDS):
                any_sign |= four[i, word]
            if any_sign & SIGNS == 0:
                continue
            for word in range(strip * WORDS, (strip + 1) * WORDS):
                if four[i, word] & SIGNS == 0:
                    continue
                for j in range(4 * word, 4 * word + 4):
                    q = at + j
                    if product[i, j] >= 0 or (same and q <= p):
                        continue
                    if root >= 0 and (roots[j] == root or (roots[j] >= 0 and roots[j] == joined)):
                        continue
                    bits[0] = np.int32(product[i, j]) << 16
                    if not _is_within(a, b, brief_a, brief_b, p, q, value[0], search, work):
                        continue
                    first[n_pairs] = p + a.offset
                    second[n_pairs] = q + b.offset
                    n_pairs += 1
                    if root >= 0 and roots[j] >= 0:
                        joined = roots[j]
    return n_pairs


@compiled
def _is_within(a, b, brief_a, brief_b, p, q, value, search, work):  # type: ignore[no-untyped-def]
    """Whether a pair whose product is negative is within the radius: by bounds, or measured."""
    limit = search.radius * search.radius
    most = most_above(brief_a, p, brief_b, q, limit, brief_a.columns)
    if value * (1.0 - 2.0**-7) + most < 0.0:
        return True
    work[1] += 1
    return squared_distance(a.rows[a.order[p]], b.rows[b.order[q]]) <= search.limit


def scan_on_device(
    a: Side, b: Side, record: DensityRecord, search: Search, device: torch.device
) -> NDArray[np.int64] | None:
    """Do the same with products on a GPU; what is negative comes back and is looked at here.

    None where the rows do not fit into its memory: nothing has been recorded then.
    """
    import torch

    brief_a, brief_b = _rounded(a, b, search)
    limit = search.radius * search.radius
    n_a, n_b = len(a.order), len(b.order)
    work = np.zeros(2, dtype=np.int64)
    try:
        right = on_device(brief_b.values[:n_b], device)
    except torch.OutOfMemoryError:
        return None
    with full_sums():
        for start in range(0, n_a, DEVICE_ROWS):
            members = np.arange(start, min(start + DEVICE_ROWS, n_a))
            m = len(members)
            factors = np.zeros((m, brief_a.values.shape[1]), dtype=np.int16)
            load_left(brief_a, members, factors)
            limit_left(brief_a, members, np.full(m, limit), factors)
            left = on_device(factors, device)
            for at in range(start if a is b else 0, n_b, DEVICE_COLUMNS):
                n = min(DEVICE_COLUMNS, n_b - at)
                if _is_settled(record.density, start + a.offset, m, at + b.offset, n):
                    continue
                work[0] += m * n
                product = left @ right[at : at + n].T
                own, other = (
                    torch.from_numpy(_roots(record.density, first, many)).to(device)
                    for first, many in ((start + a.offset, m), (at + b.offset, n))
                )
                settled = (own[:, None] == other) & (own[:, None] >= 0)
                places = ((product < 0) & ~settled).nonzero()
                values = product[places[:, 0], places[:, 1]].float().cpu().numpy()
                first, second = places.to(torch.int32).T.contiguous().cpu().numpy()
                n_pairs = _listed(a, b, brief_a, brief_b, start, at, first, second, values, search,
                                  work)  # fmt: skip
                if n_pairs:
                    record.add(first, second, n_pairs)
    return work


@compiled
def _roots(density, first, n):  # type: ignore[no-untyped-def]
    """Root of each of n rows; -1 where a row is not core."""
    roots = np.empty(n, dtype=np.int64)
    for i in range(n):
        roots[i] = _root(density, first + i)
    return roots


@compiled
def _listed(  # type: ignore[no-untyped-def]
    a, b, brief_a, brief_b, start, at, first, second, values, search, work
):
    """Keep those of the listed pairs that are within the radius, by position; how many."""
    same = a.offset == b.offset
    n_pairs = 0
    for h in range(len(values)):
        p, q = start + first[h], at + second[h]
        if same and q <= p:
            continue
        if _is_within(a, b, brief_a, brief_b, p, q, values[h], search, work):
            first[n_pairs] = p + a.offset
            second[n_pairs] = q + b.offset
            n_pairs += 1
    return n_pairs
