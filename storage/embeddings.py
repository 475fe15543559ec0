"""Embeddings from anywhere: .npy, Zarr, Parquet, or a workspace; read by parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
        ``tile_id`` of each row, where the source has it.
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


Part = tuple[NDArray[Any], pa.Array | None]


def _parquet_parts(files: list[Path], path: str) -> Iterator[Part]:
    if not files:
        raise InputError(f"{path} holds no Parquet file.")
    for file in files:
        try:
            table = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as e:
            raise InputError(f"{file} cannot be read as Parquet ({e}).") from e
        names = table.schema_arrow.names
        if COLUMN not in names:
            raise InputError(
                f"{file} has no column {COLUMN!r}, but {', '.join(names)}; rename the one that "
                "holds the lists of floats."
            )
        columns = [COLUMN, ID_COLUMN] if ID_COLUMN in names else [COLUMN]
        for batch in table.iter_batches(BATCH_ROWS, columns=columns):
            yield _values(batch[COLUMN], file), batch[ID_COLUMN] if len(columns) == 2 else None


def _values(column: pa.Array, file: Path) -> NDArray[Any]:
    kind = column.type
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type) or column.null_count:
        raise InputError(
            f"{file}: column {COLUMN!r} is {kind} with {column.null_count} nulls; it must hold a "
            "list of floats in each row."
        )
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if len(column) == 0 or len(flat) % len(column):
        if len(column) == 0:
            return np.empty((0, 0), dtype=np.float32)
        raise InputError(f"{file}: lists of column {COLUMN!r} are not all of the same length.")
    lengths = np.asarray(column.value_lengths()) if pa.types.is_list(kind) else np.empty(0)
    if len(np.unique(lengths)) > 1:
        raise InputError(f"{file}: lists of column {COLUMN!r} are not all of the same length.")
    values: NDArray[Any] = flat.reshape(len(column), -1)
    return values


def _workspace_parts(folder: Path) -> Iterator[Part]:
    shards = sorted(s for s in folder.iterdir() if (s / "embeddings.zarr").is_dir())
    if not shards:
        raise InputError(f"{folder} holds no shard of embeddings; run mammosift run first.")
    for shard in shards:
        rows = _open_zarr(shard / "embeddings.zarr")
        ids = pq.read_table(shard / "embeddings.parquet", columns=[ID_COLUMN])[ID_COLUMN]
        yield np.asarray(rows[...]), ids.combine_chunks()


def _join(parts: Iterator[Part], path: str, folder: Path) -> Embeddings:
    """Append the parts to one file of plain values, and map it."""
    file = folder / "rows"
    n, dim, ids = 0, 0, []
    with file.open("wb") as out:
        for values, names in parts:
            if len(values) == 0:
                continue
            if dim not in (0, values.shape[1]):
                raise InputError(f"{path} holds rows of {dim} and of {values.shape[1]} columns.")
            dim = values.shape[1]
            n += len(values)
            out.write(np.ascontiguousarray(values, dtype=np.float32).tobytes())
            ids.append(names)
    if n == 0:
        raise InputError(f"{path} holds no rows.")
    rows = np.memmap(file, dtype=np.float32, mode="r", shape=(n, dim))
    named = all(names is not None for names in ids)
    chunks = [c for i in ids for c in (i.chunks if isinstance(i, pa.ChunkedArray) else [i])]
    return Embeddings(rows, pa.chunked_array(chunks).combine_chunks() if named else None)
