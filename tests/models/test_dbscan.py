"""DBSCAN: scikit-learn's labels, row for row, however the rows are cut up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import sklearn.cluster
import zarr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.dbscan import NOISE, DBSCANClusterer, dbscan, dbscan_blocks
from models.pairs import blocks as blocks_module
from models.pairs.blocks import Blocks, stored
from models.workers import DaskWorkers, ThreadWorkers

Rows = NDArray[np.floating]


def continuum(n: int, dim: int = 24, seed: int = 0) -> NDArray[np.float32]:
    """Rows of a bent surface, a third of them in groups of near-duplicates, two columns dead."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_t(3, (n, 4))
    grouped = n // 3
    latent[:grouped] = latent[rng.integers(0, 8, grouped)] + rng.normal(0, 0.02, (grouped, 4))
    rows = np.maximum(latent @ rng.standard_normal((4, dim)) + rng.standard_normal(dim), 0)
    rows += rng.normal(0, 0.01, rows.shape)
    rows[:, ::11] = 0
    return rows[rng.permutation(n)].astype(np.float32)


def expected(rows: Rows, eps: float, min_samples: int) -> NDArray[np.int64]:
    """scikit-learn's labels, from its tree: it measures each pair by itself, as we do."""
    peer = sklearn.cluster.DBSCAN(eps=eps, min_samples=min_samples, algorithm="kd_tree")
    labels: NDArray[np.int64] = peer.fit(np.asarray(rows, dtype=np.float64)).labels_
    return labels


