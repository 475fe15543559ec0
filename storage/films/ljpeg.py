"""Lossless JPEG (ITU-T T.81, SOF3), by the standard and by the codec that wrote DDSM.

The Portable Video Research Group's codec of the 1990s differs from the standard in the first row.
With P the precision, it takes the row above the first as filled with 2^(P-1) and keeps predictor 7
there; so, modulo 65536, ::

    first sample of a row   the one above       (first row: 2^(P-1))
    all others              (left + above) >> 1 (first row: (left + 2^(P-1)) >> 1)

General decoders give such a file out as a wrong picture without an error, and some of them crash on
a damaged one; so this one is our own: a table of codes, and one pass compiled by numba.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from storage.films.pictures import Grey

if TYPE_CHECKING:
    from storage.films.jpeg import JpegHeader

_MAX_CATEGORY = 16
_BAD_CODE = 255


def decode(data: bytes, header: JpegHeader) -> tuple[Grey, int]:
    """Samples of a lossless JPEG of one component, by the rule that it was written with.

    Parameters
    ----------
    data : bytes
        The whole file, or what there is of it.
    header : JpegHeader
        Of that file.

    Returns
    -------
    pixels : ndarray, shape (rows, columns)
        uint8 for a precision of up to 8 bits, else uint16. Rows that are not whole are 0.
    whole_rows : int
        How many rows the stream holds.

    Raises
    ------
    ValueError
        Where the table of codes is none.
    """
    stream, starts = _unstuffed(data, header)
    codes, code_bits = _code_table(header.code_table)
    rows_a_segment = header.restart_interval // header.columns or header.rows

    def run(rows: int, *, pvrg: bool) -> tuple[npt.NDArray[np.uint16], int]:
        out = np.zeros((rows, header.columns), np.uint16)
        whole = _compiled()(
            stream, starts, codes, code_bits, out, header.bits, header.predictor,
            rows_a_segment, pvrg,
        )  # fmt: skip
        return out, int(whole)

    pvrg = False
    if _may_be_pvrg(header):
        top, whole = run(min(2, header.rows), pvrg=False)
        pvrg = whole > 0 and _is_pvrg(top[:whole].astype(np.int64), header.bits)
    pixels, whole_rows = run(header.rows, pvrg=pvrg)
    return (pixels.astype(np.uint8) if header.bits <= 8 else pixels), whole_rows


# -- which rule ------------------------------------------------------------------------------------


def _may_be_pvrg(header: JpegHeader) -> bool:
    """PVRG writes predictor 7, no restarts, and neither a JFIF nor an Adobe marker."""
    return (
        header.predictor == 7 and header.restart_interval == 0 and not header.has_application_marker
    )


def _is_pvrg(top: npt.NDArray[np.int64], bits: int) -> bool:
    """Whether the first row makes a picture by PVRG's rule rather than by the standard's.

    The file gives the same differences either way. A film's first row by PVRG's rule is, by the
    standard's, a ramp of half its distance from 2^(P-1) a sample, which soon leaves P bits or wraps
    round at 65536. A row by the standard's rule, by PVRG's, decays to 2^(P-1) and stays beside it:
    no sample is impossible, but the second row knows better. Where rows change little, the second
    row's differences by predictor 7 are half of the first row's steps. Beside 2^(P-1) itself the
    two rules give nearly the same row, and grain decides.

    Parameters
    ----------
    top : ndarray of int64, shape (1 or 2, columns)
        First rows by the standard's rule.
    bits : int
        P, 2 to 16.
    """
    standard, half = top[0], 1 << (bits - 1)
    differences = _signed16(np.diff(standard))
    pvrg = _first_row_by_pvrg(standard, differences, half)
    fits = [int(row.max()) < 1 << bits for row in (standard, pvrg)]
    if fits[0] != fits[1]:
        return fits[1]
    wraps = [int(np.count_nonzero(np.abs(np.diff(row)) > 32768)) for row in (standard, pvrg)]
    if wraps[0] > max(len(standard) // 64, 4 * wraps[1]):
        return True
    steps = np.diff(pvrg)
    if len(top) == 1:
        return int(np.abs(steps).sum()) < int(np.abs(differences).sum())
    below = _signed16(top[1, 1:] - ((top[1, :-1] + standard[1:]) >> 1))
    by_standard, by_pvrg = (int(np.abs(2 * below - s).sum()) for s in (differences, steps))
    return by_pvrg < by_standard


def _first_row_by_pvrg(
    standard: npt.NDArray[np.int64], differences: npt.NDArray[np.int64], half: int
) -> npt.NDArray[np.int64]:
    row = [int(standard[0])]
    for difference in differences.tolist():
        row.append((((row[-1] + half) >> 1) + difference) & 0xFFFF)
    return np.array(row, np.int64)


def _signed16(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return ((values + 32768) & 0xFFFF) - 32768


# -- the stream ------------------------------------------------------------------------------------


def _unstuffed(
    data: bytes, header: JpegHeader
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Entropy-coded bytes without the zeros after FF, up to the first marker that is no restart.

    Returns
    -------
    stream : ndarray of uint8
        Followed by zeros for one more row of the longest codes, so that a row may run over.
    starts : ndarray of int64, shape (segments + 1,)
        First byte of each restart segment, and the end.
    """
    scan = np.frombuffer(data, np.uint8, offset=header.samples_at)
    after_ff = np.flatnonzero(scan[:-1] == 0xFF) + 1
    kinds = scan[after_ff]
    is_restart = (kinds >= 0xD0) & (kinds <= 0xD7)
    ends = np.flatnonzero((kinds != 0) & ~is_restart)
    n_bytes = int(after_ff[ends[0]]) - 1 if len(ends) else len(scan)
    keep = np.ones(n_bytes, np.bool_)
    inside = after_ff < n_bytes
    zeros, restarts = after_ff[inside & (kinds == 0)], after_ff[inside & is_restart]
    keep[zeros] = keep[restarts] = keep[restarts - 1] = False
    kept = scan[:n_bytes][keep]
    stream = np.zeros(len(kept) + 4 * header.columns + 16, np.uint8)
    stream[: len(kept)] = kept
    dropped = np.searchsorted(zeros, restarts) + 2 * np.arange(1, len(restarts) + 1)
    starts = np.concatenate([[0], restarts + 1 - dropped, [len(kept)]])
    return stream, starts.astype(np.int64)


