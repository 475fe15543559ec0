"""Where training reads its tiles from: anything with a length and a ``read``."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

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