def by_blocks(
    rows: Rows, eps: float, min_samples: int, folder: Path, block_rows: int
) -> NDArray[np.int32]:
    workers = ThreadWorkers(2)
    source = stored(rows, str(folder))
    blocks = Blocks.sort(source, str(folder), workers, radius=eps, block_rows=block_rows)
    assert len(blocks) == -(-len(rows) // block_rows)
    return dbscan_blocks(blocks, eps, min_samples, workers).labels


class TestLabelsAreScikitLearns:
    @pytest.mark.parametrize("min_samples", [1, 2, 5, 40, 300])
    @pytest.mark.parametrize("eps", [0.02, 0.1, 0.5, 2.0, 6.0, 50.0])
    def test_over_eps_and_min_samples(self, eps: float, min_samples: int) -> None:
        rows = continuum(1500)
        clusterer = DBSCANClusterer(eps, min_samples=min_samples).fit(rows)
        np.testing.assert_array_equal(clusterer.labels_, expected(rows, eps, min_samples))

    @pytest.mark.parametrize("threads", [1, 2, 4])
    def test_over_threads(self, threads: int) -> None:
        rows = continuum(4000)
        found = dbscan(rows, 0.3, 5, ThreadWorkers(threads))
        np.testing.assert_array_equal(found.labels, expected(rows, 0.3, 5))

    @pytest.mark.parametrize("block_rows", [200, 900, 5000])
    @pytest.mark.parametrize("eps", [0.1, 0.5, 3.0])
    def test_over_sizes_of_blocks(
        self, eps: float, block_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(blocks_module, "CHUNK_ROWS", 700)
        rows = continuum(3000)
        labels = by_blocks(rows, eps, 5, tmp_path, block_rows)
        np.testing.assert_array_equal(labels, expected(rows, eps, 5))

    @pytest.mark.parametrize("dim", [1, 2, 5, 6, 14, 200, 700])
    def test_over_numbers_of_columns(self, dim: int) -> None:
        rows = continuum(600, dim=dim, seed=dim)
        for eps in (0.05, 0.5, 4.0):
            labels = DBSCANClusterer(eps).fit(rows).labels_
            np.testing.assert_array_equal(labels, expected(rows, eps, 5))

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    @pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e3, 1e12])
    @pytest.mark.parametrize("offset", [0.0, 1e3])
    def test_over_scales_and_offsets(self, factor: float, offset: float, kind: Any) -> None:
        rows = ((continuum(800).astype(np.float64) + offset) * factor).astype(kind)
        labels = DBSCANClusterer(0.3 * factor).fit(rows).labels_
        np.testing.assert_array_equal(labels, expected(rows, 0.3 * factor, 5))

    def test_with_one_row_far_beyond_all_others(self) -> None:
        rows = continuum(800).astype(np.float64)
        rows[17] = 1e15
        labels = DBSCANClusterer(0.3).fit(rows).labels_
        np.testing.assert_array_equal(labels, expected(rows, 0.3, 5))

    def test_of_isotropic_rows_where_no_box_helps(self) -> None:
        rows = np.random.default_rng(0).standard_normal((2000, 40)).astype(np.float32)
        for eps in (4.0, 5.5, 7.0):
            labels = DBSCANClusterer(eps).fit(rows).labels_
            np.testing.assert_array_equal(labels, expected(rows, eps, 5))

    @settings(max_examples=60, deadline=None)
    @given(
        n=st.integers(1, 400),
        dim=st.integers(1, 12),
        levels=st.integers(1, 6),
        eps=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]),
        min_samples=st.integers(1, 9),
        seed=st.integers(0, 99),
    )
    def test_on_lattices_full_of_ties_and_duplicates(
        self, n: int, dim: int, levels: int, eps: float, min_samples: int, seed: int
    ) -> None:
        rows = np.random.default_rng(seed).integers(0, levels, (n, dim)).astype(np.float64)
        labels = DBSCANClusterer(eps, min_samples=min_samples).fit(rows).labels_
        np.testing.assert_array_equal(labels, expected(rows, eps, min_samples))

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    def test_pairs_one_step_beyond_eps_are_apart(self, kind: Any) -> None:
        step = kind(0.9)
        for distance, n_clusters in [
            (np.nextafter(step, kind(0)), 1),
            (step, 1),
            (np.nextafter(step, kind(2)), 2),
        ]:
            rows = np.zeros((2, 150), dtype=kind)
            rows[1, 3] = distance
            clusterer = DBSCANClusterer(float(step), min_samples=1).fit(rows)
            assert clusterer.labels_.max() + 1 == n_clusters

    def test_shuffled_rows_give_the_same_clusters(self) -> None:
        rows = continuum(2000)
        order = np.random.default_rng(1).permutation(len(rows))
        labels = DBSCANClusterer(0.3).fit(rows[order]).labels_
        np.testing.assert_array_equal(labels, expected(rows[order], 0.3, 5))

    def test_a_pile_of_equal_rows_is_one_cluster_and_does_not_cost_its_square(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pile = np.ones((30_000, 8), dtype=np.float32)
        rows = np.concatenate([pile, continuum(500, dim=8)])
        found = DBSCANClusterer(0.05).fit(rows)
        assert (found.labels_[:30_000] == 0).all()
        labels = by_blocks(rows, 0.05, 5, tmp_path, 4000)
        np.testing.assert_array_equal(labels, found.labels_)


class TestWhereTheRowsLie:
    def test_dask_zarr_and_memory_maps_give_the_same_labels(self, tmp_path: Path) -> None:
        rows = continuum(3000)
        labels = DBSCANClusterer(0.3).fit(rows).labels_
        in_zarr = zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(500, 24))
        np.save(tmp_path / "rows.npy", rows)
        mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
        for stored_rows in (in_zarr, mapped, dask.array.from_array(rows, chunks=(700, 10))):
            np.testing.assert_array_equal(DBSCANClusterer(0.3).fit(stored_rows).labels_, labels)

    @pytest.mark.slow
    def test_two_processes_by_cluster_and_by_address_give_the_same_labels(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = continuum(6000)
        labels = DBSCANClusterer(0.3).fit(rows).labels_
        with LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster:
            with Client(cluster) as client:
                found = DBSCANClusterer(0.3, client=client).fit(rows)
                np.testing.assert_array_equal(found.labels_, labels)
            with Client(cluster.scheduler_address) as client:
                found = DBSCANClusterer(client=client).fit(dask.array.from_array(rows))
                alone = DBSCANClusterer(found.eps_).fit(rows)
                np.testing.assert_array_equal(found.labels_, alone.labels_)

    @pytest.mark.slow
    @pytest.mark.parametrize("after", [1, 9])
    def test_a_worker_killed_in_the_middle_changes_nothing(
        self, after: int, tmp_path: Path
    ) -> None:
        rows = continuum(6000)
        killed = []

        class Killing(DaskWorkers):
            def map(self, function: Any, items: Any) -> Iterator[Any]:
                for result in super().map(function, items):
                    done.append(result)
                    if len(done) == after:
                        pid = next(iter(self.client.run(os.getpid).values()))
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                    yield result

        done: list[Any] = []
        with (
            LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            ) as cluster,
            Client(cluster) as client,
        ):
            workers = Killing(client)
            source = stored(rows, str(tmp_path))
            blocks = Blocks.sort(source, str(tmp_path), workers, radius=0.3, block_rows=1000)
            labels = dbscan_blocks(blocks, 0.3, 5, workers).labels
        assert len(killed) == 1
        np.testing.assert_array_equal(labels, expected(rows, 0.3, 5))

    def test_the_scratch_folder_is_left_empty(self, tmp_path: Path) -> None:
        rows = dask.array.from_array(continuum(500), chunks=(100, 24))
        DBSCANClusterer(0.3, scratch=str(tmp_path / "scratch")).fit(rows)
        assert list((tmp_path / "scratch").iterdir()) == []

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_row_that_is_not_finite_is_refused(self, bad: float) -> None:
        rows = continuum(300)
        rows[123, 4] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            DBSCANClusterer(0.3).fit(rows)
        with pytest.raises(ValueError, match=r"row 123 .*not finite"):
            DBSCANClusterer(0.3).fit(dask.array.from_array(rows))


