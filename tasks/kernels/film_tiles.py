"""Everything that the pixels of a film say about its tiles, in one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.kernels.context import FilmContext, box_figures, film_context
from tasks.kernels.scoring import context_score
from tasks.kernels.screening import (
    DEFAULT_DARK_LEVEL,
    content_fraction,
    intensity_figures,
    is_black,
    is_black_alone,
)


def screen_film(
    film: npt.NDArray[np.uint16],
    boxes: npt.NDArray[np.int32],
    *,
    dark_level: float = DEFAULT_DARK_LEVEL,
    lesion_mask: npt.NDArray[np.bool_] | None = None,
    context: FilmContext | None = None,
    context_film: npt.NDArray[np.uint16] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Columns of the tile table that come from pixels.

    Parameters
    ----------
    film : uint16, (rows, columns)
        On the normalised scale (`tasks.kernels.intensity.normalise`).
    boxes : int32, (n_tiles, 4)
        x, y, width, height, inside the film.
    dark_level : float, default 0.05
        For `dark_fraction` alone, on the scale [0, 1].
    lesion_mask : bool, (rows, columns), optional
        True inside annotated lesions. None: not known.
    context : FilmContext, optional
        Of this film; found where not given.
    context_film : uint16, (rows, columns), optional
        The film on the scale of `tasks.kernels.intensity.normalise_for_context`, which the map and
        the black screen look at; `film` itself where not given. It differs on calibrated films.

    Returns
    -------
    dict of arrays, each (n_tiles,)
        lesion_fraction (float32, NaN where not known), dark_fraction, mean, std, p01, p99, entropy,
        breast_fraction, foreign_fraction, context_score (float32) and is_black (bool).
    """
    if context is None:
        context = film_context(film if context_film is None else context_film)
    figures = intensity_figures(film, boxes, dark_level=dark_level)
    running = figures.running
    if context_film is not None and context_film is not film:
        running = intensity_figures(context_film, boxes).running
    breast, foreign, ground = box_figures(context, boxes)
    content = content_fraction(running, ground)
    return {
        "lesion_fraction": lesion_fractions(lesion_mask, boxes),
        "dark_fraction": figures.dark_fraction,
        "mean": figures.mean,
        "std": figures.std,
        "p01": figures.p01,
        "p99": figures.p99,
        "entropy": figures.entropy,
        "is_black": is_black(content, breast, foreign),
        "breast_fraction": breast,
        "foreign_fraction": foreign,
        "context_score": context_score(breast, foreign),
    }


def screen_tiles(
    picture: npt.NDArray[np.uint16],
    boxes: npt.NDArray[np.int32],
    *,
    dark_level: float = DEFAULT_DARK_LEVEL,
    lesion_mask: npt.NDArray[np.bool_] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """Columns of the tile table for tiles that are judged each by itself.

    Parameters
    ----------
    picture : uint16, (rows, columns)
        A tile, or a film whose map is not asked.
    boxes, dark_level, lesion_mask
        As for `screen_film`.

    Returns
    -------
    dict of arrays, each (n_tiles,)
        As `screen_film`; breast_fraction, foreign_fraction and context_score are NaN.
    """
    figures = intensity_figures(picture, boxes, dark_level=dark_level)
    unknown = np.full(len(boxes), np.nan, np.float32)
    return {
        "lesion_fraction": lesion_fractions(lesion_mask, boxes),
        "dark_fraction": figures.dark_fraction,
        "mean": figures.mean,
        "std": figures.std,
        "p01": figures.p01,
        "p99": figures.p99,
        "entropy": figures.entropy,
        "is_black": is_black_alone(figures),
        "breast_fraction": unknown,
        "foreign_fraction": unknown,
        "context_score": unknown,
    }


def lesion_fractions(
    lesion_mask: npt.NDArray[np.bool_] | None, boxes: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Share of every box inside a mask, float32, (n_tiles,); NaN without a mask."""
    if lesion_mask is None:
        return np.full(len(boxes), np.nan, np.float32)
    return np.array(
        [
            np.count_nonzero(lesion_mask[y : y + height, x : x + width]) / (width * height)
            for x, y, width, height in boxes.tolist()
        ],
        np.float32,
    )
