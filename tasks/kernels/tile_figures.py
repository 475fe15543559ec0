"""What a tile looks like, as numbers: edges, flatness, strokes, texture, places of light.

Tissue is smooth: through centimetres of it no radiograph makes a step. Letters, plates, stickers
and film edges do, and are flat or straight besides. The figures say how much there is of each;
which of them tell tissue from annotations is learned (`models.tile_scorer`).

A tile is looked at in 64 x 64 pixels whatever its size, so that figures compare.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Plane = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float32]

SIDE = 64
"""Side of the picture that the figures are taken from, in pixels."""

_BINS = 1024
_FIRST_PLACE = int(np.float32(1e-5).view(np.int32)) >> 20
_PLACES = (int(np.float32(8.0).view(np.int32)) >> 20) - _FIRST_PLACE
"""Eighths of an octave from 1e-5 to 8, in histograms of slopes."""

_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_STEEP = (0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_STEEPER_THAN = (0.02, 0.05, 0.1, 0.2)
_RELATIVELY_STEEPER_THAN = (0.1, 0.2, 0.4)
_FLATTER_THAN = (0.002, 0.006, 0.02)
_STROKES = (5, 9, 17)


def _names() -> tuple[str, ...]:
    names = [f"level_{q:g}" for q in _LEVELS] + ["mean", "std", "max"]
    names += [f"slope_{q:g}" for q in _STEEP] + [f"relative_slope_{q:g}" for q in _STEEP]
    names += [f"slope_over_{a:g}" for a in _STEEPER_THAN]
    names += [f"relative_slope_over_{a:g}" for a in _RELATIVELY_STEEPER_THAN]
    names += [f"flat_{a:g}" for a in _FLATTER_THAN]
    names += ["lit", "lit_flat", "bright_flat", "very_bright", "saturated"]
    names += ["commonest_level", "commonest_levels", "levels_used", "entropy"]
    names += ["otsu", "above", "contrast", "spread_above", "spread_below", "separation"]
    names += ["relative_contrast"]
    names += ["pieces", "largest_piece", "fill_of_largest", "edges_touched", "pieces_of_size"]
    names += ["median_piece"]
    names += ["outline", "slope_on_outline", "slope_on_outline_0.5", "slope_on_outline_0.2"]
    names += ["relative_slope_on_outline"]
    for k in _STROKES:
        names += [f"bright_stroke_{k}_{q:g}" for q in (0.9, 0.99, 1)]
        names += [f"dark_stroke_{k}_{q:g}" for q in (0.9, 0.99, 1)]
    for axis in ("columns", "rows"):
        names += [f"step_of_{axis}", f"straightness_of_{axis}", f"share_of_{axis}"]
    names += ["direction_first", "direction_both", "direction_upright", "edge_mass"]
    names += [f"grain_{q:g}" for q in (0.5, 0.75, 0.9, 0.99)]
    names += [f"local_grain_{q:g}" for q in (0, 0.25, 0.5, 0.75, 1)]
    names += ["detail", "detail_most", "detail_min", "detail_max", "detail_skew"]
    names += [f"side_{i}" for i in range(4)]
    names += [f"cell_{i}" for i in (0, 3, 7, 11, 15)] + ["cells_std"]
    return tuple(names)


NAMES = _names()
"""Names of the figures, in their order."""


def tile_figures(tiles: npt.NDArray[Any]) -> FloatArray:
    """Figures of tiles.

    Parameters
    ----------
    tiles : uint16 or float32, (n, size, size)
        uint16 0..65535, or float32 on the scale [0, 1].

    Returns
    -------
    float32, (n, len(NAMES))
        All finite. Levels, slopes (per pixel of 64) and shares are in [0, 1] or [-1, 1].
    """
    out = np.empty((len(tiles), len(NAMES)), np.float32)
    for row, tile in zip(out, tiles, strict=True):
        row[:] = _figures(small_picture(tile))
    return out


def small_picture(tile: npt.NDArray[Any]) -> Plane:
    """Tile in 64 x 64 pixels by area, float32 on the scale [0, 1]."""
    import cv2

    pixels = tile.astype(np.float32)
    if tile.dtype == np.uint16:
        pixels *= np.float32(1 / 65535)
    if pixels.shape != (SIDE, SIDE):
        shrinks = pixels.shape[0] > SIDE
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        pixels = np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=method), np.float32)
    return np.ascontiguousarray(pixels)


def _figures(x: Plane) -> list[float]:
    import cv2

    square = np.ones((3, 3), np.uint8)
    levels, moments = _level_figures(x)
    gx, gy = (
        np.asarray(cv2.Sobel(x, cv2.CV_32F, *axis, ksize=3, scale=0.125), np.float32)
        for axis in ((1, 0), (0, 1))
    )
    reach = cv2.dilate(x, square) - cv2.erode(x, square)
    slope, relative, turned, columns, rows, edge_mass = _slopes(
        gx, gy, x, np.asarray(cv2.blur(x, (3, 3)), np.float32)
    )
    figures = [*levels, *moments[:3]]
    figures += [*_log_quantiles(slope, _STEEP), *_log_quantiles(relative, _STEEP)]
    figures += [_share_over(slope, a) for a in _STEEPER_THAN]
    figures += [_share_over(relative, a) for a in _RELATIVELY_STEEPER_THAN]
    figures += [1.0 - _share_over(reach, a) for a in _FLATTER_THAN]
    figures += [*_flat_shares(x, reach, moments[2]), *moments[3:7]]

    threshold = moments[7]
    above = (x > threshold).astype(np.uint8)
    figures += [threshold, *_two_classes(x, threshold), *_pieces(above)]
    outline = cv2.morphologyEx(above, cv2.MORPH_GRADIENT, square) > 0
    steps = slope[outline]
    figures.append(float(outline.mean()))
    if steps.size:
        low, middle = _log_quantiles(steps, (0.2, 0.5))
        figures += [float(steps.mean()), middle, low, float(relative[outline].mean())]
    else:
        figures += [0.0] * 4
    for k in _STROKES:
        kernel = np.ones((k, k), np.uint8)
        for which in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
            strokes = np.asarray(cv2.morphologyEx(x, which, kernel), np.float32)
            figures += _log_quantiles(strokes, (0.9, 0.99, 1.0))
    figures += [*columns, *rows]
    first, second = np.sort(turned)[:-3:-1]
    figures += [first, first + second, turned[0] + turned[-1] + turned[5] + turned[6], edge_mass]

    grain = np.abs(cv2.Laplacian(x, cv2.CV_32F))
    figures += _log_quantiles(grain, (0.5, 0.75, 0.9, 0.99))
    local = np.maximum(cv2.blur(grain * grain, (9, 9))[4:-4:4, 4:-4:4], 0)
    figures += [float(v) for v in np.sqrt(np.sort(local, axis=None)[[0, 49, 98, 146, 195]])]
    detail = x - cv2.GaussianBlur(x, (0, 0), 4)
    std, low, high, cube = _spread(detail)
    figures += [std, max(high, -low), low, high, cube / (std**3 + 1e-6)]
    figures += sorted(float(side.mean()) for side in (x[0], x[-1], x[:, 0], x[:, -1]))
    cells = cv2.resize(x, (4, 4), interpolation=cv2.INTER_AREA)
    figures += [float(v) for v in np.sort(cells, axis=None)[[0, 3, 7, 11, 15]]]
    figures.append(float(cells.std()))
    return figures


def _pieces(above: npt.NDArray[np.uint8]) -> list[float]:
    """Connected pieces of the lighter class."""
    import cv2

    count, _, stats, _ = cv2.connectedComponentsWithStats(above)
    if count < 2:
        return [0.0] * 6
    stats = stats[1:]
    x, y, width, height, area = stats[stats[:, 4].argmax()].tolist()
    touched = (x == 0) + (y == 0) + (x + width == SIDE) + (y + height == SIDE)
    return [
        float(count - 1),
        area / SIDE**2,
        area / (width * height),
        float(touched),
        float((stats[:, 4] >= 6).sum()),
        float(np.median(stats[:, 4])) / SIDE**2,
    ]


@njit(cache=True)
def _level_figures(x: Plane) -> tuple[list[float], list[float]]:
    """Quantiles; and mean, std, max, four figures of the histogram, Otsu's threshold."""
    counts = np.zeros(_BINS, np.int64)
    total, squares, top = 0.0, 0.0, 0.0
    roots = np.zeros(256, np.int64)
    coarse = np.zeros(64, np.int64)
    for v in x.ravel():
        c = min(max(float(v), 0.0), 1.0)
        counts[min(int(c * _BINS), _BINS - 1)] += 1
        coarse[min(int(c * 64), 63)] += 1
        roots[int(np.sqrt(c) * 255)] += 1
        total += c
        squares += c * c
        top = max(top, c)
    n = x.size
    levels = [0.0 for _ in _LEVELS]
    run, bin_ = 0, -1
    for i in range(len(_LEVELS)):
        rank = _LEVELS[i] * (n - 1) + 0.5
        while run < rank and bin_ < _BINS - 1:
            bin_ += 1
            run += int(counts[bin_])
        levels[i] = (bin_ + 0.5) / _BINS
    mean = total / n
    first = second = third = used = 0
    entropy = 0.0
    for k in coarse:
        m = int(k)
        if m > 0:
            used += 1
            entropy -= m / n * np.log(m / n)
        if m >= first:
            first, second, third = m, first, second
        elif m >= second:
            second, third = m, second
        elif m > third:
            third = m
    # Otsu's threshold on the square roots
    weight, mass, whole = 0.0, 0.0, 0.0
    for i in range(256):
        whole += i * roots[i]
    best, threshold = -1.0, 0
    for i in range(255):
        weight += roots[i]
        mass += i * roots[i]
        if weight == 0 or weight == n:
            continue
        gap = mass / weight - (whole - mass) / (n - weight)
        between = weight * (n - weight) * gap * gap
        if between > best:
            best, threshold = between, i
    root = (threshold + 1) / 255
    spread = np.sqrt(max(squares / n - mean * mean, 0.0))
    return levels, [
        mean,
        spread,
        top,
        first / n,
        (first + second + third) / n,
        used / 64,
        entropy,
        root * root,
    ]


