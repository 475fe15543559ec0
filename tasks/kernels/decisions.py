"""Keep, drop or review: the rule, and its reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

KEEP, DROP, REVIEW = "keep", "drop", "review"
BLACK, MISINFORMATIVE, MIXED, LESION_GUARD = "black", "misinformative", "mixed", "lesion_guard"
NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True)
class Decisions:
    """One decision a tile, with its reason (None where kept without remark)."""

    decision: npt.NDArray[np.object_]  # (n,)
    reason: npt.NDArray[np.object_]  # (n,)


def decide(
    *,
    is_black: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float32],
    breast_fraction: npt.NDArray[np.float32],
    touches_lesion: npt.NDArray[np.bool_],
    threshold: float,
    tissue_for_review: float,
    is_duplicate: npt.NDArray[np.bool_] | None = None,
) -> Decisions:
    """Decide on tiles.

    A black tile is dropped. A tile that scores at least ``threshold`` is dropped as misinformative;
    with ``tissue_for_review`` or more of breast in it a person decides ("mixed"). A tile that
    nothing else is said of is dropped where ``is_duplicate``. A tile that touches a lesion is never
    dropped: what would have been goes to review ("lesion_guard").

    Parameters
    ----------
    is_black : (n,) bool
        Result of the black screen.
    score : (n,) float32
        Misinformative score in [0, 1].
    breast_fraction : (n,) float32
        Share of the tile inside the breast, in [0, 1].
    touches_lesion : (n,) bool
        Whether any annotated lesion lies in the tile, or could (a lesion of unknown place).
    threshold, tissue_for_review : float
        See above, in [0, 1].
    is_duplicate : (n,) bool, optional
        Whether another tile that shows the same stays.

    Returns
    -------
    Decisions
        (n,) decisions and reasons.
    """
    n = len(is_black)
    decision = np.full(n, KEEP, dtype=object)
    reason = np.full(n, None, dtype=object)
    flagged = (score >= threshold) & ~is_black
    mixed = flagged & (breast_fraction >= tissue_for_review)
    for where, what, why in (
        (flagged, DROP, MISINFORMATIVE),
        (mixed, REVIEW, MIXED),
        (is_black, DROP, BLACK),
    ):
        decision[where], reason[where] = what, why
    if is_duplicate is not None:
        copied = is_duplicate & (decision == KEEP)
        decision[copied], reason[copied] = DROP, NEAR_DUPLICATE
    guarded = touches_lesion & (decision != KEEP)
    decision[guarded], reason[guarded] = REVIEW, LESION_GUARD
    return Decisions(decision, reason)
