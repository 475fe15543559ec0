"""Candidate pairs by matrix products in bfloat16, many times as fast where the hardware has them.

A product of two rows is half their squared distance less half the limit, as in `products`, and less
what rounding to 8 bits can do at most: that is part of the product itself. With ``x'`` for ``x``
rounded, ``x y <= x'y' + |x - x'| |y| + |x'| |y - y'|``, so

    [-x', g, 1, -|x - x'|, -|x'|]  times  [y', 1, h, |y|, |y - y'|]

with ``g`` half of ``|x|^2`` less half the limit, ``h`` half of ``|y|^2``, each as a sum of three
numbers in bfloat16, is a lower bound. Sums are formed in float32 and rounded to bfloat16 at the
end, which keeps their sign: a result that is not negative proves its pair to lie beyond the limit.
Where rows are not, and what is far away and what is near is left to float64.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.pairs.products import HUGE, STRIP, TINY, UNIT, compiled
from models.pairs.projection import CUT, FAR, Rows

if TYPE_CHECKING:
    import torch

EXTRA = 8  # columns beside those of the rows
MULTIPLE = 32  # what the hardware multiplies at once
CHUNK_VALUES = 1 << 19
ABOVE = 1.0 + 2.0**-7  # rounded after this, a number is not below itself
PAIRS, PAIRS_TO_IMPORT = 2**22, 2**29
SOUND_ROWS = 96
COLUMNS = 24  # of fewer, float32 products are as cheap
SIGN = np.int16(-(2**15))
ONE, BEYOND = np.int16(0x3F80), np.int16(0x7149)  # 1 and 1e30
SIGNS = np.int64(np.uint64(0x8000800080008000).astype(np.int64))  # of four numbers


class BriefRows(NamedTuple):
    """Rows as the right factor of products, by position; see `load_left` for the other.

    Parameters
    ----------
    values : ndarray of int16, shape (n rounded up to a multiple of STRIP, width)
        Bits of bfloat16; what is added at the end lies beyond every limit.
    squares : ndarray of float32, shape (n,)
        Squared lengths, in units.
    lengths, rests : ndarray of float32, shape (n,)
        At least the lengths of a row and of its rounded values, and of the difference of the two.
    columns : int
        Of the rows.
    centre : ndarray of float64, shape (columns,)
        What the rows are relative to.
    """

    values: NDArray[np.int16]
    squares: NDArray[np.float32]
    lengths: NDArray[np.float32]
    rests: NDArray[np.float32]
    columns: int
    centre: NDArray[np.float64]

    @classmethod
    def of(
        cls, rows: Rows, order: NDArray[np.int64], centre: NDArray[np.float64], scale: float
    ) -> BriefRows:
        """Centre, scale and round rows.

        Parameters
        ----------
        rows : ndarray, shape (n, columns)
        order : ndarray of int64, shape (n,)
            Row number at each position.
        centre : ndarray of float64, shape (columns,)
            The same one for both factors.
        scale : float
            Units per length.
        """
        n, columns = rows.shape
        width = -(-(columns + EXTRA) // MULTIPLE) * MULTIPLE
        padded = -(-n // STRIP) * STRIP
        made = cls(
            values=np.zeros((padded, width), dtype=np.int16),
            squares=np.empty(n, dtype=np.float32),
            lengths=np.empty(n, dtype=np.float32),
            rests=np.empty(n, dtype=np.float32),
            columns=columns,
            centre=centre,
        )
        made.values[n:, columns + 3] = BEYOND
        error = margin(columns)
        step = max(1, CHUNK_VALUES // columns)
        for start in range(0, n, step):
            part = slice(start, min(start + step, n))
            x = (rows[order[part]] - centre) * scale
            np.clip(x, -FAR, FAR, out=x)
            bits, rounded = _rounded(x.astype(np.float32))
            squares = np.einsum("ij,ij->i", x, x)
            x -= rounded
            rests = np.sqrt(np.einsum("ij,ij->i", x, x))
            values = made.values[part]
            values[:, :columns] = bits
            values[:, columns : columns + 3] = ONE
            values[:, columns + 3 : columns + 6] = _in_three(0.5 * squares * (1.0 - error))
            made.squares[part] = squares
            made.rests[part] = rests * (1.0 + 1e-6)
            made.lengths[part] = (np.sqrt(squares) + rests) * (1.0 + 1e-6)
            values[:, columns + 6] = _rounded(made.lengths[part] * np.float32(ABOVE))[0]
            values[:, columns + 7] = _rounded(made.rests[part] * np.float32(ABOVE))[0]
        return made


def centre_of(rows: Rows) -> NDArray[np.float64]:
    """Mean of rows, shape (columns,)."""
    step = max(1, CHUNK_VALUES // rows.shape[1])
    total = np.zeros(rows.shape[1])
    for start in range(0, len(rows), step):
        total += rows[start : start + step].sum(axis=0, dtype=np.float64)
    return total / max(1, len(rows))


@compiled
def margin(columns):  # type: ignore[no-untyped-def]
    """Bound of what float32 does to the sum, relative to ``|x|^2 + |y|^2`` and the limit."""
    return (3 * (columns + 8) + 10) * UNIT


@compiled
def load_left(brief, members, left):  # type: ignore[no-untyped-def]
    """Write the rows at some positions as left factors, without a limit; see `limit_left`."""
    columns = brief.columns
    for i in range(len(members)):
        row = brief.values[members[i]]
        for k in range(columns):
            left[i, k] = row[k] ^ SIGN
        for k in range(3):
            left[i, columns + k] = row[columns + 3 + k]
            left[i, columns + 3 + k] = ONE
        left[i, columns + 6] = row[columns + 7] ^ SIGN
        left[i, columns + 7] = row[columns + 6] ^ SIGN


@compiled
def limit_left(brief, members, limits, left):  # type: ignore[no-untyped-def]
    """Give each left factor its squared limit, in units; one below 0 lets nothing pass."""
    columns = brief.columns
    error = margin(columns)
    value = np.empty(1, dtype=np.float32)
    bits = value.view(np.uint32)
    for i in range(len(members)):
        limit = min(max(limits[i], TINY), HUGE) * (1.0 + error) if limits[i] >= 0 else -HUGE
        rest = 0.5 * (np.float64(brief.squares[members[i]]) * (1.0 - error) - limit)
        for k in range(3):
            value[0] = np.float32(rest)
            rounded = (bits[0] + np.uint32(0x7FFF) + ((bits[0] >> 16) & 1)) >> 16
            left[i, columns + k] = np.int16(np.uint16(rounded))
            bits[0] = rounded << 16
            rest -= np.float64(value[0])


@compiled
def most_above(brief_a, p, brief_b, q, limit, columns):  # type: ignore[no-untyped-def]
    """How far half the squared distance less half the limit can be above a product, at most."""
    if limit < TINY or max(brief_a.squares[p], brief_b.squares[q]) >= CUT:
        return np.inf
    rounding = np.float64(brief_a.rests[p]) * brief_b.lengths[q]
    rounding += np.float64(brief_a.lengths[p]) * brief_b.rests[q]
    sizes = np.float64(brief_a.squares[p]) + brief_b.squares[q] + limit
    return 2.1 * rounding + 2.0 * margin(columns) * sizes


def multiply(left: NDArray[np.int16], right: NDArray[np.int16], out: NDArray[np.int16]) -> None:
    """Multiply left factors, (m, width), with right ones, (n, width): bits of bfloat16, (m, n)."""
    import torch

    torch.mm(_tensor(left), _tensor(right).T, out=_tensor(out))


def on_device(bits: NDArray[np.int16], device: torch.device) -> torch.Tensor:
    """Factors on a device."""
    return _tensor(bits).to(device)


@contextmanager
def full_sums() -> Iterator[None]:
    """Let a GPU form sums in float32 alone."""
    import torch

    of_cuda = torch.backends.cuda.matmul
    before = of_cuda.allow_bf16_reduced_precision_reduction
    of_cuda.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        of_cuda.allow_bf16_reduced_precision_reduction = before


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep products in bfloat16 to the thread that asks for them; each calls `hold_thread`."""
    from models.devices import threads

    with threads(1):
        yield


