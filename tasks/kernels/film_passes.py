"""Single passes over a whole film, compiled. Imported late: numba costs a third of a second.

Every function releases the GIL and runs on one core; the callers fan out over films.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.kernels.bit_planes import BitPlane, FloatPlane, compiled, words_of

UInt16Array = npt.NDArray[np.uint16]

# -- pixels ------------------------------------------------------------------------------------


@compiled
def _look_up(pixels, table, out):  # type: ignore[no-untyped-def]
    for row in range(pixels.shape[0]):
        for column in range(pixels.shape[1]):
            out[row, column] = table[pixels[row, column]]


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
    _look_up(pixels, table, out)
    return out


@compiled
def _stretched(pixels, whole, part, gain, out):  # type: ignore[no-untyped-def]
    least, most = np.float32(0), np.float32(65535)
    for row in range(pixels.shape[0]):
        line, target = pixels[row], out[row]
        for column in range(pixels.shape[1]):
            level = (np.float32(np.int32(line[column]) - whole) - part) * gain
            target[column] = np.uint16(np.int32(np.rint(min(max(level, least), most))))


def stretched(pixels: npt.NDArray[Any], low: float, high: float) -> UInt16Array:
    """Stretch pixels linearly, so that one level becomes 0 and another 65535, and clip.

    Parameters
    ----------
    pixels : uint8 or uint16, (rows, columns)
    low, high : float
        ``low < high``.

    Returns
    -------
    uint16, (rows, columns)
    """
    out = np.empty(pixels.shape, np.uint16)
    whole = int(np.floor(low))
    gain = np.float32(65535 / (high - low))
    _stretched(pixels, np.int32(whole), np.float32(low - whole), gain, out)
    return out


@compiled
def _value_counts(pixels, step, lanes):  # type: ignore[no-untyped-def]
    most = len(lanes) - 1
    for row in range(0, pixels.shape[0], step):
        line = pixels[row, ::step]
        for column in range(len(line)):
            lanes[column & most, line[column]] += np.uint32(1)


def value_counts(pixels: npt.NDArray[Any], step: int) -> npt.NDArray[np.uint32]:
    """Count the values of every `step`-th pixel of every `step`-th row.

    Parameters
    ----------
    pixels : uint8 or uint16, (rows, columns)
    step : int

    Returns
    -------
    uint32, (256,) or (65536,)
    """
    # Among 8-bit pixels runs of equal ones are long, and would wait for their own store.
    shape = (4, 256) if pixels.dtype == np.uint8 else (1, 65536)
    lanes = np.zeros(shape, np.uint32)
    _value_counts(pixels, step, lanes)
    counts: npt.NDArray[np.uint32] = lanes.sum(axis=0, dtype=np.uint32)
    return counts


@compiled
def _block_statistics(film, factor, mean, high):  # type: ignore[no-untyped-def]
    rows, columns = film.shape
    whole = columns // factor
    line_sum = np.empty(columns, np.int32)
    line_high = np.empty(columns, np.uint16)
    for block_row in range(mean.shape[0]):
        top = block_row * factor
        bottom = min(rows, top + factor)
        line = film[top]
        for column in range(columns):
            line_sum[column] = line[column]
            line_high[column] = line[column]
        for row in range(top + 1, bottom):
            line = film[row]
            for column in range(columns):
                line_sum[column] += np.int32(line[column])
                line_high[column] = max(line_high[column], line[column])
        mean_line, high_line = mean[block_row], high[block_row]
        scale = np.float32(1.0 / (65535.0 * factor * (bottom - top)))
        if factor == 2:  # films of 513 to 1024 pixels; a constant stride becomes vector code
            for block in range(whole):
                mean_line[block] = np.float32(line_sum[2 * block] + line_sum[2 * block + 1]) * scale
            for block in range(whole):
                high_line[block] = max(line_high[2 * block], line_high[2 * block + 1])
        else:
            for block in range(whole):
                total = 0
                brightest = np.uint16(0)
                for column in range(block * factor, block * factor + factor):
                    total += line_sum[column]
                    brightest = max(brightest, line_high[column])
                mean_line[block] = np.float32(total) * scale
                high_line[block] = brightest
        if whole < mean.shape[1]:
            rest = line_sum[whole * factor :]
            mean_line[whole] = rest.mean() / (65535.0 * (bottom - top))
            high_line[whole] = line_high[whole * factor :].max()


def block_statistics(film: UInt16Array, factor: int) -> tuple[FloatPlane, UInt16Array]:
    """Mean and maximum of square blocks; the last ones may be narrower.

    Parameters
    ----------
    film : uint16, (rows, columns)
    factor : int
        Side of a block in pixels, 1 to 256.

    Returns
    -------
    mean : float32, (ceil(rows / factor), ceil(columns / factor)), [0, 1]
    high : uint16, of the same shape
    """
    shape = tuple(-(-size // factor) for size in film.shape)
    mean = np.empty(shape, np.float32)
    high = np.empty(shape, np.uint16)
    _block_statistics(film, factor, mean, high)
    return mean, high


@compiled
def _line_sums(line, dark_level):  # type: ignore[no-untyped-def]
    total = np.uint32(0)
    dark = np.uint32(0)
    squares = np.uint64(0)
    for column in range(len(line)):
        value = line[column]
        total += np.uint32(value)
        squares += np.uint64(np.uint32(value) * np.uint32(value))
        dark += np.uint32(value <= dark_level)
    return np.uint64(total), squares, np.uint64(dark)


@compiled
def _frame(high, share):  # type: ignore[no-untyped-def]
    rows, columns = high.shape
    darkest = high[0, 0]
    for row in range(rows):
        line = high[row]
        for column in range(columns):
            darkest = min(darkest, line[column])
    filled = np.zeros(columns, np.int32)
    for row in range(rows):
        line = high[row]
        for column in range(columns):
            filled[column] += np.int32(line[column] > darkest)
    first, end = 0, columns
    while first < end and filled[first] < share * rows:
        first += 1
    while end > first and filled[end - 1] < share * rows:
        end -= 1
    return (darkest, first, end) if first < end else (darkest, 0, columns)


def frame(high: UInt16Array, share: float) -> tuple[int, int, int]:
    """Columns that hold film: what lies beside them is the darkest value throughout.

    Parameters
    ----------
    high : uint16, (rows, columns)
    share : float
        Part of a column that is brighter where there is film, at least.

    Returns
    -------
    darkest, first, end : int
        The darkest value, the first column and the one after the last; all columns where none
        holds film.
    """
    darkest, first, end = _frame(high, share)
    return int(darkest), int(first), int(end)


@compiled
def _tile_histograms(film, boxes, dark_level, counts, sums, squares, dark):  # type: ignore[no-untyped-def]
    # Four interleaved histograms: runs of equal pixels would otherwise wait for their own store.
    first, second = np.empty(256, np.uint32), np.empty(256, np.uint32)
    third, fourth = np.empty(256, np.uint32), np.empty(256, np.uint32)
    one = np.uint32(1)
    for tile in range(len(boxes)):
        x, y, width, height = boxes[tile]
        for lane in (first, second, third, fourth):
            lane[:] = 0
        total = total_squares = total_dark = np.uint64(0)
        for row in range(y, y + height):
            line = film[row, x : x + width]
            line_total, line_squares, line_dark = _line_sums(line, dark_level)
            total += line_total
            total_squares += line_squares
            total_dark += line_dark
            # Equality in Cauchy and Schwarz's inequality: all pixels of the line are the same.
            if line_squares * np.uint64(width) == line_total * line_total:
                first[line[0] >> 8] += np.uint32(width)
                continue
            for k in range(width >> 2):
                first[line[4 * k] >> 8] += one
                second[line[4 * k + 1] >> 8] += one
                third[line[4 * k + 2] >> 8] += one
                fourth[line[4 * k + 3] >> 8] += one
            for column in range(width - width % 4, width):
                first[line[column] >> 8] += one
        for level in range(256):
            counts[tile, level] = first[level] + second[level] + third[level] + fourth[level]
        sums[tile] = total
        squares[tile] = total_squares
        dark[tile] = total_dark


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
    _tile_histograms(film, boxes, np.uint16(dark_level), counts, sums, squares, dark)
    return counts, sums, squares, dark


@compiled
def _histogram_figures(counts, low, high, running, bins, entropy):  # type: ignore[no-untyped-def]
    for tile in range(len(counts)):
        total = np.int64(0)
        for level in range(256):
            total += np.int64(counts[tile, level])
            running[tile, level] = total
        lower, upper = np.ceil(low * total), np.ceil(high * total)
        weighted = 0.0
        for level in range(256):
            bins[0, tile] += running[tile, level] < lower
            bins[1, tile] += running[tile, level] < upper
            count = counts[tile, level]
            if count:
                weighted += count * np.log2(np.float64(count))
        entropy[tile] = max(np.log2(np.float64(total)) - weighted / total, 0.0)


def histogram_figures(
    counts: npt.NDArray[np.uint32], low: float, high: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Running sum, two quantiles and entropy of histograms.

    Parameters
    ----------
    counts : uint32, (n_tiles, 256)
        None of them empty.
    low, high : float
        Shares of the pixels, in (0, 1].

    Returns
    -------
    running : int64, (n_tiles, 256)
    bins : int64, (2, n_tiles)
        First bins at which the running sum reaches `low` and `high`.
    entropy : float32, (n_tiles,)
        Shannon's, in bits: 0..8.
    """
    running = np.empty(counts.shape, np.int64)
    bins = np.zeros((2, len(counts)), np.int64)
    entropy = np.empty(len(counts), np.float32)
    _histogram_figures(counts, low, high, running, bins, entropy)
    return running, bins, entropy


