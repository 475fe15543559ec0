"""Where training reads its tiles from: anything with a length and a ``read``."""

from __future__ import annotations

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


class StoredTiles:
    """Tiles of several stored arrays, one after the other, read when they are asked for.

    Of a batch the tiles of one array are read in one go, in the order in which they lie, so that
    no chunk is decoded twice; what is in memory is the batch.

    Parameters
    ----------
    arrays : sequence
        Of shape (n, size, size), uint16, all of one size, with ``oindex`` as Zarr's arrays have it.
    rows : sequence of ndarray of int64, optional
        Which rows of each array there are; None: all.
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
        self._rows = [np.arange(a.shape[0]) for a in arrays] if rows is None else list(rows)
        self._ends = np.cumsum([len(r) for r in self._rows])
        self._size: tuple[int, ...] = sizes.pop()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint16]:
        """Read tiles in the order asked for; see `TileSource`."""
        tiles = np.empty((len(indices), *self._size), dtype=np.uint16)
        which = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(which).tolist():
            places = np.flatnonzero(which == number)
            start = self._ends[number] - len(self._rows[number])
            rows = self._rows[number][indices[places] - start]
            sorted_rows, back = np.unique(rows, return_inverse=True)
            tiles[places] = np.asarray(self._arrays[number].oindex[sorted_rows])[back]
        return tiles
