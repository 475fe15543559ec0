"""Embeddings on a plane, for a person to look at: the two main axes, or t-SNE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERPLEXITY = 30.0
FEWEST_ROWS = 12
"""Below, a neighbourhood is hardly smaller than the whole: the main axes stand in for t-SNE."""


def main_axes(rows: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of the rows, and their two main axes.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
        At least one.

    Returns
    -------
    mean : float64, (dim,)
    axes : float64, (dim, 2)
        Of length 1, the one of most variance first; the largest weight of each is positive. Of rows
        with one column the second is 0.
    """
    whole = np.asarray(rows, np.float64)
    mean = whole.mean(axis=0)
    centred = whole - mean
    _, vectors = np.linalg.eigh(centred.T @ centred)
    main = vectors[:, ::-1][:, :2]
    if main.shape[1] < 2:
        main = np.pad(main, ((0, 0), (0, 2 - main.shape[1])))
    signs = np.sign(main[np.abs(main).argmax(axis=0), np.arange(2)])
    return mean, main * np.where(signs == 0, 1, signs)


def on_main_axes(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rows on their two main axes, (n, 2)."""
    mean, axes = main_axes(rows)
    flat: NDArray[np.float64] = (np.asarray(rows, np.float64) - mean) @ axes
    return flat


def tsne(rows: NDArray[np.floating], *, seed: int) -> NDArray[np.float64]:
    """Rows on a plane by t-SNE (van der Maaten and Hinton 2008): near rows stay near.

    Distances between groups, and their sizes, mean nothing. Exact neighbours, Barnes-Hut, one
    thread: the same rows and seed give the same plane on one machine. Some 18 CPU-s for 5,000 rows.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
        At least one; finite.
    seed : int

    Returns
    -------
    float64, (n, 2)
        Of fewer than 12 rows, or of rows that are all equal, the main axes.
    """
    whole = np.ascontiguousarray(rows, np.float64)
    if len(whole) < FEWEST_ROWS or not np.ptp(whole, axis=0).any():
        return on_main_axes(whole)
    import openTSNE  # seconds, and for pictures alone

    plane = openTSNE.TSNE(
        perplexity=min(PERPLEXITY, (len(whole) - 1) / 3),
        neighbors="exact",
        negative_gradient_method="bh",
        initialization=_start(whole),
        n_jobs=1,
        random_state=seed,
    ).fit(whole)
    return np.asarray(plane, np.float64)


def _start(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The main axes, as small as openTSNE wants them (Kobak and Berens 2019)."""
    flat = on_main_axes(rows)
    return flat / (flat[:, 0].std() or 1.0) * 1e-4


def latent_grid(rows: NDArray[np.floating], *, side: int = 10) -> NDArray[np.float32]:
    """Points on the plane of the main axes, two standard deviations to each side, to be decoded.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
        Embeddings.
    side : int
        Points a row.

    Returns
    -------
    float32, (side * side, dim)
        Row by row; the first axis runs to the right, the second one upwards.
    """
    mean, axes = main_axes(rows)
    spread = on_main_axes(rows).std(axis=0)
    steps = np.linspace(-2, 2, side)
    up, right = np.meshgrid(steps[::-1], steps, indexing="ij")
    offsets = np.stack([right.ravel() * spread[0], up.ravel() * spread[1]], axis=1)
    grid: NDArray[np.float32] = (mean + offsets @ axes.T).astype(np.float32)
    return grid
