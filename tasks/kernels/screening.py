"""Intensity figures of tiles, and which tiles are black."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

DEFAULT_DARK_LEVEL = 0.05
"""A pixel counts as dark at or below this level of the scale [0, 1]."""

VISIBLE_CONTRAST = 0.04
"""What stands out from the ground by this much of the scale is content."""

BLACK_MAX_CONTENT = 0.002
"""A black tile has at most this share of content."""

BLACK_MAX_BREAST = 0.01
"""A black tile has at most this share of breast."""


@dataclass(frozen=True)
class TileFigures:
    """Intensity figures of the tiles of one film, each (n_tiles,)."""

    dark_fraction: FloatArray
    """Share of pixels at or below the dark level, [0, 1]."""
    mean: FloatArray
    std: FloatArray
    """Exact, on the scale [0, 1]."""
    p01: FloatArray
    p99: FloatArray
    """1st and 99th percentile on the scale [0, 1], good to half a bin (1/512)."""
    entropy: FloatArray
    """Of the 256-bin histogram, in bits: 0..8."""
    counts: npt.NDArray[np.uint32]
    """The histogram, (n_tiles, 256)."""


def intensity_figures(
    film: npt.NDArray[np.uint16],
    boxes: npt.NDArray[np.int32],
    *,
    dark_level: float = DEFAULT_DARK_LEVEL,
) -> TileFigures:
    """Intensity figures of every tile, from one pass over its pixels.

    Parameters
    ----------
    film : uint16, (rows, columns)
        On the normalised scale.
    boxes : int32, (n_tiles, 4)
        x, y, width, height, inside the film; they may overlap.
    dark_level : float, default 0.05
        A pixel is dark at or below it, [0, 1].

    Returns
    -------
    TileFigures
    """
    from tasks.kernels.film_passes import tile_histograms

    counts, sums, squares, dark = tile_histograms(
        np.ascontiguousarray(film), boxes, round(dark_level * 65535)
    )
    pixels = counts.sum(axis=1, dtype=np.int64).astype(np.float64)
    mean = sums / pixels
    variance = np.maximum(squares / pixels - mean**2, 0.0)
    return TileFigures(
        dark_fraction=(dark / pixels).astype(np.float32),
        mean=(mean / 65535).astype(np.float32),
        std=(np.sqrt(variance) / 65535).astype(np.float32),
        p01=histogram_quantile(counts, 0.01),
        p99=histogram_quantile(counts, 0.99),
        entropy=histogram_entropy(counts),
        counts=counts,
    )


def histogram_quantile(counts: npt.NDArray[np.uint32], share: float) -> FloatArray:
    """Level of the scale [0, 1] below which a share of the pixels lies.

    Parameters
    ----------
    counts : uint32, (n_tiles, 256)
    share : float
        In (0, 1].

    Returns
    -------
    float32, (n_tiles,)
        Centre of the first bin at which the running sum reaches the share.
    """
    running = counts.cumsum(axis=1, dtype=np.int64)  # (n_tiles, 256)
    wanted = np.ceil(share * running[:, -1:])
    first = (running >= wanted).argmax(axis=1)
    return np.asarray((first * 256 + 127.5) / 65535, np.float32)


def histogram_entropy(counts: npt.NDArray[np.uint32]) -> FloatArray:
    """Shannon entropy in bits of every row of a table of counts, float32, (n_tiles,)."""
    p = counts / counts.sum(axis=1, keepdims=True, dtype=np.float64)
    logs = np.log2(p, out=np.zeros_like(p), where=p > 0)
    return np.asarray(np.abs((p * logs).sum(axis=1)), np.float32)


def content_fraction(
    counts: npt.NDArray[np.uint32],
    ground_level: npt.NDArray[np.float32],
    *,
    contrast: float = VISIBLE_CONTRAST,
) -> FloatArray:
    """Share of a tile's pixels that stand out from the ground around it.

    Parameters
    ----------
    counts : uint32, (n_tiles, 256)
    ground_level : float32, (n_tiles,)
        On the scale [0, 1].
    contrast : float
        On the same scale; taken to whole bins, upward.

    Returns
    -------
    float32, (n_tiles,), [0, 1]
    """
    first = np.ceil((ground_level + contrast) * 256).clip(0, 256).astype(np.int64)
    below = np.zeros((len(counts), 257), np.int64)
    below[:, 1:] = counts.cumsum(axis=1, dtype=np.int64)
    hidden = np.take_along_axis(below, first[:, None], axis=1)[:, 0]
    return (1.0 - hidden / below[:, -1]).astype(np.float32)


def is_black(
    content: FloatArray, breast_fraction: FloatArray, foreign_fraction: FloatArray
) -> npt.NDArray[np.bool_]:
    """Tiles that show nothing: neither breast nor anything that stands out from the film's ground.

    The ground is the film's own, so dark grey backgrounds are black and a faint skin line on a
    black film is not.

    Parameters
    ----------
    content : float32, (n_tiles,)
        From `content_fraction`.
    breast_fraction, foreign_fraction : float32, (n_tiles,)
        From the film's context, [0, 1].

    Returns
    -------
    bool, (n_tiles,)
    """
    return (
        (content <= BLACK_MAX_CONTENT)
        & (breast_fraction <= BLACK_MAX_BREAST)
        & (foreign_fraction <= BLACK_MAX_CONTENT)
    )
