"""Boxes and the pixels in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.tiling import cut_tiles, tile_boxes, tile_size_px_from_mm


def boxes_of(rows, columns, size, stride, edge):
    return tile_boxes(rows, columns, tile_size_px=size, stride_px=stride, edge=edge)


def test_tiles_go_row_by_row_from_the_top_left():
    assert boxes_of(4, 6, 2, 2, "shift").tolist() == [
        [0, 0, 2, 2], [2, 0, 2, 2], [4, 0, 2, 2],
        [0, 2, 2, 2], [2, 2, 2, 2], [4, 2, 2, 2],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("edge", "across"),
    [
        ("shift", [[0, 0, 4, 4], [4, 0, 4, 4], [6, 0, 4, 4]]),
        ("drop", [[0, 0, 4, 4], [4, 0, 4, 4]]),
        ("pad", [[0, 0, 4, 4], [4, 0, 4, 4], [8, 0, 2, 4]]),
    ],
)
def test_the_edge_policy_says_what_becomes_of_the_last_tile(edge, across):
    assert boxes_of(4, 10, 4, 4, edge).tolist() == across


def test_a_film_smaller_than_a_tile_is_clipped_or_left_out():
    assert boxes_of(3, 5, 8, 8, "shift").tolist() == [[0, 0, 5, 3]]
    assert boxes_of(3, 5, 8, 8, "pad").tolist() == [[0, 0, 5, 3]]
    assert boxes_of(3, 5, 8, 8, "drop").shape == (0, 4)


def test_a_stride_beyond_the_tile_is_refused():
    with pytest.raises(ValueError, match="stride_px=300 leaves gaps between tiles of ") as e:
        boxes_of(1000, 1000, 224, 300, "shift")
    assert str(e.value) == (
        "stride_px=300 leaves gaps between tiles of tile_size_px=224; use stride_px <= 224."
    )


@pytest.mark.parametrize("bad", [{"rows": 0}, {"tile_size_px": 0}, {"stride_px": -1}])
def test_sizes_below_one_are_refused(bad):
    given = {"rows": 9, "columns": 9, "tile_size_px": 3, "stride_px": 3} | bad
    with pytest.raises(ValueError, match="must all be at least 1"):
        tile_boxes(**given)


def test_an_unknown_edge_policy_is_refused():
    with pytest.raises(ValueError, match="use 'shift', 'drop' or 'pad'"):
        boxes_of(9, 9, 3, 3, "wrap")


grids = st.tuples(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30)
).map(lambda g: (g[0], g[1], g[2], min(g[2], g[3])))


@given(grids, st.sampled_from(["shift", "drop", "pad"]))
def test_tiles_lie_inside_the_film_and_none_comes_twice(grid, edge):
    rows, columns, size, stride = grid
    boxes = boxes_of(rows, columns, size, stride, edge)
    x, y, width, height = boxes.T
    assert boxes.dtype == np.int32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > 0).all()
    assert (x + width <= columns).all()
    assert (y + height <= rows).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)


@given(grids, st.sampled_from(["shift", "pad"]))
def test_tiles_cover_the_film_unless_partial_ones_are_dropped(grid, edge):
    rows, columns, size, stride = grid
    covered = np.zeros((rows, columns), bool)
    for x, y, width, height in boxes_of(rows, columns, size, stride, edge).tolist():
        covered[y : y + height, x : x + width] = True
    assert covered.all()


@given(grids)
def test_shifted_tiles_are_whole_wherever_the_film_is_large_enough(grid):
    rows, columns, size, stride = grid
    boxes = boxes_of(rows, columns, size, stride, "shift")
    assert (boxes[:, 2] == min(size, columns)).all()
    assert (boxes[:, 3] == min(size, rows)).all()


def test_millimetres_become_the_nearest_number_of_pixels():
    assert tile_size_px_from_mm(25.6, 0.05) == 512
    assert tile_size_px_from_mm(0.01, 0.2) == 1
    with pytest.raises(ValueError, match="must be positive lengths"):
        tile_size_px_from_mm(10.0, 0.0)


def test_tiles_of_the_outputs_size_are_copied_bit_for_bit():
    film = np.arange(48, dtype=np.uint16).reshape(6, 8)
    tiles = cut_tiles(film, boxes_of(6, 8, 3, 3, "shift"), output_size_px=3)
    assert tiles.shape == (6, 3, 3)
    np.testing.assert_array_equal(tiles[4], film[3:6, 3:6])
    np.testing.assert_array_equal(tiles[-1], film[3:6, 5:8])


def test_larger_tiles_are_averaged_by_area():
    film = np.array([[0, 100, 10, 10], [200, 300, 10, 10]], np.uint16)
    tiles = cut_tiles(film, boxes_of(2, 4, 2, 2, "shift"), output_size_px=1)
    assert tiles.ravel().tolist() == [150, 10]


def test_clipped_tiles_are_filled_with_the_background():
    film = np.full((2, 3), 9, np.uint16)
    boxes = boxes_of(2, 3, 2, 2, "pad")
    tiles = cut_tiles(film, boxes, output_size_px=2, background_level=4)
    assert tiles.tolist() == [[[9, 9], [9, 9]], [[9, 4], [9, 4]]]


def test_a_film_smaller_than_its_tile_fills_the_tile_once_its_size_is_given():
    film = np.full((2, 2), 9, np.uint16)
    boxes = boxes_of(2, 2, 4, 4, "shift")
    tiles = cut_tiles(film, boxes, output_size_px=4, tile_size_px=4, background_level=1)
    assert tiles[0].sum() == 4 * 9 + 12


def test_no_boxes_give_no_tiles():
    film = np.zeros((4, 4), np.uint16)
    assert cut_tiles(film, np.zeros((0, 4), np.int32), output_size_px=2).shape == (0, 2, 2)
