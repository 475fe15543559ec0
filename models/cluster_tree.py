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
