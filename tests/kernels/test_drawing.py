"""Charts have what a reader needs at any size, and refuse to draw nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from tasks.kernels import drawing
from tasks.kernels.drawing import COLOURS, MARKERS


def test_one_point_is_drawn_and_none_is_refused() -> None:
    one = {"a": [(1, 2.0)], "empty": [(1, float("nan"))]}
    assert drawing.curves(one, across="epoch", up="loss").shape == (520, 800, 3)
    with pytest.raises(ValueError, match="nothing to draw"):
        drawing.curves({"a": [(1, float("nan"))]}, across="epoch", up="loss")


def test_a_dark_chart_is_dark_and_a_light_one_light() -> None:
    series = {"loss": [(1, 2.0), (2, 1.0)]}
    light, dark = (drawing.curves(series, across="epoch", up="loss", dark=d) for d in (False, True))
    assert np.median(light) == 255
    assert np.median(dark) < 50


def test_the_same_points_give_the_same_picture() -> None:
    points = np.random.default_rng(0).normal(size=(30, 2))
    groups = drawing.grouped(np.arange(30) % 3)
    axes = {"across": "x", "up": "y", "legend": "cluster"}
    first, second = (drawing.scatter(points, groups, **axes) for _ in range(2))  # type: ignore[arg-type]
    assert (first == second).all()


def test_a_charts_png_has_its_colours_nearly() -> None:
    picture = drawing.curves({"loss": [(1, 2.0), (2, 1.0)]}, across="epoch", up="loss")
    read = cv2.imdecode(np.frombuffer(drawing.png(picture), np.uint8), cv2.IMREAD_COLOR)
    assert read.shape == picture.shape
    assert np.abs(read.astype(int) - picture).mean() < 1


def test_each_of_ten_groups_has_a_colour_and_a_marker_of_its_own() -> None:
    assert len(set(COLOURS)) == len(set(MARKERS)) == 10


def test_the_most_frequent_labels_are_groups_and_the_rest_comes_first() -> None:
    found = drawing.grouped(np.array([5, 5, 7, 7, 7, 1, -1, -1]), most=3)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "other": [5],
        "-1": [6, 7],
        "5": [0, 1],
        "7": [2, 3, 4],
    }
    assert next(iter(found)) == "other"


def test_small_tiles_are_enlarged() -> None:
    assert drawing.rows_of_tiles([np.zeros((2, 4, 4))] * 3).shape == (28, 18)


class TestTree:
    NESTED: ClassVar[dict[str, Any]] = {
        "parent": [-1, 0, 0, 1, 1],
        "size": [100, 60, 30, 20, 20],
        "far": [None, 4.0, 4.0, 2.0, 2.0],
        "near": [4.0, 2.0, 1.0, 0.5, 0.0],
        "label": [-1, -1, 0, 1, 2],
    }

    def test_children_lie_beside_each_other_below_their_parent(self) -> None:
        left = drawing._lefts(self.NESTED["parent"], self.NESTED["size"])
        assert left == [0.0, 5.0, 65.0, 15.0, 35.0]

    def test_chosen_clusters_are_coloured_and_the_others_grey(self) -> None:
        one = drawing.tree(**self.NESTED, named=[0, 1, 2], across="tiles", up="distance")
        none = drawing.tree(
            **self.NESTED | {"label": [-1] * 5}, named=[], across="tiles", up="distance"
        )
        assert one.shape == none.shape
        assert (np.ptp(one.astype(int), axis=2) > 60).sum() > 5000
        assert (np.ptp(none.astype(int), axis=2) > 60).sum() == 0

    def test_an_empty_tree_is_refused(self) -> None:
        with pytest.raises(ValueError, match="the tree is empty"):
            drawing.tree([], [], [], [], [], named=[], across="tiles", up="distance")
