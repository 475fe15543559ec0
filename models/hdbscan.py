"""HDBSCAN, exact: the spanning tree by the pair engine, the choice of clusters by hdbscan."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from models.cluster_tree import CONDENSED, as_arrays, condense, nodes_of_labels, root_of
from models.neighbours import nearest_stored
from models.pairs.block_search import SearchInBlocks, nearest_of_blocks
from models.pairs.blocks import Blocks, is_stored, require_matrix, scratch_folder, stored
from models.pairs.nearest import Nearest, nearest_rows
from models.pairs.projection import Rows
from models.pairs.spanning_tree import SearchInMemory, Tree, spanning_tree
from models.workers import DaskWorkers, ThreadWorkers, Workers

NOISE = -1
LISTED = 10  # neighbours a row at least: more certify more edges, fewer are found sooner


class Hierarchy(NamedTuple):
    """Clusters of every density, and those chosen.

    Parameters
    ----------
    labels : ndarray of int32, shape (n,)
        -1 is noise; clusters are numbered by their first row.
    membership : ndarray of float32, shape (n,)
        In [0, 1].
    condensed : ndarray, structured
        One row an edge of the condensed tree: ``parent``, ``child`` (a row's number below n, else
        a cluster), ``lambda_val`` (1 / distance at which the child leaves), ``child_size``.
    """

    labels: NDArray[np.int32]
    membership: NDArray[np.float32]
    condensed: NDArray[Any]


def least_tree(
    rows: Rows, min_samples: int, workers: Workers, *, exact: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the spanning tree of least mutual reachability distance.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
        Finite, in memory or a memory map.
    min_samples : int
        Rows, itself counted, whose reach is a row's core distance.
    workers : Workers
        Threads.
    exact : bool
        False: only the edges to each row's nearest neighbours are looked at, and one more for each
        group that these do not lead out of.

    Returns
    -------
    edges : ndarray of float64, shape (n - 1, 3)
        Two row numbers and the distance, shortest first.
    core : ndarray of float64, shape (n,)
        Core distances.
    """
    order, side, projection, found = nearest_rows(rows, max(min_samples, LISTED), workers)
    reach = min(min_samples, found.squares.shape[1]) - 1
    search = SearchInMemory(side, projection, workers)
    tree = spanning_tree(found, reach + 1, search, certify=exact)
    return tree_edges(tree, order), _core_distances(found, reach, order)


