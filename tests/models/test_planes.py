"""Planes of embeddings: the main axes by hand, t-SNE by what it promises."""

from __future__ import annotations

import numpy as np

from models.planes import latent_grid, main_axes, on_main_axes, tsne


def test_the_main_axes_of_a_line_are_the_line() -> None:
    line = np.outer(np.arange(5.0), [3.0, 4.0]) + 1
    mean, axes = main_axes(line)
    assert np.allclose(mean, [7, 9])
    assert np.allclose(axes[:, 0], [0.6, 0.8])
    flat = on_main_axes(line)
    assert np.allclose(flat[:, 0], [-10, -5, 0, 5, 10])
    assert np.allclose(flat[:, 1], 0)


def test_one_column_still_gives_a_plane() -> None:
    assert on_main_axes(np.ones((3, 1))).shape == (3, 2)


def test_tsne_keeps_neighbours_together_and_repeats_itself() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(80, 6)).astype(np.float32)
    rows[40:] += 20
    plane = tsne(rows, seed=3)
    first, second = plane[:40], plane[40:]
    within = max(np.ptp(first, axis=0).max(), np.ptp(second, axis=0).max())
    assert np.linalg.norm(first.mean(0) - second.mean(0)) > within / 2
    nearest = [np.linalg.norm(plane - p, axis=1).argsort()[1] for p in plane]
    assert all((i < 40) == (j < 40) for i, j in enumerate(nearest))
    assert (tsne(rows, seed=3) == plane).all()


def test_few_or_equal_rows_fall_back_to_the_main_axes() -> None:
    few = np.arange(12.0).reshape(6, 2)
    assert (tsne(few, seed=0) == on_main_axes(few)).all()
    assert (tsne(np.ones((40, 3)), seed=0) == 0).all()


def test_the_latent_grid_spans_two_deviations_around_the_mean() -> None:
    rows = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 0.5], [0.0, -0.5]])
    grid = latent_grid(rows, side=3)
    assert np.allclose(grid[4], 0)
    across, up = 2 * rows[:, 0].std(), 2 * rows[:, 1].std()
    assert np.allclose(grid[0], [-across, up])
    assert np.allclose(grid[8], [across, -up])
