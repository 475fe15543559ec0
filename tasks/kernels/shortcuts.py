"""What a film says without its breast: short feature vectors of one kind of pixels at a time.

The question is what a classifier could learn from the wrong pixels, and whether curation took them
away, so that a pixel is not there must say as little as it can:

- Markers: their presence is the cue. A film is looked at as if all else were painted over with one
  colour, whatever film it is: the rise 0 above its ground. Lettering that no kept tile holds is
  then gone without a trace, and lettering that a kept tile holds is seen.
- Background and breast: their brightness is the cue. A cell of the grid is the mean over the pixels
  that are there; a cell without any is NaN, which the classifier takes for the mean of the films it
  learns from. A dropped tile, or the outline of the breast, is then no dark hole.

What remains of absence: a histogram of the pixels that are there shifts when a dropped tile held
pixels unlike the rest, and a cell that holds half of its pixels is the mean of that half. How much
the pattern of kept tiles says by itself is measured by `coverage_features`, without any pixel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tasks.kernels.context import BACKGROUND, BREAST, FOREIGN
from tasks.kernels.thumbnails import shrink

KINDS: Final = ("background", "markers", "breast")
GRID_ROWS, GRID_COLUMNS = 8, 6
"""Of the coarse picture of a film: a cell is about 3 cm."""
LEVEL_BINS = 16
GAP_PX = 3
"""Background and breast keep this distance (1.5 mm on a film of 24 cm) from what is not theirs, or
the glow around a letter would be background that gives the letter away."""
LEAST_OF_CELL = 0.05
"""A cell with a smaller share of pixels that are there is taken for empty."""
FEATURES = GRID_ROWS * GRID_COLUMNS + LEVEL_BINS + 2
"""Of one kind of pixels; markers have their share of the film besides."""

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float32]


def kinds_of_pixels(context: Picture) -> dict[str, Mask]:
    """Which pixels are background only, foreign only, breast only.

    Parameters
    ----------
    context : (height, width) uint8
        Map of a film, values of `FilmContext.mask`.

    Returns
    -------
    dict of str to (height, width) bool
        ``background`` (at least `GAP_PX` away from all else), ``markers`` (foreign content:
        lettering, plates, stickers, borders), ``breast`` (at least `GAP_PX` away from markers).
        Pixels in the gaps are of no kind.
    """
    foreign = context == FOREIGN
    return {
        "background": (context == BACKGROUND) & ~_widened(context != BACKGROUND),
        "markers": foreign,
        "breast": (context == BREAST) & ~_widened(foreign),
    }


def _widened(mask: Mask) -> Mask:
    import cv2

    side = 2 * GAP_PX + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def breast_lies_right(context: Picture) -> bool:
    """Whether the breast's centre of mass lies in the right half; False where there is no breast.

    Films are looked at with the breast at the left, so that a marker beside the chest wall is at
    one place whatever the laterality. Laterality itself is thereby no cue.
    """
    columns = np.count_nonzero(context == BREAST, axis=0)
    if not columns.any():
        return False
    centre = float(np.average(np.arange(len(columns)) + 0.5, weights=columns))
    return centre > len(columns) / 2


def covered(
    boxes: npt.NDArray[np.integer], *, film: tuple[int, int], shape: tuple[int, int]
) -> Mask:
    """Which pixels of a small picture have their centre inside any of some boxes of the film.

    Parameters
    ----------
    boxes : (n, 4) int
        x, y, width, height in pixels of the film; n may be 0, boxes may reach beyond the film.
    film : (int, int)
        Rows and columns of the film.
    shape : (int, int)
        Rows and columns of the small picture.

    Returns
    -------
    (rows, columns) bool
    """
    out = np.zeros(shape, dtype=np.bool_)
    x, y, width, height = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).T
    ends = []
    for first, length, axis in ((y, height, 0), (x, width, 1)):
        scale = shape[axis] / film[axis]
        # centre of pixel i: (i + 0.5) / scale
        ends += [np.ceil(edge * scale - 0.5) for edge in (first, first + length)]
    for top, bottom, left, right in np.maximum(np.array(ends).T, 0).astype(np.int64).tolist():
        out[top:bottom, left:right] = True
    return out


@dataclass(frozen=True)
class FilmFeatures:
    """What is kept of a film, of those of its pixels that are seen."""

    vectors: dict[str, Vector]
    """By kind of pixels, (`FEATURES`,) float32. Markers have their share of the film as one more.
    Of background and breast the share is left out: of the whole film it is the size of the breast,
    and of the kept tiles it is how many were dropped."""
    pixels: dict[str, int]
    """By kind, how many there are."""
    places: Vector
    """From `coverage_features`."""


def film_features(
    thumbnail: Picture, context: Picture, views: Mapping[str, Mask]
) -> dict[str, FilmFeatures]:
    """Features of every kind of pixels of a film, once for each choice of those that are seen.

    Parameters
    ----------
    thumbnail : (height, width) uint8
        Film with its shadows lifted (`thumbnails.film_png`).
    context : (height, width) uint8
        Its map (`thumbnails.context_png`).
    views : mapping of str to (height, width) bool
        Pixels that lie in the tiles looked at, by the name of the choice.

    Returns
    -------
    dict of str to FilmFeatures
        By the name of the choice. The ground is measured on the whole film in all of them.
    """
    right = breast_lies_right(context)
    if right:
        thumbnail, context = np.fliplr(thumbnail), np.fliplr(context)
    kinds = kinds_of_pixels(context)
    ground = _median(grey_counts(thumbnail, kinds["background"]))
    out = {}
    for name, view in views.items():
        seen = np.fliplr(view) if right else view
        vectors, pixels = {}, {}
        for kind, everywhere in kinds.items():
            where = everywhere & seen
            n = int(np.count_nonzero(where))
            vector = pixel_features(thumbnail, where, ground=ground, painted=kind == "markers")
            if kind == "markers":
                vector = np.append(vector, np.float32(n / where.size))
            vectors[kind], pixels[kind] = vector, n
        out[name] = FilmFeatures(vectors, pixels, coverage_features(seen))
    return out


def pixel_features(picture: Picture, where: Mask, *, ground: float, painted: bool) -> Vector:
    """Coarse picture, histogram, mean and spread of some pixels of a film.

    Parameters
    ----------
    picture : (height, width) uint8
        Grey levels; 255 is 1 in what comes back.
    where : (height, width) bool
        Pixels that count.
    ground : float
        Grey level of the film's unexposed ground, 0..255.
    painted : bool
        Whether pixels that do not count have the rise 0; otherwise they are left out.

    Returns
    -------
    (`FEATURES`,) float32
        Rise above the ground, averaged over each cell of a grid, row by row; share of the pixels
        that count in each of 16 equal bins of level; their mean and standard deviation of level.
        What has no pixel that counts is 0 where painted, else NaN.
    """
    counts = grey_counts(picture, where)
    n = counts.sum()
    if n == 0:
        return np.full(FEATURES, 0 if painted else np.nan, np.float32)
    rise = np.where(where, picture - np.float32(ground), np.float32(0))
    grid = shrink(rise, GRID_ROWS, GRID_COLUMNS).ravel() / 255
    if not painted:
        there = coverage_features(where)
        enough = there >= LEAST_OF_CELL
        grid = np.divide(grid, there, out=np.full_like(grid, np.nan), where=enough)
    levels = np.arange(256) / 255
    mean = float(counts @ levels) / n
    spread = math.sqrt(float(counts @ (levels - mean) ** 2) / n)
    histogram = counts.reshape(LEVEL_BINS, -1).sum(axis=1) / n
    return np.concatenate([grid, histogram, [mean, spread]]).astype(np.float32)


def grey_counts(picture: Picture, where: Mask) -> npt.NDArray[np.int64]:
    """How many of the pixels that count have each grey level; (256,) int64."""
    return np.bincount(picture[where], minlength=256)


def _median(counts: npt.NDArray[np.int64]) -> float:
    """Lower median of counted grey levels; 0 where there are none."""
    return float(np.searchsorted(np.cumsum(counts), counts.sum() / 2)) if counts.any() else 0.0


def coverage_features(seen: Mask) -> Vector:
    """Share of each grid cell that is seen: where tiles were kept, without any pixel of them.

    Parameters
    ----------
    seen : (height, width) bool
        Pixels that lie in the tiles looked at.

    Returns
    -------
    (`GRID_ROWS` * `GRID_COLUMNS`,) float32, in [0, 1]
    """
    return np.asarray(shrink(seen.astype(np.float32), GRID_ROWS, GRID_COLUMNS).ravel(), np.float32)
