"""The graph of nearest rows is that of all pairs, wherever the rows lie."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from models import neighbour_graph
from models.neighbour_graph import neighbour_chunks
from models.neighbours import nearest, nearest_stored
from models.pairs.blocks import Blocks


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.pairs.blocks.Blocks.sort", partial(Blocks.sort, block_rows=150))
    monkeypatch.setattr(neighbour_graph, "CHUNK_ROWS", 64)


def rows_of(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(n).standard_t(3, (n, 12)).astype(np.float32)


@pytest.mark.parametrize("kind", ["memory", "zarr", "dask"])
@pytest.mark.parametrize(("n", "k"), [(1, 3), (5, 9), (700, 1), (700, 8), (700, 200)])
def test_neighbours_are_those_of_all_pairs(kind: str, n: int, k: int, tmp_path: Path) -> None:
    rows = rows_of(n)
    source: Any = rows
    if kind == "zarr":
        source = zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(90, 12))
    elif kind == "dask":
        source = dask.array.from_array(rows, chunks=(90, 12))
    found = list(neighbour_chunks(source, k, scratch=str(tmp_path / "scratch")))
    expected = nearest(rows, rows, k)
    np.testing.assert_array_equal(np.concatenate([f.indices for f in found]), expected.indices)
    np.testing.assert_array_equal(np.concatenate([f.distances for f in found]), expected.distances)
    assert max(len(f.indices) for f in found) <= 64


def test_equal_rows_in_several_blocks_are_at_no_distance(tmp_path: Path) -> None:
    rows = np.concatenate([np.ones((500, 12)), rows_of(200)])
    source = zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(90, 12))
    distances = np.concatenate([f.distances for f in neighbour_chunks(source, 4)])
    assert (distances[:500] == 0).all()
    np.testing.assert_array_equal(distances, nearest(rows, rows, 4).distances)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ValueError, match="k=0"):
        next(neighbour_chunks(np.zeros((3, 2)), 0))
    broken = rows_of(50)
    broken[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"row 7 .*not finite"):
        next(neighbour_chunks(dask.array.from_array(broken), 2))


def test_chunks_of_stored_rows_give_the_neighbours_of_all() -> None:
    rows = np.random.default_rng(0).integers(0, 3, (300, 3)).astype(np.float64)
    whole, chunked = nearest(rows[:40], rows, 7), nearest_stored(rows[:40], rows, 7, 50)
    np.testing.assert_array_equal(chunked.indices, whole.indices)
    np.testing.assert_array_equal(chunked.distances, whole.distances)


def test_of_rows_at_the_same_distance_the_same_are_taken_whatever_memory_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from models.pairs import products
    from models.pairs.nearest import nearest_rows
    from models.workers import ThreadWorkers

    rows = np.random.default_rng(0).integers(0, 2, (3001, 16)).astype(np.float64)
    blank = products.Hits.blank

    def filled(value: float) -> products.Hits:
        hits = blank()
        hits.product[:] = hits.value[:] = value
        return hits

    found = []
    for value in (0.0, np.inf, -np.inf):
        monkeypatch.setattr(products.Hits, "blank", lambda value=value: filled(value))
        found.append(nearest_rows(rows, 9, ThreadWorkers(2))[3])
    for other in found[1:]:
        assert np.array_equal(other.squares, found[0].squares)
        assert np.array_equal(other.places, found[0].places)
