"""Embeddings from anywhere: .npy, Zarr, Parquet, or a workspace; read by parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from storage.errors import InputError

COLUMN = "embedding"
ID_COLUMN = "tile_id"
BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Embeddings:
    """Rows to be sliced, and what they are called.

    Parameters
    ----------
    rows : ndarray, memory map or zarr.Array, shape (n, dim)
        Float32 or float64.
    ids : pyarrow.Array of string, or None
        ``tile_id`` of each row; null where only other files of the source have it.
    """

    rows: Any
    ids: pa.Array | None = None


@contextmanager
def open_embeddings(path: str) -> Iterator[Embeddings]:
    """Open embeddings; none are held in memory but parts.

    Parquet and the shards of a workspace are written to a temporary memory map first.

    Parameters
    ----------
    path : str
        A .npy file; a Zarr array, or a group with the array ``embeddings``; a Parquet file or a
        folder of them with the column ``embedding``; or a workspace of mammosift.

    Raises
    ------
    InputError
        There is nothing there, or it does not hold rows of floats.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"{path} does not exist; give --embeddings a .npy, Zarr or Parquet.")
    with ExitStack() as held:
        if place.suffix == ".npy":
            yield Embeddings(_checked(_open_npy(place), path))
        elif (place / "zarr.json").exists() or (place / ".zarray").exists():
            yield Embeddings(_checked(_open_zarr(place), path))
        elif place.is_dir() and (place / "embeddings").is_dir():
            folder = held.enter_context(TemporaryDirectory(prefix="mammosift-"))
            yield _join(_workspace_parts(place / "embeddings"), path, Path(folder))
        elif place.suffix == ".parquet" or place.is_dir():
            files = [place] if place.is_file() else sorted(place.rglob("*.parquet"))
            folder = held.enter_context(TemporaryDirectory(prefix="mammosift-"))
            yield _join(_parquet_parts(files, path), path, Path(folder))
        else:
            raise InputError(
                f"{path} is none of .npy, Zarr, Parquet and workspace; save the rows with "
                "numpy.save, as float32 of shape (n, dim)."
            )


def _open_npy(place: Path) -> NDArray[Any]:
    try:
        rows: NDArray[Any] = np.load(place, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as e:
        raise InputError(
            f"{place} cannot be read as .npy ({e}); save the rows with numpy.save."
        ) from e
    return rows


def _open_zarr(place: Path) -> Any:
    try:
        found = zarr.open(str(place), mode="r")
    except (ValueError, OSError, KeyError) as e:
        raise InputError(f"{place} cannot be read as Zarr ({e}).") from e
    if isinstance(found, zarr.Group):
        if "embeddings" not in found:
            raise InputError(f"{place} is a Zarr group without the array embeddings; name the one.")
        found = found["embeddings"]
    return found


def _checked(rows: Any, path: str) -> Any:
    if len(rows.shape) != 2 or rows.shape[1] == 0:
        raise InputError(f"{path} has shape {rows.shape}; embeddings have shape (n, dim).")
    if rows.dtype not in (np.float32, np.float64):
        raise InputError(f"{path} holds {rows.dtype}; embeddings are float32 or float64.")
    return rows


@dataclass(frozen=True)
class _Part:
    """One file of several: what its rows are, and how to read them.

    Parameters
    ----------
    dtype : dtype
        Float32 or float64.
    read : callable
        Gives values, shape (n, dim), and their ids where there are any, batch by batch.
    """

    dtype: np.dtype[Any]
    read: Callable[[], Iterator[tuple[NDArray[Any], pa.Array | None]]]


def _parquet_parts(files: list[Path], path: str) -> Iterator[_Part]:
    if not files:
        raise InputError(f"{path} holds no Parquet file.")
    for file in files:
        with _readable(file):
            schema = pq.read_schema(file)
        if COLUMN not in schema.names:
            raise InputError(
                f"{file} has no column {COLUMN!r}, but {', '.join(schema.names)}; rename the one "
                "that holds the lists of floats."
            )
        kind = schema.field(COLUMN).type
        if not (_is_list(kind) and pa.types.is_floating(kind.value_type)):
            raise InputError(
                f"{file}: column {COLUMN!r} is {kind}; it must hold a list of floats in each row."
            )
        dtype = np.dtype(np.float64 if kind.value_type == pa.float64() else np.float32)
        yield _Part(dtype, partial(_parquet_batches, file, ID_COLUMN in schema.names))


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind))


