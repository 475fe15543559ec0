"""k-means as a scikit-learn estimator: exact, or in two levels, or by small batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.metrics import silhouette_score
from sklearn.utils.validation import check_is_fitted, validate_data

from models.kmeans_starts import (
    batch_centres,
    parallel_seeds,
    seed_centres,
    summary_centres,
)
from models.knee import elbow
from models.lloyd import Centres, Chunks, Lloyd, closest, lloyd
from models.pairs.blocks import (
    is_stored,
    require_matrix,
    sample_stored,
    scratch_folder,
    stored,
)
from models.pairs.projection import Projection, Rows, sample_rows
from models.workers import DaskWorkers, ThreadWorkers, Workers, one_blas_thread

SAMPLE_ROWS = 12_000
SAMPLE_PER_CENTRE = 50
SILHOUETTE_ROWS = 2_000
BATCHED_ROWS = 262_144

ITERATIONS = {"lloyd": None, "two-level": 1, "minibatch": 0}
"""Over all rows, after the start; None: as many as asked for."""


class KMeansClusterer(TransformerMixin, ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """k-means of rows in memory or read by chunks; Lloyd's, exact, unless told otherwise.

    Membership is 1 - d1 / d2, with d1 and d2 the distances to the own and the next centroid: 0
    half way between two, 1 at the centroid. The outlier score is d1 / (d1 + r), with r the root
    mean square of d1 in the cluster: 0.5 at the typical distance; 1 for a cluster of one row, as
    nothing else is like it. A tight group of odd rows far from all others scores low.

    Parameters
    ----------
    n_clusters : int
        Cut to the number of different rows.
    algorithm : {"lloyd", "two-level", "minibatch"}
        lloyd: iterations over all rows until the centres stay. two-level: each chunk of rows is
        summarised by weighted centres, these are clustered, and one iteration over all rows
        follows: rows are read four times in all, for 10^7 and more. minibatch: small batches of a
        sample of 262,144 rows, then rows are read twice for their labels; `init` is k-means++.
        Labels, distances and inertia are always those of the final centres, over all rows.
    init : {"k-means++", "k-means||"} or ndarray, shape (n_clusters, dim)
        Greedy k-means++ on a sample of 50 rows a cluster (at least 12,000); k-means|| over all
        rows, 5 passes more; or the centres to start from.
    n_init : int
        Starts; the one with the lowest inertia is taken.
    max_iter : int
        Iterations of one start at most.
    tol : float
        Stop where the centres move by less: sum of squares, relative to the mean variance of the
        columns.
    random_state : int
        Seed of the starts.
    n_jobs : int or None
        Threads; None is one a core.
    client : distributed.Client or None
        Its workers do the work, chunk by chunk.
    scratch : str or None
        Folder for a Dask array's rows that all workers reach; None: a temporary folder.

    Attributes
    ----------
    cluster_centers_ : ndarray of float64, shape (n_clusters, dim)
    inertia_ : float
        Sum of squared distances to the own centroid.
    distances_ : ndarray of float64, shape (n,)
        Distance to the own centroid.
    n_iter_ : int
        Iterations of the start that was taken.
    """

    def __init__(
        self,
        n_clusters: int = 20,
        *,
        algorithm: Literal["lloyd", "two-level", "minibatch"] = "lloyd",
        init: Literal["k-means++", "k-means||"] | ArrayLike = "k-means++",
        n_init: int = 3,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int = 0,
        n_jobs: int | None = None,
        client: Any = None,
        scratch: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.algorithm = algorithm
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.client = client
        self.scratch = scratch

    def fit(self, X: ArrayLike, y: None = None) -> Self:  # noqa: N803
        """Cluster rows of shape (n, dim), n at least 1: NumPy, a memory map, Dask or Zarr."""
        if self.n_clusters < 1:
            raise ValueError(f"n_clusters={self.n_clusters} must be at least 1.")
        if self.algorithm not in ITERATIONS:
            known = ", ".join(ITERATIONS)
            raise ValueError(f"algorithm={self.algorithm!r} is unknown; use one of {known}.")
        workers: Workers = ThreadWorkers(self.n_jobs)
        if is_stored(X) or self.client is not None:
            if self.client is not None:
                workers = DaskWorkers(self.client)
            if not is_stored(X):
                X = validate_data(self, X, dtype=[np.float64, np.float32], order="C")  # noqa: N806
            require_matrix(X)
            self.n_features_in_ = X.shape[1]  # type: ignore[union-attr]
            with scratch_folder(self.scratch) as folder:
                rows = stored(X, folder, self.client)
                sample = sample_stored(rows, self._sample_size())
                self._fit(Chunks(rows, workers), sample)
        else:
            rows = validate_data(self, X, dtype=[np.float64, np.float32], order="C")
            self._fit(Chunks(rows, workers), sample_rows(rows, self._sample_size()))
        return self

    def _sample_size(self) -> int:
        least = BATCHED_ROWS if self.algorithm == "minibatch" else SAMPLE_ROWS
        return max(least, SAMPLE_PER_CENTRE * self.n_clusters)

    def _fit(self, chunks: Chunks, sample: Rows) -> None:
        best: Lloyd | None = None
        given = not isinstance(self.init, str)
        for turn in range(1 if given else self.n_init):
            start = self._start(chunks, sample, self.random_state * self.n_init + turn)
            projection = Projection.none(sample)
            if not chunks.holds_each(len(start)):
                queries = sample[:: max(1, len(sample) // 256)][:256]
                with one_blas_thread():
                    radius = np.sqrt(closest(queries, start)[0])
                    projection = Projection.fit(sample, radius, queries, start)
            tolerance = self.tol * float(np.mean(np.var(sample, axis=0)))
            iterations = ITERATIONS[self.algorithm]
            if iterations is None:
                iterations = self.max_iter
            found = lloyd(chunks, start, projection, iterations, tolerance)
            if best is None or found.inertia < best.inertia:
                best = found
        assert best is not None  # noqa: S101  n_init is at least 1
        used, labels = np.unique(best.labels, return_inverse=True)
        self.labels_ = labels.astype(np.int32)
        self.cluster_centers_ = best.centres[used]
        self.inertia_ = best.inertia
        self.distances_ = best.own
        self.n_iter_ = best.n_iter
        other = np.maximum(best.other, best.own)
        self.membership_ = _ratio(other - best.own, other, empty=1.0)
        self.outlier_score_ = _typical_distance_score(best.own, self.labels_)

    def _start(self, chunks: Chunks, sample: Rows, seed: int) -> Centres:
        if not isinstance(self.init, str):
            return np.array(self.init, dtype=np.float64)
        if self.algorithm == "two-level":
            return summary_centres(chunks, self.n_clusters, seed)
        if self.algorithm == "minibatch":
            with one_blas_thread():
                return batch_centres(sample, self.n_clusters, seed)
        random = np.random.default_rng(seed)
        candidates: Rows
        if self.init == "k-means||":
            candidates, weights = parallel_seeds(chunks, self.n_clusters, sample, seed)
        elif self.init == "k-means++":
            candidates, weights = sample, np.ones(len(sample))
        else:
            raise ValueError(f"init={self.init!r} is unknown; use k-means++, k-means|| or centres.")
        k = min(self.n_clusters, len(candidates))
        with one_blas_thread():
            return seed_centres(candidates, k, random, weights)

    def predict(self, X: ArrayLike) -> NDArray[np.int32]:  # noqa: N803
        """Find the nearest centroid of rows of shape (n, dim)."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=[np.float64, np.float32], order="C")
        with one_blas_thread():
            return closest(rows, self.cluster_centers_)[1]

    def transform(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Measure the distance to each centroid, shape (n, n_clusters)."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        distances: NDArray[np.float64] = cdist(rows, self.cluster_centers_)
        return distances

    @property
    def _n_features_out(self) -> int:
        return len(self.cluster_centers_)


@dataclass(frozen=True)
class Sweep:
    """How k-means does for several numbers of clusters.

    Parameters
    ----------
    counts : tuple of int
    inertias : tuple of float
        Sums of squared distances.
    silhouettes : tuple of float
        Mean silhouette of a sample of 2,000 rows, in [-1, 1]; nan for one cluster.
    elbow : int
        The number after which more clusters stop to pay, see `elbow`.
    """

    counts: tuple[int, ...]
    inertias: tuple[float, ...]
    silhouettes: tuple[float, ...]
    elbow: int


def sweep(rows: Rows, counts: list[int], **params: Any) -> Sweep:
    """Cluster rows into several numbers of clusters.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
    counts : list of int
        Rising, at least one.
    **params
        Of `KMeansClusterer`.
    """
    sample = sample_rows(rows, SILHOUETTE_ROWS)
    inertias, silhouettes = [], []
    for count in counts:
        clusterer = KMeansClusterer(count, **params).fit(rows)
        labels = clusterer.predict(sample)
        several = 1 < len(np.unique(labels)) < len(sample)
        inertias.append(clusterer.inertia_)
        silhouettes.append(float(silhouette_score(sample, labels)) if several else np.nan)
    chosen = elbow(np.array(counts), np.array(inertias))
    return Sweep(tuple(counts), tuple(inertias), tuple(silhouettes), chosen)


def _typical_distance_score(
    own: NDArray[np.float64], labels: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Score d / (d + r), r the root mean square of a cluster; 1 for a cluster of one row."""
    sizes = np.bincount(labels)
    typical = np.sqrt(np.bincount(labels, weights=own**2) / sizes)
    score = _ratio(own, own + typical[labels], empty=0.0)
    if len(own) > 1:
        score[sizes[labels] == 1] = 1.0
    return score


def _ratio(
    part: NDArray[np.float64], whole: NDArray[np.float64], *, empty: float
) -> NDArray[np.float32]:
    """Divide part by whole, in [0, 1]; ``empty`` where whole is 0 or both are infinite."""
    usable = (whole > 0) & ~(np.isinf(part) & np.isinf(whole))
    ratio = np.full(len(part), empty)
    np.divide(part, whole, out=ratio, where=usable)
    return _unit_interval(ratio)


def _unit_interval(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Clip to [0, 1]; what is no number (densities of duplicates divided) becomes 0."""
    clean: NDArray[np.float32] = np.clip(np.nan_to_num(values, nan=0.0), 0, 1).astype(np.float32)
    return clean
