"""Which threshold of a score gives the recall or the precision that somebody wants."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FEWEST = 20
"""With fewer planted tiles of a scanner its threshold is that of all scanners."""


def threshold_for_recall(positive: npt.NDArray[np.floating], recall: float) -> float:
    """Highest threshold at which at least this share of the positive scores is reached.

    Parameters
    ----------
    positive : floating, (n,)
        Scores of tiles that ought to be found, [0, 1]; n >= 1.
    recall : float
        (0, 1].

    Returns
    -------
    float
    """
    ordered = np.sort(np.asarray(positive, np.float64))[::-1]
    needed = max(1, int(np.ceil(recall * len(ordered) - 1e-9)))
    return float(ordered[needed - 1])


def threshold_for_precision(
    positive: npt.NDArray[np.floating],
    negative: npt.NDArray[np.floating],
    precision: float,
    *,
    negatives_per_positive: float,
) -> float:
    """Lowest threshold above which at least this share of what is reached is positive.

    Parameters
    ----------
    positive, negative : floating, (n,), (m,)
        Scores of tiles that ought to be found, and of tiles that ought to be kept, [0, 1].
    precision : float
        (0, 1].
    negatives_per_positive : float
        How many tiles of the second kind there are in the run for each of the first.

    Returns
    -------
    float
        Above 1 (no tile is flagged) where no threshold gives it.
    """
    positive, negative = (np.sort(np.asarray(v, np.float64)) for v in (positive, negative))
    weight = negatives_per_positive * len(positive) / max(len(negative), 1)
    for threshold in np.unique(positive):
        found = len(positive) - int(np.searchsorted(positive, threshold))
        wrong = weight * (len(negative) - int(np.searchsorted(negative, threshold)))
        if found / (found + wrong) >= precision:
            return float(threshold)
    return float(np.nextafter(1, 2))
