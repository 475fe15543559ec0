"""Planes of bits: a film's map with 64 blocks a word, and morphology on it. Imported late: numba.

A morphological step on the map of a film costs some ten microseconds this way. The results are
those of OpenCV's dilation, opening and connected components, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

FloatPlane = npt.NDArray[np.float32]
BoolPlane = npt.NDArray[np.bool_]
BitPlane = npt.NDArray[np.uint64]
"""Bit k of word (i, row) is the block in column 64 i + k of that row; (ceil(columns / 64), rows).
Bits beyond the last column are 0."""

_ONE, _63 = np.uint64(1), np.uint64(63)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a pass: cached on disk, without the GIL."""
    compiled_function: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    return compiled_function


@dataclass(frozen=True)
class Pieces:
    """Connected pieces of a plane: blocks that touch by their sides."""

    runs: npt.NDArray[np.int32]
    """Row, first column, column after the last, and piece of every run; in order of rows."""
    boxes: npt.NDArray[np.int32]
    """Left, top, right, bottom (the latter two exclusive) of every piece; (n_pieces, 4)."""
    areas: npt.NDArray[np.int64]
    """Of every piece, in blocks."""


def words_of(plane: npt.NDArray[np.uint8]) -> BitPlane:
    """Bits of a plane, set where it is not 0; its rows are a multiple of 64 long."""
    packed = np.packbits(plane.reshape(-1), bitorder="little").view(np.uint64)
    return np.ascontiguousarray(packed.reshape(len(plane), -1).T)


