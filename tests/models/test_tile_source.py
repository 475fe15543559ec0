"""Tiles by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from models.epochs import batches, epoch_order
from models.tile_source import BLOCKS_HELD, ArrayTiles, StoredTiles, TileSource
from models.training import TrainingSettings


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


class CountingArray:
    """Tiles of an array in shards of four, and how many rows were read of it."""

    def __init__(self, tiles: np.ndarray) -> None:  # type: ignore[type-arg]
        self.tiles, self.rows_read = tiles, 0
        self.shape, self.dtype, self.ndim = tiles.shape, tiles.dtype, 3
        self.chunks, self.shards = (2, 3, 3), (4, 3, 3)
        self.oindex = self

    def __getitem__(self, rows: object) -> np.ndarray:  # type: ignore[type-arg]
        found = self.tiles[rows]
        self.rows_read += len(found)
        return found  # type: ignore[no-any-return]


def test_an_epoch_reads_each_block_once_and_keeps_a_few() -> None:
    tiles = np.random.default_rng(0).integers(0, 65536, (40, 3, 3)).astype(np.uint16)
    array = CountingArray(tiles)
    source = StoredTiles([array])
    assert source.block_ends.tolist() == list(range(4, 41, 4))
    settings = TrainingSettings(batch_size=6)
    order = epoch_order(40, settings, seed=0, epoch=1, block_ends=source.block_ends)
    for step in batches(order, settings):
        np.testing.assert_array_equal(source.read(step), tiles[step])
    assert array.rows_read == 40
    assert len(source._held) <= BLOCKS_HELD


def test_a_read_all_over_the_place_keeps_nothing() -> None:
    tiles = np.random.default_rng(0).integers(0, 65536, (40, 3, 3)).astype(np.uint16)
    array = CountingArray(tiles)
    source = StoredTiles([array])
    np.testing.assert_array_equal(source.read(np.arange(0, 40, 4)), tiles[::4])
    assert array.rows_read == 10
    assert not source._held
