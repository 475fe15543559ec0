"""What lies where on a film, at low resolution: background, breast, and what is foreign to both.

The film is reduced to blocks so that its longer side has about 512 of them: on a film of 24 cm a
block is half a millimetre. All lengths below are in blocks unless they say otherwise; all levels
are rises above the film's own ground, on the normalised scale, so nothing depends on scanner or bit
depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

BACKGROUND, BREAST, FOREIGN = 0, 1, 2
"""Values of `FilmContext.mask`."""

LONGER_SIDE = 512
"""Blocks along the longer side of a film, at most."""

RIM_RISE, RIM_RISE_PER_GROUND, RIM_RISE_MOST = 0.015, 0.6, 0.0225
"""The skin line is where a film rises above its ground by the first, plus the second times the
ground, but no more than the third: outlines of real films lie 0.012 above black ground and 0.017 to
0.03 above dark grey."""

GROUND_SLACK = 0.004
"""The ground of a film lies at most this much below its usual level."""

REDACTION_MAX_SHARE, REDACTION_MIN_AREA = 0.6, 30
"""Of the film's dark part, and in blocks."""

HARD_SLOPE, HARD_RELATIVE_SLOPE = 0.10, 0.3
"""Change of level per block; and the same as a share of level + 0.05."""

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
    from tasks.kernels.film_passes import block_statistics

    factor = max(1, -(-max(film.shape) // longer_side))
    mean, high = (
        plane.astype(np.float32) / np.float32(65535)
        for plane in block_statistics(np.ascontiguousarray(film), factor)
    )
    mask, ground = map_blocks(mean, high)
    outside = mean[::2, ::2][mask[::2, ::2] == BACKGROUND]
    level = float(np.median(outside)) if outside.size else 0.0
    noise = 1.48 * float(np.median(np.abs(outside - level))) if outside.size else 0.0
    return FilmContext(
        mask=mask,
        ground=ground,
        factor=factor,
        rows=film.shape[0],
        columns=film.shape[1],
        background_level=level,
        background_noise=noise,
    )


def box_shares(
    context: FilmContext, boxes: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Share of breast and of foreign content in every box.

    Parameters
    ----------
    context : FilmContext
    boxes : int32, (n_tiles, 4)
        x, y, width, height in pixels, inside the film.

    Returns
    -------
    breast, foreign : float32, (n_tiles,), [0, 1]
    """
    return tuple(  # type: ignore[return-value]
        _share_in_boxes(context.mask == value, boxes / context.factor)
        for value in (BREAST, FOREIGN)
    )


def _share_in_boxes(plane: BoolPlane, boxes: npt.NDArray[np.floating]) -> FloatPlane:
    """Share of boxes given in blocks, blocks cut by a box's edge counted by the part inside."""
    import cv2

    total = np.asarray(cv2.integral(plane.astype(np.uint8)), np.float64)
    left, top, width, height = boxes.T

    def corner(y: npt.NDArray[np.floating], x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        i = np.minimum(y.astype(np.int64), plane.shape[0] - 1)
        j = np.minimum(x.astype(np.int64), plane.shape[1] - 1)
        v, u = y - i, x - j
        near = total[i, j] * (1 - u) + total[i, j + 1] * u
        far = total[i + 1, j] * (1 - u) + total[i + 1, j + 1] * u
        between: npt.NDArray[np.float64] = near * (1 - v) + far * v
        return between

    bottom, right = top + height, left + width
    inside = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    shares: FloatPlane = np.clip(inside / (width * height), 0.0, 1.0).astype(np.float32)
    return shares


def ground_in_boxes(context: FilmContext, boxes: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Highest level of the ground in every box, on the scale [0, 1], float32, (n_tiles,)."""
    first = boxes[:, :2] // context.factor
    last = -(-(boxes[:, :2] + boxes[:, 2:]) // context.factor)
    return np.array(
        [
            context.ground[top:bottom, left:right].max()
            for (left, top), (right, bottom) in zip(first.tolist(), last.tolist(), strict=True)
        ],
        np.float32,
    )


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
        Median over one pixel a block; 0 where the film has no ground.
    """
    pixels = film[:: context.factor, :: context.factor][context.mask == BACKGROUND]
    return int(np.median(pixels)) if pixels.size else 0


def map_blocks(mean: FloatPlane, high: FloatPlane) -> tuple[BytePlane, FloatPlane]:
    """Tell breast, foreign content and ground apart on the reduced film.

    Parameters
    ----------
    mean, high : float32, (block_rows, block_columns)
        Mean and maximum of every block, on the scale [0, 1].

    Returns
    -------
    mask : uint8
        `BACKGROUND`, `BREAST` or `FOREIGN`.
    ground : float32
        Level of the unexposed ground around every block.
    """
    frame = _frame(high)
    mask = np.full(mean.shape, BACKGROUND, np.uint8)
    ground = np.full(mean.shape, float(high.min()), np.float32)
    mask[:, frame], ground[:, frame] = _map_frame(mean[:, frame].copy(), high[:, frame].copy())
    return mask, ground


def _frame(high: FloatPlane) -> slice:
    """Columns that hold film: what lies beside them is the darkest value throughout."""
    filled = np.flatnonzero((high > high.min()).mean(axis=0) >= 0.03)
    return slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, high.shape[1])


def _map_frame(mean: FloatPlane, high: FloatPlane) -> tuple[BytePlane, FloatPlane]:
    import cv2

    smooth = np.asarray(cv2.GaussianBlur(mean, (0, 0), 1.0), np.float32)
    if smooth.max() - smooth.min() < RIM_RISE:
        return np.full(mean.shape, BACKGROUND, np.uint8), smooth
    body_level = _otsu(smooth)
    redaction = _redaction(mean, high, body_level)
    ground = _ground(smooth, body_level, redaction)
    rise = smooth - ground
    rim = np.minimum(RIM_RISE + RIM_RISE_PER_GROUND * ground, RIM_RISE_MOST)
    lit = ((rise > rim) | (smooth > body_level)) & ~redaction
    # Steps that no tissue makes: borders of plates, letters and clips.
    slope = _slope(mean)
    steep = slope > HARD_SLOPE
    lit &= ~_white_borders(mean, steep)
    steep_for_the_dark = slope > HARD_RELATIVE_SLOPE * (smooth + 0.05)
    breast = _breast(lit & ~(steep | steep_for_the_dark), lit, smooth)
    breast = _filled(breast | _body_pieces(lit & ~steep, breast, rise))
    breast &= ~_edge_glow(breast, rise)
    near = cv2.dilate(breast.astype(np.uint8), _disk(2)) > 0
    standing_out = (rise > 0.03) & (mean - ground > 0.03)
    foreign = _without_specks(standing_out & ~near | redaction & ~breast)
    mask = np.where(breast, BREAST, np.where(foreign, FOREIGN, BACKGROUND)).astype(np.uint8)
    return mask, ground


def _disk(radius: int) -> BytePlane:
    import cv2

    size = 2 * radius + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def _otsu(levels: FloatPlane) -> float:
    """Otsu's threshold on the square root of every fourth level (IEEE Trans. SMC 9, 1979)."""
    import cv2

    bytes_ = np.rint(np.sqrt(np.clip(levels[::2, ::2], 0, 1)) * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(bytes_, 0, 255, cv2.THRESH_OTSU)
    return float(threshold / 255) ** 2


def _redaction(mean: FloatPlane, high: FloatPlane, body_level: float) -> BoolPlane:
    """Areas painted over: the film's darkest value throughout, against a ground that is brighter.

    A film whose ground itself lies at the darkest value has none. An area that fades out into its
    surroundings is a dark part of the ground.
    """
    import cv2

    painted = np.zeros(mean.shape, bool)
    floor = float(high.min())
    flat = high <= floor
    other = (mean[::2, ::2] < body_level) & ~flat[::2, ::2]
    dark = np.count_nonzero(flat[::2, ::2]) + np.count_nonzero(other)
    if not flat.any() or np.count_nonzero(flat[::2, ::2]) > REDACTION_MAX_SHARE * dark:
        return painted
    usual = float(np.median(mean[::2, ::2][other])) if other.any() else floor
    opened = cv2.morphologyEx(flat.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    n, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    for label in range(1, n):
        if stats[label, cv2.CC_STAT_AREA] < REDACTION_MIN_AREA:
            continue
        x, y, width, height = stats[label, :4].tolist()
        around = np.s_[max(0, y - 3) : y + height + 3, max(0, x - 3) : x + width + 3]
        here = (labels[around] == label).astype(np.uint8)
        widened = cv2.dilate(here, _disk(1)) > 0
        ring = (cv2.dilate(here, _disk(3)) > 0) & ~widened
        if ring.any() and np.percentile(mean[around][ring], 20) > (floor + usual) / 2 + 0.004:
            painted[around] |= widened
    return painted & (mean < body_level)


def _ground(smooth: FloatPlane, body_level: float, excluded: BoolPlane) -> FloatPlane:
    """Darkest level within 30 blocks, smoothed, and kept within the film's usual ground.

    Not below it, so that a dark plate does not make the ground beside it look lit; not above it,
    because near the middle of a breast nothing but breast is within reach.
    """
    import cv2

    near_excluded = cv2.dilate(excluded.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    known = np.where(near_excluded, np.float32(9), smooth)
    darkest = _coarse(cv2.erode(known, np.ones((7, 7), np.uint8)))
    darkest = cv2.erode(darkest, np.ones((15, 15), np.uint8))
    outside = _coarse((smooth < body_level) & ~near_excluded)
    if not outside.any():
        return np.zeros_like(smooth)
    cap = float(np.percentile(darkest[outside], 90)) + 0.01
    floor = float(np.percentile(_coarse(smooth)[outside], 30)) - GROUND_SLACK
    usual = np.clip(darkest, np.float32(max(floor, 0.0)), np.float32(cap))
    rows, columns = smooth.shape
    ground = cv2.resize(cv2.GaussianBlur(usual, (0, 0), 2.0), (columns, rows))
    return np.asarray(ground, np.float32)


def _coarse(plane: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    """Every fourth block of every fourth row."""
    return np.ascontiguousarray(plane[::4, ::4])


def _slope(plane: FloatPlane) -> FloatPlane:
    """Length of the gradient, per block (Sobel)."""
    import cv2

    across, down = (
        cv2.Sobel(plane, cv2.CV_32F, dx, dy, scale=1 / 8, borderType=cv2.BORDER_REPLICATE)
        for dx, dy in ((1, 0), (0, 1))
    )
    return np.asarray(cv2.magnitude(across, down), np.float32)


def _white_borders(mean: FloatPlane, steep: BoolPlane) -> BoolPlane:
    """White bands and frames at the edge of the film: saturated, with a step around them.

    Saturated muscle at the chest wall has a soft border.
    """
    import cv2

    borders = np.zeros(mean.shape, bool)
    white = mean >= SATURATED
    if not (white[[0, -1]].any() or white[:, [0, -1]].any()):
        return borders
    _, labels, stats, _ = cv2.connectedComponentsWithStats(white.astype(np.uint8), connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    for label in np.unique(edge[edge > 0]).tolist():
        if stats[label, cv2.CC_STAT_AREA] < BORDER_MIN_AREA:
            continue
        here = (labels == label).astype(np.uint8)
        ring = (cv2.dilate(here, _disk(1)) > 0) & (here == 0)
        if ring.any() and steep[ring].mean() > 0.5:
            borders |= cv2.dilate(here, _disk(2)) > 0
    return borders


def _breast(loose: BoolPlane, lit: BoolPlane, smooth: FloatPlane) -> BoolPlane:
    """Brightest large piece of the loose area, grown to its rim within the lit one."""
    import cv2

    n, labels = cv2.connectedComponents(
        cv2.morphologyEx(loose.astype(np.uint8), cv2.MORPH_OPEN, _disk(5)), connectivity=4
    )
    if n == 1:
        return np.zeros(lit.shape, bool)
    part = np.s_[::2, ::2]
    unsaturated = np.where(smooth[part] < SATURATED, smooth[part], np.float32(0))
    weight = np.bincount(labels[part].ravel(), weights=unsaturated.ravel(), minlength=n)
    weight[0] = -1
    core = labels == weight.argmax()
    grown = (cv2.dilate(core.astype(np.uint8), _disk(8)) > 0) & lit
    return _connected_to(core, grown)


def _connected_to(core: BoolPlane, plane: BoolPlane) -> BoolPlane:
    """Part of a plane that a connected piece of it reaches."""
    import cv2

    canvas = plane.astype(np.uint8)
    row, column = divmod(int(core.argmax()), core.shape[1])
    cv2.floodFill(canvas, None, (column, row), 2)
    return np.asarray(canvas == 2)


def _body_pieces(loose: BoolPlane, breast: BoolPlane, rise: FloatPlane) -> BoolPlane:
    """Pieces of pectoral muscle, axilla or abdomen: lit, apart from the breast, at its chest wall.

    A band along an edge, or a frame, is a border; a faint piece is glow: no body.
    """
    import cv2

    rows, columns = breast.shape
    near_edge = (np.s_[:, :3], np.s_[:, -3:])
    wall = max(near_edge, key=lambda edge: int(breast[edge].sum()))
    if not (loose[wall] & ~breast[wall]).any():
        return np.zeros(breast.shape, bool)
    rest = cv2.morphologyEx((loose & ~breast).astype(np.uint8), cv2.MORPH_OPEN, _disk(1))
    n, labels, stats, _ = cv2.connectedComponentsWithStats(rest, connectivity=4)
    at_wall = np.bincount(labels[wall].ravel(), minlength=n) > 0
    part = labels > 0
    total_rise = np.bincount(labels[part], weights=rise[part], minlength=n)
    mean_rise = total_rise / stats[:, cv2.CC_STAT_AREA]
    width, height = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    area = stats[:, cv2.CC_STAT_AREA]
    border = (width > 0.5 * columns) & ((height < 0.1 * rows) | (area < 0.3 * width * height))
    accepted = at_wall & ~border & (mean_rise > BODY_MIN_RISE)
    accepted[0] = False
    pieces = np.asarray(accepted[labels]).astype(np.uint8)
    return (cv2.dilate(pieces, _disk(3)) > 0) & loose


def _edge_glow(breast: BoolPlane, rise: FloatPlane) -> BoolPlane:
    """Light that leaked in along the chest wall above or below the breast.

    It is a faint strip of even width and even brightness from a corner of the film along its left
    or right edge; the abdomen's wedge is brighter, shorter, or changes from row to row.
    """
    glow = np.zeros(breast.shape, bool)
    for flip in (np.s_[:, :], np.s_[:, ::-1], np.s_[::-1, :], np.s_[::-1, ::-1]):
        length, width = _glow_strip(breast[flip], rise[flip])
        glow[flip][:length, :width] = True
    return glow


def _glow_strip(breast: BoolPlane, rise: FloatPlane) -> tuple[int, int]:
    """Length and width of the strip of glow at the upper left corner; (0, 0) where none is."""
    rows, columns = breast.shape
    reach = max(1, int(GLOW_REACH * columns))
    widths = breast[:, :reach].sum(axis=1)  # (rows,)
    begun = (widths > 0) & (widths < 0.75 * reach)
    begun[: int(0.02 * rows)] = False
    start = int(begun.argmax())
    if not begun.any() or start > 0.1 * rows:
        return 0, 0
    near_end = widths[start : start + max(1, rows // 15)]
    usual = float(np.quantile(near_end, 0.3))
    narrow = max(3.0, 0.35 * usual)
    start += int((near_end <= usual + narrow).argmax())
    even = np.abs(widths[start:] - usual) <= narrow
    length = int(len(even) if even.all() else even.argmin())
    if length < GLOW_STRIPS[-1][0] * rows or usual < GLOW_MIN_WIDTH * columns:
        return 0, 0
    inner = rise[start : start + length, : max(1, int(usual / 2))].mean(axis=1)
    lower, middle, upper = np.quantile(inner, (0.2, 0.5, 0.8))
    uneven = float((upper - lower) / max(float(middle), 1e-6))
    strip = np.s_[start : start + length, :reach]
    median_rise = float(np.median(rise[strip][breast[strip]]))
    for min_length, max_rise, max_unevenness in GLOW_STRIPS:
        if length >= min_length * rows and median_rise <= max_rise and uneven <= max_unevenness:
            still = widths[start : start + length] <= max(usual + 1.0, 1.15 * usual)
            return start + int(np.flatnonzero(still)[-1]) + 1, reach
    return 0, 0


def _filled(plane: BoolPlane) -> BoolPlane:
    """Fill small holes that do not reach the edge of the film."""
    import cv2

    canvas = np.pad(plane.astype(np.uint8), 1)
    cv2.floodFill(canvas, None, (0, 0), 2)
    holes = canvas[1:-1, 1:-1] == 0
    largest = HOLE_MAX_SHARE * plane.size
    if np.count_nonzero(holes) > largest:
        _, labels, stats, _ = cv2.connectedComponentsWithStats(holes.astype(np.uint8))
        holes &= (stats[:, cv2.CC_STAT_AREA] <= largest)[labels]
    return np.asarray(plane | holes)


def _without_specks(plane: BoolPlane) -> BoolPlane:
    """Keep blocks that have at least two others of the plane among their eight neighbours."""
    import cv2

    ones = plane.astype(np.uint8)
    around = cv2.boxFilter(ones, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return plane & (np.asarray(around) >= 3)
