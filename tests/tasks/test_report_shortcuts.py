"""What the report says of each cue."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.report_page.shortcuts import Audit, audit_of

NONE = (None, None, None)


def figures(
    moment: str, auc: float | None, low: float | None, high: float | None
) -> dict[str, Any]:
    interval = None if auc is None else [low, high]
    reason = {f"reason_{moment}": "too few"} if auc is None else {}
    return {f"n_{moment}": 80, f"auc_{moment}": auc, f"interval_{moment}": interval} | reason


def audit(name: str, before: tuple[Any, ...], after: tuple[Any, ...], left: int = 9) -> Audit:
    cue = figures("before", *before) | figures("after", *after)
    if name != "scanner":
        cue |= {"present_before": 70, "present_after": left}
    counts = dict.fromkeys(("films", "films_after", "patients", "positives", "labelled"), 80)
    record = {"measured": True, "target": "normal", "cues": {name: cue}, **counts}
    return audit_of({"shortcuts": record})


CHANCE, SLIGHT, CLEAR = (0.5, 0.4, 0.6), (0.57, 0.52, 0.62), (0.8, 0.7, 0.9)
ABOVE_BUT_WIDE, BELOW = (0.7, 0.45, 0.95), (0.3, 0.2, 0.4)


@pytest.mark.parametrize(
    ("name", "before", "after", "left", "says"),
    [
        (
            "markers",
            CLEAR,
            CLEAR,
            9,
            "still gives “normal” away. A classifier can read the markers",
        ),
        ("background", CHANCE, CLEAR, 9, "still gives “normal” away. A classifier can learn"),
        ("scanner", CLEAR, CLEAR, 9, "balance or stratify by scanner"),
        ("markers", CLEAR, SLIGHT, 9, "still says a little"),
        ("markers", CLEAR, CHANCE, 9, "(9 films still have some in kept tiles)"),
        ("markers", CLEAR, CHANCE, 0, "nothing is left of what is foreign on the film"),
        ("background", SLIGHT, CHANCE, 9, "Before curation, the empty film beside the breast gave"),
        ("background", CHANCE, BELOW, 9, "No sign"),
        ("background", CHANCE, ABOVE_BUT_WIDE, 9, "No sign"),
        ("scanner", NONE, NONE, 9, "Nothing can be said of the scanner's name: too few."),
        ("markers", CLEAR, NONE, 9, "after curation: too few."),
        ("breast", CLEAR, CHANCE, 9, "nothing beyond chance"),
        ("breast", CLEAR, CLEAR, 9, "is one to worry about"),
        ("kept_places", CHANCE, CLEAR, 9, "the pattern alone says something"),
        ("kept_places", CHANCE, CHANCE, 9, "comes from pixels"),
    ],
)
def test_each_cue_has_a_sentence(
    name: str, before: tuple[Any, ...], after: tuple[Any, ...], left: int, says: str
) -> None:
    found = audit(name, before, after, left)
    sentence = found.sentence(found.cues[0])
    assert says in sentence
    assert sentence[0].isupper()
    assert sentence.endswith(".")


@pytest.mark.parametrize("after", [CHANCE, SLIGHT, ABOVE_BUT_WIDE, BELOW, NONE])
def test_only_a_clear_cue_after_curation_is_cautioned_of(after: tuple[Any, ...]) -> None:
    assert audit("markers", CLEAR, after).shortcuts == ()


@pytest.mark.parametrize(("name", "cautioned"), [("markers", 1), ("breast", 0), ("kept_places", 0)])
def test_breast_and_control_are_no_shortcuts(name: str, cautioned: int) -> None:
    assert len(audit(name, CHANCE, CLEAR).shortcuts) == cautioned


def test_a_record_of_an_older_version_says_that_nothing_was_measured() -> None:
    assert "does not measure" in audit_of({}).reason
    assert audit_of({"shortcuts": {"measured": False, "reason": "why."}}).reason == "why."
