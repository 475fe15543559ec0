"""Tiles by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from models.tile_source import ArrayTiles, StoredTiles, TileSource


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


def stored(folder: Path, tiles: np.ndarray) -> zarr.Array:  # type: ignore[type-arg]
    array = zarr.create_array(folder, shape=tiles.shape, chunks=(4, 3, 3), dtype=tiles.dtype)
    array[:] = tiles
    return array


def test_stored_tiles_are_those_of_the_arrays_in_any_order(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 65536, (17, 3, 3)).astype(np.uint16)
    arrays = [stored(tmp_path / "a", tiles[:10]), stored(tmp_path / "b", tiles[10:])]
    source = StoredTiles(arrays)
    assert isinstance(source, TileSource)
    assert len(source) == 17
    order = np.array([16, 0, 9, 10, 3, 3, 12])
    np.testing.assert_array_equal(source.read(order), tiles[order])
    some = StoredTiles(arrays, [np.array([8, 1]), np.array([], np.int64)])
    assert len(some) == 2
    np.testing.assert_array_equal(some.read(np.array([1, 0])), tiles[[1, 8]])


def test_stored_arrays_of_different_sizes_are_refused(tmp_path: Path) -> None:
    arrays = [stored(tmp_path / str(n), np.zeros((2, n, n), np.uint16)) for n in (3, 4)]
    with pytest.raises(ValueError, match="all of one size"):
        StoredTiles(arrays)
    with pytest.raises(ValueError, match="no arrays"):
        StoredTiles([])
