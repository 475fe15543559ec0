"""Nearest neighbours agree with the slow, obvious search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import models.neighbours as neighbours
from models.neighbours import k_distances, nearest

Floats = NDArray[np.float64]


def slow(queries: Floats, references: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    difference = queries[:, None].astype(np.float64) - references[None].astype(np.float64)
    squares = np.einsum("ijk,ijk->ij", difference, difference)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return order, np.sqrt(np.take_along_axis(squares, order, axis=1))


def assert_same_as_slow(queries: Floats, references: Floats, k: int) -> None:
    indices, distances = nearest(queries, references, k)
    expected_indices, expected_distances = slow(queries, references, k)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_array_equal(distances, expected_distances.astype(np.float32))
    assert indices.dtype == np.int64
    assert distances.dtype == np.float32


@pytest.mark.parametrize("block", [(256, 8192), (7, 11), (1, 1)])
@pytest.mark.parametrize("dim", [1, 3, 150])
def test_neighbours_are_those_of_the_slow_search(
    block: tuple[int, int], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "QUERY_ROWS", block[0])
    monkeypatch.setattr(neighbours, "REFERENCE_ROWS", block[1])
    rng = np.random.default_rng(dim)
    rows = rng.normal(size=(90, dim)).astype(np.float32)
    assert_same_as_slow(rows, rows, 5)
    assert_same_as_slow(rows[:13], rows[20:], 4)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    k=st.integers(1, 45),
    scale=st.sampled_from([1e-20, 1.0, 1e3, 1e20]),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_ties_duplicates_and_any_scale_are_decided_by_distance_then_index(
    seed: int, n: int, k: int, scale: float, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.integers(-2, 3, (n, 2)) + offset) * scale
    assert_same_as_slow(rows, rows, min(k, n))
    assert_same_as_slow(rows[: n // 2 + 1], rows, min(k, n))


def test_neighbours_closer_than_float32_can_tell_are_told_apart() -> None:
    far = 1e4 + np.arange(20)[:, None] * 1e-6
    rows = np.hstack([far, np.full_like(far, -1e4)])[np.random.default_rng(0).permutation(20)]
    assert_same_as_slow(rows, rows, 3)


def test_a_query_finds_itself_first() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4))
    indices, distances = nearest(rows, rows, 2)
    assert indices[:, 0].tolist() == list(range(50))
    assert (distances[:, 0] == 0).all()


def test_a_pile_of_equal_rows_does_not_cost_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    original = neighbours._squared_distances

    def counted(*arguments: object) -> Floats:
        searched.append(len(arguments[2]))  # type: ignore[arg-type]
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(neighbours, "_squared_distances", counted)
    indices, distances = nearest(np.zeros((30_000, 8)), np.zeros((30_000, 8)), 3)
    assert sum(searched) < 100
    assert indices[-1].tolist() == [0, 1, 2]
    assert (distances == 0).all()


def test_more_neighbours_than_references_are_cut() -> None:
    assert nearest(np.zeros((2, 3)), np.ones((4, 3)), 9).indices.shape == (2, 4)
    assert nearest(np.zeros((0, 3)), np.ones((4, 3)), 2).indices.shape == (0, 2)


def test_k_distances_count_the_row_itself() -> None:
    rows = np.array([[0.0], [1.0], [3.0]])
    assert k_distances(rows, 1).tolist() == [0, 0, 0]
    assert k_distances(rows, 2).tolist() == [1, 1, 2]
    assert np.isinf(k_distances(rows, 4)).all()


def test_what_cannot_be_searched_is_refused() -> None:
    rows = np.zeros((3, 2))
    broken = rows.copy()
    broken[2, 1] = np.inf
    with pytest.raises(ValueError, match="references: row 2"):
        nearest(rows, broken, 1)
    with pytest.raises(ValueError, match="queries have 2 columns, references 3"):
        nearest(rows, np.zeros((3, 3)), 1)
    with pytest.raises(ValueError, match="no references"):
        nearest(rows, rows[:0], 1)
    with pytest.raises(ValueError, match="k=0"):
        nearest(rows, rows, 0)
