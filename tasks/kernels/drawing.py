"""Figures of an experiment as pictures: curves, maps of points, rows of tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tasks.kernels.thumbnails import contact_sheet

WIDTH_PX, HEIGHT_PX = 640, 360
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 76, 16, 36, 40
POINTS = 4000
SCALE = 2
"""By which small pictures are enlarged, no pixel changed."""

COLOURS = (
    (180, 119, 31), (14, 127, 255), (44, 160, 44), (40, 39, 214), (189, 103, 148),
    (75, 86, 140), (194, 119, 227), (127, 127, 127), (34, 189, 188), (207, 190, 23),
)  # fmt: skip
"""BGR, one a series or label; more labels go round."""
_INK, _FAINT = (40, 40, 40), (215, 215, 215)

Picture = npt.NDArray[np.uint8]


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    across: str,
    mark: float | None = None,
) -> Picture:
    """Draw lines through points.

    Parameters
    ----------
    series : mapping of str to sequence of (x, y)
        By name; at least one point in all.
    across : str
        What x is.
    mark : float, optional
        x of an upright line.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        BGR.
    """
    import cv2

    points = [p for values in series.values() for p in values if np.isfinite(p).all()]
    if not points:
        raise ValueError("there is nothing to draw: no point is finite")
    xs, ys = np.array(points).T
    picture, at = _axes(xs, ys, across)
    if mark is not None:
        x = at(mark, ys.min())[0]
        cv2.line(picture, (x, TOP_PX), (x, HEIGHT_PX - BOTTOM_PX), (150, 150, 150), 1, cv2.LINE_AA)
    left = LEFT_PX
    for i, (name, values) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        line = np.array([at(x, y) for x, y in values if np.isfinite((x, y)).all()], np.int32)
        if len(line) > 1:
            cv2.polylines(picture, [line.reshape(-1, 1, 2)], False, colour, 2, cv2.LINE_AA)
        for x, y in line.tolist() if len(line) < 60 else []:
            cv2.circle(picture, (x, y), 3, colour, -1, cv2.LINE_AA)
        _write(picture, name, (left, 22), colour)
        left += 24 + 9 * len(name)
    return picture


def scatter(points: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Picture:
    """Draw points of a plane, coloured by label; of many, the first 4,000.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
    labels : ndarray of int, shape (n,)

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        BGR.
    """
    import cv2

    shown, names = points[:POINTS], labels[:POINTS]
    picture, at = _axes(shown[:, 0], shown[:, 1], "")
    for (x, y), label in zip(shown.tolist(), names.tolist(), strict=True):
        cv2.circle(picture, at(x, y), 2, COLOURS[int(label) % len(COLOURS)], -1, cv2.LINE_AA)
    for i, label in enumerate(np.unique(names)[:20].tolist()):
        _write(picture, str(label), (LEFT_PX + 28 * i, 22), COLOURS[int(label) % len(COLOURS)])
    return picture


def plane(rows: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Rows on their two main axes, (n, 2); signs are such that the largest weight is positive."""
    centred = np.asarray(rows, np.float64) - rows.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    main = axes[:, ::-1][:, :2]
    if main.shape[1] < 2:
        main = np.pad(main, ((0, 0), (0, 2 - main.shape[1])))
    signs = np.sign(main[np.abs(main).argmax(axis=0), np.arange(2)])
    flat: npt.NDArray[np.float64] = centred @ (main * np.where(signs == 0, 1, signs))
    return flat


def rows_of_tiles(rows: Sequence[npt.NDArray[np.floating]]) -> Picture:
    """Rows of small pictures below each other.

    Parameters
    ----------
    rows : sequence of ndarray, each (n, side, side)
        In [0, 1], the same n and side in all.

    Returns
    -------
    ndarray of uint8, shape (rows, columns)
    """
    tiles = np.concatenate([np.asarray(r) for r in rows])
    grey = np.rint(np.clip(tiles, 0, 1) * 255).astype(np.uint8)
    large = grey if grey.shape[1] > 100 else grey.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    return contact_sheet(large, per_row=len(rows[0]))


def _axes(
    xs: npt.NDArray[np.floating], ys: npt.NDArray[np.floating], across: str
) -> tuple[Picture, _Scale]:
    import cv2

    picture = np.full((HEIGHT_PX, WIDTH_PX, 3), 255, np.uint8)
    at = _Scale(xs, ys)
    bottom, right = HEIGHT_PX - BOTTOM_PX, WIDTH_PX - RIGHT_PX
    for value in np.linspace(float(ys.min()), float(ys.max()), 5).tolist():
        y = at(float(xs.min()), value)[1]
        cv2.line(picture, (LEFT_PX, y), (right, y), _FAINT, 1)
        _write(picture, f"{value:.4g}", (6, y + 5), _INK)
    if across:
        for value in (float(xs.min()), float(xs.max())):
            _write(picture, f"{value:g}", (at(value, float(ys.min()))[0] - 8, bottom + 18), _INK)
        _write(picture, across, ((LEFT_PX + right) // 2 - 5 * len(across), bottom + 32), _INK)
    cv2.rectangle(picture, (LEFT_PX, TOP_PX), (right, bottom), _INK, 1)
    return picture, at


class _Scale:
    """From values to pixels."""

    def __init__(self, xs: npt.NDArray[np.floating], ys: npt.NDArray[np.floating]) -> None:
        self.x0, self.dx = _span(xs)
        self.y0, self.dy = _span(ys)

    def __call__(self, x: float, y: float) -> tuple[int, int]:
        across = LEFT_PX + 10 + (x - self.x0) / self.dx * (WIDTH_PX - RIGHT_PX - LEFT_PX - 20)
        height = HEIGHT_PX - BOTTOM_PX - TOP_PX - 20
        down = HEIGHT_PX - BOTTOM_PX - 10 - (y - self.y0) / self.dy * height
        return round(across), round(down)


def _span(values: npt.NDArray[np.floating]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low, high - low or 1.0


def _write(picture: Picture, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    import cv2

    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
