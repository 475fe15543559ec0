"""HDBSCAN: the exact tree, and hdbscan's clusters from it."""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask.array
import hdbscan
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score

from models.cluster_tree import cluster_tree, condense
from models.hdbscan import NOISE, HDBSCANClusterer, least_tree, least_tree_blocks, merges
from models.pairs.blocks import Blocks, stored
from models.pairs.nearest import nearest_rows
from models.pairs.sides import Side
from models.workers import DaskWorkers, ThreadWorkers


def surface(n: int, dim: int = 24, seed: int = 0) -> NDArray[np.float32]:
    """Rows of a bent surface, a third of them in groups of near-duplicates, two columns dead."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_t(3, (n, 4))
    grouped = n // 3
    latent[:grouped] = latent[rng.integers(0, 8, grouped)] + rng.normal(0, 0.02, (grouped, 4))
    rows = np.maximum(latent @ rng.standard_normal((4, dim)) + rng.standard_normal(dim), 0)
    rows += rng.normal(0, 0.01, rows.shape)
    rows[:, ::11] = 0
    return rows[rng.permutation(n)].astype(np.float32)


def peer(rows: NDArray[Any], min_cluster_size: int, min_samples: int) -> hdbscan.HDBSCAN:
    """The hdbscan library's exact run; it does not count the row itself."""
    return hdbscan.HDBSCAN(
        min_cluster_size=min_cluster_size,
        min_samples=min_samples - 1,
        approx_min_span_tree=False,
        gen_min_span_tree=True,
        core_dist_n_jobs=1,
        prediction_data=True,
    ).fit(np.asarray(rows, dtype=np.float64))


def slow_tree_weights(rows: NDArray[Any], min_samples: int) -> NDArray[np.float64]:
    """Weights of the least spanning tree, by Prim's rule over all pairs."""
    distances = cdist(np.asarray(rows, dtype=np.float64), np.asarray(rows, dtype=np.float64))
    core = np.sort(distances, axis=1)[:, min(min_samples, len(rows)) - 1]
    reach = np.maximum(distances, np.maximum(core[:, None], core[None]))
    joined = np.zeros(len(rows), dtype=bool)
    lightest = np.full(len(rows), np.inf)
    weights = []
    at = 0
    for _ in range(len(rows) - 1):
        joined[at] = True
        lightest = np.minimum(lightest, reach[at])
        lightest[joined] = np.inf
        at = int(np.argmin(lightest))
        weights.append(lightest[at])
    return np.sort(weights)


class TestNearestRows:
    @pytest.mark.parametrize("k", [1, 2, 7, 40])
    @pytest.mark.parametrize("dim", [1, 3, 24, 150])
    def test_distances_are_those_of_all_pairs(self, k: int, dim: int) -> None:
        rows = surface(900, dim=dim, seed=k)
        order, _, _, found = nearest_rows(rows, k, ThreadWorkers(2))
        exact = np.sort(cdist(rows.astype(np.float64), rows.astype(np.float64)), axis=1)[:, :k]
        np.testing.assert_allclose(np.sqrt(found.squares), exact[order], rtol=1e-12, atol=1e-12)

    def test_places_are_those_of_the_distances_and_no_row_is_listed_twice(self) -> None:
        rows = surface(1200).astype(np.float64)
        order, _, _, found = nearest_rows(rows, 9, ThreadWorkers(2))
        ordered = rows[order]
        squares = np.square(ordered[:, None] - ordered[found.places]).sum(axis=2)
        np.testing.assert_allclose(squares, found.squares, rtol=1e-12)
        assert all(len(set(places)) == 9 for places in found.places.tolist())

    @pytest.mark.parametrize("threads", [1, 4])
    def test_threads_change_no_byte(self, threads: int) -> None:
        rows = surface(3000)
        found = nearest_rows(rows, 6, ThreadWorkers(threads))[3]
        again = nearest_rows(rows, 6, ThreadWorkers(2))[3]
        assert found.squares.tobytes() == again.squares.tobytes()
        assert found.places.tobytes() == again.places.tobytes()

    def test_fewer_rows_than_neighbours_give_all_rows(self) -> None:
        found = nearest_rows(np.eye(3), 8, ThreadWorkers(1))[3]
        assert found.squares.shape == (3, 3)

    def test_more_neighbours_than_classes_of_targets(self) -> None:
        rows = surface(700, dim=60)
        order, _, _, found = nearest_rows(rows, 100, ThreadWorkers(2))
        exact = np.sort(cdist(rows.astype(np.float64), rows.astype(np.float64)), axis=1)[:, :100]
        np.testing.assert_allclose(np.sqrt(found.squares), exact[order], rtol=1e-12, atol=1e-12)

    def test_a_memory_map_is_not_copied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = surface(900)
        expected = HDBSCANClusterer(10).fit(rows)
        np.save(tmp_path / "rows.npy", rows)
        mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
        monkeypatch.delattr(Side, "gathered")
        assert np.array_equal(HDBSCANClusterer(10).fit(mapped).labels_, expected.labels_)
        with pytest.raises(AttributeError, match="gathered"):
            HDBSCANClusterer(10).fit(rows)

    def test_equal_rows_are_at_no_distance_and_do_not_cost_their_square(self) -> None:
        rows = np.concatenate([np.ones((20_000, 6)), surface(300, dim=6)]).astype(np.float32)
        order, _, _, found = nearest_rows(rows, 5, ThreadWorkers(2))
        assert (found.squares[order < 20_000] == 0).all()


