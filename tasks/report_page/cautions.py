"""What a reader of the report should know before using the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.report_page.films import FilmSurvey
from tasks.report_page.shortcuts import CLEAR_AUC, Audit
from tasks.report_page.survey import NOISE, Survey
from tasks.words import share_text

FEWEST_FILMS = 20
"""With fewer films of known label and scanner nothing is said of the two."""
FEW_PATIENTS = 30
MUCH_NOISE = 0.5
SHOWN_WARNINGS = 50


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


def cautions_of(
    record: Mapping[str, Any],
    survey: Survey,
    films: FilmSurvey,
    shortcut: ScannerShortcut | None,
    audit: Audit,
    encoder: Mapping[str, Any],
) -> tuple[Caution, ...]:
    """Everything about a run that its reader should know first."""
    out = []
    if dict(survey.by_fate) != record["tiles"]["by_fate"]:
        out.append(
            Caution(
                "The manifest is not of this run",
                f"The record counts {record['tiles']['cut']:,} tiles, the manifest holds "
                f"{survey.tiles:,}, or their fates differ. Tables by split, scanner and label, "
                "and all pictures, are of the manifest. Run again to put this right.",
                serious=True,
            )
        )
    if audit.shortcuts:
        out.append(_audit_caution(audit))
    if shortcut is not None and not audit.has_scanner:
        out.append(_shortcut_caution(shortcut))
    out += _patient_cautions(survey, films)
    if films.used and (unknown := films.unknown["pixel_spacing_mm"]):
        in_mm = record["settings"]["tile_size_mm"] is not None
        out.append(
            Caution(
                "Pixel spacing is not known of every film",
                f"Of the {films.used:,} films used, {unknown:,} "
                f"({share_text(unknown / films.used)}) do not say how large their pixels are, and "
                "no table says it for them. Tiles of equal pixels are not tiles of equal "
                "millimetres"
                + ("." if in_mm else ": a lesion can look twice as large on another scanner."),
            )
        )
    scored = sum(survey.cluster_sizes.values())
    if scored and survey.cluster_sizes[NOISE] > MUCH_NOISE * scored:
        out.append(
            Caution(
                "Most tiles are in no cluster",
                f"{share_text(survey.cluster_sizes[NOISE] / scored)} of the tiles with an "
                "embedding are noise. Cluster labels say little of this set; no decision rests on "
                "them.",
            )
        )
    if encoder.get("note"):
        out.append(Caution("How the encoder was trained", encoder["note"]))
    warnings = record.get("inputs", {}).get("warnings", [])
    out += [Caution("Said while the films were read", text) for text in warnings[:SHOWN_WARNINGS]]
    if len(warnings) > SHOWN_WARNINGS:
        out.append(
            Caution("More was said", f"{len(warnings):,} warnings in all; see the run's record.")
        )
    return tuple(out)


def _audit_caution(audit: Audit) -> Caution:
    *most, last = audit.shortcuts
    what = f"{', '.join(most)} and {last}" if most else last
    return Caution(
        "The label can be told without the breast",
        f"In what a training job gets, these still predict “{audit.target}”: {what}. How well, and "
        "what to do about it, is in the section Shortcuts.",
        serious=True,
    )


def _shortcut_caution(found: ScannerShortcut) -> Caution:
    figures = (
        f"On the {found.films:,} films used of which scanner and label are known, the scanner "
        f"alone predicts “{found.label}” with an area under the ROC curve of "
        f"{found.auc:.2f} (0.5 is chance; measured on these same films, so a little high where "
        "they are few)."
    )
    if not found.is_clear:
        return Caution("The scanner says little about the label", figures)
    return Caution(
        "The scanner gives the label away",
        f"{figures} A classifier can learn the scanner instead of the disease, and no dropping of "
        "tiles removes that: balance or stratify by scanner, and report results per scanner.",
        serious=True,
    )


def _patient_cautions(survey: Survey, films: FilmSurvey) -> list[Caution]:
    out = []
    empty = [name for name, patients in survey.patients.items() if not patients]
    if empty:
        out.append(
            Caution(
                "A part of the split is empty",
                f"No patient fell into: {', '.join(empty)}. The split is drawn by patient, so with "
                "few patients this happens; give more films, other shares or another seed.",
                serious=True,
            )
        )
    if len(films.patients) < FEW_PATIENTS:
        out.append(
            Caution(
                "Few patients",
                f"{len(films.patients)} patient{'s' if len(films.patients) != 1 else ''}: figures "
                "on validation and test parts this small vary by chance alone.",
            )
        )
    return out