def hold_thread() -> None:
    """Let products of this thread take no others: a new one starts with the library's default."""
    import torch

    torch.set_num_threads(1)


def pays(n_pairs: int, columns: int) -> bool:
    """Whether there are enough pairs to round their rows, and to import torch if that is to be."""
    least = PAIRS if "torch" in sys.modules else PAIRS_TO_IMPORT
    return columns >= COLUMNS and n_pairs >= least and available()


def gpu() -> torch.device | None:
    """GPU that multiplies bfloat16, where there is one."""
    from models.devices import autocast_dtype, default_device

    device = default_device()
    has = device.type == "cuda" and autocast_dtype("auto", device) is not None
    return device if has else None


@cache
def available() -> bool:
    """Whether this machine multiplies bfloat16 in hardware, and soundly."""
    import torch

    if (device := gpu()) is not None:
        return _is_sound(device)
    has = torch.cpu.get_capabilities()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16")) and _is_sound()


def _is_sound(device: torch.device | None = None) -> bool:
    """Whether products of made-up rows are between the bounds that the search relies on."""
    rng = np.random.default_rng(0)
    order = np.arange(SOUND_ROWS)
    for columns in (3, 150, 1024):
        rows = rng.standard_normal((SOUND_ROWS, columns)) * np.exp(
            rng.standard_normal((SOUND_ROWS, 1))
        )
        rows[48:] = rows[:48] + 1e-3 * rng.standard_normal((48, columns))
        rows[::3] = np.abs(rows[::3])  # sums that only grow
        brief = BriefRows.of(rows, order, np.zeros(columns), 1.0)
        left = np.zeros_like(brief.values[:SOUND_ROWS])
        load_left(brief, order, left)
        limit_left(brief, order, np.ones(SOUND_ROWS), left)
        if device is None:
            out = np.empty((SOUND_ROWS, len(brief.values)), dtype=np.int16)
            multiply(left, brief.values, out)
            products = (out.astype(np.int32) << 16).view(np.float32).astype(np.float64)
        else:
            with full_sums():
                made = on_device(left, device) @ on_device(brief.values, device).T
                products = made.double().cpu().numpy()
        products = products[:, :SOUND_ROWS]
        squares = np.square(rows).sum(axis=1)
        true = (squares[:, None] + squares - 2 * rows @ rows.T - 1.0) / 2
        most = np.array(
            [[most_above(brief, p, brief, q, 1.0, columns) for q in order] for p in order]
        )
        rounding = 2.0**-8 * np.abs(products) + 1e-9 * squares.max()
        if np.any(products - rounding > true) or np.any(products + rounding + most < true):
            return False
    return True


def _rounded(values: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Values in bfloat16, as bits and as float32."""
    import torch

    brief = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
    bits: NDArray[np.int16] = brief.view(torch.int16).numpy()
    rounded: NDArray[np.float32] = brief.float().numpy()
    return bits, rounded


def _in_three(values: NDArray[np.float64]) -> NDArray[np.int16]:
    """Bits of three numbers in bfloat16 whose sum is the value to 24 bits, shape (n, 3)."""
    bits = np.empty((len(values), 3), dtype=np.int16)
    for k in range(3):
        bits[:, k], rounded = _rounded(values.astype(np.float32))
        values = values - rounded
    return bits


def _tensor(bits: NDArray[np.int16]) -> torch.Tensor:
    import torch

    made: Any = torch.from_numpy(bits)
    tensor: torch.Tensor = made.view(torch.bfloat16)
    return tensor
