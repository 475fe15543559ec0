"""Keep, drop or review: the rule, and its reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

KEEP, DROP, REVIEW = "keep", "drop", "review"
BLACK, MISINFORMATIVE, MIXED, LESION_GUARD = "black", "misinformative", "mixed", "lesion_guard"
REVIEWER, NO_PIXELS = "reviewer", "no_pixels"
NEAR_DUPLICATE = "near_duplicate"


@dataclass(frozen=True)
class Decisions:
    """One decision a tile, with its reason (None where kept without remark)."""

    decision: npt.NDArray[np.object_]  # (n,)
    reason: npt.NDArray[np.object_]  # (n,)
    without_guard: npt.NDArray[np.object_]  # (n,)
    """Decision and reason in one word (``drop/misinformative``) if no tile touched a lesion."""


def decide(
    *,
    is_black: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float32],
    breast_fraction: npt.NDArray[np.float32],
    touches_lesion: npt.NDArray[np.bool_],
    threshold: float | npt.NDArray[np.float64],
    tissue_for_review: float,
    called_normal: npt.NDArray[np.bool_] | None = None,
    is_duplicate: npt.NDArray[np.bool_] | None = None,
) -> Decisions:
    """Decide on tiles.

    A black tile is dropped. A tile that scores at least ``threshold`` is dropped as misinformative;
    with ``tissue_for_review`` or more of breast in it a person decides ("mixed"). A tile that
    nothing else is said of is dropped where ``is_duplicate``. A tile that touches a lesion is never
    dropped: what would have been goes to review ("lesion_guard"), and so does a tile with a lesion
    on a film that is called normal.

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
    threshold : float, or (n,) float64
        See above, in [0, 1]; of each tile by its scanner.
    tissue_for_review : float
        See above, in [0, 1].
    called_normal : (n,) bool, optional
        Whether the tile's film is labelled normal.
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
    without = np.array(
        [d if r is None else f"{d}/{r}" for d, r in zip(decision, reason, strict=True)], object
    )
    guarded = touches_lesion & (decision != KEEP)
    if called_normal is not None:
        guarded |= touches_lesion & called_normal
    decision[guarded], reason[guarded] = REVIEW, LESION_GUARD
    return Decisions(decision, reason, without)


def with_verdicts(
    decided: Decisions,
    verdict: npt.NDArray[np.object_],
    *,
    touches_lesion: npt.NDArray[np.bool_],
    has_pixels: npt.NDArray[np.bool_],
) -> Decisions:
    """Put the verdicts of people above what the rules decided.

    Two things outrank a person. A tile that touches a lesion is not dropped: it goes to review
    ("lesion_guard"). A tile whose pixels were not stored cannot be kept, for there is nothing to
    train on: it goes to review ("no_pixels").

    Parameters
    ----------
    decided : Decisions
        Of the rules, (n,).
    verdict : (n,) object
        keep, drop or review; None where nobody has judged.
    touches_lesion : (n,) bool
        As for ``decide``.
    has_pixels : (n,) bool
        Whether the tile's pixels lie in the workspace.

    Returns
    -------
    Decisions
        (n,) decisions and reasons.
    """
    decision, reason = decided.decision.copy(), decided.reason.copy()
    given = np.array([v is not None for v in verdict], dtype=bool)
    decision[given], reason[given] = verdict[given], REVIEWER
    for where, why in (
        ((verdict == DROP) & touches_lesion, LESION_GUARD),
        ((verdict == KEEP) & ~has_pixels, NO_PIXELS),
    ):
        decision[where], reason[where] = REVIEW, why
    return Decisions(decision, reason, decided.without_guard)