# -- levels of blocks --------------------------------------------------------------------------


@compiled
def _smoothed(mean, step, relative_step, smooth, steps):  # type: ignore[no-untyped-def]
    rows, columns = mean.shape
    line = np.empty(columns + 4, np.float32)
    down = np.empty(columns + 4, np.float32)
    least = np.float32(64) * step * step
    relative = np.float32(64) * relative_step * relative_step
    for row in range(rows):
        far_up, up = mean[max(row - 2, 0)], mean[max(row - 1, 0)]
        here = mean[row]
        low, far_low = mean[min(row + 1, rows - 1)], mean[min(row + 2, rows - 1)]
        inner = line[2 : columns + 2]
        for column in range(columns):
            inner[column] = (
                np.float32(6) * here[column]
                + np.float32(4) * (up[column] + low[column])
                + (far_up[column] + far_low[column])
            )
        line[:2], line[columns + 2 :] = inner[0], inner[columns - 1]
        a, b, d, e = line[0:columns], line[1 : columns + 1], line[3 : columns + 3], line[4:]
        out = smooth[row]
        for column in range(columns):
            out[column] = (
                np.float32(6) * inner[column]
                + np.float32(4) * (b[column] + d[column])
                + (a[column] + e[column])
            ) * np.float32(1 / 256)
        # Sobel, eightfold.
        inner_down = down[2 : columns + 2]
        for column in range(columns):
            inner[column] = np.float32(2) * here[column] + (up[column] + low[column])
            inner_down[column] = low[column] - up[column]
        line[1], line[columns + 2] = inner[0], inner[columns - 1]
        down[1], down[columns + 2] = inner_down[0], inner_down[columns - 1]
        before, after = down[1 : columns + 1], down[3 : columns + 3]
        codes = steps[row]
        for column in range(columns):
            gx = d[column] - b[column]
            gy = np.float32(2) * inner_down[column] + (before[column] + after[column])
            slope = gx * gx + gy * gy
            level = out[column] + np.float32(0.05)
            codes[column] = np.uint8(slope > least) | (
                np.uint8(slope > relative * level * level) << np.uint8(1)
            )