def least_tree_blocks(
    blocks: Blocks, min_samples: int, workers: Workers, *, exact: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the same tree of rows in blocks on disk.

    A worker holds a block, what was found for it, and one other block. This process holds, of each
    row, 12 bytes for each of ``max(min_samples, 10)`` neighbours and about 70 more.

    Parameters
    ----------
    blocks : Blocks
        Sorted for at least so many nearest rows.
    min_samples, exact
        As for `least_tree`.
    workers : Workers

    Returns
    -------
    edges, core
        As of `least_tree`.
    """
    n, k = blocks.n_rows, min(max(min_samples, LISTED), blocks.n_rows)
    found = Nearest.blank(n, k)
    start = 0
    for part in nearest_of_blocks(blocks, k, workers):
        stop = start + len(part.squares)
        found.squares[start:stop], found.places[start:stop] = part.squares, part.places
        start = stop
    reach = min(min_samples, k) - 1
    tree = spanning_tree(found, reach + 1, SearchInBlocks(blocks, workers), certify=exact)
    order = blocks.order()
    return tree_edges(tree, order), _core_distances(found, reach, order)


def _core_distances(found: Nearest, reach: int, order: NDArray[np.int64]) -> NDArray[np.float64]:
    core = np.empty(len(order))
    core[order] = np.sqrt(found.squares[:, reach])
    return core


def tree_edges(tree: Tree, order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Write a tree of positions as one of rows, shape (n - 1, 3)."""
    first, second = order[tree.first], order[tree.second]
    return np.column_stack([first, second, np.sqrt(tree.squares)]).astype(np.float64)


def choose_clusters(
    edges: NDArray[np.float64],
    min_cluster_size: int,
    method: Literal["eom", "leaf"],
    epsilon: float,
) -> Hierarchy:
    """Condense a spanning tree and choose its clusters (Campello et al. 2015).

    Rows that several edges of the same length join to two clusters at once belong to neither, as at
    any shorter distance they are of none; so the clusters are the same whichever of these edges a
    tree has.

    Parameters
    ----------
    edges : ndarray of float64, shape (n - 1, 3)
        Two row numbers and the distance, shortest first.
    min_cluster_size, method, epsilon
        See `HDBSCANClusterer`.
    """
    # 1.5 s, and only this method needs it
    from hdbscan._hdbscan_tree import compute_stability, get_clusters

    condensed = condense(merges(edges), min_cluster_size)
    labels, membership, _ = get_clusters(
        condensed,
        compute_stability(condensed),
        method,
        cluster_selection_epsilon=epsilon,
    )
    return Hierarchy(_by_first_row(labels), _unit_interval(membership), condensed)


def merges(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Write a spanning tree as the merges of its components, the same for all trees of its weights.

    Components that become one at the same distance are chained, the largest first, and of equal
    ones that of the lowest row.

    Parameters
    ----------
    edges : ndarray of float64, shape (n - 1, 3)
        Two row numbers and the distance, shortest first.

    Returns
    -------
    ndarray of float64, shape (n - 1, 3)
        The lowest rows of the two components and the distance.
    """
    rows = edges[:, :2].astype(np.int64)
    chained: NDArray[np.float64] = _chained(rows, edges[:, 2])
    return chained


@njit(nogil=True, cache=True)
def _chained(rows, distances):  # type: ignore[no-untyped-def]
    n = len(distances)
    parents, sizes = np.arange(n + 1), np.ones(n + 1, dtype=np.int64)
    chained = np.empty((n, 3))
    start = 0
    while start < n:
        stop = start + 1
        while stop < n and distances[stop] == distances[start]:
            stop += 1
        if stop == start + 1:
            a, b = root_of(rows[start, 0], parents), root_of(rows[start, 1], parents)
            a, b = min(a, b), max(a, b)
            parents[b] = a
            larger, smaller = (b, a) if sizes[b] > sizes[a] else (a, b)
            chained[start, 0], chained[start, 1] = larger, smaller
            chained[start, 2] = distances[start]
            sizes[a] += sizes[b]
            start = stop
            continue
        ends = np.empty(2 * (stop - start), dtype=np.int64)
        for e in range(start, stop):
            ends[2 * (e - start)] = root_of(rows[e, 0], parents)
            ends[2 * (e - start) + 1] = root_of(rows[e, 1], parents)
        for i in range(0, len(ends), 2):  # the lowest row is the root
            a, b = root_of(ends[i], parents), root_of(ends[i + 1], parents)
            parents[max(a, b)] = min(a, b)
        parts = np.unique(ends)
        parts = parts[np.argsort(-sizes[parts], kind="mergesort")]
        own = sizes[parts]
        wholes = np.empty_like(parts)
        for i in range(len(parts)):
            wholes[i] = root_of(parts[i], parents)
        order = np.argsort(wholes, kind="mergesort")
        at, leader, total = start, -1, 0
        for i in order:
            if leader < 0 or wholes[i] != wholes[leader]:
                leader, total = i, own[i]
                continue
            chained[at, 0], chained[at, 1] = parts[leader], parts[i]
            chained[at, 2] = distances[start]
            at += 1
            total += own[i]
            sizes[wholes[i]] = total
        start = stop
    return chained


class HDBSCANClusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Hierarchical density clusters: hdbscan's labels from its exact tree, found far sooner.

    Membership is the library's: density of the row relative to its cluster's densest. The outlier
    score is GLOSH (Campello et al. 2015). Fewer rows than min_cluster_size are all noise with
    score 0, as there is nothing to be unlike.

    Parameters
    ----------
    min_cluster_size : int
        Rows of the smallest group that is a cluster, at least 2.
    min_samples : int or None
        Rows, itself counted, whose reach is a row's core distance, at least 2. None:
        min_cluster_size.
    cluster_selection_method : {"eom", "leaf"}
        Excess of mass, or the leaves of the tree: more and smaller clusters.
    cluster_selection_epsilon : float
        Clusters closer than this are not split; 0 is off.
    exact : bool
        False: an approximate tree, of the nearest neighbours' edges.
    n_jobs : int or None
        Threads; None is one a core.
    client : distributed.Client or None
        Its workers do the work, over blocks of rows.
    scratch : str or None
        Folder for the blocks that all workers reach; None: a temporary folder, which is right for
        workers on this machine.

    Attributes
    ----------
    core_distances_ : ndarray of float64, shape (n,)
    spanning_tree_ : ndarray of float64, shape (n - 1, 3)
        Two row numbers and the mutual reachability distance, shortest first.
    condensed_tree_ : ndarray, structured
        See `Hierarchy`.
    """

    def __init__(
        self,
        min_cluster_size: int = 10,
        *,
        min_samples: int | None = None,
        cluster_selection_method: Literal["eom", "leaf"] = "eom",
        cluster_selection_epsilon: float = 0.0,
        exact: bool = True,
        n_jobs: int | None = None,
        client: Any = None,
        scratch: str | None = None,
    ) -> None:
        self.min_cluster_size = min_cluster_size
        self.min_samples = min_samples
        self.cluster_selection_method = cluster_selection_method
        self.cluster_selection_epsilon = cluster_selection_epsilon
        self.exact = exact
        self.n_jobs = n_jobs
        self.client = client
        self.scratch = scratch

    def fit(self, X: ArrayLike, y: None = None) -> Self:  # noqa: N803
        """Cluster rows of shape (n, dim), n at least 1: NumPy, a memory map, Dask or Zarr.

        Arrays of Dask and Zarr, and all rows where there is a client, are sorted into blocks on
        disk first; labels are the same in every case.
        """
        min_samples = self.min_cluster_size if self.min_samples is None else self.min_samples
        if self.min_cluster_size < 2 or min_samples < 2:
            raise ValueError(
                f"min_cluster_size={self.min_cluster_size} and min_samples={self.min_samples} "
                "must be at least 2: both count the row itself."
            )
        rows: Any = X
        if not is_stored(X):
            rows = validate_data(self, X, dtype=[np.float64, np.float32], order="C")
        require_matrix(rows)
        for name in ("outlier_score_", "spanning_tree_", "core_distances_"):
            self.__dict__.pop(name, None)  # of an earlier fit
        self.n_features_in_ = rows.shape[1]
        n = rows.shape[0]
        self._rows = rows
        if n < self.min_cluster_size:
            self.labels_ = np.full(n, NOISE, dtype=np.int32)
            self.membership_ = np.zeros(n, dtype=np.float32)
            self.condensed_tree_ = np.empty(0, dtype=CONDENSED)
            return self
        self.spanning_tree_, self.core_distances_ = self._tree(rows, min_samples)
        found = choose_clusters(
            self.spanning_tree_,
            self.min_cluster_size,
            self.cluster_selection_method,
            float(self.cluster_selection_epsilon),
        )
        self.labels_ = found.labels
        self.membership_ = found.membership
        self.condensed_tree_ = found.condensed
        return self

    @cached_property
    def outlier_score_(self) -> NDArray[np.float32]:
        """Outlier score of each row, (n,), found when it is asked for."""
        from hdbscan._hdbscan_tree import outlier_scores

        check_is_fitted(self)
        if len(self.condensed_tree_) == 0:
            return np.zeros(len(self.labels_), dtype=np.float32)
        return _unit_interval(outlier_scores(self.condensed_tree_))

    def _tree(self, rows: Any, min_samples: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        threads = ThreadWorkers(self.n_jobs)
        if not is_stored(rows) and self.client is None:
            return least_tree(rows, min_samples, threads, exact=self.exact)
        workers = threads if self.client is None else DaskWorkers(self.client)
        with scratch_folder(self.scratch) as folder:
            source = stored(rows, folder, self.client)
            k = min(max(min_samples, LISTED), rows.shape[0])
            blocks = Blocks.sort(source, folder, workers, k=k)
            return least_tree_blocks(blocks, min_samples, workers, exact=self.exact)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the client out, which lives in one process."""
        state: dict[str, Any] = super().__getstate__()
        return state | {"client": None}

    def predict(self, X: ArrayLike) -> NDArray[np.int32]:  # noqa: N803
        """Find the cluster of new rows without changing any; see `approximate_predict`."""
        return self.approximate_predict(X)[0]

    def approximate_predict(
        self,
        X: ArrayLike,  # noqa: N803
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Find the cluster that new rows would join, as if each came alone.

        A new row joins the tree at the fitted row of least mutual reachability distance, among the
        nearest ``2 * min_samples``; its cluster is the one chosen that holds this row at that
        density (McInnes and Healy 2017).

        Parameters
        ----------
        X : ndarray, shape (m, dim)

        Returns
        -------
        labels : ndarray of int32, shape (m,)
            -1 is noise.
        membership : ndarray of float32, shape (m,)
            In [0, 1]; 0 for noise.
        """
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=[np.float64, np.float32], order="C", reset=False)
        if self.labels_.max(initial=NOISE) == NOISE:
            return np.full(len(rows), NOISE, dtype=np.int32), np.zeros(len(rows), np.float32)
        min_samples = self.min_cluster_size if self.min_samples is None else self.min_samples
        near = nearest_stored(rows, self._rows, 2 * min_samples)
        distances = near.distances.astype(np.float64)
        own_core = distances[:, [min(min_samples, distances.shape[1]) - 1]]
        reach = np.maximum(np.maximum(distances, own_core), self.core_distances_[near.indices])
        at = np.argmin(reach, axis=1)
        every = np.arange(len(rows))
        with np.errstate(divide="ignore"):
            density = 1.0 / reach[every, at]
        joined: tuple[NDArray[np.int32], NDArray[np.float32]] = _join(
            near.indices[every, at], density, self.labels_, *as_arrays(self.condensed_tree_)
        )
        return joined


@njit(nogil=True, cache=True)
def _join(row, density, labels, parent, leaves_at):  # type: ignore[no-untyped-def]
    """Label and membership of rows that join the tree at a row, at a density."""
    n_clusters = labels.max() + 1
    chosen = nodes_of_labels(labels, parent)
    label_of = np.full(len(parent), -1, dtype=np.int32)
    densest = np.zeros(n_clusters)
    for c in range(n_clusters):
        label_of[chosen[c]] = c
    for r in range(len(labels)):
        if labels[r] >= 0 and leaves_at[r] < np.inf:
            densest[labels[r]] = max(densest[labels[r]], leaves_at[r])
    joined = np.full(len(row), -1, dtype=np.int32)
    membership = np.zeros(len(row), dtype=np.float32)
    for i in range(len(row)):
        cluster = parent[row[i]]
        if leaves_at[row[i]] > density[i]:
            while parent[cluster] >= 0 and leaves_at[cluster] >= density[i]:
                cluster = parent[cluster]
        while cluster >= 0 and label_of[cluster] < 0:
            cluster = parent[cluster]
        if cluster >= 0:
            joined[i] = label_of[cluster]
            top = densest[joined[i]]
            membership[i] = min(1.0, density[i] / top) if top > 0.0 else 1.0
    return joined, membership


def _by_first_row(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Number the clusters by their first row, whichever way the tree was built."""
    found, first = np.unique(labels[labels != NOISE], return_index=True)
    number = np.empty(len(found), dtype=np.int32)
    number[np.argsort(first)] = np.arange(len(found))
    ordered = np.full(len(labels), NOISE, dtype=np.int32)
    ordered[labels != NOISE] = number[labels[labels != NOISE]]
    return ordered


def _unit_interval(values: NDArray[np.floating]) -> NDArray[np.float32]:
    clipped: NDArray[np.float32] = np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0).astype(
        np.float32
    )
    return clipped
