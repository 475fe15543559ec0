"""Embeddings are read as they were written, from every kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from numpy.typing import NDArray

from storage.embeddings import open_embeddings
from storage.errors import InputError


@pytest.fixture
def rows() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(40, 3)) + 1e6


def lists(rows: NDArray[Any], kind: str) -> pa.Array:
    flat = pa.array(rows.ravel())
    offsets = np.arange(len(rows) + 1) * rows.shape[1]
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    if kind == "large":
        return pa.LargeListArray.from_arrays(pa.array(offsets), flat)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat)


def opened(path: Path) -> tuple[NDArray[Any], list[str | None] | None]:
    with open_embeddings(str(path)) as found:
        ids = None if found.ids is None else found.ids.to_pylist()
        return np.array(found.rows[:]), ids


@pytest.mark.parametrize("kind", ["fixed", "list", "large"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parquet_keeps_every_bit(
    kind: str, dtype: type, rows: NDArray[np.float64], tmp_path: Path
) -> None:
    values = rows.astype(dtype)
    pq.write_table(pa.table({"embedding": lists(values, kind)}), tmp_path / "rows.parquet")
    found, ids = opened(tmp_path / "rows.parquet")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, values)
    assert ids is None


def test_one_file_of_float64_widens_all(rows: NDArray[np.float64], tmp_path: Path) -> None:
    narrow = rows[:20].astype(np.float32)
    pq.write_table(pa.table({"embedding": lists(narrow, "list")}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"embedding": lists(rows[20:], "fixed")}), tmp_path / "b.parquet")
    np.testing.assert_array_equal(opened(tmp_path)[0], np.concatenate([narrow, rows[20:]]))


def test_a_workspace_of_float64_keeps_every_bit(rows: NDArray[np.float64], tmp_path: Path) -> None:
    shard = tmp_path / "embeddings" / "aa"
    shard.mkdir(parents=True)
    zarr.create_array(str(shard / "embeddings.zarr"), data=rows)
    names = pa.array([f"tile-{i}" for i in range(40)])
    pq.write_table(pa.table({"tile_id": names}), shard / "embeddings.parquet")
    found, ids = opened(tmp_path)
    np.testing.assert_array_equal(found, rows)
    assert ids == names.to_pylist()
    pq.write_table(pa.table({"tile_id": names[:39]}), shard / "embeddings.parquet")
    with pytest.raises(InputError, match="40 embeddings and 39 tile_ids"):
        opened(tmp_path)


def test_ids_are_null_where_a_file_has_none(rows: NDArray[np.float64], tmp_path: Path) -> None:
    named = pa.table({"embedding": lists(rows[:2], "fixed"), "tile_id": ["a", "b"]})
    pq.write_table(named, tmp_path / "a.parquet")
    pq.write_table(pa.table({"embedding": lists(rows[2:4], "fixed")}), tmp_path / "b.parquet")
    assert opened(tmp_path)[1] == ["a", "b", None, None]


def test_ids_of_any_kind_become_text(rows: NDArray[np.float64], tmp_path: Path) -> None:
    for name, ids in (("a", pa.array([7, 8])), ("b", pa.array(["x", "y"], pa.large_string()))):
        table = pa.table({"embedding": lists(rows[:2], "fixed"), "tile_id": ids})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert opened(tmp_path)[1] == ["7", "8", "x", "y"]


def test_a_corrupt_page_is_named_with_its_file(rows: NDArray[np.float64], tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"embedding": lists(rows, "fixed")}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[20:300] = b"\xff" * 280
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"rows\.parquet cannot be read as Parquet"):
        opened(path)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1.0], None]), "1 nulls"),
        (pa.array([["a"]]), "must hold a list of floats"),
        (pa.array([[], []], pa.list_(pa.float32())), "are empty"),
        (pa.array([[1.0, 2.0], [1.0]]), "same length"),
    ],
)
def test_columns_that_hold_no_rows_are_refused(
    column: pa.Array, message: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"embedding": column}), tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "rows.parquet")