@njit(cache=True)
def _slopes(
    gx: Plane, gy: Plane, x: Plane, around: Plane
) -> tuple[Plane, Plane, npt.NDArray[np.float64], list[float], list[float], float]:
    """Slopes, slopes relative to the level, their directions, and straight steps."""
    rows, columns = x.shape
    slope = np.empty_like(x)
    relative = np.empty_like(x)
    turned = np.zeros(12)
    mass = 0.0
    signed = np.zeros((2, max(rows, columns)))
    plain = np.zeros((2, max(rows, columns)))
    steep = np.zeros((2, max(rows, columns)))
    for i in range(rows):
        for j in range(columns):
            a, b = gx[i, j], gy[i, j]
            s = np.sqrt(a * a + b * b)
            slope[i, j] = s
            relative[i, j] = s / (around[i, j] + np.float32(0.03))
            if s > 0.01:
                angle = np.arctan2(b, a)
                if angle < 0:
                    angle += np.pi
                turned[min(int(angle / np.pi * 12), 11)] += s
                mass += s
            signed[0, j] += a
            plain[0, j] += abs(a)
            steep[0, j] += abs(a) > 0.02
            signed[1, i] += b
            plain[1, i] += abs(b)
            steep[1, i] += abs(b) > 0.02
    if mass > 0:
        turned /= mass + 1e-3
    sides = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    for axis in range(2):
        n = rows if axis == 0 else columns
        most = np.abs(signed[axis]).max() / n
        sides[axis][0] = most
        sides[axis][1] = most / (plain[axis].max() / n + 1e-3)
        sides[axis][2] = steep[axis].max() / n
    return slope, relative, turned, sides[0], sides[1], mass / x.size


