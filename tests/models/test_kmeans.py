"""KMeans: plain Lloyd's answer, however the rows are cut up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import sklearn.cluster
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

import models.lloyd
from models.kmeans import KMeansClusterer, sweep
from models.kmeans_starts import parallel_seeds
from models.lloyd import Chunks, lloyd
from models.pairs.projection import Projection, sample_rows
from models.workers import ThreadWorkers


def surface(n: int, dim: int = 24, seed: int = 0) -> NDArray[np.float32]:
    """Rows of a bent surface with far outliers, two columns dead."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_t(3, (n, 4))
    rows = np.maximum(latent @ rng.standard_normal((4, dim)) + rng.standard_normal(dim), 0)
    rows += rng.normal(0, 0.01, rows.shape)
    rows[:, ::11] = 0
    return rows.astype(np.float32)


def plain_lloyd(
    rows: NDArray[Any], start: NDArray[np.float64], iterations: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The slow obvious version, in float64."""
    exact, centres = rows.astype(np.float64), start.copy()
    for _ in range(iterations):
        labels = np.square(exact[:, None] - centres).sum(axis=2).argmin(axis=1)
        for c in range(len(centres)):
            if (labels == c).any():
                centres[c] = exact[labels == c].mean(axis=0)
    return np.square(exact[:, None] - centres).sum(axis=2).argmin(axis=1), centres


@pytest.fixture(scope="module")
def blobs() -> NDArray[np.float32]:
    """Three tight groups of 40 rows around (0, 0), (10, 0), (0, 10)."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10]], dtype=np.float32)
    return np.tile(centres, (40, 1)) + rng.normal(0, 0.3, (120, 2)).astype(np.float32)


class TestItIsLloyds:
    @pytest.fixture(autouse=True, params=[2**28, 0], ids=["each", "one"])
    def kind_of_bounds(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A bound for each row and centre, or one for all others."""
        monkeypatch.setattr(models.lloyd, "MOST_EACH", request.param)

    @pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e3, 1e15])
    @pytest.mark.parametrize("offset", [0.0, 100.0])
    def test_any_scale_and_offset(self, scale: float, offset: float) -> None:
        rows = (surface(700).astype(np.float64) + offset) * scale
        start = rows[::70]
        clusterer = KMeansClusterer(10, init=start, max_iter=6, tol=0).fit(rows)
        labels, _ = plain_lloyd(rows, start, 6)
        np.testing.assert_array_equal(clusterer.labels_, np.unique(labels, return_inverse=True)[1])

    def test_of_centres_at_the_same_distance_the_first_is_taken(self) -> None:
        rows = np.array([[0.0], [2.0], [1.0], [5.0], [5.0]])
        start = np.array([[2.0], [0.0], [5.0]])
        for iterations in (1, 2):
            labels, _ = plain_lloyd(rows, start, iterations)
            fitted = KMeansClusterer(3, init=start, max_iter=iterations, tol=0).fit(rows)
            assert fitted.labels_.tolist() == np.unique(labels, return_inverse=True)[1].tolist()

    @pytest.mark.parametrize("iterations", [1, 2, 7, 30])
    @pytest.mark.parametrize("dim", [1, 3, 24, 150])
    def test_labels_and_centres_are_those_of_the_slow_version(
        self, dim: int, iterations: int
    ) -> None:
        rows = surface(1500, dim=dim)
        start = rows[::150].astype(np.float64)
        clusterer = KMeansClusterer(10, init=start, max_iter=iterations, tol=0).fit(rows)
        labels, centres = plain_lloyd(rows, start, iterations)
        np.testing.assert_array_equal(clusterer.labels_, np.unique(labels, return_inverse=True)[1])
        np.testing.assert_allclose(
            clusterer.cluster_centers_, centres[np.unique(labels)], rtol=1e-9, atol=1e-9
        )

    def test_labels_and_inertia_are_scikit_learns_from_the_same_start(self) -> None:
        rows = surface(5000)
        start = rows[:20].astype(np.float64)
        ours = KMeansClusterer(20, init=start, max_iter=50, tol=0).fit(rows)
        peer = sklearn.cluster.KMeans(20, init=start, n_init=1, max_iter=50, tol=0)
        peer.fit(rows.astype(np.float64))
        np.testing.assert_array_equal(ours.labels_, peer.labels_)
        assert ours.inertia_ == pytest.approx(peer.inertia_, rel=1e-9)

    @pytest.mark.parametrize("init", ["k-means++", "k-means||"])
    def test_inertia_is_near_scikit_learns(self, init: Any) -> None:
        rows = surface(6000)
        ours = [
            KMeansClusterer(20, init=init, n_init=1, random_state=seed).fit(rows).inertia_
            for seed in range(5)
        ]
        peer = [
            sklearn.cluster.KMeans(20, n_init=1, random_state=seed).fit(rows).inertia_
            for seed in range(5)
        ]
        assert np.mean(ours) < np.mean(peer) * 1.05

    @settings(max_examples=25, deadline=None)
    @given(
        n=st.integers(1, 200),
        dim=st.integers(1, 10),
        k=st.integers(1, 12),
        seed=st.integers(0, 50),
    )
    def test_inertia_never_rises(self, n: int, dim: int, k: int, seed: int) -> None:
        rows = np.random.default_rng(seed).normal(size=(n, dim))
        chunks = Chunks(rows, ThreadWorkers(1))
        projection = Projection.fit(sample_rows(rows), 1.0)
        before = np.inf
        for iterations in (1, 2, 3, 6):
            found = lloyd(chunks, rows[:k], projection, iterations, 0.0)
            assert found.inertia <= before * (1 + 1e-9) + 1e-12
            before = found.inertia

    def test_norms_of_a_thousand_cost_no_accuracy(self) -> None:
        rows = surface(1000).astype(np.float64) + 1000
        start = rows[::100].copy()
        labels, _ = plain_lloyd(rows, start, 10)
        ours = KMeansClusterer(10, init=start, max_iter=10, tol=0).fit(rows)
        np.testing.assert_array_equal(ours.labels_, np.unique(labels, return_inverse=True)[1])


class TestWhereTheRowsLie:
    def test_threads_change_no_byte(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(models.lloyd, "CHUNK_ROWS", 500)
        rows = surface(4000)
        fits = [KMeansClusterer(12, n_jobs=n).fit(rows) for n in (1, 2, 4)]
        assert len({fit.labels_.tobytes() for fit in fits}) == 1
        assert len({fit.cluster_centers_.tobytes() for fit in fits}) == 1

    def test_dask_zarr_and_memory_maps_give_the_same_labels(self, tmp_path: Path) -> None:
        rows = surface(3000)
        start = rows[::300].astype(np.float64)
        labels = KMeansClusterer(10, init=start).fit(rows).labels_
        in_zarr = zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(500, 24))
        np.save(tmp_path / "rows.npy", rows)
        mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
        for stored in (in_zarr, mapped, dask.array.from_array(rows, chunks=(700, 10))):
            found = KMeansClusterer(10, init=start).fit(stored)
            np.testing.assert_array_equal(found.labels_, labels)

    def test_a_row_that_is_not_finite_is_named(self) -> None:
        rows = surface(300)
        rows[123, 4] = np.nan
        with pytest.raises(ValueError, match=r"not finite"):
            KMeansClusterer(3).fit(dask.array.from_array(rows))


class TestFewPasses:
    """Two levels, and small batches."""

    @pytest.mark.parametrize("algorithm", ["two-level", "minibatch"])
    def test_labels_distances_and_inertia_are_of_the_final_centres(self, algorithm: Any) -> None:
        rows = surface(9000)
        found = KMeansClusterer(12, algorithm=algorithm).fit(rows)
        squares = np.square(rows[:, None].astype(np.float64) - found.cluster_centers_).sum(axis=2)
        np.testing.assert_array_equal(found.labels_, squares.argmin(axis=1))
        np.testing.assert_allclose(found.distances_**2, squares.min(axis=1), atol=1e-9)
        assert found.inertia_ == pytest.approx(squares.min(axis=1).sum())

    @pytest.mark.parametrize(("algorithm", "loss"), [("two-level", 1.1), ("minibatch", 1.2)])
    def test_inertia_is_near_that_of_lloyds(self, algorithm: Any, loss: float) -> None:
        rows = surface(30_000)
        exact = KMeansClusterer(20).fit(rows).inertia_
        assert KMeansClusterer(20, algorithm=algorithm).fit(rows).inertia_ < loss * exact

    @pytest.mark.parametrize("algorithm", ["two-level", "minibatch"])
    def test_sorted_rows_do_no_harm(self, algorithm: Any, blobs: NDArray[np.float32]) -> None:
        rows = np.repeat(blobs[np.argsort(blobs.sum(axis=1))], 200, axis=0)
        found = KMeansClusterer(3, algorithm=algorithm).fit(rows)
        far = cdist([[0, 0], [10, 0], [0, 10]], found.cluster_centers_)
        assert sorted(far.argmin(axis=1)) == [0, 1, 2]
        assert far.min(axis=1).max() < 0.3

    def test_stored_rows_and_threads_give_the_same_labels(self, tmp_path: Path) -> None:
        rows = surface(20_000)
        stored = zarr.create_array(str(tmp_path / "rows.zarr"), data=rows, chunks=(3000, 24))
        inside = KMeansClusterer(9, algorithm="two-level", n_jobs=1).fit(rows).labels_
        for where in (rows, stored):
            found = KMeansClusterer(9, algorithm="two-level", n_jobs=3).fit(where)
            np.testing.assert_array_equal(found.labels_, inside)

    @pytest.mark.parametrize("algorithm", ["two-level", "minibatch"])
    def test_fewer_different_rows_than_clusters(self, algorithm: Any) -> None:
        rows = np.repeat([[0.0], [5.0]], 20, axis=0)
        found = KMeansClusterer(8, algorithm=algorithm).fit(rows)
        assert len(found.cluster_centers_) == 2
        assert (KMeansClusterer(8, algorithm=algorithm).fit(rows[:1]).labels_ == 0).all()

    def test_an_unknown_algorithm_is_refused(self) -> None:
        with pytest.raises(ValueError, match="algorithm='elkan' is unknown"):
            KMeansClusterer(3, algorithm="elkan").fit(surface(50))  # type: ignore[arg-type]


class TestSeeds:
    def test_weights_of_the_candidates_add_up_to_the_rows(self) -> None:
        rows = surface(3000)
        candidates, weights = parallel_seeds(Chunks(rows, ThreadWorkers(2)), 10, rows, 0)
        assert weights.sum() == 3000
        assert 10 < len(candidates) == len(weights) < 300

    def test_an_unknown_start_is_refused(self) -> None:
        with pytest.raises(ValueError, match="init='random' is unknown"):
            KMeansClusterer(3, init="random").fit(surface(50))  # type: ignore[arg-type]


def test_a_sweep_finds_the_elbow_at_the_number_of_groups(blobs: NDArray[np.float32]) -> None:
    found = sweep(blobs, [1, 2, 3, 4, 5, 6])
    assert found.elbow == 3
    assert int(np.nanargmax(found.silhouettes)) == 2
    assert np.isnan(found.silhouettes[0])
    assert list(found.inertias) == sorted(found.inertias, reverse=True)


class TestWhatItSaysOfEachRow:
    def test_membership_and_score_by_hand(self) -> None:
        rows = np.array([[0.0], [2.0], [10.0], [14.0]])  # centroids 1 and 12
        clusterer = KMeansClusterer(2).fit(rows)
        assert clusterer.labels_[0] == clusterer.labels_[1] != clusterer.labels_[2]
        np.testing.assert_allclose(
            clusterer.membership_, [1 - 1 / 12, 1 - 1 / 10, 1 - 2 / 9, 1 - 2 / 13], rtol=1e-6
        )
        np.testing.assert_allclose(clusterer.outlier_score_, 0.5, rtol=1e-6)

    def test_a_row_alone_in_its_cluster_scores_one(self, blobs: NDArray[np.float32]) -> None:
        rows = np.vstack([blobs, [[500, 500]]])
        clusterer = KMeansClusterer(4).fit(rows)
        assert clusterer.outlier_score_[-1] == 1
        assert (clusterer.labels_ == clusterer.labels_[-1]).sum() == 1

    def test_fewer_different_rows_than_clusters_give_one_cluster_each(self) -> None:
        rows = np.repeat([[0.0], [5.0]], 20, axis=0)
        clusterer = KMeansClusterer(8).fit(rows)
        assert len(clusterer.cluster_centers_) == 2
        assert set(clusterer.labels_) == {0, 1}
        assert (clusterer.outlier_score_ == 0).all()

    def test_rows_are_predicted_into_their_own_cluster(self, blobs: NDArray[np.float32]) -> None:
        clusterer = KMeansClusterer(3).fit(blobs)
        np.testing.assert_array_equal(clusterer.predict(blobs), clusterer.labels_)

    def test_no_clusters_are_refused(self, blobs: NDArray[np.float32]) -> None:
        with pytest.raises(ValueError, match="n_clusters=0"):
            KMeansClusterer(0).fit(blobs)
