"""Small pictures for people: films and tiles as 8-bit PNG."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.kernels.context import FilmContext

FILM_HEIGHT_PX = 480


def to_8bit(image: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Normalised intensity, 0..65535, as 0..255."""
    return (image >> 8).astype(np.uint8)


def lifted_8bit(image: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Square root of the normalised intensity, as 0..255: what is faint can be seen on a screen.

    Skin lines and the ground of a film lie within the lowest hundredth of the scale, which is two
    or three of 256 grey levels without, and 25 with it.
    """
    return np.asarray(_lifted()[image], dtype=np.uint8)


@cache
def _lifted() -> npt.NDArray[np.uint8]:
    return np.asarray(np.rint(255 * np.sqrt(np.arange(65536) / 65535)), dtype=np.uint8)


def stretched_8bit(
    image: npt.NDArray[np.uint16], *, least_span: float = 0.02
) -> npt.NDArray[np.uint8]:
    """A picture's own darkest to brightest hundredth as 0..255: what an almost empty tile holds.

    Parameters
    ----------
    image : (rows, columns) uint16
        On the normalised scale.
    least_span : float, default 0.02
        Of the scale [0, 1]; a narrower range is not stretched further, or noise would look like
        something.
    """
    low, high = np.percentile(image, (1, 99))
    span = max(high - low, least_span * 65535)
    scaled = (image.astype(np.float32) - low) / span
    stretched: npt.NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return stretched


def shrink(image: npt.NDArray[Any], height_px: int, width_px: int) -> npt.NDArray[Any]:
    """Area-averaged image of shape (height_px, width_px)."""
    import cv2

    return np.asarray(cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_AREA))


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """PNG bytes of a grey (rows, columns) or BGR (rows, columns, 3) picture."""
    import cv2

    ok, data = cv2.imencode(".png", image)
    if not ok:
        raise ValueError(f"cannot encode a picture of shape {image.shape} as PNG")
    return bytes(data)


def film_png(film: npt.NDArray[np.uint16]) -> bytes:
    """Whole film, at most ``FILM_HEIGHT_PX`` high and with its shadows lifted, as PNG.

    Parameters
    ----------
    film : (rows, columns) uint16
        On the normalised scale.
    """
    rows, columns = film.shape
    height = min(rows, FILM_HEIGHT_PX)
    width = max(1, round(columns * height / rows))
    return png(lifted_8bit(shrink(film, height, width)))


def context_png(context: FilmContext) -> bytes:
    """Map of a film in the size of `film_png`, as PNG: values of `FilmContext.mask`.

    Parameters
    ----------
    context : FilmContext
        Of the film.
    """
    height = min(context.rows, FILM_HEIGHT_PX)
    width = max(1, round(context.columns * height / context.rows))
    rows, columns = (size / context.factor for size in (context.rows, context.columns))
    y = ((np.arange(height) + 0.5) * rows / height).astype(np.int64)
    x = ((np.arange(width) + 0.5) * columns / width).astype(np.int64)
    return png(np.ascontiguousarray(context.mask[np.ix_(y, x)]))


def contact_sheet(
    tiles: npt.NDArray[np.uint8], *, per_row: int, gap_px: int = 2
) -> npt.NDArray[np.uint8]:
    """Tiles side by side in one picture, rows filled from the left.

    Parameters
    ----------
    tiles : (n, size, size) uint8
        n >= 1.
    per_row : int
        Tiles in a row.
    gap_px : int
        Between tiles.

    Returns
    -------
    (height, width) uint8
    """
    n, size, _ = tiles.shape
    rows = -(-n // per_row)
    step = size + gap_px
    sheet = np.full((rows * step - gap_px, min(n, per_row) * step - gap_px), 64, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = (i // per_row) * step, (i % per_row) * step
        sheet[y : y + size, x : x + size] = tile
    return sheet
