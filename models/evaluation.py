"""How much of the labels an embedding holds: what every experiment is measured by.

Labels are never used to fit an embedding or its clusters; here they name clusters, teach probes and
count. Whatever is fitted (the names of clusters, neighbours, the probe) is fitted on the training
part and applied to the others as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import (
    adjusted_rand_score,
    normalized_mutual_info_score,
    precision_recall_fscore_support,
)
from torch.nn import functional

from models.kmeans import KMeansClusterer, sweep
from models.neighbour_means import unit_rows
from models.neighbours import nearest

NEIGHBOURS = 5


@dataclass(frozen=True)
class Scores:
    """How well labels are predicted, each in [0, 1].

    Parameters
    ----------
    accuracy : float
        Share of rows predicted rightly.
    macro_precision, macro_recall : float
        Means over classes; a class that is never predicted has precision 0.
    """

    accuracy: float
    macro_precision: float
    macro_recall: float


@dataclass(frozen=True)
class Agreement:
    """How well clusters agree with labels, however they are named.

    Parameters
    ----------
    purity : float
        Share of rows whose label is their cluster's most frequent one, in [0, 1].
    nmi : float
        Normalised mutual information (arithmetic mean of the entropies), in [0, 1].
    ari : float
        Adjusted Rand index, 1 for equal partitions, about 0 for unrelated ones.
    """

    purity: float
    nmi: float
    ari: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """Embeddings of one part of a data set, and its labels.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
    labels : ndarray of int64, shape (n,)
        From 0.
    """

    rows: NDArray[np.floating]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.labels.shape != (len(self.rows),):
            raise ValueError(
                f"rows of shape {self.rows.shape} and labels of shape {self.labels.shape} do not "
                "belong together; one label a row is wanted."
            )


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How a linear probe is taught.

    Parameters
    ----------
    label_share : float
        Of the training rows, drawn by class, in (0, 1].
    learning_rate : float
        Of Adam.
    epochs, batch_size : int
        Passes over the rows drawn, and rows a step.
    """

    label_share: float = 0.2
    learning_rate: float = 3e-4
    epochs: int = 200
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.label_share <= 1:
            raise ValueError(f"label_share={self.label_share} is not in (0, 1].")
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ValueError("epochs, batch_size and learning_rate must be positive.")


def scores(labels: NDArray[np.integer], predicted: NDArray[np.integer]) -> Scores:
    """Compare predictions with labels, each (n,); at least one row."""
    if len(labels) == 0 or labels.shape != predicted.shape:
        raise ValueError(
            f"{labels.shape} labels and {predicted.shape} predictions: one each, please"
        )
    precision, recall, _, _ = precision_recall_fscore_support(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0
    )
    return Scores(float(np.mean(labels == predicted)), float(precision), float(recall))


def agreement(labels: NDArray[np.integer], clusters: NDArray[np.integer]) -> Agreement:
    """Compare clusters with labels, each (n,); at least one row."""
    counts = _contingency(labels, clusters)
    return Agreement(
        float(counts.max(axis=0).sum() / counts.sum()),
        float(normalized_mutual_info_score(labels, clusters)),
        float(adjusted_rand_score(labels, clusters)),
    )


def name_clusters(
    clusters: NDArray[np.integer], labels: NDArray[np.integer], n_clusters: int
) -> NDArray[np.int64]:
    """Name each cluster by the label that most of its rows have.

    Parameters
    ----------
    clusters, labels : ndarray of int, shape (n,)
        Of the training part. Clusters from 0 to ``n_clusters`` - 1.
    n_clusters : int

    Returns
    -------
    ndarray of int64, shape (n_clusters,)
        Label of each cluster; of equals the lowest. A cluster without rows gets the label that is
        most frequent over all.
    """
    names = np.full(n_clusters, np.bincount(labels).argmax(), dtype=np.int64)
    for cluster in np.unique(clusters):
        names[cluster] = np.bincount(labels[clusters == cluster]).argmax()
    return names


