from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.shortcuts import (
    FEATURES,
    GAP_PX,
    GRID_COLUMNS,
    GRID_ROWS,
    breast_lies_right,
    coverage_features,
    covered,
    film_features,
    grey_counts,
    kinds_of_pixels,
    pixel_features,
)

CELLS = GRID_ROWS * GRID_COLUMNS
SHAPE = (16, 12)
"""Two by two pixels a cell of the grid."""


def all_seen(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.ones(shape, np.bool_)


def test_a_pixel_is_covered_when_its_centre_lies_in_a_box() -> None:
    # a film of 40 x 40 in 4 x 4 pixels of 10: centres at 5, 15, 25, 35
    seen = covered(np.array([[5, 0, 10, 16]]), film=(40, 40), shape=(4, 4))
    expected = np.zeros((4, 4), bool)
    expected[0:2, 0] = True  # x from 5 (its centre counts) to 15 (whose does not), y up to 16
    np.testing.assert_array_equal(seen, expected)


def test_boxes_may_overlap_and_reach_beyond_the_film() -> None:
    seen = covered(np.array([[-10, 0, 30, 20], [0, 0, 90, 20]]), film=(40, 40), shape=(4, 4))
    np.testing.assert_array_equal(seen, np.repeat([[1], [1], [0], [0]], 4, axis=1).astype(bool))


def test_without_boxes_nothing_is_covered() -> None:
    assert not covered(np.empty((0, 4), int), film=(40, 40), shape=(4, 4)).any()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(20, 90))
def test_boxes_side_by_side_cover_every_pixel_once(rows: int, columns: int, side: int) -> None:
    edges = np.linspace(0, side, 5).astype(int)
    seen = sum(
        covered(np.array([[a, 0, b - a, side]]), film=(side, side), shape=(rows, columns)).astype(
            int
        )
        for a, b in pairwise(edges)
    )
    np.testing.assert_array_equal(seen, np.ones((rows, columns), int))


def test_background_keeps_away_from_what_lies_on_it() -> None:
    context = np.zeros((9, 9), np.uint8)
    context[4, 4] = 2
    kinds = kinds_of_pixels(context)
    assert kinds["markers"].sum() == 1
    y, x = np.mgrid[0:9, 0:9]
    near = np.maximum(abs(y - 4), abs(x - 4)) <= GAP_PX
    np.testing.assert_array_equal(kinds["background"], ~near)


def test_no_pixel_is_of_two_kinds() -> None:
    context = np.random.default_rng(0).choice(3, (40, 30), p=(0.9, 0.08, 0.02)).astype(np.uint8)
    kinds = kinds_of_pixels(context)
    assert np.sum(list(kinds.values()), axis=0).max() == 1


def two_pixels() -> tuple[np.ndarray, np.ndarray]:
    """Rises of 102 and 204 above a ground of 51, both in the first cell of four pixels."""
    picture = np.full(SHAPE, 51, np.uint8)
    picture[0, 0], picture[0, 1] = 153, 255
    where = np.zeros(SHAPE, bool)
    where[0, :2] = True
    return picture, where


