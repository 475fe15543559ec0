"""Areas of clusters and their pictures."""

from __future__ import annotations

import numpy as np

from tasks.kernels import regions
from tasks.kernels.colours import OUTSIDE


def test_pixels_regions_and_the_largest_region_are_counted() -> None:
    labels = np.array(
        [
            [0, 0, 1, 1],
            [1, 1, 1, 0],
            [0, 1, 1, 1],
            [1, 0, 1, OUTSIDE],
        ],
        np.uint8,
    )
    found = regions.areas(labels, 3)
    assert found.pixels.tolist() == [5, 10, 0]
    assert found.regions.tolist() == [3, 1, 0]
    assert found.largest_region.tolist() == [2, 10, 0]
    assert found.measured == 15


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    labels = np.eye(5, dtype=np.uint8)
    assert regions.areas(labels, 2).regions[1] == 1


def test_blocks_become_pixels_and_end_where_the_film_ends() -> None:
    blocks = np.array([[True, False], [False, True]])
    out = regions.expanded(blocks, 2, 3, 3)
    assert out.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_quantised_pictures_show_their_clusters_colour_and_black_outside() -> None:
    labels = np.array([[0, 1, OUTSIDE]], np.uint8)
    palette = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
    assert regions.quantised(labels, palette).tolist() == [[[10, 20, 30], [40, 50, 60], [0, 0, 0]]]


def test_the_overlay_leaves_what_is_outside_the_mask() -> None:
    picture = np.full((9, 9, 3), 100, np.uint8)
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    out = regions.overlay(picture, mask, (0, 255, 255))
    assert (out[0] == 100).all()
    assert out[4, 5].tolist() == [0, 255, 255]


def test_small_labels_are_labels_of_the_picture() -> None:
    labels = np.arange(100, dtype=np.uint8).reshape(10, 10)
    assert regions.small_labels(labels, 2, 5).tolist() == [
        [21, 23, 25, 27, 29],
        [71, 73, 75, 77, 79],
    ]
    assert regions.fitting(1000, 500, 300) == (300, 150)
    assert regions.fitting(10, 5, 300) == (10, 5)
