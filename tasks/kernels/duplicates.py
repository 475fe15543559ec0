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
BLOCK_PX = 8
"""Edge of the blocks in which detail is compared, 16 a tile. Films of different people share
shading, straight film edges and skin lines, which make whole tiles correlate by 0.99; in a block
these are rows and columns of one value, and what is left without them is of this film alone."""
LEAST_STRUCTURE = 0.002
"""Standard deviation that the rest of a block must have, on the scale [0, 1]: half a grey level of
an 8-bit copy. Anything fainter is lost in saving, so its likeness is no evidence."""
LEAST_BLOCKS = 4
"""Blocks with structure, a quarter of a tile: an edge across it alone has fewer that are alike."""
LEAST_DETAIL = 0.9
"""Mean correlation of the rest over the blocks with structure: grain as strong as a third of it
in both tiles leaves this much (1 / (1 + 1/9))."""
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
    a, b = (t.astype(np.float64) / 65535 for t in (first, second))
    shape = _correlation(*(t - t.mean(axis=(1, 2), keepdims=True) for t in (a, b)))
    a, b = _details(a), _details(b)  # (n, blocks, BLOCK_PX, BLOCK_PX)
    structured = np.minimum(a.std(axis=(2, 3)), b.std(axis=(2, 3))) >= LEAST_STRUCTURE
    n_blocks = structured.sum(axis=1)
    detail = (_correlation(a, b) * structured).sum(axis=1) / np.maximum(n_blocks, 1)
    same = (shape >= LEAST_SHAPE) & (n_blocks >= LEAST_BLOCKS) & (detail >= LEAST_DETAIL)
    return np.where(same, np.minimum(shape, 1), 0).astype(np.float32)


def _details(tiles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Blocks of tiles without the means of their rows and columns."""
    n = SIDE_PX // BLOCK_PX
    blocks = tiles.reshape(len(tiles), n, BLOCK_PX, n, BLOCK_PX).swapaxes(2, 3)
    blocks = blocks.reshape(len(tiles), n * n, BLOCK_PX, BLOCK_PX)
    blocks = blocks - blocks.mean(axis=3, keepdims=True)
    rest: npt.NDArray[np.float64] = blocks - blocks.mean(axis=2, keepdims=True)
    return rest


def _correlation(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of pictures without mean, the last two axes; 0 where one of them is constant."""
    product = np.einsum("...ij,...ij->...", a, b)
    size = np.sqrt(np.einsum("...ij,...ij->...", a, a) * np.einsum("...ij,...ij->...", b, b))
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