def test_grid_histogram_mean_and_spread_of_two_pixels() -> None:
    vector = pixel_features(*two_pixels(), ground=51, painted=True)
    grid, histogram, (mean, spread) = vector[:CELLS], vector[CELLS:-2], vector[-2:]
    assert grid[0] == pytest.approx((0.4 + 0.8) / 4)
    assert not grid[1:].any()
    assert {i: v for i, v in enumerate(histogram) if v} == {153 // 16: 0.5, 15: 0.5}
    assert mean == pytest.approx(0.8)
    assert spread == pytest.approx(0.2)


def test_pixels_that_are_not_there_are_left_out_where_nothing_is_painted() -> None:
    painted, left_out = (pixel_features(*two_pixels(), ground=51, painted=p) for p in (True, False))
    assert left_out[0] == pytest.approx((0.4 + 0.8) / 2)
    assert np.isnan(left_out[1:CELLS]).all()
    np.testing.assert_array_equal(left_out[CELLS:], painted[CELLS:])


@pytest.mark.parametrize(("painted", "value"), [(True, 0.0), (False, np.nan)])
def test_what_is_not_there_has_no_brightness(painted: bool, value: float) -> None:
    nothing = np.zeros(SHAPE, bool)
    vector = pixel_features(np.full(SHAPE, 200, np.uint8), nothing, ground=0, painted=painted)
    np.testing.assert_array_equal(vector, np.full(FEATURES, value, np.float32))


def test_an_even_background_looks_the_same_whatever_part_of_it_is_seen() -> None:
    picture = np.full(SHAPE, 30, np.uint8)
    half = all_seen()
    half[:, 5:] = False  # cuts through the third column of cells
    whole, part = (
        pixel_features(picture, where, ground=20, painted=False) for where in (all_seen(), half)
    )
    known = ~np.isnan(part)
    assert np.count_nonzero(known[:CELLS]) == 3 * GRID_ROWS
    np.testing.assert_allclose(part[known], whole[known], rtol=1e-6, atol=1e-9)


def test_grey_levels_are_counted_where_they_count() -> None:
    picture = np.array([[0, 0, 255], [7, 7, 7]], np.uint8)
    counts = grey_counts(picture, picture < 200)
    assert (counts[0], counts[7], counts[255], counts.sum()) == (2, 3, 0, 5)


def test_a_mirrored_film_has_the_same_features() -> None:
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 255, SHAPE).astype(np.uint8)
    context = np.zeros(SHAPE, np.uint8)
    context[4:12, 0:4] = 1
    context[0:2, 10:12] = 2
    seen = rng.random(SHAPE) > 0.3
    assert not breast_lies_right(context)
    assert breast_lies_right(np.fliplr(context))
    straight = film_features(picture, context, {"all": seen})["all"]
    mirrored = film_features(*map(np.fliplr, (picture, context)), {"all": np.fliplr(seen)})["all"]
    assert straight.pixels == mirrored.pixels
    np.testing.assert_array_equal(straight.places, mirrored.places)
    for kind, vector in straight.vectors.items():
        np.testing.assert_array_equal(vector, mirrored.vectors[kind])


def test_a_film_without_breast_lies_as_it_is() -> None:
    assert not breast_lies_right(np.zeros(SHAPE, np.uint8))


def test_a_marker_that_no_kept_tile_holds_is_gone_and_one_that_leaks_is_not() -> None:
    picture = np.full(SHAPE, 20, np.uint8)
    context = np.zeros(SHAPE, np.uint8)
    context[0:2, 8:12] = 2  # two cells of the grid
    picture[context == 2] = 240
    cut, leaking = all_seen(), all_seen()
    cut[0:2, 8:12] = False
    leaking[0:2, 10:12] = False
    views = {"before": all_seen(), "after": cut, "leak": leaking}
    found = film_features(picture, context, views)
    assert {name: f.pixels["markers"] for name, f in found.items()} == {
        "before": 8,
        "after": 0,
        "leak": 4,
    }
    assert not found["after"].vectors["markers"].any()
    grid = found["leak"].vectors["markers"][:CELLS]
    assert np.flatnonzero(grid).tolist() == [4]
    assert grid[4] == pytest.approx(220 / 255)
    assert found["before"].vectors["markers"][-1] == pytest.approx(8 / picture.size)
    for kind in ("background", "breast"):  # the ground is that of the whole film
        assert found["after"].vectors[kind].shape == (FEATURES,)


def test_the_pattern_of_kept_tiles_is_the_share_of_each_cell() -> None:
    seen = np.zeros(SHAPE, bool)
    seen[0, 0:2] = True  # half of the first cell
    places = coverage_features(seen)
    assert places[0] == 0.5
    assert not places[1:].any()
