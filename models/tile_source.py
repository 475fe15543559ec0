"""Where training reads its tiles from: anything with a length and a ``read``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class TileSource(Protocol):
    """Tiles by number, wherever they lie.

    Tiles are square, all of one size, uint16 on the normalised scale: 0 to 65535 stands for 0
    to 1.
    """

    def __len__(self) -> int:
        """Count the tiles."""
        ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Read tiles in the order asked for.

        Parameters
        ----------
        indices : ndarray of int64, shape (n,)
            Numbers in [0, len), in any order.

        Returns
        -------
        ndarray of uint16, shape (n, size, size)
        """
        ...


class ArrayTiles:
    """Tiles that lie in one array: in memory, or mapped from a file.

    Parameters
    ----------
    tiles : ndarray of uint16, shape (n, size, size)
        Normalised scale: 0 to 65535 stands for 0 to 1.
    """

    def __init__(self, tiles: NDArray[np.uint16]) -> None:
        if tiles.ndim != 3 or tiles.shape[1] != tiles.shape[2] or tiles.dtype != np.uint16:
            raise ValueError(
                f"tiles must be uint16 of shape (n, size, size), not {tiles.dtype} {tiles.shape}."
            )
        self._tiles = tiles

    def __len__(self) -> int:
        return len(self._tiles)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Read tiles in the order asked for; see `TileSource`."""
        return self._tiles[indices]


BLOCK_BYTES = 64 * 2**20
"""Of tiles that are read at once, at most."""
BLOCKS_HELD = 4
"""Blocks among which an epoch mixes its tiles, and which are in memory."""


class StoredTiles:
    """Tiles of several stored arrays, one after the other, read when they are asked for.

    They lie in blocks, the arrays' Zarr shards. An epoch goes through a few blocks at a time
    (`models.epochs.epoch_order`), and these few are kept: so each is read once an epoch, whole. A
    read all over the place goes to the arrays' chunks and keeps nothing.

    Parameters
    ----------
    arrays : sequence
        Of shape (n, size, size), uint16, all of one size, with ``oindex`` as Zarr's arrays have it.
    rows : sequence of ndarray of int64, optional
        Which rows of each array there are; None: all.

    Attributes
    ----------
    block_ends : ndarray of int64
        Number of the first tile behind each block.
    """

    def __init__(
        self, arrays: Sequence[Any], rows: Sequence[NDArray[np.int64]] | None = None
    ) -> None:
        if not arrays:
            raise ValueError("there are no arrays to read tiles from")
        sizes = {tuple(array.shape[1:]) for array in arrays}
        if len(sizes) != 1 or any(a.dtype != np.uint16 or a.ndim != 3 for a in arrays):
            raise ValueError(
                f"tiles must be uint16 of shape (n, size, size), all of one size, not {sizes}."
            )
        self._arrays = list(arrays)
        self._size: tuple[int, ...] = sizes.pop()
        given = [np.arange(a.shape[0]) for a in arrays] if rows is None else list(rows)
        self._blocks: list[tuple[int, NDArray[np.int64]]] = []
        for number, (array, own) in enumerate(zip(arrays, given, strict=True)):
            if len(own):
                shard = own // _rows_at_once(array)
                cuts = np.flatnonzero(np.diff(shard)) + 1
                self._blocks += [(number, part) for part in np.split(own, cuts)]
        self.block_ends = np.cumsum([len(part) for _, part in self._blocks], dtype=np.int64)
        self._held: OrderedDict[int, NDArray[np.uint16]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.block_ends[-1]) if len(self.block_ends) else 0

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Read tiles in the order asked for; see `TileSource`."""
        tiles = np.empty((len(indices), *self._size), dtype=np.uint16)
        which = np.searchsorted(self.block_ends, indices, side="right")
        wanted = np.unique(which).tolist()
        few = len(wanted) <= 2 * BLOCKS_HELD  # of an epoch's step: two rounds at most
        for block in sorted(wanted, key=lambda b: b not in self._held):
            places = np.flatnonzero(which == block)
            number, rows = self._blocks[block]
            inside = indices[places] - (self.block_ends[block] - len(rows))
            if few:
                tiles[places] = self._whole(block)[inside]
            else:
                tiles[places] = self._chosen(number, rows[inside])
        return tiles

    def _whole(self, block: int) -> NDArray[np.uint16]:
        if block not in self._held:
            while len(self._held) >= BLOCKS_HELD:
                self._held.popitem(last=False)
            self._held[block] = self._chosen(*self._blocks[block])
        return self._held[block]

    def _chosen(self, number: int, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Rows of an array in any order: in one slice where they lie together."""
        array = self._arrays[number]
        first, last = int(rows.min()), int(rows.max())
        if last - first < 2 * len(rows):
            return np.asarray(array[first : last + 1])[rows - first]
        distinct, back = np.unique(rows, return_inverse=True)
        return np.asarray(array.oindex[distinct])[back]


def _rows_at_once(array: Any) -> int:
    """Rows of a Zarr shard, or of so many chunks as fit into ``BLOCK_BYTES``."""
    chunk = int((getattr(array, "chunks", None) or (1,))[0])
    bound = max(1, BLOCK_BYTES // (2 * int(np.prod(array.shape[1:])) * chunk)) * chunk
    shards = getattr(array, "shards", None)
    return min(int(shards[0]), bound) if shards else bound
