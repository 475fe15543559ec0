"""How misinformative a tile is, from where it lies on its film."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

BREAST_SHARE_EVEN = 0.02
"""A tile without foreign content scores 0.5 at this share of breast."""

BREAST_SHARE_EVEN_FOREIGN = 0.05
"""A tile with clear foreign content scores above 0.5 below this share of breast."""

CLEAR_FOREIGN = 0.01
"""Share of foreign content from which on it is clear."""


def context_score(breast_fraction: FloatArray, foreign_fraction: FloatArray) -> FloatArray:
    """Score tiles by what the film's context says of them: 0 informative, 1 misinformative.

    The odds are ``even * (1 + foreign) / breast``, where `even` rises from 2 % to 5 % of breast
    with the first 1 % of foreign content. A tile with clear foreign content scores at least 0.5
    however much breast there is beside it: such a mixed tile is for a person to look at. The score
    never rises with breast and never falls with foreign content.

    Parameters
    ----------
    breast_fraction, foreign_fraction : float32, (n_tiles,)
        [0, 1].

    Returns
    -------
    float32, (n_tiles,), [0, 1]
    """
    breast = np.asarray(breast_fraction, np.float64)
    foreign = np.asarray(foreign_fraction, np.float64)
    clear = np.clip(foreign / CLEAR_FOREIGN, 0.0, 1.0)
    even = BREAST_SHARE_EVEN + (BREAST_SHARE_EVEN_FOREIGN - BREAST_SHARE_EVEN) * clear
    weight = even * (1.0 + foreign)
    return np.maximum(weight / (weight + breast), 0.5 * clear).astype(np.float32)


def is_mixed(breast_fraction: FloatArray, foreign_fraction: FloatArray) -> npt.NDArray[np.bool_]:
    """Tiles with both breast (>= 5 %) and clear foreign content (>= 1 %).

    Parameters
    ----------
    breast_fraction, foreign_fraction : float32, (n_tiles,)
        [0, 1].

    Returns
    -------
    bool, (n_tiles,)
    """
    breast, foreign = np.asarray(breast_fraction), np.asarray(foreign_fraction)
    return np.asarray((breast >= BREAST_SHARE_EVEN_FOREIGN) & (foreign >= CLEAR_FOREIGN))
