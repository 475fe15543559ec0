"""One suite for every clusterer, then what each one promises by itself."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from models.clustering import (
    NOISE,
    ClusterResult,
    Method,
    fit_cluster,
    make_clusterer,
)

SETTINGS: dict[Method, dict[str, Any]] = {
    "kmeans": {"n_clusters": 3},
    "dbscan": {"eps": 1.0, "min_samples": 5},
    "hdbscan": {"min_cluster_size": 10},
}


@pytest.fixture(params=sorted(SETTINGS))
def method(request: pytest.FixtureRequest) -> Method:
    chosen: Method = request.param
    return chosen


@pytest.fixture(scope="module")
def blobs() -> NDArray[np.float32]:
    """Three tight groups of 40 rows around (0, 0), (10, 0), (0, 10); shuffled by steps of 3."""
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10]], dtype=np.float32)
    rows = np.tile(centres, (40, 1)) + rng.normal(0, 0.3, (120, 2)).astype(np.float32)
    rows.flags.writeable = False
    assert np.abs(rows - np.tile(centres, (40, 1))).max() < 2
    return rows


def cluster(method: Method, rows: NDArray[Any], **changes: Any) -> ClusterResult:
    return fit_cluster(make_clusterer(method, **{**SETTINGS[method], **changes}), rows)


class TestEveryClusterer:
    """What the pipeline relies on, whatever the method."""

    def test_well_apart_groups_are_found(self, method: Method, blobs: NDArray[np.float32]) -> None:
        result = cluster(method, blobs)
        assert result.n_clusters == 3
        for group in range(3):
            labels = result.labels[group::3]
            clustered = labels[labels != NOISE]
            assert len(clustered) >= 36
            assert len(np.unique(clustered)) == 1

    def test_results_have_one_value_a_row_in_the_stated_types_and_ranges(
        self, method: Method, blobs: NDArray[np.float32]
    ) -> None:
        result = cluster(method, blobs)
        assert result.labels.dtype == np.int32
        assert result.labels.shape == (120,)
        for values in (result.membership, result.outlier_score):
            assert values.dtype == np.float32
            assert values.shape == (120,)
            assert values.min() >= 0
            assert values.max() <= 1
        noise = result.labels == NOISE
        assert (result.membership[noise] == 0).all()
        assert result.noise_share == noise.mean()
        assert set(result.labels[~noise]) == set(range(result.n_clusters))

    def test_the_same_rows_give_the_same_bytes(
        self, method: Method, blobs: NDArray[np.float32]
    ) -> None:
        first, second = cluster(method, blobs), cluster(method, blobs)
        assert first.labels.tobytes() == second.labels.tobytes()
        assert first.membership.tobytes() == second.membership.tobytes()
        assert first.outlier_score.tobytes() == second.outlier_score.tobytes()

    def test_a_row_moved_away_from_its_group_scores_higher(
        self, method: Method, blobs: NDArray[np.float32]
    ) -> None:
        moved = blobs.copy()
        moved[0] = [0, -4]
        assert cluster(method, moved).outlier_score[0] > np.quantile(
            cluster(method, blobs).outlier_score, 0.95
        )
        assert cluster(method, moved).outlier_score[0] == cluster(method, moved).outlier_score.max()

    def test_no_rows_give_an_empty_result(self, method: Method) -> None:
        result = cluster(method, np.empty((0, 4), dtype=np.float32))
        assert len(result.labels) == len(result.membership) == len(result.outlier_score) == 0
        assert result.n_clusters == 0
        assert result.noise_share == 0

    @pytest.mark.parametrize("n", [1, 2, 3, 9])
    def test_few_rows_are_clustered_without_an_error(self, method: Method, n: int) -> None:
        rows = np.random.default_rng(n).normal(size=(n, 4)) * 100
        result = cluster(method, rows)
        assert len(result.labels) == n
        assert np.isfinite(result.outlier_score).all()
        assert (result.labels == NOISE).all() == (method != "kmeans")

    @pytest.mark.parametrize("n", [1, 2, 5, 30])
    def test_equal_rows_are_clustered_without_an_error(self, method: Method, n: int) -> None:
        result = cluster(method, np.full((n, 3), 7.25, dtype=np.float32))
        assert len(np.unique(result.labels)) == 1
        assert np.isfinite(result.membership).all()
        assert len(np.unique(result.outlier_score)) == 1

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_not_finite_are_refused(
        self, method: Method, blobs: NDArray[np.float32], value: float
    ) -> None:
        broken = blobs.copy()
        broken[5, 1] = value
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            cluster(method, broken)

    def test_parameters_are_readable_and_survive_cloning(self, method: Method) -> None:
        clusterer = make_clusterer(method, **SETTINGS[method])
        assert SETTINGS[method].items() <= clusterer.get_params().items()
        assert clone(clusterer).get_params() == clusterer.get_params()

    def test_an_unknown_parameter_is_refused_by_name(self, method: Method) -> None:
        with pytest.raises(ValueError, match=rf"{method} takes .*; not radius"):
            make_clusterer(method, radius=2)

    def test_scikit_learns_own_checks_pass(self, method: Method) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the checks warn of what they try
            results = check_estimator(make_clusterer(method), on_skip=None, on_fail=None)
        failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
        assert failed == []
        assert sum(r["status"] == "passed" for r in results) > 40


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="use one of kmeans, dbscan, hdbscan"):
        make_clusterer("optics")  # type: ignore[arg-type]
