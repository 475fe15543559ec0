"""KMeans, DBSCAN and HDBSCAN behind one estimator interface.

Every clusterer is a scikit-learn estimator (``get_params``, ``fit``, ``fit_predict``) that leaves,
for each row,

``labels_``
    int32; -1 is noise.
``membership_``
    float32 in [0, 1]: how surely the row belongs to its cluster; 0 for noise.
``outlier_score_``
    float32 in [0, 1]: how unlike the others the row is, comparable within one fit only.

``min_samples`` counts the row itself, as scikit-learn does, for DBSCAN and HDBSCAN alike (the
hdbscan library does not count it; it is given one less).

The same rows in the same order with the same parameters give the same labels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from models.dbscan import NOISE, DBSCANClusterer
from models.hdbscan import HDBSCANClusterer
from models.neighbours import nearest

Method = Literal["kmeans", "dbscan", "hdbscan"]


@dataclass(frozen=True)
class ClusterResult:
    """What a clusterer says of each row.

    Parameters
    ----------
    labels : ndarray of int32, shape (n,)
        -1 is noise.
    membership : ndarray of float32, shape (n,)
        In [0, 1]; 0 for noise.
    outlier_score : ndarray of float32, shape (n,)
        In [0, 1], higher = more unlike the others. Its meaning depends on the method.
    """

    labels: NDArray[np.int32]
    membership: NDArray[np.float32]
    outlier_score: NDArray[np.float32]

    @property
    def n_clusters(self) -> int:
        """Number of clusters, noise not counted."""
        return len(np.unique(self.labels[self.labels != NOISE]))

    @property
    def noise_share(self) -> float:
        """Share of the rows that are noise; 0 for no rows."""
        return float(np.mean(self.labels == NOISE)) if len(self.labels) else 0.0


class Clusterer(Protocol):
    """The interface that all clusterers share."""

    labels_: NDArray[np.int32]
    membership_: NDArray[np.float32]
    outlier_score_: NDArray[np.float32]

    def fit(self, X: ArrayLike, y: None = None) -> Self:  # noqa: N803
        """Cluster rows of shape (n, dim), n at least 1."""
        ...

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """List the parameters."""
        ...


class KMeansClusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Lloyd's k-means from k-means++ starts (scikit-learn's).

    Membership is 1 - d1 / d2, with d1 and d2 the distances to the own and the next centroid: 0
    half way between two, 1 at the centroid. The outlier score is d1 / (d1 + r), with r the root
    mean square of d1 in the cluster: 0.5 at the typical distance; 1 for a cluster of one row, as
    nothing else is like it. A tight group of odd rows far from all others scores low.

    Parameters
    ----------
    n_clusters : int
        Cut to the number of different rows.
    n_init : int
        Starts; the one with the lowest inertia is taken.
    max_iter : int
        Iterations of one start at most.
    random_state : int
        Seed of the starts.

    Attributes
    ----------
    cluster_centers_ : ndarray of float64, shape (n_clusters, dim)
    inertia_ : float
        Sum of squared distances to the own centroid.
    n_iter_ : int
        Iterations of the start that was taken.
    """

    def __init__(
        self, n_clusters: int = 20, *, n_init: int = 3, max_iter: int = 300, random_state: int = 0
    ) -> None:
        self.n_clusters = n_clusters
        self.n_init = n_init
        self.max_iter = max_iter
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: None = None) -> Self:  # noqa: N803
        """Cluster rows of shape (n, dim), n at least 1."""
        rows = _validated(self, X)
        _require_positive(self, "n_clusters")
        with threadpool_limits(1, user_api="openmp"), warnings.catch_warnings():
            # one thread: several add their sums in changing order
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different rows than k
            kmeans = KMeans(
                min(self.n_clusters, len(rows)),
                n_init=self.n_init,
                max_iter=self.max_iter,
                random_state=self.random_state,
            ).fit(rows)
        used, labels = np.unique(kmeans.labels_, return_inverse=True)
        self.labels_ = labels.astype(np.int32)
        self.cluster_centers_ = kmeans.cluster_centers_[used]
        self.inertia_ = float(kmeans.inertia_)
        self.n_iter_ = int(kmeans.n_iter_)
        own, other = _centroid_distances(rows, self.cluster_centers_, self.labels_)
        self.membership_ = _ratio(other - own, other, empty=1.0)
        self.outlier_score_ = _typical_distance_score(own, self.labels_)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.int32]:  # noqa: N803
        """Find the nearest centroid of rows of shape (n, dim)."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=np.float64)
        labels: NDArray[np.int32] = (
            nearest(rows, self.cluster_centers_, 1).indices[:, 0].astype(np.int32)
        )
        return labels


_CLUSTERERS: dict[str, type[Any]] = {
    "kmeans": KMeansClusterer,
    "dbscan": DBSCANClusterer,
    "hdbscan": HDBSCANClusterer,
}


def make_clusterer(method: Method, **params: Any) -> Clusterer:
    """Build a clusterer by name.

    Parameters
    ----------
    method : {"kmeans", "dbscan", "hdbscan"}
    **params
        Of `KMeansClusterer`, `DBSCANClusterer` or `HDBSCANClusterer`.
    """
    if method not in _CLUSTERERS:
        known = ", ".join(_CLUSTERERS)
        raise ValueError(f"method={method!r} is unknown; use one of {known}.")
    allowed = set(_CLUSTERERS[method]().get_params())
    if unknown := sorted(params.keys() - allowed):
        raise ValueError(f"{method} takes {', '.join(sorted(allowed))}; not {', '.join(unknown)}.")
    clusterer: Clusterer = _CLUSTERERS[method](**params)
    return clusterer


def fit_cluster(clusterer: Clusterer, embeddings: NDArray[np.floating]) -> ClusterResult:
    """Cluster embeddings; unlike ``fit`` it takes no rows too, and gives none.

    Parameters
    ----------
    clusterer : Clusterer
        From `make_clusterer`; it is fitted in place unless there are no rows.
    embeddings : ndarray, shape (n, dim)
        Standardised, as a rule.

    Raises
    ------
    ValueError
        Values that are not finite, or parameters out of bounds.
    """
    if len(embeddings) == 0:
        empty = np.empty(0, dtype=np.float32)
        return ClusterResult(np.empty(0, dtype=np.int32), empty, empty.copy())
    clusterer.fit(embeddings)
    return ClusterResult(clusterer.labels_, clusterer.membership_, clusterer.outlier_score_)


def _validated(estimator: BaseEstimator, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
    rows = validate_data(estimator, X, dtype=np.float64, order="C")
    return np.require(rows, requirements=["C", "W"])  # hdbscan takes no read-only rows


def _require_positive(estimator: BaseEstimator, name: str) -> None:
    value = getattr(estimator, name)
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1.")


def _centroid_distances(
    rows: NDArray[np.float64], centres: NDArray[np.float64], labels: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances to the own centroid and the nearest other one (infinite for a single cluster)."""
    own = np.linalg.norm(rows - centres[labels], axis=1)
    if len(centres) == 1:
        return own, np.full(len(rows), np.inf)
    near = nearest(rows, centres, 2)
    is_own = near.indices == labels[:, None]
    other = np.where(is_own, np.inf, near.distances).min(axis=1)
    return own, np.maximum(other, own)


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
