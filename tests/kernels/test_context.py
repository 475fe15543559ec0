"""The map of a film, on drawn films whose parts are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.kernels.context import (
    BACKGROUND,
    BREAST,
    FOREIGN,
    FilmContext,
    background_value,
    box_figures,
    film_context,
)

ROWS, COLUMNS = 480, 320


def drawn_film(ground=0.03, noise=0.002, seed=0):
    """A breast at the left edge, on grey ground: uint16 film and the breast's outline."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    depth = 1 - np.hypot((y - 240) / 170, x / 190)  # 1 at the chest wall, 0 at the skin
    breast = depth > 0
    level = ground + np.where(breast, 0.03 + 0.6 * np.clip(depth * 2, 0, 1), 0)
    level += np.random.default_rng(seed).normal(0, noise, level.shape)
    return np.rint(np.clip(level, 0, 1) * 65535).astype(np.uint16), breast


def overlap(found, true):
    return np.count_nonzero(found & true) / np.count_nonzero(found | true)


@pytest.mark.parametrize("ground", [0.0, 0.03, 0.1])
def test_the_breast_is_found_on_any_ground(ground):
    film, breast = drawn_film(ground)
    context = film_context(film)
    assert context.factor == 1
    assert overlap(context.mask == BREAST, breast) > 0.97
    assert context.background_level == pytest.approx(ground, abs=0.003)
    assert not (context.mask == FOREIGN).any()


def test_lettering_and_plates_outside_the_breast_are_foreign():
    film, breast = drawn_film()
    film[30:60, 250:300] = 50_000
    film[400:403, 240:280] = 9_000
    context = film_context(film)
    assert (context.mask[32:58, 252:298] == FOREIGN).all()
    assert (context.mask[401, 242:278] == FOREIGN).all()
    assert overlap(context.mask == BREAST, breast) > 0.97


def test_a_plate_that_touches_the_skin_is_not_breast():
    film, _ = drawn_film()
    film[200:280, 180:260] = 55_000
    context = film_context(film)
    assert (context.mask[210:270, 205:250] == FOREIGN).all()


def test_redaction_on_a_grey_ground_is_foreign_and_on_a_black_one_cannot_be_seen():
    for ground, value in ((0.03, FOREIGN), (0.0, BACKGROUND)):
        film, breast = drawn_film(ground, noise=0.002 if ground else 0.0)
        film[20:90, 230:310] = 0
        context = film_context(film)
        assert (context.mask[25:85, 235:305] == value).all()
        assert overlap(context.mask == BREAST, breast) > 0.97


@pytest.mark.parametrize("level", [65535, 60_000])
def test_a_white_frame_is_no_breast(level):
    film, breast = drawn_film()
    film[:10] = film[-10:] = film[:, -10:] = level
    context = film_context(film)
    inside = np.s_[15:-15, :-15]
    assert overlap(context.mask[inside] == BREAST, breast[inside]) > 0.97
    assert (context.mask[2:8, 230:300] == FOREIGN).all()


def test_glow_along_the_chest_wall_is_no_breast():
    film, breast = drawn_film(ground=0.0, noise=0.0)
    glow = 0.12 * np.exp(-np.arange(COLUMNS) / 8)
    film = np.maximum(film, (glow * 65535).astype(np.uint16)[None])
    context = film_context(film)
    assert not (context.mask[:55] == BREAST).any()
    assert (context.mask[30:50, :4] == FOREIGN).all()
    assert overlap(context.mask == BREAST, breast) > 0.95


def test_body_at_the_chest_wall_counts_as_breast():
    film, _ = drawn_film()
    y, x = np.mgrid[:ROWS, :COLUMNS]
    wedge = (y > 430) & (x < (y - 425))
    film[wedge] = 20_000
    context = film_context(film)
    assert (context.mask[wedge] == BREAST).mean() > 0.9


def test_columns_without_film_are_background():
    film, breast = drawn_film(noise=0.0)
    padded = np.pad(film, ((0, 0), (100, 60)))
    context = film_context(padded)
    assert overlap(context.mask[:, 100:420] == BREAST, breast) > 0.97
    assert (context.mask[:, :95] == BACKGROUND).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (5, 7)])
@pytest.mark.parametrize("value", [0, 30_000, 65535])
def test_an_empty_film_of_any_shape_has_neither_breast_nor_foreign_content(shape, value):
    context = film_context(np.full(shape, value, np.uint16))
    assert (context.mask == BACKGROUND).all()
    assert context.background_noise == 0


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), axis=st.sampled_from([0, 1]))
def test_a_mirrored_film_has_the_mirrored_map(seed, axis):
    film, _ = drawn_film(seed=seed)
    film[30:60, 250:300] = 50_000
    found = film_context(film).mask
    mirrored = np.flip(film_context(np.ascontiguousarray(np.flip(film, axis))).mask, axis)
    assert (found != mirrored).mean() < 0.005


def test_a_larger_film_is_reduced_to_blocks():
    film, breast = drawn_film()
    large = np.repeat(np.repeat(film, 5, axis=0), 5, axis=1)
    context = film_context(large)
    assert (context.factor, context.mask.shape) == (5, (480, 320))
    assert overlap(context.mask == BREAST, breast) > 0.97


def small_context():
    mask = np.array([[0, 1, 1], [0, 2, 1]], np.uint8)
    ground = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], np.float32)
    return FilmContext(mask, ground, 2, 4, 5, 0.1, 0.0)


def test_shares_count_cut_blocks_by_the_part_inside():
    boxes = np.array([[0, 0, 4, 4], [1, 0, 2, 2], [1, 1, 2, 2], [4, 0, 1, 4]], np.int32)
    breast, foreign, _ = box_figures(small_context(), boxes)
    assert breast.tolist() == [0.25, 0.5, 0.25, 1.0]
    assert foreign.tolist() == [0.25, 0.0, 0.25, 0.0]


def test_the_ground_of_a_box_is_the_highest_in_it():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 3, 4], [4, 3, 1, 1]], np.int32)
    expected = np.array([0.1, 0.5, 0.6], np.float32)
    assert box_figures(small_context(), boxes)[2].tolist() == expected.tolist()


def test_the_fill_of_a_missing_part_is_the_films_own_ground():
    film = np.array([[7, 0, 9, 0, 9]] * 4, np.uint16)
    assert background_value(film, small_context()) == 7
    all_breast = FilmContext(np.ones((2, 3), np.uint8), np.zeros((2, 3), np.float32), 2, 4, 5, 0, 0)
    assert background_value(film, all_breast) == 0
