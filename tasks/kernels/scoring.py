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


CONTEXT_LIMIT, TILE_LIMIT = 5.0, 6.0
"""Neither judge's log odds count for more than these: 150 to 1 and 400 to 1. Both are estimates,
and what a map of blocks or a few thousand planted tiles can be sure of ends about there."""

SCORER_SHARE = 0.5
"""Weight of the tile's log odds beside the film's: both look at the same pixels, so what they say
is not independent, and the sum of both would count it twice."""

SCORER_PATIENTS = 10
"""With this many patients the tile scorer has half of its say: it has seen no more of tissue than
what these have."""


def is_beyond_doubt(
    breast_fraction: FloatArray, foreign_fraction: FloatArray
) -> npt.NDArray[np.bool_]:
    """Tiles that the film's map calls tissue so clearly that no look at the tile can change it.

    Without foreign content the odds by the map are 0.02 to the breast's share; the tile's own look
    turns them round by a factor of exp(0.5 * 6) = 20 at most, which 40 % of breast outweigh. That
    holds for even odds: below a threshold of 0.5 the map alone decides about these tiles, on
    purpose, since no threshold should reach tiles that are tissue for two fifths of their area.

    Parameters
    ----------
    breast_fraction, foreign_fraction : float32, (n_tiles,)
        [0, 1]; NaN where no film is known.

    Returns
    -------
    bool, (n_tiles,)
    """
    most = BREAST_SHARE_EVEN * np.exp(SCORER_SHARE * TILE_LIMIT)
    return np.asarray((foreign_fraction == 0) & (breast_fraction > most))


def scorer_weight(patients: int) -> float:
    """Weight of the tile scorer's log odds beside those of the film's context, [0, 0.5)."""
    return SCORER_SHARE * patients / (patients + SCORER_PATIENTS)


def fused_score(
    context: FloatArray,
    breast_fraction: FloatArray,
    foreign_fraction: FloatArray,
    tile_log_odds: FloatArray,
    *,
    weight: float,
) -> FloatArray:
    """Score from the film's context and the tile's own look: a weighted sum of their log odds.

    Of tiles that the context calls mixed the film's map alone decides: a person will look at them,
    and the tile scorer, which knows few mixed tiles, must not take them out of sight.

    Parameters
    ----------
    context : float32, (n_tiles,)
        Of `context_score`; NaN where no film was at hand: the tile alone then decides.
    breast_fraction, foreign_fraction : float32, (n_tiles,)
        Of the film's map, [0, 1].
    tile_log_odds : float32, (n_tiles,)
        Of an annotation on ground against clean tissue; NaN for tiles without figures.
    weight : float
        Of the tile's log odds, from `scorer_weight`.

    Returns
    -------
    float32, (n_tiles,), [0, 1]
    """
    by_film = np.asarray(context, np.float64)
    alone = np.nan_to_num(np.asarray(tile_log_odds, np.float64))
    tile = np.where(is_mixed(breast_fraction, foreign_fraction), 0.0, alone)
    tile = np.clip(tile, -TILE_LIMIT, TILE_LIMIT)
    with np.errstate(divide="ignore"):
        film = np.clip(np.log(by_film) - np.log1p(-by_film), -CONTEXT_LIMIT, CONTEXT_LIMIT)
    odds = np.where(np.isnan(by_film), alone, film + weight * tile)
    return probability(odds)


def probability(log_odds: FloatArray) -> FloatArray:
    """Probability for log odds, float32; NaN stays."""
    odds = np.asarray(log_odds, np.float64)
    chance: FloatArray = (1 / (1 + np.exp(-odds))).astype(np.float32)
    return chance


def scaled_figures(figures: FloatArray, centre: FloatArray, spread: FloatArray) -> FloatArray:
    """Figures at mean 0 and spread 1, none farther out than 5, so that distances mean something.

    Parameters
    ----------
    figures : float32, (n, n_figures)
    centre, spread : float32, (n_figures,)
        Of the tiles learned from.

    Returns
    -------
    float32, (n, n_figures)
    """
    return np.asarray(np.clip((figures - centre) / spread, -5, 5), np.float32)


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
