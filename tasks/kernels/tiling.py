"""Where the tiles of a film lie, and their pixels."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Edge = Literal["shift", "drop", "pad"]


def tile_boxes(
    rows: int, columns: int, *, tile_size_px: int, stride_px: int, edge: Edge = "shift"
) -> npt.NDArray[np.int32]:
    """Boxes of the tiles of a film, row by row from the top left.

    Parameters
    ----------
    rows, columns : int
        Size of the film.
    tile_size_px, stride_px : int
        Side of a tile and distance between neighbours, in source pixels.
    edge : {'shift', 'drop', 'pad'}
        What becomes of the last tile where it would reach beyond the film: moved inward, so that
        every pixel is covered and no side is favoured; left out; or clipped at the film (its
        missing part is filled when it is cut). A film smaller than a tile gives clipped boxes
        under 'shift' and none under 'drop'.

    Returns
    -------
    int32, (n_tiles, 4)
        x, y, width, height in source pixels; every box lies inside the film.

    Raises
    ------
    ValueError
        For sizes below 1, an unknown `edge`, or a stride that leaves gaps.
    """
    if min(rows, columns, tile_size_px, stride_px) < 1:
        raise ValueError(
            f"{rows=}, {columns=}, {tile_size_px=} and {stride_px=} must all be at least 1."
        )
    if stride_px > tile_size_px:
        raise ValueError(
            f"{stride_px=} leaves gaps between tiles of {tile_size_px=}; "
            f"use stride_px <= {tile_size_px}."
        )
    if edge not in ("shift", "drop", "pad"):
        raise ValueError(f"{edge=} is unknown; use 'shift', 'drop' or 'pad'.")
    across = _starts(columns, tile_size_px, stride_px, edge)
    down = _starts(rows, tile_size_px, stride_px, edge)
    boxes = np.empty((len(down), len(across), 4), np.int32)
    boxes[..., 0], boxes[..., 1] = across, down[:, None]
    boxes[..., 2] = np.minimum(tile_size_px, columns - across)
    boxes[..., 3] = np.minimum(tile_size_px, rows - down)[:, None]
    return boxes.reshape(-1, 4)  # (n_tiles, 4)


def _starts(length: int, size: int, stride: int, edge: Edge) -> npt.NDArray[np.int64]:
    if length < size:
        return np.zeros(0 if edge == "drop" else 1, np.int64)
    starts = np.arange(0, length - size + 1, stride)
    covered = int(starts[-1]) + size
    if edge == "drop" or covered == length:
        return starts
    last = length - size if edge == "shift" else int(starts[-1]) + stride
    return np.append(starts, last)


def tile_size_px_from_mm(tile_size_mm: float, pixel_spacing_mm: float) -> int:
    """Side of a tile in source pixels, at least 1, nearest to a length in millimetres.

    Raises
    ------
    ValueError
        Unless both lengths are positive and finite.
    """
    if not (0 < tile_size_mm < np.inf and 0 < pixel_spacing_mm < np.inf):
        raise ValueError(f"{tile_size_mm=} and {pixel_spacing_mm=} must be positive lengths.")
    return max(1, round(tile_size_mm / pixel_spacing_mm))


def cut_tiles(
    film: npt.NDArray[np.uint16],
    boxes: npt.NDArray[np.int32],
    *,
    output_size_px: int,
    tile_size_px: int | None = None,
    background_level: int = 0,
) -> npt.NDArray[np.uint16]:
    """Pixels of the tiles.

    A box of the output's size is copied bit for bit; any other is resampled by area, except that a
    clipped box is first filled up to a square at its right and lower side.

    Parameters
    ----------
    film : uint16, (rows, columns)
    boxes : int32, (n_tiles, 4)
        x, y, width, height, inside the film.
    output_size_px : int
        Side of the tiles returned.
    tile_size_px : int, optional
        Side that a tile has before resampling; the longest side among the boxes by default.
    background_level : int, default 0
        Fills the missing part of clipped boxes (0..65535): the film's own background level.

    Returns
    -------
    uint16, (n_tiles, output_size_px, output_size_px)
    """
    tiles = np.empty((len(boxes), output_size_px, output_size_px), np.uint16)
    if not len(boxes):
        return tiles
    size = tile_size_px or int(boxes[:, 2:].max())
    for tile, (x, y, width, height) in zip(tiles, boxes.tolist(), strict=True):
        source = film[y : y + height, x : x + width]
        if (width, height) != (size, size):
            whole = np.full((size, size), background_level, np.uint16)
            whole[:height, :width] = source
            source = whole
        tile[:] = source if size == output_size_px else _resampled(source, output_size_px)
    return tiles


def _resampled(source: npt.NDArray[np.uint16], size: int) -> npt.NDArray[np.uint16]:
    import cv2

    shrinks = size < source.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(source, (size, size), interpolation=method), np.uint16)
