"""What a reader of the report should know before using the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

FEWEST_FILMS = 20
"""With fewer films of known label and scanner nothing is said of the two."""
CLEAR_AUC = 0.6
FEW_PATIENTS = 30
MUCH_NOISE = 0.5


@dataclass(frozen=True)
class Caution:
    """A heading and what it means; ``serious`` ones are marked as such."""

    title: str
    text: str
    serious: bool = False


@dataclass(frozen=True)
class ScannerShortcut:
    """How well the scanner alone tells a film's label."""

    label: str
    """The label told from all others."""
    films: int
    auc: float
    rows: tuple[tuple[str, int, int], ...]
    """Scanner, films of this label, films; the highest share first."""

    @property
    def is_clear(self) -> bool:
        """Whether it is a shortcut that a classifier would find."""
        return self.auc >= CLEAR_AUC


def scanner_shortcut(labels: Mapping[str, Mapping[str, int]]) -> ScannerShortcut | None:
    """How well a film's scanner alone predicts its label.

    Films are ordered by the share that the label has among all films of their scanner; the area
    under the ROC curve of that order is the chance that a film with the label goes before one
    without, ties counted half. The shares come from the same films, so with few of them the figure
    is a little high.

    Parameters
    ----------
    labels : mapping of scanner to mapping of label to films
        Films of which both are known.

    Returns
    -------
    ScannerShortcut or None
        None for fewer than 20 films, one scanner or one label.
    """
    totals: Counter[str] = Counter()
    for counts in labels.values():
        totals.update(counts)
    films = totals.total()
    scanners = [name for name, counts in labels.items() if sum(counts.values())]
    if films < FEWEST_FILMS or len(scanners) < 2 or sum(n > 0 for n in totals.values()) < 2:
        return None
    known = [name for name in ("normal", "malignant") if totals[name]]
    label = known[0] if known else min(totals, key=lambda name: (-totals[name], name))
    rows = sorted(
        ((s, labels[s].get(label, 0), sum(labels[s].values())) for s in scanners),
        key=lambda row: (-row[1] / row[2], row[0]),
    )
    return ScannerShortcut(label, films, _auc([(p, n - p) for _, p, n in rows]), tuple(rows))


def _auc(groups: list[tuple[int, int]]) -> float:
    """Area under the ROC curve of groups of (positives, negatives), the highest share first.

    Neighbouring groups of one share are a tie, and count as one.
    """
    positives, negatives = (sum(g[i] for g in groups) for i in (0, 1))
    merged: dict[float, list[int]] = {}
    for p, n in groups:
        both = merged.setdefault(p / (p + n), [0, 0])
        both[0] += p
        both[1] += n
    won, lower = 0.0, negatives
    for p, n in merged.values():
        lower -= n
        won += p * (lower + n / 2)
    return won / (positives * negatives)