@njit(cache=True)
def _log_quantiles(values: Plane, shares: tuple[float, ...]) -> list[float]:
    """Quantiles of values >= 0 to an eighth of an octave, 0 below 1e-5; the greatest exactly.

    The upper bits of a float32 that is not negative are the place on a scale of octaves.
    """
    flat = np.ascontiguousarray(values).ravel()
    places = flat.view(np.int32)
    counts = np.zeros(_PLACES + 1, np.int64)
    top = 0.0
    for i in range(flat.size):
        top = max(top, float(flat[i]))
        counts[min(max((places[i] >> 20) - _FIRST_PLACE, 0), _PLACES)] += 1
    out = [0.0 for _ in range(len(shares))]
    run, bin_ = 0, -1
    for i in range(len(shares)):
        if shares[i] >= 1:
            out[i] = top
            continue
        rank = shares[i] * (flat.size - 1) + 0.5
        while run < rank and bin_ < _PLACES:
            bin_ += 1
            run += counts[bin_]
        place = bin_ + _FIRST_PLACE
        middle = 2.0 ** ((place >> 3) - 127) * (1.0 + ((place & 7) + 0.5) / 8)
        out[i] = 0.0 if bin_ <= 0 else middle
    return out


@njit(cache=True)
def _share_over(values: Plane, limit: float) -> float:
    n = 0
    for v in values.ravel():
        if v >= limit:
            n += 1
    return n / values.size


