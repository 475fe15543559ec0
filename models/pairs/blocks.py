"""Rows in blocks by place, on disk, for sets that no process holds.

The rows are read once by chunks and written once by blocks; rows of a block lie close together, so
that most pairs of blocks need not be looked at.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from models.neighbours import distances_to_nearest
from models.pairs.leaves import Leaves
from models.pairs.nearest import probes_of
from models.pairs.projection import SAMPLE_ROWS, Projection, Rows
from models.pairs.sides import Side
from models.workers import Workers

BLOCK_ROWS = 32_768
CHUNK_ROWS = 32_768
PIECE_ROWS = 1_024  # of a chunk's file: what a block reads of it is rounded up to this
SAMPLES_PER_BLOCK = 64


@dataclass(frozen=True)
class Cuts:
    """A binary tree of cuts across one coordinate each, that sends a row to its block.

    Parameters
    ----------
    axis : ndarray of int32, shape (n_cuts,)
        Coordinate of each cut.
    value : ndarray of float32, shape (n_cuts,)
    tie : ndarray of float64, shape (n_cuts,)
        Rows at the value itself go to the left where their draw is lower: equal rows may be cut.
    left, right : ndarray of int32, shape (n_cuts,)
        The next cut, or -1 - block.
    """

    axis: NDArray[np.int32]
    value: NDArray[np.float32]
    tie: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]

    @property
    def n_blocks(self) -> int:
        """One more than there are cuts."""
        return len(self.axis) + 1

    @classmethod
    def of(cls, coordinates: NDArray[np.float32], n_blocks: int) -> Cuts:
        """Cut a sample into equal parts, each time across the widest side.

        Parameters
        ----------
        coordinates : ndarray of float32, shape (n, width)
            At least one row.
        n_blocks : int
            At most one a row.
        """
        cuts: list[tuple[int, float, float, int, int]] = []
        draws = draw(np.arange(len(coordinates)))
        blocks = 0

        def cut(rows: NDArray[np.int64], parts: int) -> int:
            nonlocal blocks
            if parts == 1:
                blocks += 1
                return -blocks
            near = coordinates[rows]
            axis = int(np.argmax(near.max(axis=0) - near.min(axis=0)))
            ordered = rows[np.lexsort((draws[rows], near[:, axis]))]
            at = len(rows) * (parts // 2) // parts
            place = len(cuts)
            cuts.append((axis, float(coordinates[ordered[at], axis]), draws[ordered[at]], 0, 0))
            left = cut(ordered[:at], parts // 2)
            right = cut(ordered[at:], parts - parts // 2)
            cuts[place] = (*cuts[place][:3], left, right)
            return place

        cut(np.arange(len(coordinates)), n_blocks)
        columns = list(zip(*cuts, strict=True)) or [()] * 5
        kinds = (np.int32, np.float32, np.float64, np.int32, np.int32)
        return cls(*(np.array(c, dtype=k) for c, k in zip(columns, kinds, strict=True)))

    def block_of(
        self, coordinates: NDArray[np.float32], draws: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Send rows, shape (n, width), with their draws to blocks."""
        blocks = np.zeros(len(coordinates), dtype=np.int64)
        todo = [(0, np.arange(len(coordinates)))] if len(self.axis) else []
        while todo:
            place, rows = todo.pop()
            values = coordinates[rows, self.axis[place]]
            tied = (values == self.value[place]) & (draws[rows] < self.tie[place])
            goes_left = (values < self.value[place]) | tied
            for child, part in ((self.left, rows[goes_left]), (self.right, rows[~goes_left])):
                if child[place] < 0:
                    blocks[part] = -1 - child[place]
                elif len(part):
                    todo.append((int(child[place]), part))
        return blocks


