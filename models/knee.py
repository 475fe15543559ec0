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
