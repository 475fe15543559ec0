"""What lies where on a film, at low resolution: background, breast, and what is foreign to both.

The film is reduced to blocks so that its longer side has about 512 of them: on a film of 24 cm a
block is half a millimetre. All lengths below are in blocks unless they say otherwise; all levels
are rises above the film's own ground, on the normalised scale, so nothing depends on scanner or bit
depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

BACKGROUND, BREAST, FOREIGN = 0, 1, 2
"""Values of `FilmContext.mask`."""

LONGER_SIDE = 512
"""Blocks along the longer side of a film, at most."""

FRAME_MIN_FILLED = 0.03
"""Columns of blocks with less above the darkest value lie beside the film."""

RIM_RISE, RIM_RISE_PER_GROUND, RIM_RISE_MOST = 0.015, 0.6, 0.0225
"""The skin line is where a film rises above its ground by the first, plus the second times the
ground, but no more than the third: outlines of real films lie 0.012 above black ground and 0.017 to
0.03 above dark grey."""

GROUND_SLACK = 0.004
"""The ground of a film lies at most this much below its usual level."""

REDACTION_MAX_SHARE, REDACTION_MIN_AREA = 0.6, 30
"""Of the film's dark part, and in blocks."""

WINDOW_DEPTH, WINDOW_LEAST_DEPTH = 0.5, 0.006
"""A window of a patient card lies below this share of the ground's usual level, and by this much of
the scale: unexposed ground is the darkest that a film shows by itself."""

WINDOW_MIN_AREA, WINDOW_MOST_HEIGHT = 60, 0.5
"""In blocks, and of the film's height: what is dark from top to bottom lies beside the film."""

WINDOW_CONVEX = 0.93
"""A window fills this share of its convex hull; ground under the curve of a breast does not."""

WINDOW_EDGE = 0.7
"""Just outside a window it is at least this share of the ground's usual level bright."""

HARD_SLOPE, HARD_RELATIVE_SLOPE = 0.10, 0.3
"""Change of level per block; and the same as a share of level + 0.05."""

STANDING_RISE = 0.03
"""What rises above the ground by this much, apart from the breast, is foreign."""

SATURATED = 0.985
"""White borders and plates lie at or above it, tissue hardly ever."""

BORDER_MIN_AREA = 10
"""Of a white border, in blocks."""

HOLE_MAX_SHARE = 0.03
"""Of the film, for a hole in the breast that is filled."""

BODY_MIN_RISE = 0.02
"""Above the ground, of a piece of body that lies apart from the breast."""

GLOW_MIN_WIDTH, GLOW_REACH = 0.0225, 0.2
"""Glow along the chest wall reaches inward by these shares of the film's width."""

GLOW_STRIPS = ((0.1, 0.15, 0.5), (0.075, 0.08, 0.3), (0.06, 0.04, 0.3))
"""Its strips: least share of the film's height, most rise above the ground, most spread (20th to
80th percentile over the median) of its brightness from row to row. The short must be the fainter.
"""

_Scalar = TypeVar("_Scalar", bound=np.generic)

FloatPlane = npt.NDArray[np.float32]
BoolPlane = npt.NDArray[np.bool_]
BytePlane = npt.NDArray[np.uint8]
BitPlane = npt.NDArray[np.uint64]
"""As `tasks.kernels.film_passes` packs them: 64 blocks a word."""


@dataclass(frozen=True)
class FilmContext:
    """Low-resolution map of a film.

    Block (i, j) covers the pixels from ``(i * factor, j * factor)``; those at the lower and right
    edge may be cut off by the film's end.
    """

    mask: BytePlane
    """0 background, 1 breast and body, 2 foreign content; (block_rows, block_columns)."""
    ground: FloatPlane
    """Level of the unexposed ground around every block, on the scale [0, 1]; same shape."""
    factor: int
    """Side of a block in pixels."""
    rows: int
    columns: int
    """Size of the film in pixels."""
    background_level: float
    """Of the film's unexposed ground as a whole, on the scale [0, 1]."""
    background_noise: float
    """Spread of that ground (1.48 times the median deviation), on the scale [0, 1]."""
    frame: tuple[int, int] | None = None
    """First column of blocks of the film itself and the one behind its last: what lies beside is
    padding. None: all of them."""