@njit(cache=True)
def _flat_shares(x: Plane, reach: Plane, top: float) -> list[float]:
    ground = 2.0
    lit = lit_flat = bright_flat = very = saturated = 0
    flat = x.ravel()
    span = reach.ravel()
    for v in flat:
        ground = min(ground, float(v))
    limit = ground + 0.3 * max(1e-3, top - ground)
    for i in range(flat.size):
        v = flat[i]
        if v > limit:
            lit += 1
            lit_flat += span[i] < 0.01
        bright_flat += v > 0.5 and span[i] < 0.03
        very += v > 0.9
        saturated += v > 0.985
    n = flat.size
    return [lit / n, lit_flat / n, bright_flat / n, very / n, saturated / n]


@njit(cache=True)
def _two_classes(x: Plane, threshold: float) -> list[float]:
    """Share above the threshold, contrast, spreads, separation and relative contrast."""
    n = np.zeros(2)
    sums = np.zeros(2)
    squares = np.zeros(2)
    for v in x.ravel():
        k = 1 if v > threshold else 0
        n[k] += 1
        sums[k] += v
        squares[k] += v * v
    mean = np.empty(2)
    spread = np.zeros(2)
    for k in range(2):
        mean[k] = sums[k] / n[k] if n[k] else threshold
        if n[k]:
            spread[k] = np.sqrt(max(squares[k] / n[k] - mean[k] ** 2, 0.0))
    contrast = mean[1] - mean[0]
    return [
        n[1] / x.size,
        contrast,
        spread[1],
        spread[0],
        contrast / (spread[0] + spread[1] + 0.01),
        contrast / (mean[1] + 0.02),
    ]


@njit(cache=True)
def _spread(detail: Plane) -> tuple[float, float, float, float]:
    """Standard deviation about 0's mean, least, greatest, mean cube."""
    total = squares = cubes = low = high = 0.0
    for w in detail.ravel():
        v = float(w)
        total += v
        squares += v * v
        cubes += v * v * v
        low = min(low, v)
        high = max(high, v)
    n = detail.size
    mean = total / n
    return np.sqrt(max(squares / n - mean * mean, 0.0)), low, high, cubes / n
