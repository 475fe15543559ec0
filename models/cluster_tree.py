"""The condensed tree of HDBSCAN, and its clusters alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

NOISE = -1

CONDENSED = np.dtype(
    [("parent", np.intp), ("child", np.intp), ("lambda_val", float), ("child_size", np.intp)]
)


def as_arrays(condensed: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Parent of each row and cluster (-1 for the root), and the density at which it leaves."""
    size = int(max(condensed["parent"].max(), condensed["child"].max())) + 1
    parent = np.full(size, -1, dtype=np.int64)
    density = np.zeros(size)
    parent[condensed["child"]] = condensed["parent"]
    density[condensed["child"]] = condensed["lambda_val"]
    return parent, density


def condense(merges: NDArray[np.float64], min_cluster_size: int) -> NDArray[Any]:
    """Reduce the merges of components to those of clusters (Campello et al. 2015).

    The same rows in the same order as hdbscan's, which makes a Python object of each.

    Parameters
    ----------
    merges : ndarray of float64, shape (n - 1, 3)
        A row of each of two components and the distance at which they become one, shortest first.
    min_cluster_size : int
        Rows of a component that is a cluster, at least 2.

    Returns
    -------
    ndarray of `CONDENSED`
        An edge for each row and each cluster but the root, which has the number n.
    """
    n = len(merges) + 1
    condensed = np.empty(2 * n, dtype=CONDENSED)
    children, sizes = _hierarchy(merges)
    used = _condense(children, sizes, merges[:, 2], min_cluster_size, condensed)
    return condensed[:used].copy()


@njit(nogil=True, cache=True)
def root_of(row, parents):  # type: ignore[no-untyped-def]
    """Root of a row in a forest of parents, which is flattened on the way."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@njit(nogil=True, cache=True)
def _hierarchy(merges):  # type: ignore[no-untyped-def]
    """Children of each merge, (n - 1, 2), rows or n + a merge's number; and rows below each."""
    n = len(merges) + 1
    parents = np.arange(n)
    node = np.arange(n)
    children = np.empty((n - 1, 2), dtype=np.int64)
    sizes = np.ones(2 * n - 1, dtype=np.int64)
    for e in range(n - 1):
        a = root_of(np.int64(merges[e, 0]), parents)
        b = root_of(np.int64(merges[e, 1]), parents)
        children[e, 0], children[e, 1] = node[a], node[b]
        sizes[n + e] = sizes[node[a]] + sizes[node[b]]
        parents[max(a, b)] = min(a, b)
        node[min(a, b)] = n + e
    return children, sizes


@njit(nogil=True, cache=True)
def _condense(children, sizes, distances, min_cluster_size, condensed):  # type: ignore[no-untyped-def]
    """Walk from the root down, level by level; how many edges were written."""
    n = len(children) + 1
    queue, below = np.empty(2 * n, dtype=np.int64), np.empty(2 * n, dtype=np.int64)
    cluster = np.full(2 * n - 1, -1, dtype=np.int64)  # -1: fell out with what was above
    queue[0], waiting = 2 * n - 2, 1
    cluster[2 * n - 2] = n
    clusters, used = n + 1, 0
    at = 0
    while at < waiting:
        node = queue[at]
        at += 1
        if node < n:
            continue
        both = children[node - n]
        distance = distances[node - n]
        density = 1.0 / distance if distance > 0.0 else np.inf
        split = sizes[both[0]] >= min_cluster_size and sizes[both[1]] >= min_cluster_size
        for child in both:
            if sizes[child] >= min_cluster_size:
                if split:
                    cluster[child] = clusters
                    condensed[used].parent = cluster[node]
                    condensed[used].child = clusters
                    condensed[used].lambda_val = density
                    condensed[used].child_size = sizes[child]
                    clusters += 1
                    used += 1
                else:
                    cluster[child] = cluster[node]
                queue[waiting] = child
                waiting += 1
                continue
            first, last = 0, 1
            below[0] = child
            while first < last:
                fallen = below[first]
                first += 1
                if fallen >= n:
                    below[last], below[last + 1] = children[fallen - n]
                    last += 2
                    continue
                condensed[used].parent = cluster[node]
                condensed[used].child = fallen
                condensed[used].lambda_val = density
                condensed[used].child_size = 1
                used += 1
    return used


@njit(nogil=True, cache=True)
def nodes_of_labels(labels, parent):  # type: ignore[no-untyped-def]
    """For each label the lowest node of the tree that holds all its rows."""
    chosen = np.full(labels.max() + 1, -1, dtype=np.int64)
    for r in range(len(labels)):
        if labels[r] < 0:
            continue
        own = parent[r]
        other = chosen[labels[r]]
        while other >= 0 and own != other:  # a cluster's number is above its parent's
            if own > other:
                own = parent[own]
            else:
                other = parent[other]
        chosen[labels[r]] = own
    return chosen


@dataclass(frozen=True)
class ClusterTree:
    """Clusters of the condensed tree, those that were not chosen too.

    Parameters
    ----------
    parent : ndarray of int32, shape (m,)
        Number of the cluster that it parted from, which is lower; -1 for the root.
    size : ndarray of int64, shape (m,)
        Rows when it parted.
    far, near : ndarray of float64, shape (m,)
        Mutual reachability distance at which it parts from the rest (infinite for the root), and at
        which it falls into others, or its last row is alone.
    label : ndarray of int32, shape (m,)
        Of the rows, where it was chosen; else -1.
    """

    parent: NDArray[np.int32]
    size: NDArray[np.int64]
    far: NDArray[np.float64]
    near: NDArray[np.float64]
    label: NDArray[np.int32]


def cluster_tree(condensed: NDArray[Any], labels: NDArray[np.int32]) -> ClusterTree:
    """Reduce a condensed tree to its clusters.

    Parameters
    ----------
    condensed : ndarray of `CONDENSED`
        With a row for each row and cluster, as `HDBSCANClusterer.condensed_tree_`.
    labels : ndarray of int32, shape (n,)
        Of the rows.
    """
    n = len(labels)
    if len(condensed) == 0:
        none = np.empty(0)
        whole = np.empty(0, dtype=np.int32)
        return ClusterTree(whole, none.astype(np.int64), none, none, whole)
    parent, density = as_arrays(condensed)
    m = len(parent) - n
    size = np.full(m, n, dtype=np.int64)
    clusters = condensed[condensed["child"] >= n]
    size[clusters["child"] - n] = clusters["child_size"]
    ends = np.zeros(m)
    np.maximum.at(ends, parent[:n] - n, density[:n])
    ends[clusters["parent"] - n] = clusters["lambda_val"]  # it falls apart there, rows or not
    label = np.full(m, NOISE, dtype=np.int32)
    if (labels >= 0).any():
        chosen = nodes_of_labels(labels, parent)
        label[chosen - n] = np.arange(len(chosen), dtype=np.int32)
    with np.errstate(divide="ignore"):
        far, near = 1.0 / density[n:], 1.0 / ends
    above = np.where(parent[n:] >= 0, parent[n:] - n, -1).astype(np.int32)
    return ClusterTree(above, size, far, near, label)