def film_context(film: npt.NDArray[np.uint16], *, longer_side: int = LONGER_SIDE) -> FilmContext:
    """Map a film.

    Parameters
    ----------
    film : uint16, (rows, columns)
        On the normalised scale (`tasks.kernels.intensity.normalise`).
    longer_side : int, default 512
        Blocks along the longer side, at most.

    Returns
    -------
    FilmContext
    """
    from tasks.kernels.film_passes import block_statistics, frame

    factor = max(1, -(-max(film.shape) // longer_side))
    mean, high = block_statistics(np.ascontiguousarray(film), factor)
    mask, ground = map_blocks(mean, high)
    outside = mean[::8, ::8][mask[::8, ::8] == BACKGROUND]
    level = _quantile(outside, 0.5) if outside.size else 0.0
    noise = 1.48 * _quantile(np.abs(outside - level), 0.5) if outside.size else 0.0
    return FilmContext(
        mask=mask,
        ground=ground,
        factor=factor,
        rows=film.shape[0],
        columns=film.shape[1],
        background_level=level,
        background_noise=noise,
        frame=frame(high, FRAME_MIN_FILLED)[1:],
    )


def box_figures(
    context: FilmContext, boxes: npt.NDArray[np.int32]
) -> tuple[FloatPlane, FloatPlane, FloatPlane]:
    """What the map says of every box.

    Parameters
    ----------
    context : FilmContext
    boxes : int32, (n_tiles, 4)
        x, y, width, height in pixels, inside the film.

    Returns
    -------
    breast, foreign : float32, (n_tiles,), [0, 1]
        Shares of the box; blocks that its edge cuts count by the part inside.
    ground : float32, (n_tiles,), [0, 1]
        Highest level of the ground.
    """
    from tasks.kernels.film_passes import box_sums

    return box_sums(context.mask, context.ground, boxes, context.factor)


def background_value(film: npt.NDArray[np.uint16], context: FilmContext) -> int:
    """Typical pixel of a film's ground, 0..65535: what the missing part of a tile is filled with.

    Parameters
    ----------
    film : uint16, (rows, columns)
        On any scale.
    context : FilmContext
        Of this film.

    Returns
    -------
    int
        Median over one pixel of every sixteenth block; 0 where those show no ground.
    """
    step = 4 * context.factor
    pixels = film[::step, ::step][_coarse(context.mask) == BACKGROUND]
    return int(_quantile(pixels, 0.5)) if pixels.size else 0


def map_blocks(mean: FloatPlane, high: npt.NDArray[np.uint16]) -> tuple[BytePlane, FloatPlane]:
    """Tell breast, foreign content and ground apart on the reduced film.

    Parameters
    ----------
    mean : float32, (block_rows, block_columns)
        Mean of every block, on the scale [0, 1].
    high : uint16, of the same shape
        Maximum of every block.

    Returns
    -------
    mask : uint8
        `BACKGROUND`, `BREAST` or `FOREIGN`.
    ground : float32
        Level of the unexposed ground around every block.
    """
    from tasks.kernels.film_passes import frame

    darkest, first, end = frame(high, FRAME_MIN_FILLED)
    inner = np.ascontiguousarray(mean[:, first:end])
    inner_mask, inner_ground = _map_frame(inner, high[:, first:end] == darkest, darkest / 65535)
    if (first, end) == (0, mean.shape[1]):
        return inner_mask, inner_ground
    mask = np.full(mean.shape, BACKGROUND, np.uint8)
    ground = np.empty(mean.shape, np.float32)
    mask[:, first:end], ground[:, first:end] = inner_mask, inner_ground
    ground[:, :first] = ground[:, end:] = darkest / 65535
    return mask, ground


def _map_frame(mean: FloatPlane, flat: BoolPlane, darkest: float) -> tuple[BytePlane, FloatPlane]:
    from tasks.kernels import bit_planes
    from tasks.kernels import film_passes as passes

    columns = mean.shape[1]
    # Steps that no tissue makes: borders of plates, letters and clips.
    smooth, steps = passes.smoothed(mean, HARD_SLOPE, HARD_RELATIVE_SLOPE)
    if smooth.max() - smooth.min() < RIM_RISE:
        return np.full(mean.shape, BACKGROUND, np.uint8), smooth
    body_level = _otsu(_coarse(smooth))
    redaction = _either(
        _redaction(mean, flat, darkest, body_level), _windows(mean, flat, darkest, body_level)
    )
    ground = _ground(smooth, body_level, redaction)
    lit, calm, loose, standing = passes.kinds(
        mean,
        smooth,
        ground,
        steps,
        rim=(RIM_RISE, RIM_RISE_PER_GROUND, RIM_RISE_MOST),
        body_level=body_level,
        standing_rise=STANDING_RISE,
    )
    for excluded in (redaction, _white_borders(mean, steps)):
        if excluded is not None:
            lit, calm, loose = lit & ~excluded, calm & ~excluded, loose & ~excluded
    breast = _breast(loose, lit, smooth)
    breast = _filled(breast | _body_pieces(calm, breast, smooth, ground), columns)
    breast &= ~_edge_glow(breast, smooth, ground)
    foreign = standing & ~bit_planes.widened(breast, columns, 2)
    if redaction is not None:
        foreign |= redaction & ~breast
    foreign = bit_planes.without_specks(foreign)
    mask = bit_planes.plane_of(foreign, columns) * np.uint8(FOREIGN)
    mask += bit_planes.plane_of(breast, columns)
    return mask, ground


def _otsu(levels: FloatPlane) -> float:
    """Otsu's threshold on the square root of the levels (IEEE Trans. SMC 9, 1979)."""
    import cv2

    bytes_ = np.rint(np.sqrt(np.clip(levels, 0, 1)) * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(bytes_, 0, 255, cv2.THRESH_OTSU)
    return float(threshold / 255) ** 2


def _redaction(
    mean: FloatPlane, flat: BoolPlane, darkest: float, body_level: float
) -> BitPlane | None:
    """Areas painted over: the film's darkest value throughout, against a ground that is brighter.

    A film whose ground itself lies at the darkest value has none. An area that fades out into its
    surroundings is a dark part of the ground.
    """
    from tasks.kernels.bit_planes import bits_of, opened, painted, pieces_of, values_at, widened

    sample, sample_flat = _coarse(mean), _coarse(flat)
    other = (sample < body_level) & ~sample_flat
    n_flat = np.count_nonzero(sample_flat)
    if n_flat > REDACTION_MAX_SHARE * (n_flat + np.count_nonzero(other)):
        return None
    columns = mean.shape[1]
    flat_bits = bits_of(flat)
    pieces = pieces_of(opened(flat_bits, columns, 1, square=True), columns)
    large = np.flatnonzero(pieces.areas >= REDACTION_MIN_AREA)
    if not large.size:
        return None
    usual = _quantile(sample[other], 0.5) if other.any() else darkest
    redaction = np.zeros_like(flat_bits)
    for piece in large.tolist():
        here = painted(pieces, piece, flat_bits)
        wider = widened(here, columns, 1)
        around = values_at(widened(here, columns, 3) & ~wider, mean)
        if around.size and _quantile(around, 0.2) > (darkest + usual) / 2 + 0.004:
            redaction |= wider
    return redaction & bits_of(mean < body_level) if redaction.any() else None


def _windows(
    mean: FloatPlane, flat: BoolPlane, darkest: float, body_level: float
) -> BitPlane | None:
    """Windows of patient cards, and what else is darker than the ground within a hard edge.

    The developed ground is the darkest that X-rays leave on a film; what lies far below it was laid
    on, masked or written over by noise.
    """
    from tasks.kernels.bit_planes import (
        bits_of,
        opened,
        painted,
        pieces_of,
        plane_of,
        values_at,
        widened,
    )

    sample, sample_flat = _coarse(mean), _coarse(flat)
    other = (sample < body_level) & ~sample_flat
    if not other.any():
        return None
    usual = _quantile(sample[other], 0.5)
    level = min(WINDOW_DEPTH * usual, usual - WINDOW_LEAST_DEPTH)
    if level <= darkest:
        return None
    rows, columns = mean.shape
    dark = bits_of(mean < level)
    pieces = pieces_of(opened(dark, columns, 2), columns)
    height = pieces.boxes[:, 3] - pieces.boxes[:, 1]
    large = (pieces.areas >= WINDOW_MIN_AREA) & (height <= WINDOW_MOST_HEIGHT * rows)
    windows = np.zeros_like(dark)
    for piece in np.flatnonzero(large).tolist():
        here = painted(pieces, piece, dark)
        around = values_at(widened(here, columns, 4) & ~widened(here, columns, 2), mean)
        edged = around.size and _quantile(around, 0.25) >= WINDOW_EDGE * usual
        if edged and _convexity(plane_of(here, columns)) >= WINDOW_CONVEX:
            windows |= widened(here, columns, 1)
    return windows if windows.any() else None


def _convexity(plane: BytePlane) -> float:
    """Share of the convex hull of a piece that it fills, its holes filled."""
    import cv2

    outlines, _ = cv2.findContours(plane, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=len)
    hull = cv2.contourArea(cv2.convexHull(largest))
    return cv2.contourArea(largest) / hull if hull > 0 else 0.0


def _either(one: BitPlane | None, other: BitPlane | None) -> BitPlane | None:
    if one is None or other is None:
        return other if one is None else one
    return one | other


def _ground(smooth: FloatPlane, body_level: float, excluded: BitPlane | None) -> FloatPlane:
    """Darkest level within 30 blocks, smoothed, and kept within the film's usual ground.

    Not below it, so that a dark plate does not make the ground beside it look lit; not above it,
    because near the middle of a breast nothing but breast is within reach.
    """
    import cv2

    from tasks.kernels.bit_planes import plane_of, widened
    from tasks.kernels.film_passes import cell_minima

    levels, known = _coarse(smooth), smooth
    outside = levels < body_level
    if excluded is not None:
        near_excluded = plane_of(widened(excluded, smooth.shape[1], 3), smooth.shape[1]) > 0
        known = np.where(near_excluded, np.float32(9), smooth)
        outside &= ~_coarse(near_excluded)
    if not outside.any():
        return np.zeros_like(smooth)
    darkest = cv2.erode(cell_minima(known), np.ones((15, 15), np.uint8))
    step = np.s_[::2, ::2] if outside[::2, ::2].any() else np.s_[:, :]
    cap = _quantile(darkest[step][outside[step]], 0.9) + 0.01
    floor = _quantile(levels[step][outside[step]], 0.3) - GROUND_SLACK
    usual = np.clip(darkest, np.float32(max(floor, 0.0)), np.float32(cap))
    rows, columns = smooth.shape
    ground = cv2.resize(cv2.GaussianBlur(usual, (0, 0), 2.0), (columns, rows))
    return np.asarray(ground, np.float32)


def _quantile(values: npt.NDArray[Any], share: float) -> float:
    """Value at the nearest rank to a share of the way from the least to the greatest."""
    rank = round(share * (values.size - 1))
    return float(np.partition(values, rank, axis=None)[rank])


def _coarse(plane: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """Every fourth block of every fourth row."""
    return np.ascontiguousarray(plane[::4, ::4])


def _white_borders(mean: FloatPlane, steps: BytePlane) -> BitPlane | None:
    """White bands and frames at the edge of the film: saturated, with a step around them.

    Saturated muscle at the chest wall has a soft border.
    """
    from tasks.kernels.bit_planes import bits_of, painted, pieces_of, widened

    if max(plane.max() for plane in (mean[0], mean[-1], mean[:, 0], mean[:, -1])) < SATURATED:
        return None
    rows, columns = mean.shape
    white = bits_of(mean >= SATURATED)
    steep = bits_of((steps & 1).view(bool))
    pieces = pieces_of(white, columns)
    at_edge = (pieces.boxes[:, :2] == 0).any(axis=1)
    at_edge |= (pieces.boxes[:, 2:] == (columns, rows)).any(axis=1)
    borders = np.zeros_like(white)
    for piece in np.flatnonzero(at_edge & (pieces.areas >= BORDER_MIN_AREA)).tolist():
        here = painted(pieces, piece, white)
        ring = widened(here, columns, 1) & ~here
        if _count(ring & steep) > 0.5 * _count(ring):
            borders |= widened(here, columns, 2)
    return borders


def _count(bits: BitPlane) -> int:
    return int(np.bitwise_count(bits).sum())


def _breast(loose: BitPlane, lit: BitPlane, smooth: FloatPlane) -> BitPlane:
    """Brightest large piece of the loose area, grown to its rim within the lit one."""
    from tasks.kernels.bit_planes import opened, painted, pieces_of, sums_in, widened

    columns = smooth.shape[1]
    pieces = pieces_of(opened(loose, columns, 5), columns)
    if not len(pieces.areas):
        return np.zeros_like(lit)
    brightest = int(sums_in(pieces, smooth, limit=SATURATED, step=2).argmax())
    core = painted(pieces, brightest, lit)
    row, column = pieces.runs[(pieces.runs[:, 3] == brightest).argmax(), :2]
    grown = pieces_of(widened(core, columns, 8) & lit, columns)
    at_core = (grown.runs[:, 0] == row) & (grown.runs[:, 1] <= column) & (column < grown.runs[:, 2])
    return painted(grown, int(grown.runs[at_core.argmax(), 3]), lit)


def _body_pieces(
    calm: BitPlane, breast: BitPlane, smooth: FloatPlane, ground: FloatPlane
) -> BitPlane:
    """Pieces of pectoral muscle, axilla or abdomen: lit, apart from the breast, at its chest wall.

    A band along an edge, or a frame, is a border; a faint piece is glow: no body.
    """
    from tasks.kernels.bit_planes import (
        count_in_columns,
        opened,
        painted,
        pieces_of,
        sums_in,
        widened,
    )

    rows, columns = smooth.shape
    near_edge = ((0, min(3, columns)), (max(0, columns - 3), columns))
    wall = max(near_edge, key=lambda edge: int(count_in_columns(breast, *edge).sum()))
    apart = calm & ~breast
    if not count_in_columns(apart, *wall).any():
        return np.zeros_like(breast)
    pieces = pieces_of(opened(apart, columns, 1), columns)
    near_wall = (pieces.runs[:, 1] < wall[1]) & (pieces.runs[:, 2] > wall[0])
    accepted = np.zeros(len(pieces.areas), bool)
    accepted[pieces.runs[near_wall, 3]] = True
    mean_rise = (sums_in(pieces, smooth) - sums_in(pieces, ground)) / pieces.areas
    width, height = (pieces.boxes[:, 2:] - pieces.boxes[:, :2]).T
    thin = (height < 0.1 * rows) | (pieces.areas < 0.3 * width * height)
    accepted &= ~((width > 0.5 * columns) & thin) & (mean_rise > BODY_MIN_RISE)
    if not accepted.any():
        return np.zeros_like(breast)
    return widened(painted(pieces, accepted, breast), columns, 3) & calm


def _edge_glow(breast: BitPlane, smooth: FloatPlane, ground: FloatPlane) -> BitPlane:
    """Light that leaked in along the chest wall above or below the breast.

    It is a faint strip of even width and even brightness from a corner of the film along its left
    or right edge; the abdomen's wedge is brighter, shorter, or changes from row to row.
    """
    from tasks.kernels.bit_planes import bits_of, count_in_columns, plane_of

    rows, columns = smooth.shape
    reach = max(1, int(GLOW_REACH * columns))
    glow = np.zeros(smooth.shape, bool)
    for first, across in ((0, np.s_[:reach]), (columns - reach, np.s_[: -reach - 1 : -1])):
        widths = count_in_columns(breast, first, first + reach)  # (rows,)
        for down in (np.s_[:], np.s_[::-1]):
            strip = _even_strip(widths[down], rows, columns, reach)
            if strip is None:
                continue
            start, length, usual = strip
            part = np.s_[start : start + length, :reach]
            lit = plane_of(breast, columns)[down, across][part] > 0
            rise = (smooth - ground)[down, across][part]
            if _is_glow(rise, lit, max(1, int(usual / 2)), length / rows):
                still = widths[down][start : start + length] <= max(usual + 1.0, 1.15 * usual)
                glow[down, across][: start + int(np.flatnonzero(still)[-1]) + 1] = True
    return bits_of(glow) if glow.any() else np.zeros_like(breast)


def _even_strip(
    widths: npt.NDArray[np.int64], rows: int, columns: int, reach: int
) -> tuple[int, int, float] | None:
    """First row, length and usual width of a strip of even width from the top; None without."""
    begun = (widths > 0) & (widths < 0.75 * reach)
    begun[: int(0.02 * rows)] = False
    start = int(begun.argmax())
    if not begun[start] or start > 0.1 * rows:
        return None
    near_end = widths[start : start + max(1, rows // 15)]
    usual = _quantile(near_end, 0.3)
    if usual < GLOW_MIN_WIDTH * columns:
        return None
    narrow = max(3.0, 0.35 * usual)
    start += int((near_end <= usual + narrow).argmax())
    even = np.abs(widths[start:] - usual) <= narrow
    length = int(len(even) if even.all() else even.argmin())
    return (start, length, usual) if length >= GLOW_STRIPS[-1][0] * rows else None


def _is_glow(rise: FloatPlane, lit: BoolPlane, inner_width: int, share_of_height: float) -> bool:
    """Whether a strip is faint and even enough for its length."""
    lower, middle, upper = np.quantile(rise[:, :inner_width].mean(axis=1), (0.2, 0.5, 0.8))
    uneven = float((upper - lower) / max(float(middle), 1e-6))
    median_rise = float(np.median(rise[lit]))
    return any(
        share_of_height >= least_share and median_rise <= most_rise and uneven <= most_uneven
        for least_share, most_rise, most_uneven in GLOW_STRIPS
    )


def _filled(bits: BitPlane, columns: int) -> BitPlane:
    """Fill small holes that do not reach the edge of the film."""
    from tasks.kernels.bit_planes import inverted, painted, pieces_of

    rows = bits.shape[1]
    holes = pieces_of(inverted(bits, columns), columns)
    inside = (holes.boxes[:, :2] > 0).all(axis=1) & (holes.boxes[:, 2:] < (columns, rows)).all(
        axis=1
    )
    inside &= holes.areas <= HOLE_MAX_SHARE * rows * columns
    return bits | painted(holes, inside, bits)
