"""Whether two tiles show nearly the same, and which of a group of such tiles stays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIDE_PX = 32
"""Tiles are compared at this size: what two scans of a film share survives it, their grain does
not."""
LEAST_SHAPE = 0.99
"""Correlation of the two, means taken off: 1 % of the variance may differ, which is more than
saving again in 8 bits changes in a tile that holds anything."""
LEAST_DETAIL = 0.9
"""The same with a quadratic surface taken off. Breasts of two people shade alike from the skin
inward, so that tiles of both correlate by 0.99; what is left without the shading does not."""
LEAST_STRUCTURE = 0.002
"""Standard deviation of that rest, on the scale [0, 1]: half a grey level of an 8-bit copy.
Anything fainter is lost in saving, so its likeness is no evidence."""
MOST_SHIFT = 0.05
"""Of the mean, on the scale [0, 1]: two scans of a film are scaled alike, by its robust levels."""
LEAST_CONTRAST = 0.8
"""Ratio of the standard deviations, the smaller to the larger, for the same reason."""


def levels_alike(
    mean: npt.NDArray[np.float32],
    std: npt.NDArray[np.float32],
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Whether brightness and contrast of pairs agree, by figures of the whole tiles.

    Parameters
    ----------
    mean, std : (n,) float32
        Of the tiles, on the scale [0, 1].
    first, second : (m,) int64
        Pairs of tiles.

    Returns
    -------
    (m,) bool
    """
    shift = np.abs(mean[first].astype(np.float64) - mean[second])
    small = np.minimum(std[first], std[second]).astype(np.float64)
    large = np.maximum(std[first], std[second]).astype(np.float64)
    return (shift <= MOST_SHIFT) & (small >= LEAST_CONTRAST * large)


def boxes_overlap(
    boxes: npt.NDArray[np.int64], first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Whether the boxes of pairs share a pixel, as if all lay on one film.

    Parameters
    ----------
    boxes : (n, 4) int64
        x, y, width, height in source pixels.
    first, second : (m,) int64
        Pairs of boxes.

    Returns
    -------
    (m,) bool
    """
    a, b = boxes[first], boxes[second]
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    return np.asarray((low < high).all(axis=1), np.bool_)


def alike(first: npt.NDArray[np.uint16], second: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Correlation of the tiles of each pair that shows the same; 0 for all other pairs.

    Parameters
    ----------
    first, second : (n, SIDE_PX, SIDE_PX) uint16
        Shrunk tiles on the normalised scale.

    Returns
    -------
    (n,) float32
        At least ``LEAST_SHAPE``, or 0.
    """
    surface = _quadratic()
    a, b = (t.reshape(len(t), SIDE_PX**2).astype(np.float64) / 65535 for t in (first, second))
    a, b = (t - t.mean(axis=1, keepdims=True) for t in (a, b))
    shape = _correlation(a, b)
    a, b = (t - (t @ surface) @ surface.T for t in (a, b))
    faint = np.minimum(a.std(axis=1), b.std(axis=1)) < LEAST_STRUCTURE
    same = (shape >= LEAST_SHAPE) & (_correlation(a, b) >= LEAST_DETAIL) & ~faint
    return np.where(same, np.minimum(shape, 1), 0).astype(np.float32)


def _quadratic() -> npt.NDArray[np.float64]:
    """Orthonormal surfaces up to the second degree: (SIDE_PX ** 2, 6)."""
    y, x = np.mgrid[-1 : 1 : SIDE_PX * 1j, -1 : 1 : SIDE_PX * 1j].reshape(2, -1)
    basis: npt.NDArray[np.float64] = np.linalg.qr(
        np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    )[0]
    return basis


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of rows without mean; 0 where one of them is constant."""
    product = np.einsum("ij,ij->i", a, b)
    size = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    out: npt.NDArray[np.float64] = np.zeros_like(product)
    np.divide(product, size, out=out, where=size > 0)
    return out


def leaders(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], n: int
) -> npt.NDArray[np.int64]:
    """Pair by which each tile is a duplicate of a tile that stays; -1 for those that stay.

    Tiles are numbered in the order in which they would rather stay. The first stays and takes all
    that were found alike to it; so does the first that is left, and so on. So each duplicate was
    itself compared with the tile that stays for it: likeness is not handed on along a chain.

    Parameters
    ----------
    first, second : (m,) int64
        Pairs that show the same, ``first < second``.
    n : int
        Number of tiles.

    Returns
    -------
    (n,) int64
        Number of the pair, or -1.
    """
    by = np.full(n, -1, dtype=np.int64)
    for pair in np.lexsort((second, first)).tolist():
        if by[first[pair]] < 0 and by[second[pair]] < 0:
            by[second[pair]] = pair
    return by
