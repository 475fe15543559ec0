"""Rows move up the density, the same way whether they were fitted on or come later."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from models.kmeans import KMeansClusterer
from models.neighbour_means import NeighbourMeans, unit_rows


def test_rows_of_length_one_keep_zeros() -> None:
    assert unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0.0, 0.0],
    ]


def test_means_are_those_of_scikit_learns_neighbours() -> None:
    rows = np.random.default_rng(0).normal(size=(2_500, 6)).astype(np.float32)
    bank = unit_rows(rows)
    for _ in range(2):
        found = NearestNeighbors(n_neighbors=7).fit(bank).kneighbors(bank, return_distance=False)
        bank = unit_rows(bank[found].mean(1))
    assert np.allclose(NeighbourMeans(rows, neighbours=7, rounds=2).rows_, bank, atol=1e-6)


def test_rows_that_come_later_move_as_the_first_ones_did() -> None:
    rows = np.random.default_rng(1).normal(size=(400, 5)).astype(np.float32)
    means = NeighbourMeans(rows, neighbours=10, rounds=3)
    assert np.array_equal(means.transform(rows), means.rows_)


def test_without_rounds_nothing_moves() -> None:
    rows = np.random.default_rng(2).normal(size=(20, 3)).astype(np.float32)
    means = NeighbourMeans(rows, neighbours=5, rounds=0)
    assert np.array_equal(means.rows_, unit_rows(rows))
    assert np.array_equal(means.transform(rows), unit_rows(rows))


def test_two_long_bananas_are_told_apart_by_fewer_centres() -> None:
    rng = np.random.default_rng(3)
    angles = np.sort(rng.uniform(0, np.pi, (2, 600)), axis=1)
    labels = np.repeat([0, 1], 600)
    heights = np.repeat([0.35, -0.35], 600) + rng.normal(0, 0.12, 1200)
    rows = np.c_[np.cos(angles.ravel()), np.sin(angles.ravel()), heights]

    def purity(moved: np.ndarray) -> float:
        clusters = KMeansClusterer(n_clusters=6, random_state=0).fit(moved).labels_
        majority = [np.bincount(labels[clusters == c]).max() for c in np.unique(clusters)]
        return sum(majority) / len(labels)

    plain = purity(unit_rows(rows))
    assert purity(NeighbourMeans(rows, neighbours=10, rounds=4).rows_) >= plain


@pytest.mark.parametrize("neighbours", [0, 4])
def test_a_number_of_neighbours_that_there_are_not_is_refused(neighbours: int) -> None:
    with pytest.raises(ValueError, match="within 1 and 3 rows"):
        NeighbourMeans(np.eye(3), neighbours=neighbours, rounds=1)
