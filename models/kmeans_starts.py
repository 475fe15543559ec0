"""Centres to start from: k-means++ on a sample, k-means|| over all rows, or summaries of chunks."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from models.lloyd import Centres, Chunks, closest
from models.pairs.blocks import draw
from models.pairs.products import compiled
from models.pairs.projection import Rows

OVERSAMPLING = 2
ROUNDS = 5

PER_CENTRE = 4
LEAST_SUMMARIES, MOST_SUMMARIES = 16, 131_072
SUMMARY_ITERATIONS = 3
BATCH_ROWS = 4_096
SEEDED_PER_CENTRE = 50


@compiled
def _seed(rows, weights, k, draws):  # type: ignore[no-untyped-def]
    """Greedy k-means++ (Arthur and Vassilvitskii 2007): of some draws the one that helps most.

    rows is float32, shape (n, dim), centred; draws are in [0, 1), shape (k, trials). Gives the
    numbers of the chosen rows, shape (k,).
    """
    n, dim = rows.shape
    trials = draws.shape[1]
    squares = np.empty(n, dtype=np.float32)
    for i in range(n):
        squares[i] = (rows[i] * rows[i]).sum()
    chosen = np.empty(k, dtype=np.int64)
    nearest = np.full(n, np.inf)
    cumulated = np.empty(n)
    candidates = np.empty((trials, dim), dtype=np.float32)
    numbers = np.empty(trials, dtype=np.int64)
    for c in range(k):
        total = 0.0
        for i in range(n):
            total += weights[i] if c == 0 else weights[i] * nearest[i]
            cumulated[i] = total
        for t in range(trials):
            numbers[t] = min(np.searchsorted(cumulated, draws[c, t] * total, side="right"), n - 1)
            candidates[t] = rows[numbers[t]]
        product = np.dot(candidates, rows.T)
        best, least = 0, np.inf
        for t in range(trials):
            size = squares[numbers[t]]
            potential = _potential(weights, nearest, squares, size, product[t])
            if potential < least:
                best, least = t, potential
        chosen[c] = numbers[best]
        size = squares[numbers[best]]
        for i in range(n):
            square = max(np.float64(squares[i] + size - 2 * product[best, i]), 0.0)
            nearest[i] = min(nearest[i], square)
        nearest[chosen[c]] = 0.0
    return chosen


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _potential(weights, nearest, squares, size, product):  # type: ignore[no-untyped-def]
    """Weighted sum of the squares to the nearest, if a row of this squared length were chosen."""
    potential = 0.0
    for i in range(len(nearest)):
        square = max(np.float64(squares[i] + size - np.float32(2.0) * product[i]), 0.0)
        potential += weights[i] * min(square, nearest[i])
    return potential


def seed_centres(
    rows: Rows, k: int, random: np.random.Generator, weights: NDArray[np.float64] | None = None
) -> Centres:
    """Choose k starting centres among rows in memory, by weighted greedy k-means++.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
        At least k.
    k : int
    random : numpy.random.Generator
    weights : ndarray of float64, shape (n,), or None
        Rows that each one stands for.
    """
    origin = rows.mean(axis=0, dtype=np.float64)
    draws = random.random((k, 2 + int(np.log(k))))
    each = np.ones(len(rows)) if weights is None else weights
    chosen = _seed((rows - origin).astype(np.float32), each, k, draws)
    centres: Centres = rows[chosen].astype(np.float64)
    return centres


def parallel_seeds(
    chunks: Chunks, k: int, sample: Rows, random_state: int
) -> tuple[Centres, NDArray[np.float64]]:
    """Choose candidates for centres in a few passes: k-means|| (Bahmani et al. 2012).

    Each pass draws every row with a probability by its squared distance to the candidates so far,
    about ``OVERSAMPLING * k`` rows; then each candidate is weighted by the rows nearest to it.

    Parameters
    ----------
    chunks : Chunks
    k : int
    sample : ndarray, shape (m, dim)
        Its first row is the first candidate.
    random_state : int
        Draws depend on it, the pass and the row's number alone.

    Returns
    -------
    candidates : ndarray of float64, shape (c, dim)
    weights : ndarray of float64, shape (c,)
        They add up to the number of rows.
    """
    candidates = sample[:1].astype(np.float64)
    new = candidates
    nearest = [np.full(size, np.inf) for size in chunks.sizes()]
    for turn in range(ROUNDS):
        nearest = list(chunks.map(partial(_nearer, new), nearest))
        total = sum(float(squares.sum()) for squares in nearest)
        if total == 0:
            break
        pick = partial(_pick, OVERSAMPLING * k / total, random_state * ROUNDS + turn)
        new = np.concatenate(list(chunks.map(pick, chunks.starts, nearest)))
        candidates = np.concatenate([candidates, new])
    weights = sum(chunks.map(partial(_count_nearest, candidates)), np.zeros(len(candidates)))
    return candidates, weights


def _nearer(new: Centres, rows: Rows, nearest: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(new) == 0:
        return nearest
    squares, _ = closest(rows, new)
    return np.minimum(nearest, squares)


def _pick(
    factor: float, seed: int, rows: Rows, start: int, nearest: NDArray[np.float64]
) -> Centres:
    numbers = np.arange(start, start + len(rows)) + seed * 2**40
    picked: Centres = rows[draw(numbers) < factor * nearest].astype(np.float64)
    return picked


def _count_nearest(centres: Centres, rows: Rows) -> NDArray[np.float64]:
    return np.bincount(closest(rows, centres)[1], minlength=len(centres)).astype(np.float64)


def summary_centres(chunks: Chunks, k: int, random_state: int) -> Centres:
    """Choose centres from summaries: each chunk becomes weighted centres, and these are clustered.

    Two levels of k-means (Guha et al. 2003), for rows that one would not read twenty times: one
    pass over them. What one process holds are the summaries, at most ``MOST_SUMMARIES`` or 16 a
    chunk.

    Parameters
    ----------
    chunks : Chunks
    k : int
    random_state : int
        Draws depend on it and the chunk's place alone.

    Returns
    -------
    ndarray of float64, shape (k or the number of different rows if lower, dim)
    """
    each = max(LEAST_SUMMARIES, min(PER_CENTRE * k, MOST_SUMMARIES // len(chunks.starts)))
    summaries = list(chunks.map(partial(_summarise, each, random_state), chunks.starts))
    means = np.concatenate([m for m, _ in summaries])
    weights = np.concatenate([w for _, w in summaries])
    return weighted_centres(means, weights, k, random_state)


def _summarise(
    k: int, random_state: int, rows: Rows, start: int
) -> tuple[Centres, NDArray[np.float64]]:
    """Means of k groups of a chunk's rows, and how many rows each stands for."""
    random = np.random.default_rng((random_state, start))
    centres = seed_centres(rows, min(k, len(rows)), random)
    counts = np.zeros(len(centres), dtype=np.int64)
    for _ in range(SUMMARY_ITERATIONS):
        _, labels = closest(rows, centres)
        counts = np.bincount(labels, minlength=len(centres))
        order = np.argsort(labels, kind="stable")
        filled = np.flatnonzero(counts)
        firsts = (np.cumsum(counts) - counts)[filled]
        sums = np.add.reduceat(rows[order].astype(np.float64), firsts, axis=0)
        centres = sums / counts[filled, None]
        counts = counts[filled]
    return centres, counts.astype(np.float64)


def weighted_centres(
    rows: Centres, weights: NDArray[np.float64], k: int, random_state: int
) -> Centres:
    """k-means of weighted rows in memory: scikit-learn's, from weighted greedy k-means++."""
    from sklearn.cluster import KMeans

    k = min(k, len(np.unique(rows, axis=0)))
    start = seed_centres(rows, k, np.random.default_rng(random_state), weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than clusters
        fitted = KMeans(k, init=start, n_init=1).fit(rows, sample_weight=weights)
    centres: Centres = fitted.cluster_centers_
    return centres


def batch_centres(sample: Rows, k: int, random_state: int) -> Centres:
    """Choose centres by scikit-learn's k-means of small batches (Sculley 2010) of a sample."""
    from sklearn.cluster import MiniBatchKMeans

    seeds = sample[: max(BATCH_ROWS, SEEDED_PER_CENTRE * k)]
    start = seed_centres(seeds, min(k, len(seeds)), np.random.default_rng(random_state))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = MiniBatchKMeans(
            len(start), init=start, n_init=1, batch_size=BATCH_ROWS, random_state=random_state
        ).fit(sample)
    centres: Centres = fitted.cluster_centers_.astype(np.float64)
    return centres
