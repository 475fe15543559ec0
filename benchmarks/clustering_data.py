"""Rows like a small autoencoder's embeddings of film tiles, in any number.

The published run that they are tuned to (48,596 tiles, 150 columns) has 73 % noise and about 100
clusters at DBSCAN(eps=0.9, min_samples=5): 27 % of the rows lie in 100 groups of near-duplicates
whose sizes fall like 1/rank, the others along a bent surface of 8 dimensions with heavy tails;
ReLU features of it, some units dead, standardised.

Chunk i is the same whatever n is, so that a million rows are written without being held.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LATENT = 8
GROUPS = 100
GROUPED_SHARE = 0.27
CHUNK_ROWS = 10_000


def published_like(n: int, dim: int = 150, seed: int = 0) -> NDArray[np.float32]:
    """Draw rows, float32, shape (n, dim)."""
    rows = np.empty((n, dim), dtype=np.float32)
    _fill(rows, seed)
    return rows


def isotropic(n: int, dim: int = 150, seed: int = 0) -> NDArray[np.float32]:
    """Draw rows without any structure, float32, shape (n, dim)."""
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def write(path: Path, n: int, dim: int = 150, seed: int = 0) -> None:
    """Write rows to a .npy file, chunk by chunk."""
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n, dim))
    _fill(rows, seed)
    rows.flush()


def _fill(rows: NDArray[np.float32], seed: int) -> None:
    n, dim = rows.shape
    model = np.random.default_rng(seed)
    weights = model.standard_normal((LATENT, dim)) / np.sqrt(LATENT)
    bias = 0.3 * model.standard_normal(dim)
    places = 1.5 * model.standard_normal((GROUPS, LATENT))
    shares = 1 / np.arange(1, GROUPS + 1)
    probe = np.random.default_rng([seed, 1]).standard_t(3, (20_000, LATENT))
    features = _features(probe, weights, bias, np.random.default_rng([seed, 2]))
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = 1
    for start in range(0, n, CHUNK_ROWS):
        stop = min(n, start + CHUNK_ROWS)
        draw = np.random.default_rng([seed, 3, start])
        latent = draw.standard_t(3, (CHUNK_ROWS, LATENT))
        grouped = draw.random(CHUNK_ROWS) < GROUPED_SHARE
        group = draw.choice(GROUPS, CHUNK_ROWS, p=shares / shares.sum())
        near = places[group] + 0.02 * draw.standard_normal((CHUNK_ROWS, LATENT))
        latent = np.where(grouped[:, None], near, latent)
        part = (_features(latent, weights, bias, draw) - mean) / scale
        rows[start:stop] = part[: stop - start]


def _features(
    latent: NDArray[np.float64],
    weights: NDArray[np.float64],
    bias: NDArray[np.float64],
    draw: np.random.Generator,
) -> NDArray[np.float64]:
    features = np.maximum(latent @ weights + bias, 0)
    features += 0.01 * draw.standard_normal(features.shape)
    features[:, ::17] = 0  # dead units
    return features


if __name__ == "__main__":
    write(Path(sys.argv[2]), int(sys.argv[1]))