def _parquet_batches(file: Path, named: bool) -> Iterator[tuple[NDArray[Any], pa.Array | None]]:
    columns = [COLUMN, ID_COLUMN] if named else [COLUMN]
    with _readable(file), pq.ParquetFile(file) as table:
        for batch in table.iter_batches(BATCH_ROWS, columns=columns):
            if len(batch):
                ids = _text(batch[ID_COLUMN], file) if named else None
                yield _values(batch[COLUMN], file), ids


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Say which file is broken."""
    try:
        yield
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{file} cannot be read as Parquet ({e}); write it again.") from e


def _text(ids: pa.Array, file: Path) -> pa.Array:
    try:
        return ids.cast(pa.string())
    except pa.ArrowException as e:
        raise InputError(f"{file}: column {ID_COLUMN!r} is {ids.type}; it must hold text.") from e


def _values(column: pa.Array, file: Path) -> NDArray[Any]:
    if column.null_count:
        raise InputError(
            f"{file}: column {COLUMN!r} has {column.null_count} nulls; it must hold a list of "
            "floats in each row."
        )
    flat = column.flatten().to_numpy(zero_copy_only=False)
    fixed = pa.types.is_fixed_size_list(column.type)
    lengths = np.empty(0) if fixed else np.asarray(column.value_lengths())
    if len(np.unique(lengths)) > 1:
        raise InputError(f"{file}: lists of column {COLUMN!r} are not all of the same length.")
    if len(flat) == 0:
        raise InputError(f"{file}: lists of column {COLUMN!r} are empty.")
    values: NDArray[Any] = flat.reshape(len(column), -1)
    return values


def _workspace_parts(folder: Path) -> Iterator[_Part]:
    shards = sorted(s for s in folder.iterdir() if (s / "embeddings.zarr").is_dir())
    if not shards:
        raise InputError(f"{folder} holds no shard of embeddings; run mammosift run first.")
    for shard in shards:
        rows = _checked(_open_zarr(shard / "embeddings.zarr"), str(shard))
        yield _Part(rows.dtype, partial(_shard_batches, shard, rows))


def _shard_batches(shard: Path, rows: Any) -> Iterator[tuple[NDArray[Any], pa.Array | None]]:
    with _readable(shard / "embeddings.parquet"):
        ids = pq.read_table(shard / "embeddings.parquet", columns=[ID_COLUMN])[ID_COLUMN]
    if len(ids) != rows.shape[0]:
        raise InputError(
            f"{shard} holds {rows.shape[0]} embeddings and {len(ids)} tile_ids; remove the shard "
            "and run mammosift run again."
        )
    for start in range(0, rows.shape[0], BATCH_ROWS):
        batch = slice(start, start + BATCH_ROWS)
        yield np.asarray(rows[batch]), _text(ids[batch].combine_chunks(), shard)


def _join(parts: Iterator[_Part], path: str, folder: Path) -> Embeddings:
    """Append the parts to one file of plain values, and map it; float64 where any part is."""
    known = list(parts)  # all are looked at before the first is copied
    dtype = np.result_type(*(part.dtype for part in known))
    file = folder / "rows"
    n, dim, ids = 0, 0, []
    with file.open("wb") as out:
        for values, names in chain.from_iterable(part.read() for part in known):
            if dim not in (0, values.shape[1]):
                raise InputError(f"{path} holds rows of {dim} and of {values.shape[1]} columns.")
            dim = values.shape[1]
            n += len(values)
            out.write(np.ascontiguousarray(values, dtype=dtype).tobytes())
            ids.append(pa.nulls(len(values), pa.string()) if names is None else names)
    if n == 0:
        raise InputError(f"{path} holds no rows.")
    rows = np.memmap(file, dtype=dtype, mode="r", shape=(n, dim))
    named = pa.chunked_array(ids, pa.string()).combine_chunks()
    return Embeddings(rows, None if named.null_count == n else named)
