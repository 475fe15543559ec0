"""Planted annotations: what lies on films beside the breast, drawn onto tiles or films.

Lettering, label plates, stickers, strips along an edge, frames, redaction and windows are drawn at
random and laid over real pixels. Where they lie is then known to the pixel: they train the tile
scorer without any label, and measure what share of such content a run finds.

The ranges below come from looking at what film labels are made of (lead letters, flashed patient
cards, adhesive labels, masking strips, painted-over names) and not from any set of films.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]

KINDS = ("lettering", "plate", "sticker", "strip", "frame", "redaction", "window", "line")
SHARES = (0.26, 0.18, 0.1, 0.14, 0.06, 0.1, 0.08, 0.08)
"""How often each kind is drawn."""

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
WORDS = ("R", "L", "MLO", "CC", "RMLO", "LMLO", "RCC", "LCC", "R MLO", "L CC", "AX", "ML", "LAT")
"""View markers (DICOM CID 4014 and 244); other lettering is drawn from the alphabet."""

FAINTEST, BRIGHTEST = 0.045, 1.0
"""Rise of bright marks above what they lie on; just above what the black screen sees (0.04)."""

MASK_ALPHA = 0.35
"""A pixel belongs to an annotation where it covers this much of what lay there."""


@dataclass(frozen=True)
class Drawn:
    """One annotation on a canvas."""

    kind: str
    alpha: Plane
    """How much of what lay there is covered, [0, 1]; (rows, columns)."""
    value: Plane
    """Level of what covers it, [0, 1]; same shape."""

    def on(self, pixels: Plane) -> Plane:
        """Lay the annotation over pixels of the canvas' shape, on the scale [0, 1]."""
        return np.clip(pixels + self.alpha * (self.value - pixels), 0.0, 1.0)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Pixels that belong to it, (rows, columns)."""
        return self.alpha >= MASK_ALPHA


def draw(
    rows: int,
    columns: int,
    rng: np.random.Generator,
    *,
    ground: float,
    kind: str | None = None,
    letter_px: float | None = None,
) -> Drawn:
    """Draw one annotation.

    Parameters
    ----------
    rows, columns : int
        Of the canvas; the annotation may be cut by its edge.
    rng : numpy.random.Generator
        Draws everything.
    ground : float
        Level of what the annotation will lie on, [0, 1].
    kind : str, optional
        One of `KINDS`; drawn by `SHARES` where not given.
    letter_px : float, optional
        Height of a letter; drawn from a tenth to eight tenths of the canvas where not given.

    Returns
    -------
    Drawn
    """
    if kind is None:
        kind = str(rng.choice(KINDS, p=SHARES))
    side = min(rows, columns)
    letter = letter_px if letter_px is not None else side * _log_uniform(rng, 0.1, 0.8)
    alpha, value = _DRAWERS[kind](rows, columns, rng, ground, letter)
    return Drawn(kind, *_weathered(alpha, value, rng, letter))


def plant(
    tiles: Plane, rng: np.random.Generator, *, ground: npt.NDArray[np.float32] | None = None
) -> tuple[Plane, npt.NDArray[np.bool_], npt.NDArray[np.object_]]:
    """Plant one annotation, sometimes two, on every tile.

    Parameters
    ----------
    tiles : float32, (n, size, size)
        On the scale [0, 1].
    rng : numpy.random.Generator
        Draws everything.
    ground : float32, (n,), optional
        Level that contrasts refer to; by default the 20th percentile of each tile.

    Returns
    -------
    planted : float32, (n, size, size)
    masks : bool, (n, size, size)
        Pixels that belong to what was planted.
    kinds : object, (n,)
        Of the first annotation of each tile.
    """
    planted = np.empty_like(tiles, np.float32)
    masks = np.zeros(tiles.shape, bool)
    kinds = np.empty(len(tiles), object)
    size = tiles.shape[1]
    for i, tile in enumerate(tiles):
        level = float(np.quantile(tile[::4, ::4], 0.2)) if ground is None else float(ground[i])
        for again in range(5):
            drawn = draw(size, size, rng, ground=level)
            out = drawn.on(tile)
            mask = drawn.mask & (np.abs(out - tile) > FAINTEST / 3)
            if mask.mean() >= 0.01 or again == 4:
                break
        kinds[i] = drawn.kind
        if rng.random() < 0.2:
            more = draw(size, size, rng, ground=level)
            both = more.on(out)
            mask |= more.mask & (np.abs(both - out) > FAINTEST / 3)
            out = both
        planted[i], masks[i] = out, mask
    return planted, masks, kinds


@dataclass(frozen=True)
class PlantedFilm:
    """A film with annotations drawn on it."""

    planes: tuple[npt.NDArray[np.uint16], ...]
    """The film on each of the scales that were given, planted alike."""
    boxes: npt.NDArray[np.int32]
    """x, y, width, height of the canvas of every annotation, (n, 4)."""
    kinds: tuple[str, ...]
    masks: tuple[npt.NDArray[np.bool_], ...]
    """Pixels of every canvas that belong to its annotation."""


def plant_film(
    planes: tuple[npt.NDArray[np.uint16], ...],
    breast: npt.NDArray[np.bool_],
    block_px: int,
    rng: np.random.Generator,
    *,
    ground: float,
    frame: tuple[int, int] | None = None,
    count: int = 8,
) -> PlantedFilm:
    """Plant annotations beside the breast of a film.

    Letters are 0.8 % to 4 % of the film's longer side high: 2 to 10 mm on a film of 24 cm, as lead
    letters and printed labels are. What would lie on the breast is cut away, as labels are cut off
    by it.

    Parameters
    ----------
    planes : tuple of uint16, (rows, columns)
        The film, on one scale or more; 0..65535 is 0..1. They are not changed.
    breast : bool, (block_rows, block_columns)
        Where the breast lies, in blocks.
    block_px : int
        Side of a block in pixels.
    rng : numpy.random.Generator
        Draws everything.
    ground : float
        Level of the film's unexposed ground, [0, 1].
    frame : tuple of int, optional
        First column of blocks of the film and the one behind its last; nothing is planted on the
        padding beside it.
    count : int, default 8
        How many annotations; fewer where there is no place beside the breast.

    Returns
    -------
    PlantedFilm
    """
    out = tuple(plane.copy() for plane in planes)
    rows, columns = out[0].shape
    longer = max(rows, columns)
    left, right = (0, breast.shape[1]) if frame is None else frame
    free_rows, free_columns = np.nonzero(~breast[:, left:right])
    left, right = left * block_px, min(right * block_px, columns)
    boxes, kinds, masks = [], [], []
    for _ in range(count if free_rows.size else 0):
        letter = longer * _log_uniform(rng, 0.008, 0.04)
        size = int(min(letter * rng.uniform(2, 5), 0.2 * longer, rows, right - left))
        pick = int(rng.integers(free_rows.size))
        y = int(free_rows[pick] * block_px - size * rng.random())
        x = int(left + free_columns[pick] * block_px - size * rng.random())
        y, x = min(max(y, 0), rows - size), min(max(x, left), right - size)
        drawn = draw(size, size, rng, ground=ground, letter_px=letter)
        at = np.minimum((np.arange(size) + y) // block_px, breast.shape[0] - 1)
        across = np.minimum((np.arange(size) + x) // block_px, breast.shape[1] - 1)
        beside = ~breast[np.ix_(at, across)]
        where = np.s_[y : y + size, x : x + size]
        seen = np.zeros((size, size), bool)
        for plane in out:
            before = np.asarray(plane[where] / np.float32(65535), np.float32)
            after = np.where(beside, drawn.on(before), before)
            seen |= np.abs(after - before) > FAINTEST / 3
            plane[where] = np.rint(after * 65535).astype(np.uint16)
        boxes.append((x, y, size, size))
        kinds.append(drawn.kind)
        masks.append(drawn.mask & beside & seen)
    return PlantedFilm(out, np.array(boxes, np.int32).reshape(-1, 4), tuple(kinds), tuple(masks))


def planted_shares(
    planted: PlantedFilm, boxes: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.object_]]:
    """Share of every box that was planted on, and the kind that covers most of it.

    Parameters
    ----------
    planted : PlantedFilm
    boxes : int32, (n, 4)
        x, y, width, height.

    Returns
    -------
    share : float32, (n,), [0, 1]
        Summed over annotations, so where two overlap the pixels count twice, up to 1.
    kind : object, (n,)
        None where nothing was planted.
    """
    share = np.zeros(len(boxes), np.float32)
    most = np.zeros(len(boxes), np.float32)
    kind = np.full(len(boxes), None, object)
    for (px, py, pw, ph), name, mask in zip(
        planted.boxes.tolist(), planted.kinds, planted.masks, strict=True
    ):
        for i, (x, y, width, height) in enumerate(boxes.tolist()):
            x0, y0, x1, y1 = (
                max(x, px),
                max(y, py),
                min(x + width, px + pw),
                min(y + height, py + ph),
            )
            if x0 >= x1 or y0 >= y1:
                continue
            part = mask[y0 - py : y1 - py, x0 - px : x1 - px].sum() / (width * height)
            share[i] += part
            if part > most[i]:
                most[i], kind[i] = part, name
    return np.minimum(share, 1), kind


# -- kinds: (rows, columns, rng, ground, letter_px) -> alpha, value --------------------------------


def _lettering(
    rows: int, columns: int, rng: np.random.Generator, ground: float, letter: float
) -> tuple[Plane, Plane]:
    """Lead letters: bright, on nothing; sometimes with a light haze around."""
    ink = _text(rows, columns, rng, letter)
    return ink, np.full_like(ink, _bright(rng, ground))


def _plate(
    rows: int, columns: int, rng: np.random.Generator, ground: float, letter: float
) -> tuple[Plane, Plane]:
    """A bright plate, plain or with dark letters; or a darker one with bright letters."""
    box = _box(rows, columns, rng, low=0.25, high=1.6)
    level = _bright(rng, ground, faintest=0.08)
    value = np.full((rows, columns), level, np.float32)
    if rng.random() < 0.7:
        ink = _text(rows, columns, rng, letter) * box
        other = ground + (level - ground) * rng.uniform(0.0, 0.6)
        value += ink * np.float32(other - level)
    return box * np.float32(rng.uniform(0.85, 1.0)), value


def _sticker(
    rows: int, columns: int, rng: np.random.Generator, ground: float, letter: float
) -> tuple[Plane, Plane]:
    """An adhesive label: a grey or white patch with a border and several lines of small print."""
    box = _box(rows, columns, rng, low=0.5, high=2.2)
    level = _bright(rng, ground, faintest=0.1)
    value = np.full((rows, columns), level, np.float32)
    small = max(4.0, letter * rng.uniform(0.2, 0.5))
    print_level = rng.uniform(0, 1) if rng.random() < 0.5 else ground
    for _ in range(int(rng.integers(1, 5))):
        ink = _text(rows, columns, rng, small)
        value += ink * (np.float32(print_level) - value)
    return box * np.float32(rng.uniform(0.6, 1.0)), value


def _strip(
    rows: int, columns: int, rng: np.random.Generator, ground: float, letter: float
) -> tuple[Plane, Plane]:
    """A band along an edge: masking strip, film border, light leak; straight or slightly tilted."""
    width = min(rows, columns) * _log_uniform(rng, 0.03, 0.6)
    angle = np.deg2rad(rng.choice((0, 90, 180, 270)) + rng.normal(0, 2.5))
    across = _across(rows, columns, angle)
    reach = float(across.max()) - width
    alpha = np.clip(across - reach + 0.5, 0, 1)
    level = _bright(rng, ground, faintest=0.06)
    value = np.full((rows, columns), level, np.float32)
    if rng.random() < 0.35:  # fading inward
        value = (ground + (level - ground) * np.clip((across - reach) / width, 0, 1)).astype(
            np.float32
        )
    if rng.random() < 0.35:  # a dark gap between band and film
        value[(across - reach) > width * rng.uniform(0.4, 0.9)] = ground * rng.uniform(0, 1)
    return alpha.astype(np.float32), value


def _frame(
    rows: int, columns: int, rng: np.random.Generator, ground: float, letter: float
) -> tuple[Plane, Plane]:
    """The outline of a rectangle: a border around a label or a redaction."""
    import cv2

    canvas = np.zeros((rows, columns), np.float32)
    width = max(1, round(min(rows, columns) * _log_uniform(rng, 0.015, 0.08)))
    corners = _corners(rows, columns, rng, low=0.4, high=2.0)
    cv2.polylines(canvas, [np.rint(corners).astype(np.int32)], True, 1.0, width, cv2.LINE_AA)
    return canvas, np.full_like(canvas, _bright(rng, ground, faintest=0.1))


def _redaction(
    rows: int, columns: int, rng: np.random.Generator, ground: float, letter: float
) -> tuple[Plane, Plane]:
    """Painted over: the darkest value inside a rough outline, often with a bright rim."""
    import cv2

    blob = np.zeros((rows, columns), np.float32)
    if rng.random() < 0.5:
        corners = _corners(rows, columns, rng, low=0.4, high=1.8)
        cv2.fillPoly(blob, [np.rint(corners).astype(np.int32)], 1.0)
    else:  # strokes of a thick brush
        points = rng.uniform(-0.1, 1.1, (int(rng.integers(2, 7)), 2)) * (columns, rows)
        thick = max(3, round(min(rows, columns) * rng.uniform(0.12, 0.4)))
        cv2.polylines(blob, [np.rint(points).astype(np.int32)], False, 1.0, thick)
    value = np.full_like(blob, 0.0 if rng.random() < 0.7 else ground * rng.uniform(0, 0.5))
    if rng.random() < 0.5 or ground < 0.03:  # black on black is seen by its rim alone
        reach = max(1, round(min(rows, columns) * rng.uniform(0.01, 0.05)))
        wider = cv2.dilate(blob, np.ones((2 * reach + 1,) * 2, np.uint8))
        value[(wider > 0) & (blob == 0)] = _bright(rng, ground, faintest=0.15)
        return np.asarray(wider, np.float32), value
    return blob, value


def _window(
    rows: int, columns: int, rng: np.random.Generator, ground: float, letter: float
) -> tuple[Plane, Plane]:
    """The seat of a patient card: a rectangle darker or lighter than its surroundings, or noise."""
    box = _box(rows, columns, rng, low=0.4, high=1.8)
    level = ground * rng.uniform(0.0, 0.7) if rng.random() < 0.5 else _bright(rng, ground, most=0.3)
    value = np.full((rows, columns), level, np.float32)
    if rng.random() < 0.6:
        grain = rng.standard_normal((rows, columns)).astype(np.float32)
        if rng.random() < 0.5:
            grain = _blurred(grain, rng.uniform(0.5, 1.2))
        value += np.float32(_log_uniform(rng, 0.004, 0.12)) * grain
    if rng.random() < 0.3:
        value += _text(rows, columns, rng, letter) * np.float32(_bright(rng, ground) - level)
    return box, value


def _line(
    rows: int, columns: int, rng: np.random.Generator, ground: float, letter: float
) -> tuple[Plane, Plane]:
    """One or two long straight lines: the edge of a film, a cassette or a label."""
    import cv2

    canvas = np.zeros((rows, columns), np.float32)
    upright = rng.random() < 0.7
    for _ in range(int(rng.integers(1, 3))):
        angle = np.deg2rad(rng.choice((0, 90)) + rng.normal(0, 2)) if upright else rng.uniform(0, 3)
        centre = rng.uniform(0, 1, 2) * (columns, rows)
        step = np.array((np.cos(angle), np.sin(angle))) * (rows + columns)
        ends = np.rint([centre - step, centre + step]).astype(int)
        width = max(1, round(min(rows, columns) * _log_uniform(rng, 0.01, 0.04)))
        cv2.line(canvas, tuple(ends[0]), tuple(ends[1]), 1.0, width, cv2.LINE_AA)
    return canvas, np.full_like(canvas, _bright(rng, ground, faintest=0.1))


_DRAWERS: dict[str, Any] = {
    "lettering": _lettering,
    "plate": _plate,
    "sticker": _sticker,
    "strip": _strip,
    "frame": _frame,
    "redaction": _redaction,
    "window": _window,
    "line": _line,
}


# -- pieces ----------------------------------------------------------------------------------------


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _bright(
    rng: np.random.Generator,
    ground: float,
    *,
    faintest: float = FAINTEST,
    most: float = BRIGHTEST,
) -> float:
    """Level of a bright mark: from hardly visible to saturated."""
    return min(1.0, ground + _log_uniform(rng, faintest, max(most, 1.01 * faintest)))


def _text(rows: int, columns: int, rng: np.random.Generator, letter: float) -> Plane:
    """Ink of a few letters somewhere on the canvas, [0, 1]: any font, turned, often mirrored."""
    import cv2

    if rng.random() < 0.4:
        text = str(rng.choice(WORDS))
    else:
        text = "".join(rng.choice(list(ALPHABET), int(rng.integers(1, 7))))
    font = int(rng.choice((0, 1, 2, 3, 4, 5, 6, 7)))
    thick = max(1, round(letter * rng.uniform(0.06, 0.2)))
    scale = letter / cv2.getTextSize("H", font, 1.0, 1)[0][1]
    (width, height), _ = cv2.getTextSize(text, font, scale, thick)
    pad = thick + 2
    ink = np.zeros((height + 2 * pad, width + 2 * pad), np.uint8)
    cv2.putText(ink, text, (pad, height + pad), font, scale, 255, thick, cv2.LINE_AA)
    if rng.random() < 0.5:
        ink = ink[:, ::-1]
    turn = (
        rng.choice((0, 90, 180, 270)) + rng.normal(0, 8)
        if rng.random() < 0.8
        else 360 * rng.random()
    )
    return _laid(np.ascontiguousarray(ink), rows, columns, float(turn), rng)


def _laid(
    ink: npt.NDArray[np.uint8], rows: int, columns: int, turn: float, rng: np.random.Generator
) -> Plane:
    """Turned by degrees about its middle, which lies anywhere on the canvas."""
    import cv2

    middle = ink.shape[1] / 2, ink.shape[0] / 2
    matrix = cv2.getRotationMatrix2D(middle, turn, 1.0)
    where = rng.uniform(0, 1, 2) * (columns, rows)
    matrix[:, 2] += where - middle
    turned = cv2.warpAffine(ink, matrix, (columns, rows), flags=cv2.INTER_LINEAR)
    return np.asarray(turned / np.float32(255), np.float32)


def _corners(
    rows: int, columns: int, rng: np.random.Generator, *, low: float, high: float
) -> npt.NDArray[np.float64]:
    """Corners of a rectangle; sides by shares of the canvas, mostly upright, cut by the edge."""
    half = np.array([columns * _log_uniform(rng, low, high), rows * _log_uniform(rng, low, high)])
    half *= 0.5 * np.where(rng.random() < 0.5, (1.0, rng.uniform(0.3, 1)), (rng.uniform(0.3, 1), 1))
    middle = rng.uniform(-0.15, 1.15, 2) * (columns, rows)
    upright = rng.random() < 0.7
    angle = np.deg2rad(rng.normal(0, 3)) if upright else rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    return np.asarray((square * half) @ turn.T + middle)


def _box(rows: int, columns: int, rng: np.random.Generator, *, low: float, high: float) -> Plane:
    import cv2

    canvas = np.zeros((rows, columns), np.float32)
    corners = _corners(rows, columns, rng, low=low, high=high)
    cv2.fillPoly(canvas, [np.rint(corners * 8).astype(np.int32)], 1.0, cv2.LINE_AA, 3)
    return canvas


def _across(rows: int, columns: int, angle: float) -> Plane:
    """Distance of every pixel along a direction, from the canvas' middle."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    along = (x - columns / 2) * np.cos(angle) + (y - rows / 2) * np.sin(angle)
    return np.asarray(along, np.float32)


def _blurred(plane: Plane, sigma: float) -> Plane:
    import cv2

    return np.asarray(cv2.GaussianBlur(plane, (0, 0), sigma), np.float32)


def _weathered(
    alpha: Plane, value: Plane, rng: np.random.Generator, letter: float
) -> tuple[Plane, Plane]:
    """Unsharp by up to a few hundredths of the canvas, with grain."""
    if rng.random() < 0.7:
        sigma = rng.uniform(0.3, max(0.35, min(0.12 * letter, 0.025 * min(alpha.shape))))
        alpha, value = _blurred(alpha, sigma), _blurred(value, sigma)
    if rng.random() < 0.5:
        grain = rng.standard_normal(value.shape).astype(np.float32)
        value = value + np.float32(_log_uniform(rng, 0.002, 0.03)) * grain
    return alpha, value
