"""How far decisions on tiles agree with pixel truth: classes of tiles, and the usual figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BREAST, ANNOTATION, ARTEFACT = 1, 2, 3
"""Values of a truth picture; 0 is background."""

MISINFORMATIVE, TISSUE, EMPTY, MIXED, AMBIGUOUS = (
    "misinformative",
    "tissue",
    "empty",
    "mixed",
    "ambiguous",
)

Bools = npt.NDArray[np.bool_]


def truth_shares(
    truth: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.int64],
    ignored: Bools | None = None,
) -> npt.NDArray[np.float64]:
    """Measure what the tiles of a film hold by its pixel truth.

    Parameters
    ----------
    truth : uint8, (rows, columns)
        0 background, 1 breast, 2 annotation, 3 other artefact.
    boxes : int64, (n_tiles, 4)
        x, y, width, height in source pixels, origin top left. What lies beyond the film counts for
        nothing.
    ignored : bool, (rows, columns), optional
        Pixels to leave out.

    Returns
    -------
    float64, (n_tiles, 3), [0, 1]
        Shares of breast, annotation and artefact; NaN where no pixel of the box counts.
    """
    shares = np.full((len(boxes), 3), np.nan)
    for i, (x, y, width, height) in enumerate(boxes):
        box = np.s_[y : y + height, x : x + width]
        pixels = truth[box] if ignored is None else truth[box][~ignored[box]]
        if pixels.size:
            shares[i] = [(pixels == kind).mean() for kind in (BREAST, ANNOTATION, ARTEFACT)]
    return shares


def tile_classes(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.object_]:
    """Name what tiles are by their shares of truth.

    ``misinformative``: annotation and artefact together at least 1 %, breast below 5 %.
    ``tissue``: breast at least 5 %, no annotation, artefact below 0.5 %. ``empty``: breast below
    0.5 %, no annotation, artefact below 0.1 %. ``mixed``: breast at least 5 % and annotation at
    least 1 %. ``ambiguous``: all others, and tiles without a pixel that counts.

    Parameters
    ----------
    shares : float64, (n_tiles, 3), [0, 1]
        Breast, annotation, artefact; see `truth_shares`.

    Returns
    -------
    object, (n_tiles,)
        Of str.
    """
    breast, annotation, artefact = np.asarray(shares, np.float64).T
    much_breast = breast >= 0.05
    unmarked = annotation == 0
    kinds = np.full(len(breast), AMBIGUOUS, dtype=object)
    kinds[much_breast & (annotation >= 0.01)] = MIXED
    kinds[(breast < 0.005) & unmarked & (artefact < 0.001)] = EMPTY
    kinds[much_breast & unmarked & (artefact < 0.005)] = TISSUE
    kinds[(annotation + artefact >= 0.01) & (breast < 0.05)] = MISINFORMATIVE
    return kinds


def average_precision(is_positive: Bools, score: npt.NDArray[np.floating]) -> float:
    """Mean over the positives of the precision down to each, from the highest score on.

    Equal scores are taken in the order in which they are given.

    Parameters
    ----------
    is_positive : bool, (n,)
        What ought to score high.
    score : floating, (n,)
        Finite.

    Returns
    -------
    float
        [0, 1]; NaN where there is no positive.
    """
    ranked = np.asarray(is_positive, bool)[np.argsort(-np.asarray(score), kind="stable")]
    if not ranked.any():
        return float("nan")
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    return float(precision[ranked].mean())


@dataclass(frozen=True)
class Agreement:
    """Figures in [0, 1]; None where there is nothing to divide by."""

    recall: float | None
    """Share of the misinformative tiles that were rejected, the black ones among them."""
    precision: float | None
    """Share of misinformative among the tiles rejected for another reason than black, of which
    only those that are misinformative or tissue by truth count."""
    tissue_lost: float | None
    """Share of the tissue tiles that were rejected, for whatever reason."""


def agreement(kinds: npt.NDArray[np.object_], rejected: Bools, as_black: Bools) -> Agreement:
    """Compare decisions with the truth.

    Parameters
    ----------
    kinds : object, (n_tiles,)
        See `tile_classes`.
    rejected : bool, (n_tiles,)
        Dropped or sent to review.
    as_black : bool, (n_tiles,)
        Of these, the ones whose reason is that they are black.
    """
    positive, tissue = kinds == MISINFORMATIVE, kinds == TISSUE
    flagged = rejected & ~as_black & (positive | tissue)
    return Agreement(
        recall=_share(rejected, positive),
        precision=_share(positive, flagged),
        tissue_lost=_share(rejected, tissue),
    )


def _share(of: Bools, among: Bools) -> float | None:
    return float(of[among].mean()) if among.any() else None