def smoothed(
    mean: FloatPlane, step: float, relative_step: float
) -> tuple[FloatPlane, npt.NDArray[np.uint8]]:
    """Smooth a plane, and find its steps.

    Parameters
    ----------
    mean : float32, (rows, columns)
    step : float
        Change of level per block (Sobel) from which on there is a step.
    relative_step : float
        The same as a share of the smoothed level + 0.05.

    Returns
    -------
    smooth : float32, (rows, columns)
        By the binomial mask of five, whose spread is one block.
    steps : uint8, (rows, columns)
        1: a step; 2: a relative one; 3: both.
    """
    smooth = np.empty(mean.shape, np.float32)
    steps = np.empty(mean.shape, np.uint8)
    _smoothed(mean, np.float32(step), np.float32(relative_step), smooth, steps)
    return smooth, steps


@compiled
def _cell_minima(plane, out):  # type: ignore[no-untyped-def]
    rows, columns = plane.shape
    line = np.empty(out.shape[1] * 4, np.float32)
    a, b, c, d = line[0::4], line[1::4], line[2::4], line[3::4]
    for cell_row in range(out.shape[0]):
        top = cell_row * 4
        line[:columns] = plane[top]
        for row in range(top + 1, min(rows, top + 4)):
            source = plane[row]
            for column in range(columns):
                line[column] = min(line[column], source[column])
        line[columns:] = line[columns - 1]
        cells = out[cell_row]
        for cell in range(out.shape[1]):
            cells[cell] = min(min(a[cell], b[cell]), min(c[cell], d[cell]))


