"""The shortcut audit in words: what each cue says of the label, before and after curation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CLEAR_AUC = 0.6
"""From here on, with all of the interval above 0.5, a classifier would find the cue."""
CHANCE = 0.5

TITLES = {
    "background": "Background only",
    "markers": "Markers only",
    "scanner": "Scanner's name",
    "breast": "Breast only (for comparison)",
    "kept_places": "Places of the tiles (control)",
}
_WHAT = {
    "background": "the empty film beside the breast",
    "markers": "what is foreign on the film (lettering, plates, stickers, borders)",
    "scanner": "the scanner's name",
}
_ADVICE = {
    "background": (
        "A classifier can learn exposure, digitiser or marks that the map of the film missed "
        "instead of the disease: mask what is not breast when training, and report results by "
        "scanner or hospital."
    ),
    "markers": (
        "A classifier can read the markers instead of the breast: look at the kept tiles nearest "
        "to the threshold, lower misinformative_threshold, or mask what is not breast when "
        "training."
    ),
    "scanner": (
        "A classifier can learn the scanner instead of the disease, and no dropping of tiles "
        "removes that: balance or stratify by scanner, and report results per scanner."
    ),
}


@dataclass(frozen=True)
class Figure:
    """One area under the ROC curve, or why there is none."""

    auc: float | None
    low: float
    high: float
    films: int
    present: int | None
    """Films that have any such pixel; None where the cue is not pixels."""
    reason: str

    @property
    def is_clear(self) -> bool:
        """Whether a classifier would find the cue."""
        return self.auc is not None and self.auc >= CLEAR_AUC and self.low > CHANCE

    @property
    def is_slight(self) -> bool:
        """Whether it is above chance, but not clear."""
        return self.auc is not None and self.low > CHANCE and not self.is_clear


@dataclass(frozen=True)
class Cue:
    """A line of the table, and the sentence about it."""

    name: str
    before: Figure
    after: Figure

    @property
    def title(self) -> str:
        """What is looked at."""
        return TITLES[self.name]

    @property
    def is_shortcut(self) -> bool:
        """Whether a training job would still find it, and it is no part of the breast."""
        return self.name in _WHAT and self.after.is_clear


@dataclass(frozen=True)
class Audit:
    """All that the section says; ``reason`` where nothing was measured."""

    reason: str
    target: str = ""
    films: int = 0
    films_after: int = 0
    patients: int = 0
    positives: int = 0
    labelled: int = 0
    cues: tuple[Cue, ...] = ()

    @property
    def has_scanner(self) -> bool:
        """Whether it says what the scanner's name gives away."""
        return any(c.name == "scanner" and c.before.auc is not None for c in self.cues)

    @property
    def shortcuts(self) -> tuple[str, ...]:
        """What a classifier could learn instead of the disease, in words."""
        return tuple(_WHAT[c.name] for c in self.cues if c.is_shortcut)

    def sentence(self, cue: Cue) -> str:
        """What a cue means to someone who will train on this set."""
        if cue.name == "breast":
            return _breast_sentence(cue)
        if cue.name == "kept_places":
            return _control_sentence(cue)
        what, label = _WHAT[cue.name], f"“{self.target}”"
        if cue.before.auc is None and cue.after.auc is None:
            return f"Nothing can be said of {what}: {cue.before.reason}."
        if cue.after.auc is None:
            return f"Nothing can be said of {what} after curation: {cue.after.reason}."
        if cue.after.is_clear:
            return f"In the kept tiles, {what} still gives {label} away. {_ADVICE[cue.name]}"
        before = cue.before.is_clear or cue.before.is_slight
        if cue.after.is_slight:
            return (
                f"In the kept tiles, {what} still says a little of {label}: less than a classifier "
                "would need, but more than chance."
            )
        if cue.after.present == 0:
            gone = f"In the kept tiles nothing is left of {what}"
            return f"{gone}; before curation that gave {label} away." if before else f"{gone}."
        limits = f", as far as {cue.after.films:,} films can show."
        if cue.name == "markers":
            limits = f" ({cue.after.present:,} films still have some in kept tiles){limits}"
        if before:
            return (
                f"Before curation, {what} gave {label} away; in the kept tiles that cannot be told "
                f"from chance{limits}"
            )
        return f"No sign that {what} says anything of {label}{limits}"


def _breast_sentence(cue: Cue) -> str:
    text = (
        "The yardstick: how bright the breast is, part by part, too coarse for a lesion to be "
        "seen. It is no shortcut, and no measure of how well a classifier would do"
    )
    if cue.after.auc is not None and not (cue.after.is_clear or cue.after.is_slight):
        return f"{text}; here it says nothing beyond chance."
    return f"{text}; a line above that says as much is one to worry about."


def _control_sentence(cue: Cue) -> str:
    text = "Which parts of a film were kept, without any pixel of them. "
    if cue.after.is_clear or cue.after.is_slight:
        return text + (
            "Here the pattern alone says something: where a line above rises with curation, that "
            "may come of where tiles were dropped."
        )
    return text + "It says nothing here, so what the lines above say comes from pixels."


def audit_of(record: Mapping[str, Any]) -> Audit:
    """Read the audit of a run's record; a record of an older version has none."""
    found = record.get("shortcuts")
    if found is None:
        return Audit("this run was made by a version that does not measure it.")
    if not found["measured"]:
        return Audit(found["reason"])
    cues = tuple(
        Cue(name, _figure(figures, "before"), _figure(figures, "after"))
        for name, figures in found["cues"].items()
        if name in TITLES
    )
    names = ("target", "films", "films_after", "patients", "positives", "labelled")
    return Audit("", cues=cues, **{name: found[name] for name in names})


def _figure(figures: Mapping[str, Any], moment: str) -> Figure:
    low, high = figures[f"interval_{moment}"] or (0.0, 1.0)
    return Figure(
        figures[f"auc_{moment}"],
        low,
        high,
        figures[f"n_{moment}"],
        figures.get(f"present_{moment}"),
        figures.get(f"reason_{moment}", ""),
    )
