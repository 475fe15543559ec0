"""Rows of the project's own Zarr arrays on this machine, read without Zarr's machinery.

Zarr sends each chunk of a shard through an event loop and dozens of Python calls, which costs
several times what reading and unpacking does. Arrays as `storage.workspace.ArrayWriter` makes them
need none of it: a file a shard, its index at the end, chunks of whole rows packed by Blosc.
"""

from __future__ import annotations

import math
import os
import struct
import sys
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import blosc
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore

from storage.errors import ShardError

PIECE_BYTES = 4 * 2**20
"""Packed bytes held at a time, or one chunk's."""
ABSENT = 2**64 - 1
"""Offset of a chunk that is not there: it holds the fill value alone."""

_MOST_OVERHEAD = 16
"""Bytes by which a chunk that does not pack is longer than unpacked: Blosc's header."""
_HEADER = struct.Struct("<4B3I")
_CHECKSUM_BYTES = 4

Numbers = npt.NDArray[np.int64]


class ZarrRows:
    """Rows of one array, in slices and by number as Zarr gives them; made by `rows_of`.

    Small, holds no file open, safe in any thread and process.

    Parameters
    ----------
    array : zarr.Array
        Of which `fits` is true.

    Attributes
    ----------
    shape, chunks, shards : tuple of int
    dtype : numpy.dtype
    ndim : int
    """

    def __init__(self, array: Any) -> None:
        store_path = array.store_path
        self._folder = Path(store_path.store.root) / store_path.path
        self._key = array.metadata.encode_chunk_key
        self._fill = array.fill_value
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.chunks: tuple[int, ...] = tuple(array.chunks)
        self.shards: tuple[int, ...] = tuple(array.shards)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype)
        self.ndim = len(self.shape)
        self._chunk_rows = self.chunks[0]
        self._chunk_bytes = math.prod(self.chunks) * self.dtype.itemsize
        self._most_packed = self._chunk_bytes + _MOST_OVERHEAD
        self._chunks_in_shard = self.shards[0] // self._chunk_rows

    @staticmethod
    def fits(array: Any) -> bool:
        """Whether an array lies in local files and is packed as the project's own are."""
        metadata = array.metadata
        if not isinstance(array.store, LocalStore) or not isinstance(metadata, ArrayV3Metadata):
            return False
        if len(metadata.codecs) != 1 or not isinstance(metadata.codecs[0], ShardingCodec):
            return False
        sharding = metadata.codecs[0]
        kind = np.dtype(array.dtype)
        return (
            kind.kind in "iuf"
            and kind.isnative
            and (kind.itemsize == 1 or sys.byteorder == "little")
            and [type(codec) for codec in sharding.codecs] == [BytesCodec, BloscCodec]
            and [type(codec) for codec in sharding.index_codecs] == [BytesCodec, Crc32cCodec]
            and _little(sharding.codecs[0])
            and _little(sharding.index_codecs[0])
            and sharding.index_location.value == "end"
            and tuple(array.chunks[1:]) == tuple(array.shards[1:]) == tuple(array.shape[1:])
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> npt.NDArray[Any]:
        """Read a run of rows; see `read`."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise IndexError(f"{rows!r}: only runs of rows are read, as [3:8]; others by oindex.")
        first, stop, _ = rows.indices(len(self))
        return self.read(np.arange(first, stop))

    @property
    def oindex(self) -> _ByNumber:
        """Rows by their numbers, rising, each once: ``array.oindex[numbers]``."""
        return _ByNumber(self)

    def read(self, rows: Numbers) -> npt.NDArray[Any]:
        """Read some rows, each chunk that holds one of them once.

        Parameters
        ----------
        rows : ndarray of int64, shape (n,)
            Rising, each once.

        Returns
        -------
        ndarray, shape (n, *shape[1:])

        Raises
        ------
        ShardError
            A shard's file is cut off or altered. (One that is missing holds the fill value alone,
            as Zarr writes none then: that all files are there is `Shard.check`'s to say.)
        IndexError
            A row that the array has not.
        """
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if not len(rows):
            return out
        if rows[0] < 0 or rows[-1] >= self.shape[0] or np.any(np.diff(rows) <= 0):
            raise IndexError(f"rows of an array of {self.shape[0]}: rising, each once.")
        chunks = rows // self._chunk_rows
        firsts = np.flatnonzero(np.r_[True, np.diff(chunks) != 0])
        wanted = chunks[firsts]
        shards = wanted // self._chunks_in_shard
        bounds = np.r_[firsts, len(rows)]
        for shard in np.unique(shards).tolist():
            a, b = np.searchsorted(shards, [shard, shard + 1])
            self._read_shard(shard, wanted[a:b], bounds[a : b + 1], rows, out)
        return out

    def _read_shard(
        self, shard: int, chunks: Numbers, bounds: Numbers, rows: Numbers, out: npt.NDArray[Any]
    ) -> None:
        """Put the rows of a shard's chunks into ``out``, those of chunk i at ``bounds[i]``."""
        path = self._folder / self._key((shard, *[0] * (self.ndim - 1)))
        if not path.exists():  # all its rows are the fill value
            out[bounds[0] : bounds[-1]] = self._fill
            return
        spare: npt.NDArray[Any] | None = None
        with path.open("rb", buffering=0) as file:
            found = self._index(file, path)[chunks - shard * self._chunks_in_shard].tolist()
            for first, stop in _pieces(found):
                if any(n > self._most_packed for o, n in found[first:stop] if o != ABSENT):
                    raise _altered(path, "a chunk is not of the size that it should have")
                start, end = found[first][0], sum(found[stop - 1])
                packed = None if start == ABSENT else _read(file, path, start, end - start)
                for at in range(first, stop):
                    wanted = out[bounds[at] : bounds[at + 1]]
                    if packed is None:
                        wanted[...] = self._fill
                        continue
                    offset, length = found[at]
                    chunk = packed[offset - start : offset - start + length]
                    if len(wanted) == self._chunk_rows:
                        self._unpack(chunk, wanted, path)
                        continue
                    if spare is None:
                        spare = np.empty(self.chunks, self.dtype)
                    self._unpack(chunk, spare, path)
                    numbers = rows[bounds[at] : bounds[at + 1]]
                    wanted[...] = spare[numbers - int(chunks[at]) * self._chunk_rows]

    def _index(self, file: FileIO, path: Path) -> npt.NDArray[np.uint64]:
        """Where each chunk of a shard lies and how long it is, uint64 (n, 2)."""
        size = 16 * self._chunks_in_shard
        end = os.fstat(file.fileno()).st_size
        if end < size + _CHECKSUM_BYTES:
            raise _altered(path, "it is cut off")
        packed = _read(file, path, end - size - _CHECKSUM_BYTES, size + _CHECKSUM_BYTES)
        known = int.from_bytes(packed[size:].tobytes(), "little")
        if google_crc32c.value(packed[:size].tobytes()) != known:
            raise _altered(path, "its index is damaged")
        return packed[:size].view("<u8").reshape(-1, 2)

    def _unpack(self, packed: npt.NDArray[np.uint8], out: npt.NDArray[Any], path: Path) -> None:
        """Unpack a chunk where its header claims what a chunk has."""
        if len(packed) < _HEADER.size:
            raise _altered(path, "a chunk is cut off")
        *_, unpacked_bytes, _, packed_bytes = _HEADER.unpack(packed[: _HEADER.size].tobytes())
        if unpacked_bytes != self._chunk_bytes or packed_bytes != len(packed):
            raise _altered(path, "a chunk is not of the size that it should have")
        try:
            blosc.decompress(packed, out)
        except (RuntimeError, ValueError) as error:
            raise _altered(path, "a chunk cannot be unpacked") from error


class _ByNumber:
    def __init__(self, rows: ZarrRows) -> None:
        self._rows = rows

    def __getitem__(self, numbers: Numbers) -> npt.NDArray[Any]:
        return self._rows.read(numbers)


def rows_of(array: Any) -> Any:
    """A reader of an array's rows: `ZarrRows`, or the array itself where that does not fit."""
    return ZarrRows(array) if ZarrRows.fits(array) else array


def _little(codec: Any) -> bool:
    """Whether numbers start with their low byte; numbers of one byte have no order."""
    return codec.endian is None or bool(codec.endian.value == "little")


def _pieces(found: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Runs of chunks, given as offset and length, that lie side by side: first and stop."""
    first = 0
    while first < len(found):
        start, length = found[first]
        end, stop = start + length, first + 1
        while start != ABSENT and stop < len(found):
            offset, length = found[stop]
            if offset != end or end + length - start > PIECE_BYTES:
                break
            end, stop = end + length, stop + 1
        yield first, stop
        first = stop


def _read(file: FileIO, path: Path, offset: int, length: int) -> npt.NDArray[np.uint8]:
    if offset + length > os.fstat(file.fileno()).st_size:  # before memory is taken for it
        raise _altered(path, "it is cut off")
    out = np.empty(length, np.uint8)
    file.seek(offset)
    done = 0
    while done < length:
        count = file.readinto(out[done:].data)
        if not count:
            raise _altered(path, "it is cut off")
        done += count
    return out


def _altered(path: Path, what: str) -> ShardError:
    return ShardError(f"{path}: {what}. It was altered; remove its shard and run again.")
