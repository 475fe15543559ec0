"""Single passes over a whole film, compiled. Imported late: numba costs a third of a second.

Every function releases the GIL and runs on one core; the callers fan out over films.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

UInt16Array = npt.NDArray[np.uint16]


def _look_up(pixels, table, out):  # type: ignore[no-untyped-def]
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            out[row, column] = table[pixels[row, column]]


def _block_statistics(film, factor, mean, high):  # type: ignore[no-untyped-def]
    rows, columns = film.shape
    columns_out = mean.shape[1]
    line_sum = np.empty(columns, np.uint32)
    line_high = np.empty(columns, np.uint16)
    for block_row in range(mean.shape[0]):
        top = block_row * factor
        bottom = min(rows, top + factor)
        line_sum[:] = film[top]
        line_high[:] = film[top]
        for row in range(top + 1, bottom):
            line = film[row]
            for column in range(columns):
                value = line[column]
                line_sum[column] += value
                line_high[column] = max(line_high[column], value)
        for block_column in range(columns_out):
            left = block_column * factor
            right = min(columns, left + factor)
            total = np.uint64(0)
            brightest = np.uint16(0)
            for column in range(left, right):
                total += line_sum[column]
                brightest = max(brightest, line_high[column])
            mean[block_row, block_column] = total / ((right - left) * (bottom - top))
            high[block_row, block_column] = brightest


def _tile_histograms(film, boxes, dark_level, counts, sums, squares, dark):  # type: ignore[no-untyped-def]
    # Four interleaved histograms: runs of equal pixels would otherwise wait for their own store.
    lanes = np.zeros((4, 256), np.uint32)
    for tile in range(boxes.shape[0]):
        x, y, width, height = boxes[tile]
        lanes[:] = 0
        whole = width - width % 4
        total = np.uint64(0)
        total_squares = np.uint64(0)
        total_dark = np.uint64(0)
        for row in range(y, y + height):
            line = film[row, x : x + width]
            line_total = np.uint32(0)
            line_dark = np.uint32(0)
            line_squares = np.uint64(0)
            for column in range(width):
                value = line[column]
                line_total += np.uint32(value)
                line_squares += np.uint64(np.uint32(value) * np.uint32(value))
                line_dark += np.uint32(value <= dark_level)
            total += line_total
            total_squares += line_squares
            total_dark += line_dark
            for column in range(0, whole, 4):
                lanes[0, line[column] >> 8] += 1
                lanes[1, line[column + 1] >> 8] += 1
                lanes[2, line[column + 2] >> 8] += 1
                lanes[3, line[column + 3] >> 8] += 1
            for column in range(whole, width):
                lanes[0, line[column] >> 8] += 1
        for level in range(256):
            counts[tile, level] = (
                lanes[0, level] + lanes[1, level] + lanes[2, level] + lanes[3, level]
            )
        sums[tile] = total
        squares[tile] = total_squares
        dark[tile] = total_dark


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    compiled: Callable[..., None] = numba.njit(cache=True, nogil=True)(function)
    return compiled


_look_up_compiled = _compiled(_look_up)
_block_statistics_compiled = _compiled(_block_statistics)
_tile_histograms_compiled = _compiled(_tile_histograms)


def look_up(pixels: npt.NDArray[Any], table: UInt16Array) -> UInt16Array:
    """Replace every pixel by the table's entry for it.

    Parameters
    ----------
    pixels : uint8 or uint16, (rows, columns)
    table : uint16, (256,) or (65536,)
        One entry for every value that the pixels' type can hold.

    Returns
    -------
    uint16, (rows, columns)
    """
    out = np.empty(pixels.shape, np.uint16)
    _look_up_compiled(pixels, table, out)
    return out


def block_statistics(film: UInt16Array, factor: int) -> tuple[npt.NDArray[np.float32], UInt16Array]:
    """Mean and maximum of square blocks; the last ones may be narrower.

    Parameters
    ----------
    film : uint16, (rows, columns)
    factor : int
        Side of a block in pixels, 1 to 256.

    Returns
    -------
    mean : float32, (ceil(rows / factor), ceil(columns / factor)), 0..65535
    high : uint16, of the same shape
    """
    shape = tuple(-(-size // factor) for size in film.shape)
    mean = np.empty(shape, np.float32)
    high = np.empty(shape, np.uint16)
    _block_statistics_compiled(film, factor, mean, high)
    return mean, high


def tile_histograms(
    film: UInt16Array, boxes: npt.NDArray[np.int32], dark_level: int
) -> tuple[
    npt.NDArray[np.uint32],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint64],
]:
    """Histogram, sum, sum of squares and number of dark pixels of every tile.

    Parameters
    ----------
    film : uint16, (rows, columns)
    boxes : int32, (n_tiles, 4)
        x, y, width, height; inside the film, width at most 65536.
    dark_level : int
        A pixel is dark at or below this level (0..65535).

    Returns
    -------
    counts : uint32, (n_tiles, 256)
        Bin k holds the pixels from 256 k to 256 k + 255.
    sums, squares, dark : uint64, (n_tiles,)
    """
    n_tiles = len(boxes)
    counts = np.empty((n_tiles, 256), np.uint32)
    sums = np.empty(n_tiles, np.uint64)
    squares = np.empty(n_tiles, np.uint64)
    dark = np.empty(n_tiles, np.uint64)
    _tile_histograms_compiled(film, boxes, np.uint16(dark_level), counts, sums, squares, dark)
    return counts, sums, squares, dark
