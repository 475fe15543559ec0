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

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.dbscan import NOISE, DBSCANClusterer
from models.hdbscan import HDBSCANClusterer
from models.kmeans import KMeansClusterer

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
