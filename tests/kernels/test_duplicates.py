from __future__ import annotations

import cv2
import numpy as np
import pytest

from tasks.kernels.duplicates import (
    LEAST_SHAPE,
    SIDE_PX,
    alike,
    boxes_overlap,
    leaders,
    levels_alike,
)


def tile(seed: int, *, structure: float = 0.1) -> np.ndarray:
    """A ramp with texture on it, on the scale [0, 1]."""
    rng = np.random.default_rng(seed)
    texture = cv2.GaussianBlur(rng.standard_normal((SIDE_PX, SIDE_PX)), (0, 0), 2)
    ramp = np.linspace(0.1, 0.6, SIDE_PX)[:, None]
    return np.clip(ramp + structure * texture / texture.std() / 3, 0, 1)


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    a, b = (np.rint(65535 * t).astype(np.uint16)[None] for t in (first, second))
    return float(alike(a, b)[0])


def test_a_tile_is_alike_to_itself_to_an_8_bit_copy_and_to_one_with_grain() -> None:
    one = tile(1)
    grain = np.random.default_rng(2).normal(0, 0.004, one.shape)
    assert likeness(one, one) == pytest.approx(1, abs=1e-6)
    assert likeness(one, np.rint(255 * one) / 255) >= LEAST_SHAPE
    assert likeness(one, np.clip(one + grain, 0, 1)) >= LEAST_SHAPE


def test_mirrored_and_turned_tiles_are_not_alike() -> None:
    one = tile(1)
    for other in (one[:, ::-1], one[::-1], np.rot90(one)):
        assert likeness(one, other) == 0


def test_two_ramps_are_not_alike_for_being_ramps() -> None:
    one, other = tile(1, structure=0.02), tile(2, structure=0.02)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > LEAST_SHAPE
    assert likeness(one, other) == 0


def test_an_edge_across_both_tiles_is_no_evidence() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    for edge in (x > 11, y > 11):
        one, other = (0.1 + 0.6 * edge + rng.normal(0, 0.003, edge.shape) for _ in range(2))
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > LEAST_SHAPE
        assert likeness(one, other) == 0


def test_without_structure_there_is_no_evidence() -> None:
    flat = np.full((SIDE_PX, SIDE_PX), 0.4)
    ramp = flat + np.linspace(0, 0.2, SIDE_PX)
    assert likeness(flat, flat) == 0
    assert likeness(ramp, ramp) == 0


def test_levels_may_differ_a_little() -> None:
    mean = np.array([0.50, 0.54, 0.56, 0.50], np.float32)
    std = np.array([0.10, 0.09, 0.10, 0.07], np.float32)
    first, second = np.zeros(3, np.int64), np.array([1, 2, 3])
    assert levels_alike(mean, std, first, second).tolist() == [True, False, False]


def test_boxes_that_only_touch_do_not_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [10, 0, 10, 10], [9, 9, 10, 10], [0, 20, 10, 10]])
    first, second = np.array([0, 0, 1, 0]), np.array([1, 2, 2, 3])
    assert boxes_overlap(boxes, first, second).tolist() == [False, True, True, False]


def test_the_first_stays_and_likeness_is_not_handed_on_along_a_chain() -> None:
    first, second = np.array([0, 1, 2]), np.array([1, 2, 3])  # 0 ~ 1 ~ 2 ~ 3
    assert leaders(first, second, 4).tolist() == [-1, 0, -1, 2]


def test_whoever_stays_is_no_duplicate() -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(np.sort(rng.integers(0, 40, (120, 2)), axis=1), axis=0)
    first, second = pairs[pairs[:, 0] < pairs[:, 1]].T
    by = leaders(first, second, 40)
    copies = np.flatnonzero(by >= 0)
    assert (second[by[copies]] == copies).all()
    assert (by[first[by[copies]]] == -1).all()
    staying = by == -1
    assert not (staying[first] & staying[second]).any()
