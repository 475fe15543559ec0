"""Intensity figures of tiles, and which of them are black."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.kernels.screening import (
    content_fraction,
    intensity_figures,
    is_black,
    is_black_alone,
)
from tasks.kernels.tiling import tile_boxes

WHOLE = np.array([[0, 0, 4, 1]], np.int32)


def test_figures_of_four_pixels():
    film = np.array([[0, 65535, 0, 65535]], np.uint16)
    figures = intensity_figures(film, WHOLE)
    assert figures.dark_fraction.tolist() == [0.5]
    assert figures.mean.tolist() == [0.5]
    assert figures.std.tolist() == [0.5]
    assert figures.entropy.tolist() == [1.0]
    assert figures.p01[0] == pytest.approx(0.0, abs=1 / 256)
    assert figures.p99[0] == pytest.approx(1.0, abs=1 / 256)


def test_a_pixel_at_the_dark_level_is_dark():
    film = np.array([[6553, 6554, 6555, 0]], np.uint16)
    assert intensity_figures(film, WHOLE, dark_level=6554 / 65535).dark_fraction[0] == 0.75


def test_a_white_tile_does_not_overflow():
    film = np.full((700, 700), 65535, np.uint16)
    figures = intensity_figures(film, np.array([[0, 0, 700, 700]], np.int32))
    assert figures.mean[0] == 1.0
    assert figures.std[0] == 0.0
    assert figures.running[0, 254:].tolist() == [0, 490_000]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 23),
    overlap=st.integers(0, 5),
    top=st.sampled_from([3, 700, 65536]),
)
def test_figures_agree_with_a_slow_loop_over_overlapping_tiles(seed, size, overlap, top):
    film = np.random.default_rng(seed).integers(0, top, (31, 47)).astype(np.uint16)
    boxes = tile_boxes(31, 47, tile_size_px=size, stride_px=max(1, size - overlap))
    figures = intensity_figures(film, boxes, dark_level=0.3)
    for i, (x, y, width, height) in enumerate(boxes.tolist()):
        tile = film[y : y + height, x : x + width].astype(np.float64) / 65535
        counts = np.bincount((tile * 65535).round().astype(int).ravel() // 256, minlength=256)
        p = counts[counts > 0] / counts.sum()
        np.testing.assert_array_equal(figures.running[i], counts.cumsum())
        assert figures.mean[i] == pytest.approx(tile.mean(), abs=1e-6)
        assert figures.std[i] == pytest.approx(tile.std(), abs=1e-5)
        assert figures.dark_fraction[i] == pytest.approx((tile <= 0.3).mean())
        assert figures.entropy[i] == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-4)
        for share, found in ((0.01, figures.p01[i]), (0.99, figures.p99[i])):
            exact = np.quantile(tile, share, method="inverted_cdf")
            assert found == pytest.approx(exact, abs=1 / 400)


def test_a_flat_tile_has_no_entropy_and_one_level():
    figures = intensity_figures(np.full((9, 100), 2600, np.uint16), np.array([[0, 0, 100, 9]]))
    assert figures.entropy.tolist() == [0.0]
    assert figures.p01[0] == figures.p99[0] == pytest.approx((10 * 256 + 127.5) / 65535)


def test_entropy_of_four_equal_parts_is_two_bits():
    film = np.repeat(np.array([[0, 256, 512, 768]], np.uint16), 25, axis=0)
    assert intensity_figures(film, np.array([[0, 0, 4, 25]])).entropy.tolist() == [2.0]


def test_content_is_what_stands_out_from_the_ground_around_the_tile():
    counts = np.zeros((2, 256), np.int64)
    counts[:, 20] = 90
    counts[:, 60] = 10
    ground = np.array([20 / 256, 60 / 256], np.float32)
    assert content_fraction(counts.cumsum(axis=1), ground).tolist() == pytest.approx([0.1, 0.0])


def test_nothing_stands_out_from_a_white_ground():
    counts = np.zeros((1, 256), np.int64)
    counts[:, 255] = 5
    ground = np.array([1.0], np.float32)
    assert content_fraction(counts.cumsum(axis=1), ground).tolist() == [0.0]


@pytest.mark.parametrize(
    ("content", "breast", "foreign", "black"),
    [(0, 0, 0, True), (0.01, 0, 0, False), (0, 0.05, 0, False), (0, 0, 0.01, False)],
)
def test_a_black_tile_has_no_content_no_breast_and_nothing_foreign(content, breast, foreign, black):
    columns = (np.array([v], np.float32) for v in (content, breast, foreign))
    assert is_black(*columns).tolist() == [black]


def black_alone(*tiles):
    """Whether each tile is black by itself."""
    row = np.concatenate(tiles, axis=1)
    size = tiles[0].shape[0]
    boxes = np.array([[size * i, 0, size, size] for i in range(len(tiles))], np.int32)
    return is_black_alone(intensity_figures(row, boxes)).tolist()


def test_without_its_film_a_dark_even_tile_is_black_and_a_bright_one_is_not():
    rng = np.random.default_rng(0)
    level = [np.full((100, 100), v, np.uint16) for v in (0, 2000, 12_000, 15_000, 65535)]
    assert black_alone(*level) == [True, True, True, False, False]
    grain = (6000 + 300 * rng.standard_normal((100, 100))).astype(np.uint16)
    assert black_alone(grain) == [True]


def test_without_its_film_a_letter_or_a_skin_line_makes_a_tile_not_black():
    ground = np.full((100, 100), 2000, np.uint16)
    letter, skin = ground.copy(), ground.copy()
    letter[40:50, 40:44] = 50_000
    skin[:, 90:] = 6000
    dust = ground.copy()
    dust[50, 50] = 65535
    assert black_alone(letter, skin, dust) == [False, False, True]
