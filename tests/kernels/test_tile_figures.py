"""What the figures of a tile say, on tiles whose look is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tasks.kernels.made_tissue import made_tissue
from tasks.kernels.planting import plant
from tasks.kernels.tile_figures import NAMES, small_picture, tile_figures

SIDE = 64
WORDS = ("step", "straightness", "share")
"""Figures of rows and of columns."""


def figures(tile: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, tile_figures(tile[None])[0].tolist(), strict=True))


def step(low: float = 0.1, high: float = 0.6, at: int = 32) -> np.ndarray:
    tile = np.full((SIDE, SIDE), low, np.float32)
    tile[:, at:] = high
    return tile


def test_every_figure_has_one_name() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert tile_figures(np.zeros((3, 20, 20), np.uint16)).shape == (3, len(NAMES))
    assert tile_figures(np.zeros((0, 20, 20), np.uint16)).shape == (0, len(NAMES))


@pytest.mark.parametrize("size", [16, 64, 300])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_figures_are_finite_on_any_tile(size: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    most = 65535 if dtype == np.uint16 else 1.0
    one_pixel = np.zeros((size, size))
    one_pixel[size // 2, size // 2] = 1
    tiles = np.stack(
        [
            np.zeros((size, size)),
            np.ones((size, size)),
            np.full((size, size), 1e-7),
            rng.random((size, size)),
            np.indices((size, size)).sum(0) % 2,
            one_pixel,
        ]
    )
    found = tile_figures((tiles * most).astype(dtype))
    assert np.isfinite(found).all()
    assert found.dtype == np.float32


@pytest.mark.parametrize("size", [16, 64, 300])
def test_integers_and_floats_of_the_same_tile_have_the_same_figures(size: int) -> None:
    rng = np.random.default_rng(1)
    tiles = rng.integers(0, 65536, (4, size, size)).astype(np.uint16)
    tiles = np.stack([cv2.GaussianBlur(t, (0, 0), 2) for t in tiles])
    np.testing.assert_allclose(
        tile_figures(tiles), tile_figures(tiles.astype(np.float32) / 65535), atol=2e-3, rtol=1e-3
    )


def test_a_tile_does_not_depend_on_those_beside_it() -> None:
    tiles = made_tissue(5, SIDE, np.random.default_rng(0))
    np.testing.assert_array_equal(tile_figures(tiles)[3:4], tile_figures(tiles[3:4]))


def test_a_step_is_steep_and_straight_and_a_flat_plate_is_flat() -> None:
    edge, plate = figures(step()), figures(np.full((SIDE, SIDE), 0.6, np.float32))
    assert edge["slope_1"] == pytest.approx(0.25, abs=0.01)
    assert edge["step_of_columns"] == pytest.approx(0.25, abs=0.01)
    assert edge["straightness_of_columns"] > 0.95
    assert edge["step_of_rows"] == pytest.approx(0, abs=1e-6)
    assert edge["direction_upright"] > 0.95
    assert edge["contrast"] == pytest.approx(0.5)
    assert edge["above"] == 0.5
    assert plate["flat_0.002"] == 1
    assert plate["bright_flat"] == 1
    assert plate["slope_1"] == plate["entropy"] == 0
    assert plate["std"] == pytest.approx(0, abs=1e-6)
    assert plate["mean"] == pytest.approx(0.6)
    assert (plate["commonest_level"], plate["levels_used"]) == (1, pytest.approx(1 / 64))


def test_levels_are_those_of_the_pixels() -> None:
    ramp = np.tile(np.linspace(0, 1, SIDE, dtype=np.float32), (SIDE, 1))
    found = figures(ramp)
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert found[f"level_{share:g}"] == pytest.approx(share, abs=0.02)
    assert found["max"] == 1
    assert found["std"] == pytest.approx(ramp.std(), abs=1e-4)


def test_a_bright_stroke_is_bright_and_a_dark_one_dark() -> None:
    tile = np.full((SIDE, SIDE), 0.3, np.float32)
    tile[:, 30:33] = 0.9
    bright, dark = figures(tile), figures(0.6 - tile + 0.3)
    assert bright["bright_stroke_5_1"] == pytest.approx(0.6, abs=1e-5)
    assert bright["dark_stroke_5_1"] == pytest.approx(0, abs=1e-5)
    assert dark["dark_stroke_5_1"] == pytest.approx(0.6, abs=1e-5)
    assert dark["bright_stroke_5_1"] == pytest.approx(0, abs=1e-5)
    assert bright["pieces"] == 1
    assert bright["edges_touched"] == 2


def test_mirrored_and_turned_tiles_have_nearly_the_same_figures() -> None:
    tissue = made_tissue(20, SIDE, np.random.default_rng(0))
    planted, _, _ = plant(tissue, np.random.default_rng(1))
    along = {f"{word}_of_{axis}" for axis in ("rows", "columns") for word in WORDS}
    same = [i for i, name in enumerate(NAMES) if name not in along]
    spread = np.maximum(tile_figures(planted).std(axis=0), 1e-6)
    for turn in (lambda t: t[:, :, ::-1], lambda t: t[:, ::-1], lambda t: t.transpose(0, 2, 1)):
        one = tile_figures(planted)
        other = tile_figures(np.ascontiguousarray(turn(planted)))
        apart = np.abs(one - other) / spread
        assert np.median(apart[:, same].max(axis=0)) < 1e-3
        assert apart[:, same].mean() < 0.02
    rows, columns = (
        [NAMES.index(f"{word}_of_{axis}") for word in WORDS] for axis in ("rows", "columns")
    )
    turned = tile_figures(np.ascontiguousarray(planted.transpose(0, 2, 1)))
    np.testing.assert_allclose(tile_figures(planted)[:, rows], turned[:, columns], atol=1e-3)


def test_a_large_tile_is_looked_at_in_the_size_of_a_small_one() -> None:
    rng = np.random.default_rng(0)
    small = cv2.GaussianBlur(rng.random((SIDE, SIDE)).astype(np.float32), (0, 0), 3)
    large = np.kron(small, np.ones((4, 4), np.float32))
    assert small_picture(large).shape == (SIDE, SIDE)
    np.testing.assert_allclose(small_picture(large), small, atol=1e-6)
    np.testing.assert_allclose(tile_figures(large[None]), tile_figures(small[None]), atol=5e-3)
