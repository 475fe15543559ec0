"""Clustering of embeddings from every kind of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from distributed import Client, LocalCluster
from numpy.typing import NDArray
from pydantic import ValidationError

from models.dbscan import DBSCANClusterer
from models.scaling import fit_scaler
from storage.errors import InputError
from tasks.cluster_file import cluster_file
from tasks.cluster_settings import ClusterFileSettings


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    """Four tight groups among scattered rows, 600 in all."""
    rng = np.random.default_rng(0)
    near = rng.normal(0, 0.05, (400, 6)) + rng.normal(0, 5, (4, 6))[rng.integers(0, 4, 400)]
    values = np.concatenate([near, rng.normal(0, 5, (200, 6))])
    return values[rng.permutation(600)].astype(np.float32)


def save_parquet(rows: NDArray[Any], path: Path, first: int = 0) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    names = pa.array([f"tile-{first + i}" for i in range(len(rows))])
    pq.write_table(pa.table({"tile_id": names, "embedding": column}), path)


def run(source: Path, out: Path, **changes: Any) -> pa.Table:
    chosen = {"method": "dbscan", "eps": 0.5} | changes
    cluster_file(ClusterFileSettings(embeddings=str(source), out=str(out), **chosen))
    return pq.read_table(out)


@pytest.fixture(params=["npy", "zarr", "group", "parquet", "folder", "workspace"])
def source(request: pytest.FixtureRequest, rows: NDArray[np.float32], tmp_path: Path) -> Path:
    kind = request.param
    if kind == "npy":
        np.save(tmp_path / "rows.npy", rows)
        return tmp_path / "rows.npy"
    if kind == "zarr":
        zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(100, 6))
        return tmp_path / "rows.zarr"
    if kind == "group":
        group = zarr.create_group(str(tmp_path / "rows.zarr"))
        group.create_array("embeddings", data=rows, chunks=(100, 6))
        return tmp_path / "rows.zarr"
    if kind == "parquet":
        save_parquet(rows, tmp_path / "rows.parquet")
        return tmp_path / "rows.parquet"
    if kind == "folder":
        (tmp_path / "parts").mkdir()
        for start in (0, 250):
            part = rows[start : start + 250] if start == 0 else rows[start:]
            save_parquet(part, tmp_path / "parts" / f"{start:04}.parquet", start)
        return tmp_path / "parts"
    for start, key in ((0, "aa"), (300, "bb")):
        shard = tmp_path / "work" / "embeddings" / key
        shard.mkdir(parents=True)
        part = rows[start : start + 300]
        zarr.create_array(str(shard / "embeddings.zarr"), data=part, chunks=(100, 6))
        save_parquet(part, shard / "embeddings.parquet", start)
    return tmp_path / "work"


def test_labels_are_the_estimators_in_the_order_of_the_input(
    source: Path, rows: NDArray[np.float32], tmp_path: Path
) -> None:
    table = run(source, tmp_path / "labels.parquet")
    clusterer = DBSCANClusterer(0.5).fit(rows)
    assert clusterer.labels_.max() == 3
    assert table["row"].to_pylist() == list(range(600))
    np.testing.assert_array_equal(table["cluster_label"], clusterer.labels_)
    np.testing.assert_array_equal(table["n_within_eps"], clusterer.counts_)
    if "tile_id" in table.column_names:
        assert table["tile_id"].to_pylist() == [f"tile-{i}" for i in range(600)]


def test_the_file_says_how_it_was_made(rows: NDArray[np.float32], tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows)
    table = run(tmp_path / "rows.npy", tmp_path / "labels.parquet", eps=None)
    record = json.loads(table.schema.metadata[b"mammosift"])
    assert record["settings"]["method"] == "dbscan"
    assert record["figures"]["clusters"] == max(table["cluster_label"].to_pylist()) + 1
    assert record["figures"]["eps"] > 0


@pytest.mark.parametrize("method", ["hdbscan", "kmeans"])
def test_other_methods_find_the_groups(
    method: str, rows: NDArray[np.float32], tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "labels.parquet"
    table = run(tmp_path / "rows.npy", out, method=method, eps=None, n_clusters=6)
    assert max(table["cluster_label"].to_pylist()) >= 3
    assert set(table.column_names) >= {"row", "cluster_label", "membership", "outlier_score"}


def test_neighbours_are_rows_with_their_distances(
    rows: NDArray[np.float32], tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "near.parquet"
    table = run(tmp_path / "rows.npy", out, method="neighbours", eps=None, k=4)
    near = np.array(table["neighbours"].to_pylist())
    assert near.shape == (600, 4)
    assert near[:, 0].tolist() == list(range(600))
    exact = np.linalg.norm(rows.astype(np.float64) - rows[near[:, 3]], axis=1)
    np.testing.assert_allclose(np.array(table["distances"].to_pylist())[:, 3], exact, rtol=1e-5)


def test_kmeans_gives_the_distance_to_the_own_centroid(
    rows: NDArray[np.float32], tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "labels.parquet"
    table = run(tmp_path / "rows.npy", out, method="kmeans", eps=None, n_clusters=3)
    labels = np.array(table["cluster_label"])
    centres = np.stack([rows[labels == c].mean(axis=0, dtype=np.float64) for c in range(3)])
    exact = np.linalg.norm(rows - centres[labels], axis=1)
    np.testing.assert_allclose(table["distance"], exact, rtol=1e-6)


@pytest.mark.parametrize("method", ["dbscan", "hdbscan", "kmeans", "neighbours"])
@pytest.mark.parametrize("suffix", ["npy", "zarr"])
def test_one_row(method: str, suffix: str, tmp_path: Path) -> None:
    row, source = np.ones((1, 3), dtype=np.float32), tmp_path / f"rows.{suffix}"
    if suffix == "npy":
        np.save(source, row)
    else:
        zarr.create_array(str(source), data=row)
    table = run(source, tmp_path / "out.parquet", method=method, eps=None, standardise=True)
    assert table["row"].to_pylist() == [0]
    if method == "neighbours":
        assert table["neighbours"].to_pylist() == [[0]]
    else:
        assert table["cluster_label"].to_pylist() == [0 if method == "kmeans" else -1]


def test_the_file_may_be_read_as_others_that_this_person_writes(
    rows: NDArray[np.float32], tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", rows)
    run(tmp_path / "rows.npy", tmp_path / "labels.parquet")
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "labels.parquet").stat().st_mode == plain.stat().st_mode


def test_a_row_that_is_not_finite_is_named_by_its_place_in_the_file(
    monkeypatch: pytest.MonkeyPatch, rows: NDArray[np.float32], tmp_path: Path
) -> None:
    monkeypatch.setattr("tasks.cluster_file.BATCH_ROWS", 100)
    broken = rows.copy()
    broken[417, 2] = np.inf
    np.save(tmp_path / "rows.npy", broken)
    with pytest.raises(InputError, match=r"rows\.npy: row 417 "):
        run(tmp_path / "rows.npy", tmp_path / "labels.parquet", standardise=True)


def test_an_output_that_is_a_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; name a file in it"):
        run(tmp_path / "no.npy", tmp_path)


def test_standardised_rows_are_those_of_the_scaler(
    rows: NDArray[np.float32], tmp_path: Path
) -> None:
    stretched = rows * np.array([1, 10, 100, 1, 1, 1], dtype=np.float32) + 7
    np.save(tmp_path / "rows.npy", stretched)
    table = run(tmp_path / "rows.npy", tmp_path / "labels.parquet", standardise=True)
    expected = DBSCANClusterer(0.5).fit(fit_scaler([stretched]).transform(stretched))
    np.testing.assert_array_equal(table["cluster_label"], expected.labels_)


def test_workers_at_an_address_give_the_same_file(
    rows: NDArray[np.float32], tmp_path: Path
) -> None:
    np.save(tmp_path / "rows.npy", rows)
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster.scheduler_address) as client,
    ):
        for method in ("dbscan", "hdbscan", "neighbours"):
            eps = 0.5 if method == "dbscan" else None
            alone = run(tmp_path / "rows.npy", tmp_path / "a.parquet", method=method, eps=eps)
            settings = ClusterFileSettings(
                embeddings=str(tmp_path / "rows.npy"),
                out=str(tmp_path / "b.parquet"),
                method=method,  # type: ignore[arg-type]
                eps=eps,
            )
            cluster_file(settings, client)
            assert pq.read_table(settings.out).equals(alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 2, "dask_address": "tcp://x:1", "method": "dbscan"}, "give one"),
        ({"min_samples": 1, "method": "hdbscan"}, "hdbscan needs 2 or more"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ClusterFileSettings(embeddings="/a", out="/b", **changes)


class TestWhatCannotBeRead:
    def refused(self, source: Path, tmp_path: Path, match: str) -> None:
        out = tmp_path / "labels.parquet"
        with pytest.raises(InputError, match=match):
            run(source, out)
        assert not out.exists()
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".labels")]

    def test_nothing_there(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "no.npy", tmp_path, "does not exist")

    def test_a_pickle(self, tmp_path: Path) -> None:
        np.save(tmp_path / "rows.npy", np.array([{}], dtype=object), allow_pickle=True)
        self.refused(tmp_path / "rows.npy", tmp_path, r"cannot be read as \.npy")

    def test_one_dimension(self, tmp_path: Path) -> None:
        np.save(tmp_path / "rows.npy", np.zeros(5, dtype=np.float32))
        self.refused(tmp_path / "rows.npy", tmp_path, "shape")

    def test_integers(self, tmp_path: Path) -> None:
        np.save(tmp_path / "rows.npy", np.zeros((5, 2), dtype=np.int64))
        self.refused(tmp_path / "rows.npy", tmp_path, "holds int64")

    def test_no_rows(self, tmp_path: Path) -> None:
        np.save(tmp_path / "rows.npy", np.zeros((0, 2), dtype=np.float32))
        self.refused(tmp_path / "rows.npy", tmp_path, "no rows")

    @pytest.mark.parametrize("suffix", ["npy", "zarr"])
    def test_a_row_that_is_not_finite(
        self, suffix: str, rows: NDArray[np.float32], tmp_path: Path
    ) -> None:
        broken = rows.copy()
        broken[17, 2] = np.nan
        source = tmp_path / f"rows.{suffix}"
        if suffix == "npy":
            np.save(source, broken)
        else:
            zarr.create_array(str(source), data=broken, chunks=(100, 6))
        self.refused(source, tmp_path, r"NaN|row 17 .*not finite")

    def test_parquet_without_the_column(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"vector": [1.0]}), tmp_path / "rows.parquet")
        self.refused(tmp_path / "rows.parquet", tmp_path, "no column 'embedding', but vector")

    def test_lists_of_several_lengths(self, tmp_path: Path) -> None:
        lists = pa.array([[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]])
        pq.write_table(pa.table({"embedding": lists}), tmp_path / "rows.parquet")
        self.refused(tmp_path / "rows.parquet", tmp_path, "same length")

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "rows.txt").write_text("1 2 3")
        self.refused(tmp_path / "rows.txt", tmp_path, "none of")
