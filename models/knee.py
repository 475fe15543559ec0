"""Where a curve bends: the choice of a radius, or of a number of clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def knee(k_distances: NDArray[np.float64]) -> float:
    """Choose DBSCAN's eps where the sorted k-distances turn upwards.

    The curve of the sorted distances is drawn into the unit square; the knee is the point
    farthest below the diagonal from the first to the last (as in Satopaa et al. 2011, without
    smoothing), the first of equals. The upmost 1 % is left out, since a single far row would
    press all others flat.

    Parameters
    ----------
    k_distances : ndarray of float64, shape (n,)
        Distance of each row to its k-th neighbour; infinite ones are ignored.

    Returns
    -------
    float
        Positive: where the knee is at 0 (many duplicates), the lowest positive distance; 1 where
        all are 0 or none is finite, as any radius then gives the same clusters.
    """
    curve = np.sort(k_distances[np.isfinite(k_distances)])
    positive = curve[curve > 0]
    if len(positive) == 0:
        return 1.0
    curve = curve[: max(1, len(curve) - len(curve) // 100)]
    rise = curve[-1] - curve[0]
    if rise == 0:
        return float(max(curve[0], positive[0]))
    across = np.linspace(0, 1, len(curve))
    corner = curve[np.argmax(across - (curve - curve[0]) / rise)]
    return float(max(corner, positive[0]))


def elbow(counts: NDArray[np.integer], inertias: NDArray[np.float64]) -> int:
    """Choose a number of clusters where more of them stop to pay.

    The point of the curve farthest below the straight line from its first to its last point, both
    axes drawn to the unit interval (Satopaa et al. 2011).

    Parameters
    ----------
    counts : ndarray of int, shape (m,)
        Rising, at least one.
    inertias : ndarray of float64, shape (m,)
    """
    across = (counts - counts[0]) / max(1, counts[-1] - counts[0])
    fall = inertias[0] - inertias[-1]
    down = (inertias[0] - inertias) / fall if fall > 0 else np.zeros(len(counts))
    return int(counts[np.argmax(down - across)])
