"""How often a run was right, as far as the verdicts of people tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SINGLY, BY_CLUSTER = "singly", "by_cluster"
Z_95 = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


@dataclass(frozen=True)
class Share:
    """A share that was counted, with its 95 % interval; None where nothing was counted."""

    n: int
    hits: int
    share: float | None
    low: float | None
    high: float | None


def wilson(hits: int, n: int) -> Share:
    """Share of hits with the 95 % interval of Wilson's score.

    Parameters
    ----------
    hits, n : int
        0 <= hits <= n.

    Returns
    -------
    Share
        ``low`` and ``high`` are in [0, 1]; for n = 0 there is neither a share nor an interval.

    References
    ----------
    E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference,
    J. Am. Stat. Assoc. 22, 209-212.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"hits={hits} of n={n}: need 0 <= hits <= n")
    if n == 0:
        return Share(0, 0, None, None, None)
    share, z2 = hits / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == n else min(1.0, centre + half)
    return Share(n, hits, share, low, high)


def tally(
    by_rule: npt.NDArray[np.object_],
    verdict: npt.NDArray[np.object_],
    singly: npt.NDArray[np.bool_],
) -> dict[str, int]:
    """Count verdicts by what the rules had decided; counts of shards may be added up.

    Parameters
    ----------
    by_rule : (n,) object
        Fate without any verdict: ``keep``, ``drop/misinformative``, ...
    verdict : (n,) object
        keep, drop, review; None where nobody has judged.
    singly : (n,) bool
        True where somebody judged the tile itself, False where its cluster.

    Returns
    -------
    dict of str to int
        By ``fate:verdict:how``; ``how`` is ``singly`` or ``by_cluster``.
    """
    counts = Counter(
        f"{fate}:{said}:{SINGLY if alone else BY_CLUSTER}"
        for fate, said, alone in zip(by_rule, verdict, singly, strict=True)
        if said is not None
    )
    return dict(sorted(counts.items()))


def measured(counts: Mapping[str, int]) -> dict[str, dict[str, Share]]:
    """Precision of the flags, and the share of kept tiles that were wrong, from a ``tally``.

    A verdict "review" settles nothing and is left out. Flagged are the tiles that the rules drop
    as misinformative; right is where a person says drop. Kept are those that the rules keep; wrong
    is where a person says drop.

    Returns
    -------
    dict
        ``flagged`` (share = precision) and ``kept`` (share = wrong ones), each of ``all`` verdicts
        and of those given ``singly``. Tiles of a cluster were judged together: the interval of
        ``all`` takes them for independent and so is too narrow.
    """
    out: dict[str, dict[str, Share]] = {}
    for name, fate in (("flagged", "drop/misinformative"), ("kept", "keep")):
        sums = {
            (said, how): counts.get(f"{fate}:{said}:{how}", 0)
            for said in ("drop", "keep")
            for how in (SINGLY, BY_CLUSTER)
        }
        alone = sums["drop", SINGLY], sums["keep", SINGLY]
        every = alone[0] + sums["drop", BY_CLUSTER], alone[1] + sums["keep", BY_CLUSTER]
        out[name] = {
            "all": wilson(every[0], sum(every)),
            SINGLY: wilson(alone[0], sum(alone)),
        }
    return out
