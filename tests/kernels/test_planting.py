"""Annotations drawn onto tiles and films, and where they are said to lie."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tasks.kernels import planting
from tasks.kernels.planting import KINDS, SHARES, PlantedFilm, plant, plant_film, planted_shares

SIZE = 64


def smooth_tiles(n: int, seed: int = 0) -> np.ndarray:
    """Grey tiles with a faint ramp and grain, (n, 64, 64)."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 0.1, SIZE, dtype=np.float32)
    level = rng.uniform(0.05, 0.6, (n, 1, 1)).astype(np.float32)
    return level + ramp + 0.004 * rng.standard_normal((n, SIZE, SIZE)).astype(np.float32)


def test_every_kind_has_a_share_and_is_drawn() -> None:
    assert len(KINDS) == len(SHARES)
    assert sum(SHARES) == pytest.approx(1)
    _, _, kinds = plant(smooth_tiles(200), np.random.default_rng(1))
    assert set(kinds) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_stays_on_the_scale_and_covers_a_share(kind: str) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn = planting.draw(40, 56, rng, ground=0.1, kind=kind)
        assert drawn.kind == kind
        assert drawn.alpha.shape == drawn.value.shape == drawn.mask.shape == (40, 56)
        assert drawn.alpha.min() >= 0
        assert drawn.alpha.max() <= 1 + 1e-6
        out = drawn.on(np.full((40, 56), 0.1, np.float32))
        assert out.dtype == np.float32
        assert np.isfinite(out).all()
        assert 0 <= out.min() <= out.max() <= 1


def test_a_mask_marks_only_pixels_that_changed_visibly() -> None:
    tiles = smooth_tiles(100)
    planted, masks, _ = plant(tiles, np.random.default_rng(2))
    changed = np.abs(planted - tiles)
    assert (changed[masks] > planting.FAINTEST / 3).mean() > 0.995  # a second one may undo some
    assert masks.any(axis=(1, 2)).mean() > 0.9


def test_beside_the_mask_only_a_soft_edge_changes() -> None:
    """What covers less than MASK_ALPHA moves a pixel by that share of the contrast at most."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ground = 0.2
        drawn = planting.draw(SIZE, SIZE, rng, ground=ground)
        flat = np.full((SIZE, SIZE), ground, np.float32)
        moved = np.abs(drawn.on(flat) - flat)
        assert (moved <= drawn.alpha * np.abs(drawn.value - flat) + 1e-6).all()
        assert moved[~drawn.mask].max(initial=0) <= planting.MASK_ALPHA * 1.0
        assert moved[drawn.alpha == 0].max(initial=0) == 0


def test_the_same_generator_plants_the_same_and_leaves_its_input() -> None:
    tiles = smooth_tiles(20)
    before = tiles.copy()
    one, masks, kinds = plant(tiles, np.random.default_rng(3))
    again, masks_again, kinds_again = plant(tiles, np.random.default_rng(3))
    other, _, _ = plant(tiles, np.random.default_rng(4))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(masks, masks_again)
    assert kinds.tolist() == kinds_again.tolist()
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(tiles, before)


def test_tiles_of_sixteen_pixels_can_be_planted_on() -> None:
    planted, masks, _ = plant(np.full((40, 16, 16), 0.1, np.float32), np.random.default_rng(0))
    assert np.isfinite(planted).all()
    assert masks.any()


def some_film() -> tuple[np.ndarray, np.ndarray]:
    """A film of 512 x 384 and its breast in blocks of 4."""
    rng = np.random.default_rng(0)
    film = (3000 + 100 * rng.standard_normal((512, 384))).astype(np.uint16)
    breast = np.zeros((128, 96), np.uint8)
    cv2.ellipse(breast, (0, 64), (50, 40), 0, 0, 360, 1, -1)
    film[cv2.resize(breast, (384, 512), interpolation=cv2.INTER_NEAREST) > 0] = 30_000
    return film, breast.astype(bool)


@pytest.mark.parametrize("seed", range(5))
def test_planting_leaves_the_breast_and_the_planes_given(seed: int) -> None:
    film, breast = some_film()
    other = (film // 2).astype(np.uint16)
    before = film.copy(), other.copy()
    rng = np.random.default_rng(seed)
    planted = plant_film((film, other), breast, 4, rng, ground=3000 / 65535)
    np.testing.assert_array_equal(film, before[0])
    np.testing.assert_array_equal(other, before[1])
    pixels = np.kron(breast, np.ones((4, 4), bool))
    for plane, was in zip(planted.planes, before, strict=True):
        assert plane.dtype == np.uint16
        np.testing.assert_array_equal(plane[pixels], was[pixels])
        assert (plane != was).any()


@pytest.mark.parametrize("seed", range(5))
def test_masks_of_a_film_lie_in_their_boxes_beside_the_breast_and_on_changed_pixels(
    seed: int,
) -> None:
    film, breast = some_film()
    planted = plant_film((film,), breast, 4, np.random.default_rng(seed), ground=0.05)
    assert len(planted.boxes) == len(planted.kinds) == len(planted.masks) == 8
    pixels = np.kron(breast, np.ones((4, 4), bool))
    marked = np.zeros(film.shape, bool)
    for (x, y, width, height), mask in zip(planted.boxes, planted.masks, strict=True):
        assert mask.shape == (height, width)
        assert 0 <= x <= x + width <= 384
        assert 0 <= y <= y + height <= 512
        assert not (mask & pixels[y : y + height, x : x + width]).any()
        marked[y : y + height, x : x + width] |= mask
    changed = planted.planes[0] != film
    assert changed[marked].mean() > 0.98  # a later one may lie above an earlier
    outside = np.abs(planted.planes[0].astype(int) - film)[~marked]
    assert (outside > 0.36 * 65535).mean() == 0


def test_a_film_that_is_all_breast_is_left_as_it_is() -> None:
    film, breast = some_film()
    planted = plant_film((film,), np.ones_like(breast), 4, np.random.default_rng(0), ground=0.05)
    np.testing.assert_array_equal(planted.planes[0], film)
    assert planted.boxes.shape == (0, 4)
    share, kind = planted_shares(planted, np.array([[0, 0, 64, 64]], np.int32))
    assert share.tolist() == [0]
    assert kind.tolist() == [None]


def test_the_share_of_a_box_counts_the_masks_pixels_in_it() -> None:
    left = np.zeros((4, 4), bool)
    left[:, :2] = True
    planted = PlantedFilm(
        (), np.array([[2, 2, 4, 4], [4, 0, 4, 4]], np.int32), ("plate", "line"), (left, ~left)
    )
    # the plate lies on x 2..3, y 2..5; the line on x 6..7, y 0..3
    boxes = np.array(
        [[0, 0, 4, 4], [4, 0, 4, 4], [0, 0, 8, 8], [2, 2, 2, 2], [8, 8, 4, 4]], np.int32
    )
    share, kind = planted_shares(planted, boxes)
    np.testing.assert_allclose(share, [4 / 16, 8 / 16, 16 / 64, 1, 0])
    assert kind.tolist() == ["plate", "line", "plate", "plate", None]


def test_where_two_annotations_overlap_the_share_stays_within_one() -> None:
    whole = np.ones((4, 4), bool)
    planted = PlantedFilm((), np.int32([[0, 0, 4, 4]] * 2), ("plate", "line"), (whole, whole))
    share, kind = planted_shares(planted, np.int32([[0, 0, 4, 4], [0, 0, 8, 4]]))
    assert share.tolist() == [1, 1]
    assert kind.tolist() == ["plate", "plate"]