def predict_by_neighbours(
    train: Part, queries: NDArray[np.floating], k: int = NEIGHBOURS
) -> NDArray[np.int64]:
    """Label of the majority of the k nearest training rows, by Euclidean distance.

    Of classes with equally many votes the one of the nearest neighbour among them wins.

    Parameters
    ----------
    train : Part
    queries : ndarray, shape (n, dim)
    k : int

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    votes = train.labels[nearest(queries, train.rows, k).indices]  # (rows, k), the nearest first
    ranked = np.zeros((len(votes), int(train.labels.max()) + 1))
    for place in range(votes.shape[1]):
        weight = 1.0 + 2.0 ** -(place + 10)  # breaks ties by nearness alone
        np.add.at(ranked, (np.arange(len(votes)), votes[:, place]), weight)
    predicted: NDArray[np.int64] = ranked.argmax(1)
    return predicted


class LinearProbe:
    """A linear classifier on frozen embeddings, taught with a part of the labels.

    Rows are standardised by the mean and deviation of the rows drawn, so that one learning rate
    suits all embeddings.

    Parameters
    ----------
    train : Part
    settings : ProbeSettings
    seed : int
        Of the rows drawn, of the first weights and of the order.
    """

    def __init__(self, train: Part, settings: ProbeSettings, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        chosen = draw_by_class(train.labels, settings.label_share, rng)
        rows = np.asarray(train.rows[chosen], dtype=np.float32)
        self._mean, deviation = rows.mean(0), rows.std(0)
        self._scale = np.where(deviation > 0, deviation, 1.0).astype(np.float32)
        x = torch.from_numpy((rows - self._mean) / self._scale)
        y = torch.from_numpy(train.labels[chosen])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._layer = torch.nn.Linear(x.shape[1], int(train.labels.max()) + 1)
        adam = torch.optim.Adam(self._layer.parameters(), lr=settings.learning_rate, fused=True)
        for _ in range(settings.epochs):
            order = torch.from_numpy(rng.permutation(len(x)))
            for batch in torch.split(order, settings.batch_size):
                adam.zero_grad(set_to_none=True)
                functional.cross_entropy(self._layer(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
                adam.step()

    @torch.no_grad()
    def predict(self, rows: NDArray[np.floating]) -> NDArray[np.int64]:
        """Labels of rows, (n,)."""
        x = torch.from_numpy((np.asarray(rows, dtype=np.float32) - self._mean) / self._scale)
        predicted: NDArray[np.int64] = self._layer(x).argmax(1).numpy()
        return predicted


def draw_by_class(
    labels: NDArray[np.integer], share: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Numbers of rows, sorted: of each class the same share, at least one."""
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(members)[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


def choose_clusters(rows: NDArray[np.floating], counts: list[int], *, seed: int) -> int:
    """Choose a number of clusters where the curve of k-means' inertia bends.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
    counts : list of int
        Candidates, rising.
    seed : int
    """
    return int(sweep(rows, counts, random_state=seed).elbow)


def cluster_rows(rows: NDArray[np.floating], n_clusters: int, *, seed: int) -> KMeansClusterer:
    """Fit k-means."""
    return KMeansClusterer(n_clusters=n_clusters, random_state=seed).fit(rows)


def evaluate(
    parts: Mapping[str, Part],
    *,
    n_clusters: int,
    seed: int,
    probe: ProbeSettings | None = None,
    by_cosine: bool = False,
    clustered: Mapping[str, NDArray[np.floating]] | None = None,
) -> dict[str, dict[str, float]]:
    """Measure embeddings of all parts by clusters, neighbours and a linear probe.

    Parameters
    ----------
    parts : mapping of str to Part
        ``train`` and others; the others are what is measured, and train's clusters.
    n_clusters : int
        Of k-means, fitted on train.
    seed : int
    probe : ProbeSettings, optional
    by_cosine : bool
        Cluster and compare rows at length 1.
    clustered : mapping of str to ndarray, optional
        Rows of each part as k-means shall see them (`models.neighbour_means`); neighbours and the
        probe see the part's own.

    Returns
    -------
    dict of str to dict
        By part: ``mapping_accuracy``, ``mapping_macro_precision``, ..., ``purity``, ``nmi``,
        ``ari`` for all parts; ``knn_...`` and ``linear_...`` for all but train.
    """
    if by_cosine:
        parts = {
            name: Part(rows=unit_rows(part.rows), labels=part.labels)
            for name, part in parts.items()
        }
    train = parts["train"]
    clustered = clustered or {name: part.rows for name, part in parts.items()}
    clusterer = cluster_rows(clustered["train"], n_clusters, seed=seed)
    names = name_clusters(clusterer.labels_, train.labels, len(clusterer.cluster_centers_))
    linear = LinearProbe(train, probe or ProbeSettings(), seed=seed)
    found: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        clusters = clusterer.labels_ if part is train else clusterer.predict(clustered[name])
        found[name] = _named("mapping", scores(part.labels, names[clusters]))
        found[name] |= asdict(agreement(part.labels, clusters))
        if part is not train:
            neighbours = predict_by_neighbours(train, part.rows)
            found[name] |= _named("knn", scores(part.labels, neighbours))
            found[name] |= _named("linear", scores(part.labels, linear.predict(part.rows)))
    return found


def _named(method: str, found: Scores) -> dict[str, float]:
    return {f"{method}_{name}": value for name, value in asdict(found).items()}


def _contingency(labels: NDArray[np.integer], clusters: NDArray[np.integer]) -> NDArray[np.int64]:
    """Rows by label and cluster, (labels, clusters)."""
    if len(labels) == 0 or labels.shape != clusters.shape:
        raise ValueError(f"{labels.shape} labels and {clusters.shape} clusters: one each, please")
    _, of_label = np.unique(labels, return_inverse=True)
    _, of_cluster = np.unique(clusters, return_inverse=True)
    counts = np.zeros((of_label.max() + 1, of_cluster.max() + 1), dtype=np.int64)
    np.add.at(counts, (of_label, of_cluster), 1)
    return counts
