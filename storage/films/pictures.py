"""What the readers of plain pictures (PNG, TIFF, PGM, JPEG) share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from storage.errors import CorruptFilm, UnsupportedFilm

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

COLOUR_TOLERANCE = 8 / 255
"""Channels that differ by no more than this share of full scale anywhere are one grey film.

JPEG rounds its chroma; a film saved as RGB comes back with differences of a few grey levels. A
coloured pen on the film, or a colour photograph, differs by far more.
"""


@dataclass(frozen=True)
class PictureHeader:
    """What a picture file says of itself before its pixels are decoded."""

    rows: int
    columns: int
    bits: int
    """Bits that a sample uses."""


def grey(pixels: npt.NDArray[Any], *, alpha: bool, source: str) -> Grey:
    """Grey values of a decoded picture.

    Parameters
    ----------
    pixels : ndarray of uint8 or uint16, shape (rows, columns) or (rows, columns, channels)
        One grey or three colour channels; one more, the last, where there is alpha.
    alpha : bool
        Whether the last channel is opacity.
    source : str
        For the error's text.

    Returns
    -------
    ndarray, shape (rows, columns)
        The grey channel; of equal colour channels the first; of channels equal to within
        :data:`COLOUR_TOLERANCE` their luma (ITU-R BT.601).

    Raises
    ------
    UnsupportedFilm
        Where the picture is coloured or not opaque.
    """
    if pixels.dtype != np.uint8 and pixels.dtype != np.uint16:
        raise UnsupportedFilm(
            source, f"The samples are {pixels.dtype}.", "Save the film with 8 or 16 bits a sample."
        )
    full_scale = int(np.iinfo(pixels.dtype).max)
    if pixels.ndim == 2:
        return pixels
    if alpha:
        if int(pixels[..., -1].min()) != full_scale:
            raise UnsupportedFilm(
                source, "The picture is partly transparent.", "Save the film without alpha."
            )
        pixels = pixels[..., :-1]
    if pixels.shape[2] == 1:
        return np.ascontiguousarray(pixels[..., 0])
    if pixels.shape[2] != 3:
        raise UnsupportedFilm(
            source, f"The picture has {pixels.shape[2]} channels.", "Save the film as grey."
        )
    return _grey_of_colours(pixels, full_scale, source)


def _grey_of_colours(pixels: npt.NDArray[Any], full_scale: int, source: str) -> Grey:
    import cv2

    pixels = np.ascontiguousarray(pixels)
    red, green, blue = (cv2.extractChannel(pixels, n) for n in range(3))
    difference = max(int(cv2.norm(red, other, cv2.NORM_INF)) for other in (green, blue))
    if difference == 0:
        return cast("Grey", red)
    if difference > COLOUR_TOLERANCE * full_scale:
        raise UnsupportedFilm(
            source,
            f"The picture is coloured: its channels differ by up to {difference} of {full_scale}.",
            "Save the film as grey; move photographs elsewhere.",
        )
    return cast("Grey", cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def check_shape(pixels: Grey, rows: int, columns: int, *, source: str) -> None:
    """Refuse pixels that disagree with the header.

    Raises
    ------
    CorruptFilm
        Where the shape is another than (rows, columns).
    """
    if pixels.shape != (rows, columns):
        raise CorruptFilm(
            source,
            f"The pixels are {pixels.shape[0]} x {pixels.shape[1]}, the header says"
            f" {rows} x {columns}.",
            "Fetch the file again; if it changed during the run, start the run again.",
        )
