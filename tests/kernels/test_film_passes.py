"""Compiled passes, against NumPy's and OpenCV's slower ones."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.kernels import bit_planes
from tasks.kernels import film_passes as passes

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 150))


def speckled(seed, shape, share=0.6):
    """Blobs of random size and place."""
    noise = np.random.default_rng(seed).random(shape).astype(np.float32)
    return cv2.blur(noise, (3, 3)) < share


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
@pytest.mark.parametrize("shape", [(14, 21), (15, 17), (1, 1), (2, 40)])
def test_blocks_have_their_own_mean_and_maximum(factor, shape):
    film = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    mean, high = passes.block_statistics(film, factor)
    assert mean.shape == high.shape == tuple(-(-n // factor) for n in shape)
    for i, j in np.ndindex(mean.shape):
        block = film[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
        assert mean[i, j] == pytest.approx(block.mean() / 65535, rel=1e-6)
        assert high[i, j] == block.max()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_stretch_is_linear_between_its_bounds_and_clipped_beyond(dtype):
    top = np.iinfo(dtype).max
    pixels = np.arange(top + 1).astype(dtype).reshape(16, -1)
    for low, high in ((0.0, float(top)), (top / 3 + 0.25, top / 3 + 1.75), (top - 1.5, top + 7.0)):
        expected = np.clip((pixels.astype(float) - low) / (high - low), 0, 1) * 65535
        assert np.abs(passes.stretched(pixels, low, high) - expected).max() <= 0.51


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), step=st.integers(1, 5), shape=SHAPES)
def test_values_are_counted(seed, step, shape):
    for dtype, top in ((np.uint8, 256), (np.uint16, 65536)):
        pixels = np.random.default_rng(seed).integers(0, top, shape).astype(dtype)
        expected = np.bincount(pixels[::step, ::step].ravel(), minlength=top)
        np.testing.assert_array_equal(passes.value_counts(pixels, step), expected)


def test_smoothing_keeps_a_plane_and_a_step_is_found_where_it_is():
    plane = np.full((9, 12), 0.2, np.float32)
    smooth, steps = passes.smoothed(plane, 0.1, 0.3)
    assert np.abs(smooth - 0.2).max() < 1e-6
    assert not steps.any()
    plane[:, 6:] = 0.5
    smooth, steps = passes.smoothed(plane, 0.1, 0.3)
    assert smooth[4, 5] == pytest.approx(0.2 + 0.3 * 5 / 16)
    assert (steps[:, 5:7] == 3).all()
    assert not steps[:, :5].any()
    assert not steps[:, 7:].any()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), shape=SHAPES)
def test_bits_come_back_as_they_were(seed, shape):
    plane = speckled(seed, shape)
    bits = bit_planes.bits_of(plane)
    np.testing.assert_array_equal(bit_planes.plane_of(bits, shape[1]), plane)
    np.testing.assert_array_equal(
        bit_planes.plane_of(bit_planes.inverted(bits, shape[1]), shape[1]), ~plane
    )
    levels = np.random.default_rng(seed).random(shape).astype(np.float32)
    np.testing.assert_array_equal(
        np.sort(bit_planes.values_at(bits, levels)), np.sort(levels[plane])
    )
    first, end = sorted((shape[1] // 3, shape[1] * 2 // 3))
    expected = plane[:, first:end].sum(axis=1)
    np.testing.assert_array_equal(bit_planes.count_in_columns(bits, first, end), expected)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), shape=SHAPES, radius=st.sampled_from([1, 2, 3, 5, 8]))
def test_morphology_is_that_of_opencv(seed, shape, radius):
    plane = speckled(seed, shape)
    bits, ones = bit_planes.bits_of(plane), plane.astype(np.uint8)
    side = (2 * radius + 1, 2 * radius + 1)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, side)
    for found, expected in (
        (bit_planes.widened(bits, shape[1], radius), cv2.dilate(ones, disk)),
        (bit_planes.opened(bits, shape[1], radius), cv2.morphologyEx(ones, cv2.MORPH_OPEN, disk)),
        (
            bit_planes.opened(bits, shape[1], radius, square=True),
            cv2.morphologyEx(ones, cv2.MORPH_OPEN, np.ones(side, np.uint8)),
        ),
    ):
        np.testing.assert_array_equal(bit_planes.plane_of(found, shape[1]), expected)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), shape=SHAPES)
def test_specks_have_fewer_than_two_neighbours(seed, shape):
    plane = speckled(seed, shape, share=0.45)
    around = cv2.boxFilter(
        plane.astype(np.uint8), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    found = bit_planes.plane_of(bit_planes.without_specks(bit_planes.bits_of(plane)), shape[1])
    np.testing.assert_array_equal(found, plane & (around >= 3))


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), shape=SHAPES)
def test_pieces_are_those_of_opencv(seed, shape):
    plane = speckled(seed, shape, share=0.5)
    levels = np.random.default_rng(seed).random(shape).astype(np.float32)
    bits = bit_planes.bits_of(plane)
    pieces = bit_planes.pieces_of(bits, shape[1])
    sums = bit_planes.sums_in(pieces, levels)
    n, labels, stats, _ = cv2.connectedComponentsWithStats(plane.astype(np.uint8), connectivity=4)
    assert len(pieces.areas) == n - 1
    for piece, (left, top, right, bottom) in enumerate(pieces.boxes.tolist()):
        row, column = next(run for run in pieces.runs.tolist() if run[3] == piece)[:2]
        label = labels[row, column]
        box = [left, top, right - left, bottom - top, pieces.areas[piece]]
        assert stats[label].tolist() == box
        assert sums[piece] == pytest.approx(levels[labels == label].sum(), rel=1e-4)
        alone = bit_planes.plane_of(bit_planes.painted(pieces, piece, bits), shape[1])
        np.testing.assert_array_equal(alone, labels == label)
    everything = bit_planes.painted(pieces, np.ones(n - 1, bool), bits)
    np.testing.assert_array_equal(everything, bits)


def test_the_frame_leaves_out_columns_that_are_dark_throughout():
    high = np.zeros((100, 9), np.uint16)
    high[:, 2:7] = 5
    high[:2, 7] = 5  # too little to be film
    assert passes.frame(high, 0.03) == (0, 2, 7)
    assert passes.frame(np.full((3, 4), 8, np.uint16), 0.03) == (8, 0, 4)