def cell_minima(plane: FloatPlane) -> FloatPlane:
    """Minimum of cells of four by four blocks, float32, (ceil(rows / 4), ceil(columns / 4))."""
    rows, columns = plane.shape
    out = np.empty((-(-rows // 4), -(-columns // 4)), np.float32)
    _cell_minima(plane, out)
    return out


@compiled
def _kinds(mean, smooth, ground, steps, rim, body_level, standing_rise, out):  # type: ignore[no-untyped-def]
    rim_rise, rim_per_ground, rim_most = rim
    for row in range(mean.shape[0]):
        own, level, base, step = mean[row], smooth[row], ground[row], steps[row]
        codes = out[row]
        for column in range(mean.shape[1]):
            rise = level[column] - base[column]
            edge = min(rim_rise + rim_per_ground * base[column], rim_most)
            lit = np.uint8(rise > edge) | np.uint8(level[column] > body_level)
            even = step[column] ^ np.uint8(3)
            calm = lit & even
            loose = calm & (even >> np.uint8(1))
            standing = np.uint8(rise > standing_rise) & np.uint8(
                own[column] - base[column] > standing_rise
            )
            codes[column] = (
                lit | (calm << np.uint8(1)) | (loose << np.uint8(2)) | (standing << np.uint8(3))
            )


def kinds(
    mean: FloatPlane,
    smooth: FloatPlane,
    ground: FloatPlane,
    steps: npt.NDArray[np.uint8],
    *,
    rim: tuple[float, float, float],
    body_level: float,
    standing_rise: float,
) -> tuple[BitPlane, BitPlane, BitPlane, BitPlane]:
    """Tell blocks by their rise above the ground.

    Parameters
    ----------
    mean, smooth, ground : float32, (rows, columns), [0, 1]
    steps : uint8, (rows, columns)
        From `smoothed`.
    rim : tuple of float
        Rise of what is lit, what it gains per level of ground, and the most that it becomes.
    body_level : float
        What is brighter is lit anyway.
    standing_rise : float
        Rise of what stands out, smoothed and by itself.

    Returns
    -------
    lit, calm, loose, standing : planes of bits
        Lit; lit and no step; lit and not even a relative step; standing out.
    """
    rows, columns = mean.shape
    codes = np.empty((rows, -(-columns // 64) * 64), np.uint8)
    codes[:, columns:] = 0
    limits = tuple(np.float32(value) for value in rim)
    level, rise = np.float32(body_level), np.float32(standing_rise)
    _kinds(mean, smooth, ground, steps, limits, level, rise, codes)
    lit, calm, loose, standing = (words_of(codes & np.uint8(1 << bit)) for bit in range(4))
    return lit, calm, loose, standing


@compiled
def _highest(values):  # type: ignore[no-untyped-def]
    highest = values[0]
    for column in range(len(values)):
        highest = max(highest, values[column])
    return highest


@compiled
def _box_sums(mask, ground_bits, boxes, factor, shares, highest):  # type: ignore[no-untyped-def]
    for tile in range(len(boxes)):
        x, y, width, height = boxes[tile]
        top, bottom = y // factor, (y + height - 1) // factor + 1
        left, right = x // factor, (x + width - 1) // factor + 1
        cut_left, cut_right = x - left * factor, right * factor - x - width
        breast = foreign = np.int64(0)
        brightest = ground_bits[top, left]
        for row in range(top, bottom):
            marks = mask[row, left:right]
            ones = twos = np.int64(0)
            for column in range(len(marks)):
                ones += np.int32(marks[column] & np.uint8(1))
                twos += np.int32(marks[column] >> np.uint8(1))
            first, last = marks[0], marks[-1]
            ones = ones * factor - cut_left * (first & 1) - cut_right * (last & 1)
            twos = twos * factor - cut_left * (first >> 1) - cut_right * (last >> 1)
            tall = min(y + height, (row + 1) * factor) - max(y, row * factor)
            breast += tall * ones
            foreign += tall * twos
            brightest = max(brightest, _highest(ground_bits[row, left:right]))
        shares[0, tile] = breast / (width * height)
        shares[1, tile] = foreign / (width * height)
        highest[tile] = brightest


def box_sums(
    mask: npt.NDArray[np.uint8], ground: FloatPlane, boxes: npt.NDArray[np.int32], factor: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Shares of the values 1 and 2 of a mask, and the highest ground, in every box.

    Parameters
    ----------
    mask : uint8, (rows, columns)
        0, 1 and 2.
    ground : float32, (rows, columns)
        Not negative.
    boxes : int32, (n_tiles, 4)
        x, y, width, height in pixels.
    factor : int
        Side of a block in pixels; blocks cut by a box's edge count by the part inside.

    Returns
    -------
    ones, twos, highest : float32, (n_tiles,)
    """
    shares, highest = np.empty((2, len(boxes)), np.float32), np.empty(len(boxes), np.int32)
    # Levels that are not negative have the order of their bits, and those are compared faster.
    _box_sums(mask, ground.view(np.int32), boxes, factor, shares, highest)
    return shares[0], shares[1], highest.view(np.float32)