def draw(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Draw a number in [0, 1) for each row number, always the same one (splitmix64)."""
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    drawn: NDArray[np.float64] = (x ^ (x >> np.uint64(31))) / 2.0**64
    return drawn


@dataclass(frozen=True)
class Blocks:
    """A set of rows, sorted into blocks on disk.

    Parameters
    ----------
    folder : str
        Folder or URL that all workers reach.
    projection : Projection
    starts : ndarray of int64, shape (n_blocks + 1,)
        First position of each block.
    low, high : ndarray of float32, shape (n_blocks, width)
        Their boxes.
    error : ndarray of float64, shape (n_blocks,)
        How far, at most, their coordinates are off.
    """

    folder: str
    projection: Projection
    starts: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    error: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def n_rows(self) -> int:
        """Rows of all blocks."""
        return int(self.starts[-1])

    @classmethod
    def sort(
        cls,
        rows: zarr.Array[Any],
        folder: str,
        workers: Workers,
        *,
        radius: float | None = None,
        k: int | None = None,
        block_rows: int = BLOCK_ROWS,
    ) -> Blocks:
        """Write the rows into blocks.

        Parameters
        ----------
        rows : zarr.Array, shape (n, dim)
            Reached by all workers; at least one row.
        folder : str
            Empty, or of an earlier attempt.
        workers : Workers
        radius : float or None
            Of the pairs that will be looked for, see `Projection`.
        k : int or None
            Instead of a radius: how many nearest rows will be looked for, at most all.
        block_rows : int
            Rows of a block, about.

        Raises
        ------
        ValueError
            A value is not finite.
        """
        n_blocks = -(-rows.shape[0] // block_rows)
        sample = sample_stored(rows, max(SAMPLE_ROWS, SAMPLES_PER_BLOCK * n_blocks))
        few = sample[:SAMPLE_ROWS]
        if radius is None:
            queries = probes_of(few)
            reach = distances_to_nearest(queries, rows, k or 1, workers=workers)
            projection = Projection.fit(few, reach, queries)
        else:
            projection = Projection.fit(few, radius)
        cuts = Cuts.of(projection.apply(sample)[0], min(n_blocks, len(sample)))
        split = partial(_split_chunk, rows, folder, projection, cuts)
        chunks = range(0, rows.shape[0], CHUNK_ROWS)
        offsets = np.stack(list(workers.map(split, chunks)))  # (n_chunks, n_blocks + 1)
        build = partial(_build_block, folder, projection, offsets)
        built = list(workers.map(build, range(cuts.n_blocks)))
        return cls(
            folder,
            projection,
            np.concatenate([[0], np.cumsum([b.n_rows for b in built])]),
            np.stack([b.low for b in built]),
            np.stack([b.high for b in built]),
            np.array([b.error for b in built]),
        )

    def near(self, a: int, b: int, radius: float) -> bool:
        """Whether blocks a and b may hold a pair within a radius (in units)."""
        if self.size(a) == 0 or self.size(b) == 0:
            return False
        distance = self._gaps(a)[b]
        return bool(distance <= (radius + self.error[a] + self.error[b]) * (1 + 1e-6))

    def others(self, block: int) -> list[int]:
        """All other blocks that hold rows, the nearest first."""
        order = np.argsort(self._gaps(block), kind="stable").tolist()
        return [b for b in order if b != block and self.size(b)]

    def _gaps(self, block: int) -> NDArray[np.float64]:
        """Distance of each block's box."""
        gap = np.maximum(self.low - self.high[block], self.low[block] - self.high)
        distances: NDArray[np.float64] = np.linalg.norm(
            np.maximum(gap, 0).astype(np.float64), axis=1
        )
        return distances

    def side(self, block: int) -> Side:
        """Read a block for a search; its offset is its first position among all."""
        side = Side.of(self.read(block), int(self.starts[block]))
        return side._replace(order=side.itself).widened(self.projection)  # rows lie in order

    def read(self, block: int) -> Leaves:
        """Read a block; position p of it is position ``starts[block] + p`` of all."""
        where = f"{self.folder}/block-{block}"
        arrays = {name: read_array(where, name) for name in LEAF_ARRAYS}
        return Leaves(order=np.arange(len(arrays["rows"])), **arrays)

    def order(self) -> NDArray[np.int64]:
        """Row number at each position."""
        blocks = (f"{self.folder}/block-{b}" for b in range(len(self)) if self.size(b))
        return np.concatenate([read_array(block, "numbers") for block in blocks])

    def size(self, block: int) -> int:
        """Rows of a block."""
        return int(self.starts[block + 1] - self.starts[block])


LEAF_ARRAYS = ("rows", "coordinates", "starts", "low", "high", "error")


def sample_stored(rows: zarr.Array[Any], most: int) -> Rows:
    """Read at most so many rows, runs of 16 spread evenly, in a fixed mixed order."""
    n = rows.shape[0]
    if n <= most:
        starts, length = [0], n
    else:
        starts = np.linspace(0, n - 16, most // 16).astype(int).tolist()
        length = 16
    sample = np.concatenate([np.asarray(rows[s : s + length]) for s in starts])
    require_finite(sample, 0, "of a sample")
    mixed: Rows = sample[np.argsort(draw(np.arange(len(sample))), kind="stable")]
    return mixed


def require_finite(rows: Rows, first: int, what: str = "") -> None:
    """Refuse values that are not finite, naming the row."""
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = first + int(np.argmin(finite))
        raise ValueError(f"row {row} {what} holds a value that is not finite; encode it again.")


@dataclass(frozen=True)
class _Built:
    n_rows: int
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    error: float


def _split_chunk(
    rows: zarr.Array[Any], folder: str, projection: Projection, cuts: Cuts, start: int
) -> NDArray[np.int64]:
    """Write a chunk's rows sorted by block; where each block's begin, shape (n_blocks + 1,)."""
    chunk = np.asarray(rows[start : start + CHUNK_ROWS])
    if chunk.dtype not in (np.float32, np.float64):
        chunk = chunk.astype(np.float32)
    require_finite(chunk, start)
    numbers = np.arange(start, start + len(chunk))
    blocks = cuts.block_of(projection.apply(chunk)[0], draw(numbers))
    order = np.argsort(blocks, kind="stable")
    group = zarr.create_group(f"{folder}/chunk-{start}", overwrite=True)
    write_array(group, "rows", chunk[order], PIECE_ROWS)
    write_array(group, "numbers", numbers[order], CHUNK_ROWS)
    return np.searchsorted(blocks[order], np.arange(cuts.n_blocks + 1))


def _build_block(
    folder: str, projection: Projection, offsets: NDArray[np.int64], block: int
) -> _Built:
    """Collect a block's rows from all chunks and write them in the order of its leaves."""
    parts = []
    for chunk, bounds in enumerate(offsets):
        begin, end = bounds[block], bounds[block + 1]
        if begin < end:
            where = f"{folder}/chunk-{chunk * CHUNK_ROWS}"
            piece = slice(begin, end)
            parts.append((read_array(where, "rows", piece), read_array(where, "numbers", piece)))
    if not parts:
        empty = np.zeros(projection.width, dtype=np.float32)
        return _Built(0, empty, empty, 0.0)
    rows, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
    leaves = Leaves.of(rows, projection)
    group = zarr.create_group(f"{folder}/block-{block}", overwrite=True)
    write_array(group, "numbers", numbers[leaves.order], CHUNK_ROWS)
    for name in LEAF_ARRAYS:
        values = rows[leaves.order] if name == "rows" else getattr(leaves, name)
        write_array(group, name, values, CHUNK_ROWS)
    return _Built(
        len(rows), leaves.low.min(axis=0), leaves.high.max(axis=0), float(leaves.error.max())
    )


def read_array(where: str, name: str, piece: slice = slice(None)) -> NDArray[Any]:
    """Read a part of an array that `write_array` wrote."""
    return np.asarray(zarr.open_array(f"{where}/{name}", mode="r")[piece])


def write_array(group: zarr.Group, name: str, values: NDArray[Any], chunk_rows: int) -> None:
    """Write an array as it is: floats of embeddings hardly compress."""
    chunks = (min(chunk_rows, max(1, len(values))), *values.shape[1:])
    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=None
    )
    array[...] = values


def pairs_of_blocks(blocks: Blocks, radius: float) -> Iterator[tuple[int, int]]:
    """Pairs a < b of different blocks that may hold a pair within a radius (in units)."""
    for a in range(len(blocks)):
        for b in range(a + 1, len(blocks)):
            if blocks.near(a, b, radius):
                yield a, b


def is_stored(rows: Any) -> bool:
    """Whether rows are an array of Zarr or Dask, to be read by parts."""
    return isinstance(rows, zarr.Array) or hasattr(rows, "__dask_graph__")


def require_matrix(rows: Any) -> None:
    """Refuse arrays that do not hold at least one row of at least one column."""
    if len(rows.shape) != 2 or min(rows.shape) < 1:
        raise ValueError(f"rows must have shape (n, dim), at least 1 each, not {rows.shape}.")


@contextmanager
def scratch_folder(parent: str | None) -> Iterator[str]:
    """Make an empty folder, and remove it at the end.

    Parameters
    ----------
    parent : str or None
        Folder to make it in; None: where this machine keeps temporary files.
    """
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mammosift-", dir=parent) as folder:
        yield folder


def stored(rows: Any, folder: str, client: Any = None) -> zarr.Array[Any]:
    """Give rows as a Zarr array that all workers reach, writing them there if they are not.

    Parameters
    ----------
    rows : ndarray, zarr.Array or dask.array.Array, shape (n, dim)
    folder : str
        Where to write.
    client : distributed.Client or None
        Computes a Dask array.
    """
    if isinstance(rows, zarr.Array):
        return rows
    dtype = rows.dtype if rows.dtype in (np.float32, np.float64) else np.dtype(np.float32)
    array = zarr.create_array(
        f"{folder}/rows",
        shape=rows.shape,
        dtype=dtype,
        chunks=(CHUNK_ROWS, rows.shape[1]),
        compressors=None,
    )
    if isinstance(rows, np.ndarray):
        for start in range(0, len(rows), CHUNK_ROWS):
            array[start : start + CHUNK_ROWS] = rows[start : start + CHUNK_ROWS]
        return array
    whole = rows.astype(dtype).rechunk((CHUNK_ROWS, rows.shape[1]))  # each task writes whole chunks
    saving = whole.store(array, lock=False, compute=False)
    saving.compute(scheduler=client) if client is not None else saving.compute(scheduler="threads")
    return array
