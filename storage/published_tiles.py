"""Tiles of a published manifest: rows that are wanted, and their pixels by whole shards.

What training jobs and exports read through. Rows lie in the order of the pixels, so that a reader
who goes from one to the next opens each piece of the pixels once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage import augmented as copies_of
from storage.errors import ShardError
from storage.manifest import SPLITS, Filters, read_manifest
from storage.tile_shards import KIND, Tiles
from storage.workspace import ZARR_SHARD_BYTES, Workspace
from storage.zarr_rows import ZarrRows, rows_of

DECISIONS = ("keep", "review", "drop")
NEEDED = ("tile_id", "patient_key", "label", "decision", "split", "pixels_uri", "pixels_index")
MAX_TILE_PX = 4096
"""As ``tile_size_px`` of the settings: whatever claims more is no tile of ours."""
MAX_CHUNK_BYTES = 64 * 2**20
SPARSE_SHARE = 0.25
"""Where fewer of a block's rows are wanted, only the chunks that hold them are read."""

_URI = re.compile(rf"({KIND}|{copies_of.KIND})/([0-9a-zA-Z_-]+)/([0-9a-zA-Z_.-]+\.zarr)")


@dataclass(frozen=True)
class Block:
    """Wanted tiles that lie in one Zarr shard: what is read at once, 64 MiB at most.

    Parameters
    ----------
    uri : str
        Pixel array, relative to the workspace.
    first, stop : int
        Its tiles among `PublishedTiles.table`: a run of rows.
    """

    uri: str
    first: int
    stop: int

    def __len__(self) -> int:
        """Count the wanted tiles."""
        return self.stop - self.first