class TestSpanningTree:
    @pytest.mark.parametrize("min_samples", [2, 5, 15])
    @pytest.mark.parametrize("dim", [1, 2, 24, 150])
    def test_weights_are_those_of_the_slow_tree(self, min_samples: int, dim: int) -> None:
        rows = surface(700, dim=dim, seed=dim)
        edges, _ = least_tree(rows, min_samples, ThreadWorkers(2))
        np.testing.assert_allclose(edges[:, 2], slow_tree_weights(rows, min_samples), rtol=1e-12)

    @pytest.mark.parametrize("min_samples", [2, 5, 12])
    def test_weights_are_the_librarys(self, min_samples: int) -> None:
        rows = surface(2500)
        edges, core = least_tree(rows, min_samples, ThreadWorkers(2))
        theirs = np.sort(peer(rows, 10, min_samples)._min_spanning_tree[:, 2])
        np.testing.assert_allclose(edges[:, 2], theirs, rtol=1e-12)
        assert len(core) == len(rows)

    def test_it_joins_all_rows(self) -> None:
        edges, _ = least_tree(surface(1500), 5, ThreadWorkers(2))
        parents = list(range(1500))

        def root(row: int) -> int:
            while parents[row] != row:
                row = parents[row]
            return row

        for first, second, _weight in edges.tolist():
            a, b = root(int(first)), root(int(second))
            assert a != b
            parents[a] = b

    @pytest.mark.parametrize("factor", [1e-6, 1e3])
    def test_scale_and_offset_change_nothing_but_the_scale(self, factor: float) -> None:
        rows = surface(800).astype(np.float64)
        edges, _ = least_tree(rows * factor + 1000 * factor, 5, ThreadWorkers(2))
        np.testing.assert_allclose(edges[:, 2] / factor, slow_tree_weights(rows, 5), rtol=1e-7)

    @settings(max_examples=40, deadline=None)
    @given(
        n=st.integers(2, 250),
        dim=st.integers(1, 8),
        levels=st.integers(1, 5),
        min_samples=st.integers(1, 9),
        seed=st.integers(0, 99),
    )
    def test_lattices_full_of_ties_and_duplicates(
        self, n: int, dim: int, levels: int, min_samples: int, seed: int
    ) -> None:
        rows = np.random.default_rng(seed).integers(0, levels, (n, dim)).astype(np.float64)
        edges, _ = least_tree(rows, min_samples, ThreadWorkers(2))
        np.testing.assert_allclose(edges[:, 2], slow_tree_weights(rows, min_samples), atol=1e-12)

    def test_tight_groups_far_apart_are_joined_by_their_nearest_rows(self) -> None:
        rng = np.random.default_rng(0)
        groups = [rng.normal(0, 1e-3, (60, 30)) + 100 * i for i in range(5)]
        rows = np.concatenate(groups)
        edges, _ = least_tree(rows, 5, ThreadWorkers(2))
        np.testing.assert_allclose(edges[:, 2], slow_tree_weights(rows, 5), rtol=1e-12)

    def test_an_approximate_tree_is_never_lighter_and_hardly_heavier(self) -> None:
        rows = surface(3000)
        exact = least_tree(rows, 5, ThreadWorkers(2))[0][:, 2].sum()
        rough = least_tree(rows, 5, ThreadWorkers(2), exact=False)[0][:, 2].sum()
        assert exact <= rough * (1 + 1e-12)
        assert rough < exact * 1.02