class TestWhatItSaysOfEachRow:
    def test_core_border_and_noise_by_hand(self) -> None:
        rows = np.array([[0.0], [1.0], [2.0], [3.5], [9.0]])
        clusterer = DBSCANClusterer(1.5, min_samples=3).fit(rows)
        assert clusterer.labels_.tolist() == [0, 0, 0, 0, -1]
        assert clusterer.core_sample_indices_.tolist() == [1, 2]
        assert clusterer.counts_.tolist() == [2, 3, 3, 2, 1]
        np.testing.assert_allclose(clusterer.outlier_score_, [0.5, 0, 0, 0.5, 1])
        np.testing.assert_allclose(clusterer.membership_, [2 / 3, 1, 1, 2 / 3, 0])

    def test_a_border_row_is_of_the_lower_of_two_clusters(self) -> None:
        left, right = [[0.0], [0.1], [0.2]], [[2.0], [2.1], [2.2]]
        for rows, label in (([*left, *right, [1.1]], 0), ([[1.1], *right, *left], 0)):
            clusterer = DBSCANClusterer(0.9, min_samples=4).fit(np.array(rows))
            assert clusterer.labels_.tolist() == expected(np.array(rows), 0.9, 4).tolist()
            assert clusterer.labels_[np.argmax(np.array(rows)[:, 0] == 1.1)] in (label, NOISE)

    def test_exactly_the_core_rows_score_nothing(self) -> None:
        clusterer = DBSCANClusterer(0.2).fit(continuum(1000))
        core = np.zeros(1000, dtype=bool)
        core[clusterer.core_sample_indices_] = True
        assert 0 < core.sum() < 1000
        np.testing.assert_array_equal(clusterer.outlier_score_ == 0, core)

    def test_min_samples_counts_the_row_itself(self) -> None:
        pair = np.array([[0.0], [1.0]])
        assert DBSCANClusterer(1.5, min_samples=2).fit(pair).labels_.tolist() == [0, 0]
        assert DBSCANClusterer(1.5, min_samples=3).fit(pair).labels_.tolist() == [-1, -1]

    def test_fewer_rows_than_min_samples_are_noise(self) -> None:
        clusterer = DBSCANClusterer(min_samples=5).fit(np.zeros((4, 2)))
        assert clusterer.labels_.tolist() == [-1] * 4
        assert clusterer.outlier_score_.tolist() == [0.25] * 4

    def test_one_row_is_noise_or_a_cluster(self) -> None:
        assert DBSCANClusterer(1.0).fit([[1.0, 2.0]]).labels_.tolist() == [-1]
        assert DBSCANClusterer(1.0, min_samples=1).fit([[1.0, 2.0]]).labels_.tolist() == [0]

    def test_without_eps_the_knee_separates_the_groups(self) -> None:
        rng = np.random.default_rng(0)
        centres = np.tile([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], (40, 1))
        rows = np.vstack([centres + rng.normal(0, 0.3, (120, 2)), [[5, 5], [-8, -8], [20, 20]]])
        clusterer = DBSCANClusterer().fit(rows)
        assert 0.05 < clusterer.eps_ < 5
        assert clusterer.labels_.max() == 2
        assert (clusterer.labels_[-3:] == NOISE).all()

    def test_parameters_out_of_bounds_are_refused(self) -> None:
        rows = np.zeros((3, 2))
        with pytest.raises(ValueError, match="eps=0 must be positive"):
            DBSCANClusterer(0).fit(rows)
        with pytest.raises(ValueError, match="min_samples=0"):
            DBSCANClusterer(1.0, min_samples=0).fit(rows)