class PublishedTiles:
    """The tiles that a manifest publishes, or those of them that are wanted.

    Parameters
    ----------
    workspace : Workspace, str or Path
        Local folder or any URI that fsspec knows.
    split : str or sequence of str, optional
        ``train``, ``validation``, ``test``; default: all.
    filters : pyarrow.compute.Expression or list, optional
        As in `storage.manifest.read_manifest`.
    decisions : sequence of str or None
        Decisions that are let through; None: all.
    columns : sequence of str, optional
        Columns of `table` beside ``NEEDED``; default: no more. ``("*",)``: all.
    augmented : bool
        Also the augmented copies of the tiles wanted. A copy has its tile's row but for ``tile_id``
        and its pixels; `table` then has the column ``source_tile_id``, null for the tiles
        themselves.

    Attributes
    ----------
    table : pyarrow.Table
        One row a tile, by ``pixels_uri`` and ``pixels_index``.
    without_pixels : int
        Tiles that would be wanted, but whose pixels are not stored (black ones).
    size_px : int
        Edge of a tile; 0 where there is none.
    blocks : list of Block
        What is read at once, in the table's order.

    Raises
    ------
    WorkspaceError, ShardError
        No manifest; pixels missing or altered.
    ValueError
        A split, decision, column or filter that does not exist.
    """

    def __init__(
        self,
        workspace: Workspace | str | Path,
        *,
        split: str | Sequence[str] | None = None,
        filters: Filters | None = None,
        decisions: Sequence[str] | None = ("keep",),
        columns: Sequence[str] = (),
        augmented: bool = False,
    ) -> None:
        opened = workspace if isinstance(workspace, Workspace) else Workspace.open(workspace)
        splits = _choice("split", (split,) if isinstance(split, str) else split, SPLITS)
        decided = _choice("decisions", decisions, DECISIONS)
        names = None if tuple(columns) == ("*",) else list(dict.fromkeys((*NEEDED, *columns)))
        table = read_manifest(opened, names, filters)
        if splits is not None:
            table = table.filter(pc.is_in(table["split"], pa.array(splits)))
        if decided is not None:
            table = table.filter(pc.is_in(table["decision"], pa.array(decided)))
        stored = table.filter(pc.is_valid(table["pixels_uri"]))
        self.without_pixels = table.num_rows - stored.num_rows
        if augmented:
            stored = _with_copies(opened, stored)
        order = [("pixels_uri", "ascending"), ("pixels_index", "ascending")]
        self.table: pa.Table = stored.sort_by(order).combine_chunks()
        del table, stored
        pa.default_memory_pool().release_unused()  # the rows have been copied twice on the way
        self._uri = opened.uri
        self._workspace: Workspace | None = opened
        self._arrays: dict[str, Any] = {}
        self._process = os.getpid()
        if self.table["pixels_index"].null_count:
            raise ShardError(
                f"{self._uri}: the manifest names pixels without their row (pixels_index). It was "
                "altered: run again to publish it."
            )
        self._row: npt.NDArray[np.int64] = self.table["pixels_index"].to_numpy()
        self._uris, self._uri_number = _numbered(self.table["pixels_uri"])
        self.size_px, block_rows = 0, 1
        if self._uris:
            first = self.array(self._uris[0])
            self.size_px = int(first.shape[1])
            block_rows = _rows_at_once(first)
        self.blocks, self._block_starts = self._cut_blocks(block_rows)

    def __len__(self) -> int:
        """Count the tiles."""
        return int(self.table.num_rows)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it opens the arrays for itself."""
        return {**vars(self), "_arrays": {}, "_workspace": None}

    def array(self, uri: str) -> Any:
        """Pixel array of a ``pixels_uri`` (`rows_of` it), checked when it is first opened.

        Raises
        ------
        ShardError
            It is no tile array of this workspace, or files of its shard are missing or altered (a
            missing Zarr chunk would otherwise read as zeros).
        """
        if self._process != os.getpid():  # a forked worker cannot use its parent's connections
            self._arrays, self._workspace, self._process = {}, None, os.getpid()
        if uri not in self._arrays:
            self._arrays[uri] = self._open(uri)
        return self._arrays[uri]

    def _open(self, uri: str) -> Any:
        parts = _URI.fullmatch(uri)
        if parts is None or ".." in uri:
            raise ShardError(
                f"{self._uri}: pixels_uri {uri!r} names no tile array of a workspace "
                f"({KIND}/<key>/<name>.zarr). The manifest was altered: run again to publish it."
            )
        if self._workspace is None:
            self._workspace = Workspace.open(self._uri)
        shard = self._workspace.shard(parts[1], parts[2])
        shard.check()
        array = shard.array(parts[3])
        shape, chunks = tuple(array.shape), tuple(array.chunks)
        sound = (
            len(shape) == 3
            and array.dtype == np.uint16
            and shape[1] == shape[2]
            and 0 < shape[1] <= MAX_TILE_PX
            and 2 * int(np.prod(chunks, dtype=object)) <= MAX_CHUNK_BYTES
        )
        if not sound:
            raise ShardError(
                f"{self._uri}/{uri} holds {array.dtype} of shape {shape} in chunks of {chunks}: "
                f"tiles are uint16 of shape (n, size, size), size up to {MAX_TILE_PX}. "
                "It was altered; remove its shard and run again."
            )
        if self.size_px not in (0, shape[1]):
            raise ShardError(
                f"{self._uri}/{uri} holds tiles of {shape[1]} px, others of the manifest "
                f"{self.size_px} px. Run again to publish the manifest of one run."
            )
        return rows_of(array)

    def _cut_blocks(self, block_rows: int) -> tuple[list[Block], npt.NDArray[np.int64]]:
        if not len(self):
            return [], np.zeros(0, np.int64)
        key = np.stack([self._uri_number, self._row // block_rows])
        starts = np.flatnonzero(np.r_[True, (np.diff(key) != 0).any(axis=0)])
        stops = np.r_[starts[1:], len(self)]
        blocks = [
            Block(self._uris[self._uri_number[a]], int(a), int(b))
            for a, b in zip(starts, stops, strict=True)
        ]
        return blocks, starts

    def block_of(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Number of the block that each tile lies in, int64 (n,)."""
        return np.searchsorted(self._block_starts, indices, side="right") - 1

    def read_block(self, number: int) -> Tiles:
        """Pixels of the wanted tiles of a block, uint16 (len(block), size, size)."""
        block = self.blocks[number]
        return self._rows(block.uri, self._row[block.first : block.stop])

    def read(self, indices: npt.NDArray[np.int64]) -> Tiles:
        """Pixels of tiles in the order asked for, uint16 (n, size, size).

        Each chunk that holds one of them is read once. Memory is that of the answer; for many
        tiles go through the blocks.
        """
        indices = np.asarray(indices, np.int64)
        out = np.empty((len(indices), self.size_px, self.size_px), np.uint16)
        for uri, rows, places in self.rows_by_array(indices):
            distinct, back = np.unique(rows, return_inverse=True)
            out[places] = self._rows(uri, distinct)[back]
        return out

    def rows_by_array(
        self, indices: npt.NDArray[np.int64]
    ) -> Iterator[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Arrays that hold the tiles asked for: uri, rows in it, places among ``indices``."""
        numbers = self._uri_number[indices]
        for number in np.unique(numbers):
            places = np.flatnonzero(numbers == number)
            yield self._uris[number], self._row[indices[places]], places

    def chunk_rows(self, uri: str) -> int:
        """Rows of a chunk of an array: the least that is decoded."""
        return int(self.array(uri).chunks[0])

    def read_chunks(self, uri: str, chunks: Sequence[int]) -> dict[int, Tiles]:
        """Chunks of an array by number, in one read; the last of the array may be shorter."""
        if not chunks:
            return {}
        step, n = self.chunk_rows(uri), int(self.array(uri).shape[0])
        rows = [np.arange(c * step, min(n, (c + 1) * step)) for c in sorted(chunks)]
        pixels = self._rows(uri, np.concatenate(rows))
        ends = np.cumsum([len(r) for r in rows])[:-1]
        return dict(zip(sorted(chunks), np.split(pixels, ends), strict=True))

    def _rows(self, uri: str, rows: npt.NDArray[np.int64]) -> Tiles:
        """Rows of an array, ascending: by Zarr in one slice where most of it is wanted."""
        array = self.array(uri)
        first, last = int(rows[0]), int(rows[-1])
        if first < 0 or last >= array.shape[0]:
            raise ShardError(
                f"{self._uri}/{uri} holds {array.shape[0]} tiles, and the manifest names row "
                f"{last if first >= 0 else first}. It was altered: run again to publish it."
            )
        if np.any(np.diff(rows) == 0):
            raise ShardError(
                f"{self._uri}: the manifest names a tile of {uri} twice. It was altered: run again "
                "to publish it."
            )
        if isinstance(array, ZarrRows):
            found: Tiles = array.read(rows)
            return found
        span = last - first + 1
        whole = span <= _rows_at_once(array)
        if len(rows) < span and not (whole and len(rows) >= SPARSE_SHARE * span):
            return np.asarray(array.oindex[rows])
        pixels = np.asarray(array[first : last + 1])
        return pixels if len(rows) == span else pixels[rows - first]


def tiles(
    workspace: Workspace | str | Path,
    *,
    split: str | Sequence[str] | None = None,
    filters: Filters | None = None,
    decisions: Sequence[str] | None = ("keep",),
    columns: Sequence[str] = ("*",),
) -> Iterator[tuple[npt.NDArray[np.uint16], dict[str, Any]]]:
    """Tiles one after the other, each with its row of the manifest.

    Whole shards are read, and one (64 MiB at most) is held at a time.

    Parameters
    ----------
    workspace, split, filters, decisions
        As of `PublishedTiles`; the kept tiles of all splits by default.
    columns : sequence of str
        Of the rows; default: all.

    Yields
    ------
    pixels : uint16, (size, size)
        0 to 65535 stands for 0 to 1 of the intensity scale; bright is dense.
    row : dict
    """
    found = PublishedTiles(
        workspace, split=split, filters=filters, decisions=decisions, columns=columns
    )
    for number, block in enumerate(found.blocks):
        rows = found.table.slice(block.first, len(block)).to_pylist()
        yield from zip(found.read_block(number), rows, strict=True)


def _with_copies(workspace: Workspace, stored: pa.Table) -> pa.Table:
    """Rows of tiles, and behind them those of their copies."""
    run_ids = pc.unique(read_manifest(workspace, ["run_id"])["run_id"]).to_pylist()
    copies = copies_of.read(workspace, run_ids)
    place = pc.index_in(copies["source_tile_id"], value_set=stored["tile_id"].combine_chunks())
    known = pc.is_valid(place)
    copies, place = copies.filter(known), place.filter(known)
    rows = stored.take(place)
    if any(part != "train" for part in pc.unique(rows["split"]).to_pylist()):
        raise ShardError(
            f"{workspace.path(copies_of.TABLE)} names copies of tiles that are not in the training "
            "part. It was altered: run again to publish it."
        )
    for name in ("tile_id", "pixels_uri", "pixels_index"):
        rows = rows.set_column(rows.schema.get_field_index(name), rows.field(name), copies[name])
    sources = "source_tile_id"
    none = pa.nulls(len(stored), pa.string())
    return pa.concat_tables(
        [stored.append_column(sources, none), rows.append_column(sources, copies[sources])]
    )


def _rows_at_once(array: Any) -> int:
    """Rows of a Zarr shard, in whole chunks, 64 MiB at most."""
    chunk = int(array.chunks[0])
    row_bytes = 2 * int(array.shape[1]) * int(array.shape[2])
    wanted = int((array.shards or array.chunks)[0])
    bound = max(chunk, ZARR_SHARD_BYTES // (row_bytes * chunk) * chunk)
    return max(1, min(wanted, bound))


def _numbered(uris: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Distinct names in order of first appearance, and the number of each row's."""
    coded = pc.dictionary_encode(uris).combine_chunks()
    if not len(coded):
        return [], np.zeros(0, np.int32)
    return coded.dictionary.to_pylist(), np.asarray(coded.indices, np.int32)


def _choice(name: str, given: Sequence[str] | None, known: tuple[str, ...]) -> list[str] | None:
    if given is None:
        return None
    chosen = [given] if isinstance(given, str) else list(given)
    if not chosen or (wrong := [c for c in chosen if c not in known]):
        wrong = wrong if chosen else chosen
        raise ValueError(f"{name}={given!r}: one or more of {', '.join(known)}.")
    return chosen
