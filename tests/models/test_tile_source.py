"""Tiles by number."""

from __future__ import annotations

import numpy as np
import pytest

from models.tile_source import ArrayTiles, TileSource


def test_tiles_come_in_the_order_asked_for() -> None:
    tiles = np.arange(3 * 4, dtype=np.uint16).reshape(3, 2, 2)
    source = ArrayTiles(tiles)
    assert isinstance(source, TileSource)
    assert len(source) == 3
    np.testing.assert_array_equal(source.read(np.array([2, 0])), tiles[[2, 0]])


@pytest.mark.parametrize("array", [np.zeros((2, 3, 3)), np.zeros((2, 3, 4), np.uint16)])
def test_an_array_that_holds_no_tiles_is_refused(array: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match="uint16"):
        ArrayTiles(array)
