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

GROUND_MOST = 0.2
"""Without its film, a tile brighter than this on average is no ground: grounds of digitised films
lie below it on the scale of their files, and tissue without structure mostly above."""


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
    running: npt.NDArray[np.int64]
    """Running sum of the histogram, (n_tiles, 256)."""


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
    from tasks.kernels.film_passes import histogram_figures, tile_histograms

    counts, sums, squares, dark = tile_histograms(
        np.ascontiguousarray(film), boxes, round(dark_level * 65535)
    )
    running, bins, entropy = histogram_figures(counts, 0.01, 0.99)
    p01, p99 = ((bins * 256 + 127.5) / 65535).astype(np.float32)  # centres of the bins
    pixels = running[:, -1].astype(np.float64)
    mean = sums / pixels
    variance = np.maximum(squares / pixels - mean**2, 0.0)
    return TileFigures(
        dark_fraction=(dark / pixels).astype(np.float32),
        mean=(mean / 65535).astype(np.float32),
        std=(np.sqrt(variance) / 65535).astype(np.float32),
        p01=p01,
        p99=p99,
        entropy=entropy,
        running=running,
    )


def content_fraction(
    running: npt.NDArray[np.int64],
    ground_level: npt.NDArray[np.float32],
    *,
    contrast: float = VISIBLE_CONTRAST,
) -> FloatArray:
    """Share of a tile's pixels that stand out from the ground around it.

    Parameters
    ----------
    running : int64, (n_tiles, 256)
        Running sum of a tile's histogram.
    ground_level : float32, (n_tiles,)
        On the scale [0, 1].
    contrast : float
        On the same scale; taken to whole bins, upward.

    Returns
    -------
    float32, (n_tiles,), [0, 1]
    """
    first = np.ceil((ground_level + contrast) * 256).clip(0, 256).astype(np.int64)
    hidden = np.where(first > 0, running[np.arange(len(running)), first - 1], 0)
    return (1.0 - hidden / running[:, -1]).astype(np.float32)


def is_black_alone(figures: TileFigures) -> npt.NDArray[np.bool_]:
    """Tiles that show nothing, judged without their films.

    A tile is black where it is dark throughout and hardly anything stands out from its own darkest
    part: the film's ground is taken to be that.

    Parameters
    ----------
    figures : TileFigures
        Of `intensity_figures`.

    Returns
    -------
    bool, (n_tiles,)
    """
    content = content_fraction(figures.running, figures.p01)
    return (content <= BLACK_MAX_CONTENT) & (figures.mean <= GROUND_MOST)


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
