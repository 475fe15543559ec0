"""Nearest rows and spanning trees over blocks of rows on many workers.

A task is one block: its worker holds the block, what was found for it, and one other block at a
time, of those that are within reach of any of its rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import zarr
from numpy.typing import NDArray

from models.pairs.blocks import CHUNK_ROWS, Blocks, read_array, write_array
from models.pairs.nearest import Nearest, find_nearest
from models.pairs.products import QUERY_ROWS, compiled, squared_distance
from models.pairs.sides import Side, reaching
from models.pairs.spanning_tree import Forest, GroupSearch, Known, offer_all, raise_bounds
from models.workers import ThreadWorkers, Workers

PROBES = 64


def nearest_of_blocks(blocks: Blocks, k: int, workers: Workers) -> Iterator[Nearest]:
    """Find the k nearest rows of each row, itself the first; block after block.

    Parameters
    ----------
    blocks : Blocks
    k : int
        At most the number of rows.
    workers : Workers

    Yields
    ------
    Nearest
        Of the rows of a block; places are positions among all rows.
    """
    held = [b for b in range(len(blocks)) if blocks.size(b)]
    return workers.map(partial(_nearest_of_block, blocks, k), held)


def _nearest_of_block(blocks: Blocks, k: int, block: int) -> Nearest:
    own = blocks.side(block)
    found = Nearest.blank(blocks.size(block), k)
    threads = ThreadWorkers(1)
    find_nearest(own, own, found, blocks.projection, threads)
    every = np.arange(blocks.size(block))
    for other in blocks.others(block):
        asking = _reaching(blocks, own, every, found.squares[:, -1], other)
        if len(asking):
            find_nearest(own, blocks.side(other), found, blocks.projection, threads, asking)
    return found


def _reaching(
    blocks: Blocks, side: Side, rows: NDArray[np.int64], squares: NDArray[np.float64], block: int
) -> NDArray[np.int64]:
    """Rows whose reach leads into a block's box."""
    low, high, error = blocks.low[block], blocks.high[block], blocks.error[block]
    chosen: NDArray[np.int64] = reaching(
        side, rows, squares, 1.0 / blocks.projection.unit, low, high, error
    )
    return chosen


@dataclass(frozen=True)
class _Open:
    """Rows of a block that need a search, by position in it.

    Parameters
    ----------
    block : int
    rows : ndarray of int64, shape (m,)
    square : ndarray of float64, shape (m,)
        Lightest edge of their component so far; infinite where there is none.
    """

    block: int
    rows: NDArray[np.int64]
    square: NDArray[np.float64]


@dataclass(frozen=True)
class _Edges:
    """Edges of some rows to others, by position among all."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    square: NDArray[np.float64]


class SearchInBlocks:
    """Searches blocks for the rounds of `models.pairs.spanning_tree`.

    What workers need of the forest lies beside the blocks, anew for each round, so that a task
    that is run again finds what it found before.

    Parameters
    ----------
    blocks : Blocks
    workers : Workers
    """

    def __init__(self, blocks: Blocks, workers: Workers) -> None:
        self.blocks, self.workers = blocks, workers
        self.rounds = 0

    def __call__(self, forest: Forest, rows: NDArray[np.int64]) -> None:
        """Search for the rows at some positions: in their own blocks, then in all others."""
        state = f"{self.blocks.folder}/round-{self.rounds}"
        self.rounds += 1
        group = zarr.create_group(state, overwrite=True)
        write_array(group, "component", forest.component, CHUNK_ROWS)
        write_array(group, "core", forest.core, CHUNK_ROWS)
        for inside in (True, False):
            # an edge that the own blocks gave may have settled a row
            rows = rows[forest.bound[rows] < forest.best[forest.component[rows]]]
            search = partial(_search_block, self.blocks, state, inside)
            for edges in self.workers.map(search, self._open(forest, rows)):
                offer_all(edges.first, edges.square, edges.second, forest)
        raise_bounds(rows, forest)
        shutil.rmtree(state, ignore_errors=True)

    def _open(self, forest: Forest, rows: NDArray[np.int64]) -> Iterator[_Open]:
        best = forest.best.copy()
        bounds = np.searchsorted(rows, self.blocks.starts)
        for block in range(len(self.blocks)):
            part = rows[bounds[block] : bounds[block + 1]]
            if len(part):
                square = best[forest.component[part]]
                yield _Open(block, part - self.blocks.starts[block], square)


def _search_block(blocks: Blocks, state: str, inside: bool, asked: _Open) -> _Edges:
    own = blocks.side(asked.block)
    known = _known(blocks, state, asked.block)
    component = known.component[asked.rows]
    square = asked.square.copy()
    place = np.full(len(square), -1, dtype=np.int64)
    search = GroupSearch(blocks.projection, own.rows.shape[1])
    for other in [asked.block] if inside else blocks.others(asked.block):
        lighter = known.core[asked.rows] < square  # no edge of the others can be
        chosen = _reaching(blocks, own, asked.rows[lighter], square[lighter], other)
        if len(chosen) == 0:
            continue
        b = own if inside else blocks.side(other)
        of_b = known if inside else _known(blocks, state, other)
        _probe(own, asked.rows, known, b, of_b, square, place)
        at = np.searchsorted(asked.rows, chosen)
        for start in range(0, len(at), QUERY_ROWS):
            group = at[start : start + QUERY_ROWS]
            squares, places = square[group], place[group]
            search(own, asked.rows[group], known, b, of_b, squares, places)
            square[group], place[group] = squares, places
        _share(component, square, place)
    found = place >= 0
    first = asked.rows[found] + blocks.starts[asked.block]
    return _Edges(first, place[found], square[found])


def _known(blocks: Blocks, state: str, block: int) -> Known:
    piece = slice(int(blocks.starts[block]), int(blocks.starts[block + 1]))
    return Known(read_array(state, "component", piece), read_array(state, "core", piece))


def _share(
    component: NDArray[np.int32], square: NDArray[np.float64], place: NDArray[np.int64]
) -> None:
    """Let all rows of a component know its lightest edge; one of them keeps it."""
    order = np.lexsort((place < 0, square, component))
    leader = np.r_[True, np.diff(component[order]) != 0]
    lightest = order[leader][np.cumsum(leader) - 1]  # of each row's component
    square[order] = square[lightest]
    place[order[~leader]] = -1


@compiled
def _probe(a, rows, of_a, b, of_b, square, place):  # type: ignore[no-untyped-def]
    """Give rows without any edge one that is not too long: to rows spread over b."""
    n = len(b.order)
    step = max(1, n // PROBES)
    for i in range(len(rows)):
        if square[i] < np.inf:
            continue
        p = rows[i]
        if i > 0 and of_a.component[rows[i - 1]] == of_a.component[p]:
            square[i] = square[i - 1]  # one row of a component is enough
            continue
        for q in range(0, n, step):
            if of_b.component[q] != of_a.component[p]:
                d = squared_distance(a.rows[a.order[p]], b.rows[b.order[q]])
                weight = max(d, max(of_a.core[p], of_b.core[q]))
                if weight < square[i]:
                    square[i] = weight
                    place[i] = q + b.offset
