"""What lies where on a film, at low resolution: background, breast, and what is foreign to both.

The film is reduced to blocks so that its longer side has about 512 of them: on a film of 24 cm a
block is half a millimetre. All lengths below are in blocks, all levels relative to the film's own
ground, so nothing depends on scanner or bit depth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BACKGROUND, BREAST, FOREIGN = 0, 1, 2
"""Values of `FilmContext.mask`."""

LONGER_SIDE = 512
"""Blocks along the longer side of a film, at most."""

RIM_RISE, RIM_RISE_PER_GROUND = 0.0125, 0.75
"""The skin line is where a film rises above its ground by the first, plus the second times the
ground: measured at outlines of real films, 0.012 on black ground to 0.03 on dark grey."""

GLOW_MAX_WIDTH, GLOW_MIN_LENGTH = 0.15, 0.08
GLOW_MAX_RISE, GLOW_MAX_UNEVENNESS = 0.11, 0.25
"""Glow along the chest wall: shares of the film's width and height, rise above the ground, and
standard deviation over mean of its brightness from row to row."""

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
    mean, _, high = (
        plane.astype(np.float32) / np.float32(65535)
        for plane in block_statistics(np.ascontiguousarray(film), factor)
    )
    mask, ground = map_blocks(mean, high)
    outside = mean[mask == BACKGROUND]
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


def _share_in_boxes(plane: BoolPlane, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """Share of boxes given in blocks, blocks cut by a box's edge counted by the part inside."""
    total = np.zeros((plane.shape[0] + 1, plane.shape[1] + 1), np.float64)
    total[1:, 1:] = plane.cumsum(axis=0, dtype=np.float64).cumsum(axis=1)
    left, top, width, height = boxes.T

    def corner(y: npt.NDArray[np.floating], x: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        i = np.minimum(y.astype(np.int64), plane.shape[0] - 1)
        j = np.minimum(x.astype(np.int64), plane.shape[1] - 1)
        v, u = y - i, x - j
        near = total[i, j] * (1 - u) + total[i, j + 1] * u
        far = total[i + 1, j] * (1 - u) + total[i + 1, j + 1] * u
        mixed: npt.NDArray[np.float64] = near * (1 - v) + far * v
        return mixed

    bottom, right = top + height, left + width
    inside = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    return np.clip(inside / (width * height), 0.0, 1.0).astype(np.float32)


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
    import cv2

    smooth = cv2.GaussianBlur(mean, (0, 0), 1.0)
    padding = _padding(high)
    body_level = _otsu(smooth[~padding])
    redaction = _redaction(mean, high, body_level, padding)
    ground = _ground(smooth, body_level, padding | redaction)
    rise = smooth - ground
    lit = (rise > RIM_RISE + RIM_RISE_PER_GROUND * ground) | (smooth > body_level)
    lit &= ~(redaction | padding)
    breast = _breast(lit, smooth, _hard_edges(mean, padding), padding)
    breast &= ~_edge_glow(breast, rise, padding)
    near = cv2.dilate(breast.astype(np.uint8), _disk(4)) > 0
    standing_out = (rise > 0.03) & (mean - ground > 0.03) & ~padding
    foreign = _without_specks(standing_out & ~near | redaction & ~breast)
    mask = np.where(breast, BREAST, np.where(foreign, FOREIGN, BACKGROUND)).astype(np.uint8)
    return mask, ground


def _disk(radius: int) -> BytePlane:
    import cv2

    size = 2 * radius + 1
    disk: BytePlane = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return disk


def _padding(high: FloatPlane) -> BoolPlane:
    """Columns that hold nothing but the film's darkest value: no film was there."""
    empty = (high <= high.min()).mean(axis=0) > 0.97
    return np.broadcast_to(empty, high.shape).copy()


def _otsu(levels: FloatPlane) -> float:
    """Otsu's threshold on the square root of the levels (IEEE Trans. SMC 9, 1979)."""
    import cv2

    if not levels.size:
        return 0.0
    bytes_ = np.rint(np.sqrt(np.clip(levels, 0, 1)) * 255).astype(np.uint8)
    threshold, _ = cv2.threshold(bytes_[None], 0, 255, cv2.THRESH_OTSU)
    return float(threshold / 255) ** 2


def _redaction(
    mean: FloatPlane, high: FloatPlane, body_level: float, padding: BoolPlane
) -> BoolPlane:
    """Areas painted over: the film's darkest value throughout, with a step at their border."""
    import cv2

    flat = (high <= high.min()) & ~padding
    flat = cv2.morphologyEx(flat.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    n, labels, stats, _ = cv2.connectedComponentsWithStats(flat, connectivity=4)
    painted = np.zeros(mean.shape, bool)
    floor = float(mean.min())
    for label in range(1, n):
        if stats[label, cv2.CC_STAT_AREA] < 30:
            continue
        here = (labels == label).astype(np.uint8)
        ring = (cv2.dilate(here, _disk(3)) > 0) & (cv2.dilate(here, _disk(1)) == 0) & ~padding
        if ring.any() and np.percentile(mean[ring], 20) > floor + 0.012:
            painted |= cv2.dilate(here, _disk(1)) > 0
    return painted & (mean < max(body_level, 0.02))


def _ground(smooth: FloatPlane, body_level: float, excluded: BoolPlane) -> FloatPlane:
    """Darkest level within 30 blocks, smoothed, and kept within the film's usual ground.

    Below, so that a dark plate does not make the ground beside it look lit; above, because near
    the middle of a breast nothing but breast is within reach.
    """
    import cv2

    near_excluded = cv2.dilate(excluded.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    known = np.where(near_excluded, np.float32(9), smooth)
    darkest = cv2.erode(known, np.ones((61, 61), np.uint8))
    outside = (smooth < body_level) & ~near_excluded
    if not outside.any():
        return np.zeros_like(smooth)
    cap = float(np.percentile(darkest[outside], 90)) + 0.01
    floor = float(np.percentile(smooth[outside], 30)) - 0.015
    usual = np.clip(darkest, np.float32(max(floor, 0.0)), np.float32(cap))
    ground: FloatPlane = cv2.GaussianBlur(usual, (0, 0), 8.0)
    return ground


def _hard_edges(mean: FloatPlane, padding: BoolPlane) -> BoolPlane:
    """Steps that no tissue makes: borders of plates, letters and clips."""
    import cv2

    options = {"ksize": 3, "scale": 1 / 8, "borderType": cv2.BORDER_REPLICATE}
    slope = np.hypot(
        cv2.Sobel(mean, cv2.CV_32F, 1, 0, **options), cv2.Sobel(mean, cv2.CV_32F, 0, 1, **options)
    )
    near_padding = cv2.dilate(padding.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    edges: BoolPlane = (slope > 0.10) & ~near_padding
    return edges


def _breast(
    lit: BoolPlane, smooth: FloatPlane, hard_edges: BoolPlane, padding: BoolPlane
) -> BoolPlane:
    """Brightest large piece of the lit area, with the body beside it, grown to its rim."""
    import cv2

    loose = (lit & ~hard_edges).astype(np.uint8)
    n, labels = cv2.connectedComponents(
        cv2.morphologyEx(loose, cv2.MORPH_OPEN, _disk(5)), connectivity=4
    )
    if n == 1:
        return np.zeros(lit.shape, bool)
    weight = np.bincount(labels.ravel(), weights=smooth.ravel())
    weight[0] = 0
    core = (labels == weight.argmax()).astype(np.uint8)
    breast = _filled((cv2.dilate(core, _disk(8)) > 0) & lit)
    return _filled(breast | _body_pieces(loose, breast, padding))


def _body_pieces(loose: BytePlane, breast: BoolPlane, padding: BoolPlane) -> BoolPlane:
    """Pieces of pectoral muscle, axilla or abdomen: lit, apart from the breast, at its chest wall.

    A band along the whole upper or lower edge is a border and no body.
    """
    import cv2

    rows, columns = breast.shape
    inside = np.flatnonzero(~padding[0])
    if not inside.size:
        return np.zeros(breast.shape, bool)
    sides = (int(inside[0]), int(inside[-1]))
    wall = max(sides, key=lambda column: int(breast[:, column].sum()))
    rest = cv2.morphologyEx(loose & ~breast, cv2.MORPH_OPEN, _disk(2))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(rest, connectivity=4)
    near_wall = labels[:, max(0, wall - 3) : wall + 4]
    at_wall = np.bincount(near_wall[near_wall > 0], minlength=len(stats)) > 0
    width, height = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    border = (width > 0.5 * columns) & (height < 0.1 * rows)
    accepted = at_wall & ~border
    accepted[0] = False
    pieces = np.asarray(accepted[labels]).astype(np.uint8)
    return (cv2.dilate(pieces, _disk(3)) > 0) & (loose > 0)


def _edge_glow(breast: BoolPlane, rise: FloatPlane, padding: BoolPlane) -> BoolPlane:
    """Light that leaked in along the chest wall above or below the breast.

    It is a faint strip of even width and even brightness from a corner of the film along its left
    or right edge; the abdomen's wedge is brighter, shorter, or changes from row to row.
    """
    glow = np.zeros(breast.shape, bool)
    inside = np.flatnonzero(~padding[0])
    if not inside.size:
        return glow
    frame = np.s_[:, inside[0] : inside[-1] + 1]
    for flip in (np.s_[:, :], np.s_[:, ::-1], np.s_[::-1, :], np.s_[::-1, ::-1]):
        corner = breast[frame][flip]
        length, width = _glow_strip(corner, rise[frame][flip])
        glow[frame][flip][:length, :width] |= corner[:length, :width]
    return glow


def _glow_strip(breast: BoolPlane, rise: FloatPlane) -> tuple[int, int]:
    """Length and width of the strip of glow at the upper left corner, (0, 0) where there is none."""
    rows, columns = breast.shape
    widths = np.where(breast.all(axis=1), columns, (~breast).argmax(axis=1))
    start = int(0.02 * rows)
    usual = float(np.median(widths[start : start + 8]))
    if not 0 < usual < GLOW_MAX_WIDTH * columns:
        return 0, 0
    even = np.abs(widths[start:] - usual) <= max(3.0, 0.35 * usual)
    length = int(len(even) if even.all() else even.argmin())
    if length < GLOW_MIN_LENGTH * rows:
        return 0, 0
    strip = np.s_[start : start + length, : max(1, int(widths[start : start + length].min()))]
    brightness = rise[strip].mean(axis=1)
    uneven = float(brightness.std() / max(float(brightness.mean()), 1e-6))
    lit = rise[start : start + length][breast[start : start + length]]
    if float(np.median(lit)) > GLOW_MAX_RISE or uneven > GLOW_MAX_UNEVENNESS:
        return 0, 0
    return start + length, int(widths[start : start + length].max())


def _filled(plane: BoolPlane) -> BoolPlane:
    """Fill what does not reach the edge of the film."""
    import cv2

    n, labels, stats, _ = cv2.connectedComponentsWithStats(
        (~plane).astype(np.uint8), connectivity=4
    )
    x, y, width, height = stats[:, :4].T
    inner = (x > 0) & (y > 0) & (x + width < plane.shape[1]) & (y + height < plane.shape[0])
    inner[0] = False
    return plane | inner[labels]


def _without_specks(plane: BoolPlane, smallest: int = 3) -> BoolPlane:
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(plane.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False
    return np.asarray(keep[labels])