class TestBlocks:
    """Rows in blocks on disk give what rows in memory give, bit for bit."""

    @pytest.mark.parametrize(
        ("block_rows", "dim", "threads"), [(90, 24, 4), (300, 2, 1), (700, 24, 1), (5000, 24, 2)]
    )
    def test_the_tree_is_the_same(
        self, block_rows: int, dim: int, threads: int, tmp_path: Path
    ) -> None:
        rows = surface(1500, dim=dim, seed=dim)
        weights, core = weights_in_blocks(rows, 5, block_rows, str(tmp_path), threads)
        edges, expected_core = least_tree(rows, 5, ThreadWorkers(2))
        np.testing.assert_array_equal(weights, edges[:, 2])
        np.testing.assert_array_equal(core, expected_core)

    @settings(max_examples=12, deadline=None)
    @given(
        n=st.integers(2, 250),
        dim=st.integers(1, 8),
        levels=st.integers(1, 5),
        min_samples=st.integers(1, 14),
        block_rows=st.integers(5, 120),
        seed=st.integers(0, 99),
    )
    def test_lattices_full_of_ties_and_duplicates(
        self, n: int, dim: int, levels: int, min_samples: int, block_rows: int, seed: int
    ) -> None:
        rows = np.random.default_rng(seed).integers(0, levels, (n, dim)).astype(np.float64)
        with tempfile.TemporaryDirectory() as folder:
            weights, _ = weights_in_blocks(rows, min_samples, block_rows, folder, 1)
        np.testing.assert_allclose(weights, slow_tree_weights(rows, min_samples), atol=1e-12)

    def test_a_pile_over_several_blocks_and_groups_far_apart(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        groups = [rng.normal(0, 1e-3, (60, 30)) + 100 * i for i in range(5)]
        rows = np.concatenate([*groups, np.zeros((400, 30))])[rng.permutation(700)]
        weights, _ = weights_in_blocks(rows, 5, 150, str(tmp_path), 2)
        np.testing.assert_allclose(weights, slow_tree_weights(rows, 5), rtol=1e-12)

    def test_stored_rows_give_the_labels_of_rows_in_memory(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("models.pairs.blocks.Blocks.sort", small_blocks(300))
        rows = surface(2000)
        alone = HDBSCANClusterer(10, min_samples=5).fit(rows)
        zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(500, 24))
        for source in (
            zarr.open_array(str(tmp_path / "rows.zarr"), mode="r"),
            dask.array.from_array(rows, chunks=(333, 24)),
        ):
            found = HDBSCANClusterer(10, min_samples=5, scratch=str(tmp_path / "s")).fit(source)
            assert_same_clusters(found, alone)
            np.testing.assert_array_equal(found.predict(rows[:300]), alone.predict(rows[:300]))
        assert list((tmp_path / "s").iterdir()) == []

    @pytest.mark.slow
    @pytest.mark.parametrize("after", [1, 9, 20])
    def test_a_worker_killed_in_the_middle_changes_nothing(
        self, after: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While blocks are sorted, neighbours are found, or the tree is built."""
        monkeypatch.setattr("models.pairs.blocks.Blocks.sort", small_blocks(400))
        rows = surface(3000)
        alone = HDBSCANClusterer(10, min_samples=5).fit(rows)
        done: list[Any] = []
        killed = []

        def kill_once(self: DaskWorkers, function: Any, items: Any) -> Iterator[Any]:
            for result in original(self, function, items):
                done.append(result)
                if len(done) == after:
                    pid = next(iter(self.client.run(os.getpid).values()))
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                yield result

        original = DaskWorkers.map
        monkeypatch.setattr(DaskWorkers, "map", kill_once)
        with (
            LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            ) as cluster,
            Client(cluster.scheduler_address) as client,
        ):
            found = HDBSCANClusterer(10, min_samples=5, client=client).fit(rows)
        assert len(killed) == 1
        assert_same_clusters(found, alone)


def small_blocks(block_rows: int) -> Any:
    return partial(Blocks.sort, block_rows=block_rows)


def weights_in_blocks(
    rows: NDArray[Any], min_samples: int, block_rows: int, folder: str, threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    workers = ThreadWorkers(threads)
    k = min(max(min_samples, 10), len(rows))
    source = stored(rows, folder)
    blocks = Blocks.sort(source, folder, workers, k=k, block_rows=block_rows)
    edges, core = least_tree_blocks(blocks, min_samples, workers)
    assert sorted(set(edges[:, :2].ravel().tolist())) == list(range(len(rows)))
    return edges[:, 2], core


def assert_same_clusters(found: HDBSCANClusterer, expected: HDBSCANClusterer) -> None:
    assert expected.labels_.max() > 3
    np.testing.assert_array_equal(found.labels_, expected.labels_)
    np.testing.assert_array_equal(found.membership_, expected.membership_)
    np.testing.assert_array_equal(found.outlier_score_, expected.outlier_score_)
    np.testing.assert_array_equal(found.core_distances_, expected.core_distances_)


class TestMerges:
    def test_components_joined_at_one_distance_are_chained_largest_first(self) -> None:
        edges = np.array([[4, 5, 1], [5, 6, 1], [0, 1, 1], [3, 1, 2], [6, 3, 2], [2, 3, 2.0]])
        assert merges(edges).tolist() == [
            [0, 1, 1], [4, 5, 1], [4, 6, 1], [4, 0, 2], [4, 2, 2], [4, 3, 2]
        ]  # fmt: skip

    @settings(max_examples=50, deadline=None)
    @given(n=st.integers(1, 60), levels=st.integers(1, 6), seed=st.integers(0, 999))
    def test_they_are_the_same_for_every_tree_of_the_same_hierarchy(
        self, n: int, levels: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        tree = np.array(
            [[i, rng.integers(0, i), rng.integers(0, levels)] for i in range(1, n)], dtype=float
        ).reshape(-1, 3)
        tree = tree[np.argsort(tree[:, 2], kind="stable")]
        chained = merges(tree)
        shuffled = tree[np.lexsort((rng.random(len(tree)), tree[:, 2]))]
        np.testing.assert_array_equal(merges(shuffled), chained)
        np.testing.assert_array_equal(merges(chained), chained)  # another tree with these weights

    @settings(max_examples=50, deadline=None)
    @given(n=st.integers(2, 80), least=st.integers(2, 9), seed=st.integers(0, 999))
    def test_the_condensed_tree_is_hdbscans(self, n: int, least: int, seed: int) -> None:
        from hdbscan._hdbscan_linkage import label
        from hdbscan._hdbscan_tree import condense_tree

        rng = np.random.default_rng(seed)
        tree = np.array(
            [[i, rng.integers(0, i), rng.integers(0, 3 * n) / 4] for i in range(1, n)], dtype=float
        )
        chained = merges(tree[np.argsort(tree[:, 2], kind="stable")])
        found, expected = condense(chained, least), condense_tree(label(chained), least)
        assert found.dtype.names == expected.dtype.names
        assert found.tolist() == expected.tolist()

    def test_the_order_of_the_rows_changes_no_cluster(self) -> None:
        rows = surface(1500)
        order = np.random.default_rng(1).permutation(1500)
        labels = HDBSCANClusterer(10, min_samples=5).fit(rows).labels_
        moved = HDBSCANClusterer(10, min_samples=5).fit(rows[order]).labels_
        np.testing.assert_array_equal(moved == NOISE, labels[order] == NOISE)
        assert adjusted_rand_score(moved, labels[order]) == 1


class TestHDBSCAN:
    def test_labels_of_groups_well_apart_are_the_librarys(self) -> None:
        rng = np.random.default_rng(0)
        centres = np.tile([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], (40, 1))
        rows = centres + rng.normal(0, 0.3, (120, 2))
        ours = HDBSCANClusterer(10, min_samples=5).fit(rows)
        theirs = peer(rows, 10, 5)
        assert adjusted_rand_score(ours.labels_, theirs.labels_) == 1
        assert ours.labels_[:3].tolist() == [0, 1, 2]
        np.testing.assert_allclose(ours.outlier_score_, theirs.outlier_scores_, atol=1e-6)
        np.testing.assert_allclose(ours.membership_, theirs.probabilities_, atol=1e-6)

    @pytest.mark.parametrize("method", ["eom", "leaf"])
    def test_clusters_are_the_librarys_but_for_ties(self, method: str) -> None:
        """Edges of equal length may be taken either way: its own algorithms differ as much."""
        rows = surface(3000)
        ours = HDBSCANClusterer(10, min_samples=5, cluster_selection_method=method).fit(rows)  # type: ignore[arg-type]
        theirs = hdbscan.HDBSCAN(
            min_cluster_size=10,
            min_samples=4,
            cluster_selection_method=method,
            approx_min_span_tree=False,
            core_dist_n_jobs=1,
        ).fit(rows.astype(np.float64))
        assert adjusted_rand_score(ours.labels_, theirs.labels_) > 0.97
        assert np.mean((ours.labels_ == NOISE) != (theirs.labels_ == NOISE)) < 0.02

    def test_min_samples_counts_the_row_itself(self) -> None:
        rows = surface(400)
        clusterer = HDBSCANClusterer(8, min_samples=6).fit(rows)
        exact = np.sort(cdist(rows.astype(np.float64), rows.astype(np.float64)), axis=1)[:, 5]
        np.testing.assert_allclose(clusterer.core_distances_, exact, rtol=1e-9)

    def test_all_equal_rows_are_one_heap_without_a_cluster_apart(self) -> None:
        clusterer = HDBSCANClusterer(5).fit(np.ones((50, 3)))
        assert len(set(clusterer.labels_.tolist())) == 1
        assert np.isfinite(clusterer.outlier_score_).all()

    @pytest.mark.parametrize("changes", [{"min_cluster_size": 1}, {"min_samples": 1}])
    def test_sizes_below_two_are_refused(self, changes: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="at least 2"):
            HDBSCANClusterer(**changes).fit(np.zeros((9, 2)))  # type: ignore[arg-type]

    def test_new_rows_get_the_label_of_the_rows_they_equal(self) -> None:
        rows = surface(2000)
        clusterer = HDBSCANClusterer(10, min_samples=5).fit(rows)
        labelled = clusterer.labels_ != NOISE
        labels, membership = clusterer.approximate_predict(rows[labelled])
        assert np.mean(labels == clusterer.labels_[labelled]) > 0.97
        assert ((membership >= 0) & (membership <= 1)).all()
        assert (membership[labels == NOISE] == 0).all()

    def test_new_rows_are_labelled_as_the_library_does(self) -> None:
        rows = surface(2400)
        fitted, new = rows[:2000], rows[2000:]
        ours = HDBSCANClusterer(10, min_samples=5).fit(fitted).predict(new)
        theirs, _ = hdbscan.approximate_predict(peer(fitted, 10, 5), new.astype(np.float64))
        assert adjusted_rand_score(ours, theirs) > 0.9

    def test_far_rows_are_predicted_as_noise_also_after_pickling(self) -> None:
        clusterer = HDBSCANClusterer(10, min_samples=5).fit(surface(1000))
        again = pickle.loads(pickle.dumps(clusterer))  # noqa: S301
        assert again.predict(np.full((2, 24), 1e4, dtype=np.float32)).tolist() == [NOISE, NOISE]


class TestClusterTree:
    def test_two_groups_part_at_the_distance_between_them(self) -> None:
        rng = np.random.default_rng(0)
        groups = [rng.normal(0, 0.1, (30, 2)), rng.normal((9, 0), 0.1, (40, 2))]
        found = HDBSCANClusterer(10, min_samples=3).fit(np.concatenate(groups))
        tree = cluster_tree(found.condensed_tree_, found.labels_)
        assert tree.parent[0] == -1
        assert tree.size[0] == 70
        assert np.isinf(tree.far[0])
        children = np.flatnonzero(tree.parent == 0)
        assert sorted(tree.size[children]) == [30, 40]
        assert (tree.far[children] == tree.near[0]).all()
        assert 8 < tree.near[0] < 9.5
        assert sorted(tree.label[tree.label >= 0]) == [0, 1]
        for node in np.flatnonzero(tree.label >= 0):
            assert tree.size[node] >= (found.labels_ == tree.label[node]).sum()

    def test_parents_come_first_are_larger_and_end_where_children_begin(self) -> None:
        rows = surface(3000)
        found = HDBSCANClusterer(15, min_samples=4).fit(rows)
        tree = cluster_tree(found.condensed_tree_, found.labels_)
        inner = np.flatnonzero(tree.parent >= 0)
        above = tree.parent[inner]
        assert (above < inner).all()
        assert (tree.size[above] > tree.size[inner]).all()
        np.testing.assert_array_equal(tree.far[inner], tree.near[above])
        assert (tree.near <= tree.far).all()
        assert len(np.unique(tree.label[tree.label >= 0])) == found.labels_.max() + 1

    def test_too_few_rows_have_no_tree(self) -> None:
        found = HDBSCANClusterer(10).fit(np.zeros((3, 2)))
        assert len(cluster_tree(found.condensed_tree_, found.labels_).parent) == 0