def bits_of(plane: BoolPlane) -> BitPlane:
    """Pack a plane of booleans."""
    rows, columns = plane.shape
    padded = np.zeros((rows, -(-columns // 64) * 64), np.uint8)
    padded[:, :columns] = plane
    return words_of(padded)


def plane_of(bits: BitPlane, columns: int) -> npt.NDArray[np.uint8]:
    """Unpack a plane: 0 and 1, (rows, columns)."""
    rows = bits.shape[1]
    packed = np.ascontiguousarray(bits.T).view(np.uint8).reshape(-1)
    return np.unpackbits(packed, bitorder="little").reshape(rows, -1)[:, :columns]


@compiled
def _clear_beyond(bits, columns):  # type: ignore[no-untyped-def]
    if columns % 64:
        kept = (_ONE << np.uint64(columns % 64)) - _ONE
        bits[-1] &= kept


@compiled
def _sideways(bits, out):  # type: ignore[no-untyped-def]
    words, rows = bits.shape
    for i in range(words):
        here, there = bits[i], out[i]
        for row in range(rows):
            there[row] = here[row] | (here[row] << _ONE) | (here[row] >> _ONE)
        if i > 0:
            left = bits[i - 1]
            for row in range(rows):
                there[row] |= left[row] >> _63
        if i + 1 < words:
            right = bits[i + 1]
            for row in range(rows):
                there[row] |= right[row] << _63


@compiled
def _widened(bits, columns, radius, square):  # type: ignore[no-untyped-def]
    words, rows = bits.shape
    wide, spare = bits.copy(), np.empty_like(bits)
    out = np.zeros_like(bits)
    reached = 0
    for step in range(radius, -1, -1):
        half = radius if square else int(np.rint(np.sqrt(radius * radius - step * step)))
        while reached < half:
            _sideways(wide, spare)
            wide, spare = spare, wide
            reached += 1
        for i in range(words):
            upper, lower = out[i, : max(rows - step, 0)], out[i, step:]
            source_low, source_up = wide[i, step:], wide[i, : max(rows - step, 0)]
            for row in range(len(upper)):
                upper[row] |= source_low[row]
            for row in range(len(lower)):
                lower[row] |= source_up[row]
    _clear_beyond(out, columns)
    return out


@compiled
def _opened(bits, columns, radius, square):  # type: ignore[no-untyped-def]
    outside = ~bits
    _clear_beyond(outside, columns)
    eroded = ~_widened(outside, columns, radius, square)
    _clear_beyond(eroded, columns)
    return _widened(eroded, columns, radius, square)


def inverted(bits: BitPlane, columns: int) -> BitPlane:
    """Plane of the bits that are not set."""
    out = ~bits
    _clear_beyond(out, columns)
    return out


def widened(bits: BitPlane, columns: int, radius: int) -> BitPlane:
    """Dilate by a disk, that of OpenCV's ``MORPH_ELLIPSE`` of side 2 radius + 1."""
    out: BitPlane = _widened(bits, columns, radius, False)
    return out


def opened(bits: BitPlane, columns: int, radius: int, *, square: bool = False) -> BitPlane:
    """Erode and dilate by a disk or a square; what lies outside the plane counts as set."""
    out: BitPlane = _opened(bits, columns, radius, square)
    return out


@compiled
def _without_specks(bits):  # type: ignore[no-untyped-def]
    words, rows = bits.shape
    padded = np.zeros((words + 2, rows + 2), np.uint64)
    padded[1:-1, 1:-1] = bits
    left, right = np.empty(rows + 2, np.uint64), np.empty(rows + 2, np.uint64)
    once, twice = np.empty(rows, np.uint64), np.empty(rows, np.uint64)
    out = np.empty_like(bits)
    for i in range(words):
        here = padded[i + 1]
        before, after = padded[i], padded[i + 2]
        for row in range(rows + 2):
            left[row] = (here[row] << _ONE) | (before[row] >> _63)
            right[row] = (here[row] >> _ONE) | (after[row] << _63)
        once[:] = np.uint64(0)
        twice[:] = np.uint64(0)
        for shift in range(3):
            for plane in (left, right, here):
                near = plane[shift : shift + rows]
                for row in range(rows):
                    if shift != 1 or plane is not here:
                        twice[row] |= once[row] & near[row]
                        once[row] |= near[row]
        for row in range(rows):
            out[i, row] = here[row + 1] & twice[row]
    return out


def without_specks(bits: BitPlane) -> BitPlane:
    """Keep blocks that have at least two others among their eight neighbours."""
    out: BitPlane = _without_specks(bits)
    return out


@compiled
def _ones(word):  # type: ignore[no-untyped-def]
    word = word - ((word >> _ONE) & np.uint64(0x5555555555555555))
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def _count_in_columns(bits, first, end):  # type: ignore[no-untyped-def]
    counts = np.zeros(bits.shape[1], np.int64)
    for i in range(first // 64, (end + 63) // 64):
        kept = ~np.uint64(0)
        if i * 64 < first:
            kept &= ~np.uint64(0) << np.uint64(first - i * 64)
        if end < i * 64 + 64:
            kept &= (_ONE << np.uint64(end - i * 64)) - _ONE
        line = bits[i]
        for row in range(len(counts)):
            counts[row] += np.int64(_ones(line[row] & kept))
    return counts


def count_in_columns(bits: BitPlane, first: int, end: int) -> npt.NDArray[np.int64]:
    """Number of bits set in every row from one column up to another, (rows,)."""
    counts: npt.NDArray[np.int64] = _count_in_columns(bits, first, end)
    return counts


@compiled
def _runs(bits, columns):  # type: ignore[no-untyped-def]
    words, rows = bits.shape
    total = np.int64(0)
    for i in range(words):
        line = bits[i]
        for row in range(rows):
            before = bits[i - 1, row] >> _63 if i > 0 else np.uint64(0)
            total += np.int64(_ones(line[row] & ~((line[row] << _ONE) | before)))
    runs = np.empty((total, 4), np.int32)
    n = 0
    for row in range(rows):
        inside = np.uint64(0)
        for i in range(words):
            word = bits[i, row]
            changes = word ^ ((word << _ONE) | inside)
            while changes:
                lowest = changes & (~changes + _ONE)
                column = i * 64 + np.int64(_ones(lowest - _ONE))
                changes ^= lowest
                if inside:
                    runs[n, 2] = column
                    n += 1
                else:
                    runs[n, 0], runs[n, 1] = row, column
                inside ^= _ONE
        if inside:
            runs[n, 2] = columns
            n += 1
    return runs


@compiled
def _root(parents, run):  # type: ignore[no-untyped-def]
    while parents[run] != run:
        parents[run] = parents[parents[run]]
        run = parents[run]
    return run


@compiled
def _join(runs):  # type: ignore[no-untyped-def]
    """Write the number of its piece into every run; returns how many there are."""
    parents = np.arange(len(runs))
    above = 0
    for run in range(len(runs)):
        row, first, end = runs[run, 0], runs[run, 1], runs[run, 2]
        while above < run and (
            runs[above, 0] < row - 1 or (runs[above, 0] == row - 1 and runs[above, 2] <= first)
        ):
            above += 1
        other = above
        while other < run and runs[other, 0] == row - 1 and runs[other, 1] < end:
            one, two = _root(parents, run), _root(parents, other)
            parents[max(one, two)] = min(one, two)
            other += 1
    n = 0
    for run in range(len(runs)):
        root = _root(parents, run)
        if root == run:
            runs[run, 3] = n
            n += 1
        else:
            runs[run, 3] = runs[root, 3]
    return n


@compiled
def _pieces(bits, columns):  # type: ignore[no-untyped-def]
    runs = _runs(bits, columns)
    n = _join(runs)
    boxes, areas = np.empty((n, 4), np.int32), np.zeros(n, np.int64)
    for run in range(len(runs)):
        row, first, end, piece = runs[run]
        box = boxes[piece]
        if areas[piece] == 0:  # its first run, which is its top
            box[0], box[1], box[2] = first, row, end
        box[0], box[2], box[3] = min(box[0], first), max(box[2], end), row + 1
        areas[piece] += end - first
    return runs, boxes, areas


def pieces_of(bits: BitPlane, columns: int) -> Pieces:
    """Tell the connected pieces of a plane apart (by their sides: four neighbours)."""
    return Pieces(*_pieces(bits, columns))


@compiled
def _paint(run, out):  # type: ignore[no-untyped-def]
    row, first, end = run[0], run[1], run[2]
    for i in range(first // 64, (end + 63) // 64):
        word = ~np.uint64(0)
        if i * 64 < first:
            word &= ~np.uint64(0) << np.uint64(first - i * 64)
        if end < i * 64 + 64:
            word &= (_ONE << np.uint64(end - i * 64)) - _ONE
        out[i, row] |= word


@compiled
def _painted(runs, chosen, like):  # type: ignore[no-untyped-def]
    out = np.zeros_like(like)
    for run in range(len(runs)):
        if chosen[runs[run, 3]]:
            _paint(runs[run], out)
    return out


@compiled
def _painted_piece(runs, piece, like):  # type: ignore[no-untyped-def]
    out = np.zeros_like(like)
    for run in range(len(runs)):
        if runs[run, 3] == piece:
            _paint(runs[run], out)
    return out


def painted(pieces: Pieces, chosen: BoolPlane | int, like: BitPlane) -> BitPlane:
    """Plane of some pieces.

    Parameters
    ----------
    pieces : Pieces
    chosen : bool, (n_pieces,), or int
        Which of them; a number for one alone.
    like : plane of bits
        Any of the shape wanted.
    """
    one = isinstance(chosen, int)
    out: BitPlane = (_painted_piece if one else _painted)(pieces.runs, chosen, like)
    return out


@compiled
def _values_at(bits, plane):  # type: ignore[no-untyped-def]
    words, rows = bits.shape
    total = np.int64(0)
    for i in range(words):
        line = bits[i]
        for row in range(rows):
            total += np.int64(_ones(line[row]))
    values = np.empty(total, plane.dtype)
    n = 0
    for i in range(words):
        for row in range(rows):
            word = bits[i, row]
            while word:
                lowest = word & (~word + _ONE)
                values[n] = plane[row, i * 64 + np.int64(_ones(lowest - _ONE))]
                word ^= lowest
                n += 1
    return values


def values_at(bits: BitPlane, plane: FloatPlane) -> FloatPlane:
    """Values of a plane at the bits that are set, in no particular order; (n,)."""
    values: FloatPlane = _values_at(bits, plane)
    return values


@compiled
def _sums(runs, plane, limit, step, sums):  # type: ignore[no-untyped-def]
    for run in range(len(runs)):
        row, first, end, piece = runs[run]
        if row % step:
            continue
        line = plane[row]
        total = np.float32(0)
        for column in range(first + (-first) % step, end, step):
            if line[column] < limit:
                total += line[column]
        sums[piece] += total


def sums_in(
    pieces: Pieces, plane: FloatPlane, *, limit: float = np.inf, step: int = 1
) -> npt.NDArray[np.float64]:
    """Sum of a plane in every piece, of what is less than a limit.

    Only every `step`-th column of every `step`-th row counts.
    """
    sums = np.zeros(len(pieces.areas))
    _sums(pieces.runs, plane, np.float32(limit), step, sums)
    return sums
