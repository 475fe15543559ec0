"""Lossless JPEG (ITU-T T.81, SOF3), by the standard and by the codec that wrote DDSM.

The Portable Video Research Group's codec of the 1990s differs from the standard in the first row.
With P the precision, it takes the row above the first as filled with 2^(P-1) and keeps predictor 7
there; so, modulo 65536, ::

    first sample of a row   the one above       (first row: 2^(P-1))
    all others              (left + above) >> 1 (first row: (left + 2^(P-1)) >> 1)

The differences in the file are the same in both, so a standard decoder's output is taken apart into
differences by the standard's rule and summed up again by PVRG's, in one pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from storage.films.pictures import Grey

if TYPE_CHECKING:
    from storage.films.jpeg import JpegHeader


def decode(data: bytes, header: JpegHeader) -> Grey:
    """Samples of a lossless JPEG of one component, by the rule that it was written with.

    A stream that ends early gives the rows before its end rightly and anything below: check the end
    marker first (``header.has_end_marker``).

    Parameters
    ----------
    data : bytes
        The whole file.
    header : JpegHeader
        Of that file.

    Returns
    -------
    ndarray, shape (rows, columns)
        uint8 for a precision of up to 8 bits, else uint16.
    """
    import imagecodecs

    standard = imagecodecs.ljpeg_decode(data)  # (rows, columns)
    if _may_be_pvrg(header):
        half = 1 << (header.bits - 1)
        if _pvrg_first_row_is_smoother(standard[0].astype(np.int64), half):
            return _as_grey(_resum()(standard, half), header.bits)
    return _as_grey(standard, header.bits)


def _as_grey(samples: npt.NDArray[Any], precision: int) -> Grey:
    if precision <= 8:
        return samples.astype(np.uint8, copy=False)
    return samples.astype(np.uint16, copy=False)


def _may_be_pvrg(header: JpegHeader) -> bool:
    """PVRG writes predictor 7, and neither a JFIF nor an Adobe marker."""
    return header.predictor == 7 and not header.has_application_marker


def _pvrg_first_row_is_smoother(row: npt.NDArray[np.int64], half: int) -> bool:
    """Whether PVRG's rule gives a smoother first row than the standard's.

    By the standard, where the first row's predictor is the sample to the left, the differences are
    the row's own steps. Under the wrong rule a row is a ramp that wraps round at 65536, or decays
    to 2^(P-1): both steeper than a film's edge.

    Parameters
    ----------
    row : ndarray of int64, shape (columns,)
        First row by the standard.
    half : int
        2^(P-1).
    """
    steps = _signed16(np.diff(row))
    left, total = int(row[0]), 0
    for step in steps.tolist():
        sample = (((left + half) >> 1) + step) & 0xFFFF
        total += abs(sample - left)
        left = sample
    return total < int(np.abs(steps).sum())


def _signed16(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return ((values + 32768) & 0xFFFF) - 32768


@cache
def _resum() -> Callable[[npt.NDArray[Any], int], npt.NDArray[np.uint16]]:
    import numba

    return numba.njit(cache=True, nogil=True)(_resum_by_pvrg)


def _resum_by_pvrg(standard: npt.NDArray[Any], half: int) -> npt.NDArray[np.uint16]:
    """Differences of predictor 7 by the standard, summed up by PVRG's rule; compiled by numba."""
    rows, columns = standard.shape
    out = np.empty((rows, columns), np.uint16)
    for c in range(columns):
        if c == 0:
            step = np.int64(standard[0, 0]) - half
            predicted = np.int64(half)
        else:
            step = np.int64(standard[0, c]) - np.int64(standard[0, c - 1])
            predicted = (np.int64(out[0, c - 1]) + half) >> 1
        out[0, c] = (predicted + step) & 0xFFFF
    for r in range(1, rows):
        step = np.int64(standard[r, 0]) - np.int64(standard[r - 1, 0])
        out[r, 0] = (np.int64(out[r - 1, 0]) + step) & 0xFFFF
        for c in range(1, columns):
            old = (np.int64(standard[r, c - 1]) + np.int64(standard[r - 1, c])) >> 1
            new = (np.int64(out[r, c - 1]) + np.int64(out[r - 1, c])) >> 1
            out[r, c] = (new + np.int64(standard[r, c]) - old) & 0xFFFF
    return out
