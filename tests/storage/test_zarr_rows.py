"""Rows read without Zarr's machinery are those that Zarr reads; what is damaged is told."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, ZstdCodec

from storage.errors import ShardError
from storage.workspace import ArrayWriter
from storage.zarr_rows import ZarrRows, rows_of

SHAPE = (3, 5)


def written(
    folder: Path, n: int = 41, *, shards: int = 16, chunks: int = 4, dtype: str = "uint16"
) -> tuple[Any, npt.NDArray[Any]]:
    rng = np.random.default_rng(n)
    values = rng.integers(0, 60_000, (n, *SHAPE)).astype(dtype)
    array = zarr.create_array(
        str(folder / "rows.zarr"),
        shape=values.shape,
        dtype=dtype,
        chunks=(chunks, *SHAPE),
        shards=(shards, *SHAPE),
        compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        overwrite=True,
    )
    array[:] = values
    return zarr.open_array(str(folder / "rows.zarr"), mode="r"), values


def file_of(folder: Path, shard: int = 0) -> Path:
    return folder / "rows.zarr" / "c" / str(shard) / "0" / "0"


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 70),
    chunks=st.sampled_from([1, 3, 8]),
    per_shard=st.integers(1, 5),
    dtype=st.sampled_from(["uint8", "uint16", "int64", "float32"]),
    data=st.data(),
)
def test_rows_are_those_that_zarr_reads(
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    chunks: int,
    per_shard: int,
    dtype: str,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    array, values = written(folder, n, shards=chunks * per_shard, chunks=chunks, dtype=dtype)
    rows = rows_of(array)
    assert isinstance(rows, ZarrRows)
    assert (len(rows), rows.shape, rows.dtype, rows.ndim) == (n, values.shape, values.dtype, 3)
    wanted = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))), np.int64)
    assert np.array_equal(rows.oindex[wanted], values[wanted])
    first, stop = sorted([data.draw(st.integers(0, n)), data.draw(st.integers(0, n))])
    assert np.array_equal(rows[first:stop], values[first:stop])
    assert np.array_equal(pickle.loads(pickle.dumps(rows))[:], values)  # noqa: S301  made here


def test_what_the_project_writes_is_read_so(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (30, 64, 64)).astype(np.uint16)
    store = zarr.storage.LocalStore(tmp_path / "pixels.zarr")
    writer = ArrayWriter(store, (64, 64), "uint16", {})
    writer.append(values)
    writer.close()
    rows = rows_of(zarr.open_array(store, mode="r"))
    assert isinstance(rows, ZarrRows)
    assert np.array_equal(rows[3:29], values[3:29])


def test_chunks_that_are_absent_hold_the_fill_value(tmp_path: Path) -> None:
    array = zarr.create_array(
        str(tmp_path / "rows.zarr"),
        shape=(16, *SHAPE),
        dtype="uint16",
        chunks=(4, *SHAPE),
        shards=(16, *SHAPE),
        compressors=BloscCodec(cname="lz4", shuffle="shuffle"),
        fill_value=7,
    )
    array[4:8] = 9
    rows = rows_of(zarr.open_array(str(tmp_path / "rows.zarr"), mode="r"))
    assert isinstance(rows, ZarrRows)
    assert rows[:][:, 0, 0].tolist() == [7] * 4 + [9] * 4 + [7] * 8
    assert rows.oindex[np.array([1, 5, 15])][:, 0, 0].tolist() == [7, 9, 7]


@pytest.mark.parametrize(
    "other",
    [
        {"shards": None},
        {"compressors": ZstdCodec()},
        {"chunks": (4, 3, 1), "shards": (16, 3, 5)},
        {"dtype": "complex64"},
    ],
)
def test_what_is_packed_otherwise_is_left_to_zarr(tmp_path: Path, other: dict[str, Any]) -> None:
    options = {
        "dtype": "uint16",
        "chunks": (4, *SHAPE),
        "shards": (16, *SHAPE),
        "compressors": BloscCodec(cname="lz4", shuffle="shuffle"),
    } | other
    array = zarr.create_array(str(tmp_path / "rows.zarr"), shape=(20, *SHAPE), **options)
    array[:] = 3
    assert rows_of(array) is array
    in_memory = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(2, 3), dtype="uint16", chunks=(1, 3), shards=(2, 3)
    )
    assert rows_of(in_memory) is in_memory


@pytest.mark.parametrize("wanted", [[-1], [41], [3, 3], [5, 2]])
def test_rows_that_are_not_there_or_not_rising_are_refused(
    tmp_path: Path, wanted: list[int]
) -> None:
    rows = ZarrRows(written(tmp_path)[0])
    with pytest.raises(IndexError, match="rows of an array of 41"):
        rows.read(np.array(wanted))
    for key in (slice(None, None, 2), 3, ..., np.array([1, 2])):
        with pytest.raises(IndexError, match="only runs of rows"):
            rows[key]  # type: ignore[index]


def damaged(folder: Path, at: int, *, cut: bool = False) -> ZarrRows:
    """Rows whose first shard has one byte changed, or ends there."""
    rows = ZarrRows(written(folder)[0])
    path = file_of(folder)
    data = bytearray(path.read_bytes())
    if cut:
        del data[at:]
    else:
        data[at] ^= 0x55
    path.write_bytes(data)
    return rows


def test_damage_is_told_with_the_file(tmp_path: Path) -> None:
    index = -(16 * 4 + 4)
    for at, told in (
        (index, "its index is damaged"),
        (-1, "its index is damaged"),
        (4, "not of the size that it should have"),  # unpacked bytes in the first chunk's header
        (12, "not of the size that it should have"),  # packed bytes
        (0, "cannot be unpacked"),  # version of the format
    ):
        with pytest.raises(ShardError, match=told) as error:
            damaged(tmp_path, at)[:]
        assert str(file_of(tmp_path)) in str(error.value)
        assert "remove its shard and run again" in str(error.value)


def test_a_file_cut_off_is_told(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="it is cut off"):
        damaged(tmp_path, 10, cut=True)[:]
    with pytest.raises(ShardError, match="its index is damaged"):
        damaged(tmp_path, -8, cut=True)[:]


def test_zarr_writes_no_file_for_rows_of_zeros_alone(tmp_path: Path) -> None:
    store = zarr.storage.LocalStore(tmp_path / "rows.zarr")
    writer = ArrayWriter(store, (64, 64), "uint16", {})
    values = np.zeros((writer.shard_rows + 3, 64, 64), np.uint16)
    values[5] = 7
    writer.append(values)
    writer.close()
    assert not file_of(tmp_path, 1).exists()
    rows = rows_of(zarr.open_array(store, mode="r"))
    assert isinstance(rows, ZarrRows)
    assert np.array_equal(rows[:], values)
    assert not rows[writer.shard_rows :].any()


def test_an_index_that_leads_beyond_the_file_takes_no_memory(tmp_path: Path) -> None:
    import google_crc32c

    rows = ZarrRows(written(tmp_path)[0])
    path = file_of(tmp_path)
    data = bytearray(path.read_bytes())
    index = np.frombuffer(data[-68:-4], "<u8").copy().reshape(4, 2)
    for entry, told in (((2**40, 60), "cut off"), ((0, 2**40), "not of the size")):
        index[0] = entry
        packed = index.tobytes()
        data[-68:] = packed + google_crc32c.value(packed).to_bytes(4, "little")
        path.write_bytes(data)
        with pytest.raises(ShardError, match=told):
            rows[:2]