def _code_table(body: bytes) -> tuple[npt.NDArray[np.uint16], int]:
    """Look-up of codes (T.81 annex C): code length << 8 | category, by the next ``code_bits`` bits.

    Parameters
    ----------
    body : bytes
        How many codes there are of 1 to 16 bits, then their categories.
    """
    counts, categories = list(body[:16]), body[16:]
    if len(counts) < 16 or sum(counts) == 0 or len(categories) < sum(counts):
        raise ValueError("the table of codes is not whole")
    code_bits = max(length for length, count in enumerate(counts, 1) if count)
    table = np.full(1 << code_bits, _BAD_CODE, np.uint16)
    at = first = 0
    for length, count in enumerate(counts, 1):
        for category in categories[at : at + count]:
            span = 1 << (code_bits - length) if length <= code_bits else 0
            if first + span > len(table) or category > _MAX_CATEGORY:
                raise ValueError("the table of codes is not one")
            table[first : first + span] = length << 8 | category
            first += span
        at += count
    return table, code_bits


@cache
def _compiled() -> Callable[..., int]:
    import numba

    try:
        return numba.njit(cache=True, nogil=True)(_decode_rows)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(nogil=True)(_decode_rows)


def _decode_rows(
    stream: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    codes: npt.NDArray[np.uint16],
    code_bits: int,
    out: npt.NDArray[np.uint16],
    bits: int,
    predictor: int,
    rows_a_segment: int,
    pvrg: bool,
) -> int:
    """Fill ``out`` row by row; the number of rows that the stream holds. Compiled by numba."""
    rows, columns = int(out.shape[0]), int(out.shape[1])
    half = np.int64(1) << (bits - 1)
    first = np.uint64(0)
    place = np.uint64(0)  # in bits
    end = np.uint64(0)
    code_shift = np.uint64(64 - code_bits)
    for r in range(rows):
        opens_segment = r % rows_a_segment == 0
        if opens_segment:
            segment = r // rows_a_segment
            if segment + 1 >= len(starts):
                return r
            place = np.uint64(starts[segment]) * np.uint64(8)
            end = np.uint64(starts[segment + 1]) * np.uint64(8)
        left = np.int64(0)
        corner = np.int64(0)
        for c in range(columns):
            i = place >> np.uint64(3)
            window = (
                np.uint64(stream[i]) << np.uint64(56)
                | np.uint64(stream[i + np.uint64(1)]) << np.uint64(48)
                | np.uint64(stream[i + np.uint64(2)]) << np.uint64(40)
                | np.uint64(stream[i + np.uint64(3)]) << np.uint64(32)
                | np.uint64(stream[i + np.uint64(4)]) << np.uint64(24)
            ) << (place & np.uint64(7))
            code = codes[window >> code_shift]
            category = np.uint64(code & 255)
            length = np.uint64(code >> 8)
            if length == first:
                out[r, :] = 0
                return r
            step = np.int64(0)
            if category == np.uint64(16):
                step = np.int64(32768)
                place += length
            else:
                if category > first:
                    extra = (window << length) >> (np.uint64(64) - category)
                    step = np.int64(extra)
                    if extra >> (category - np.uint64(1)) == first:
                        step -= (np.int64(1) << np.int64(category)) - 1
                place += length + category
            if c == 0:
                above = np.int64(out[r - 1, 0]) if r else half
                predicted = half if opens_segment else above
                corner = above
            elif opens_segment:
                predicted = (left + half) >> 1 if pvrg else left
            else:
                above = np.int64(out[r - 1, c])
                if predictor == 7:
                    predicted = (left + above) >> 1
                elif predictor == 1:
                    predicted = left
                elif predictor == 2:
                    predicted = above
                elif predictor == 3:
                    predicted = corner
                elif predictor == 4:
                    predicted = left + above - corner
                elif predictor == 5:
                    predicted = left + ((above - corner) >> 1)
                else:
                    predicted = above + ((left - corner) >> 1)
                corner = above
            left = (predicted + step) & 0xFFFF
            out[r, c] = left
        if place > end:
            out[r, :] = 0
            return r
    return rows
