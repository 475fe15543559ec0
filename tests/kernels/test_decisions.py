from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.decisions import decide, with_verdicts


def one(**changes: object) -> tuple[str, str | None]:
    tile = {"is_black": False, "score": 0.0, "breast_fraction": 0.9, "touches_lesion": False}
    tile |= changes
    decided = decide(
        is_black=np.array([tile["is_black"]]),
        score=np.array([tile["score"]], np.float32),
        breast_fraction=np.array([tile["breast_fraction"]], np.float32),
        touches_lesion=np.array([tile["touches_lesion"]]),
        threshold=0.5,
        tissue_for_review=0.05,
    )
    return decided.decision[0], decided.reason[0]


def test_tissue_is_kept_without_remark() -> None:
    assert one() == ("keep", None)


def test_a_black_tile_is_dropped() -> None:
    assert one(is_black=True, breast_fraction=0.0) == ("drop", "black")


def test_lettering_outside_the_breast_is_dropped() -> None:
    assert one(score=0.5, breast_fraction=0.04) == ("drop", "misinformative")


def test_lettering_beside_tissue_goes_to_a_person() -> None:
    assert one(score=0.9, breast_fraction=0.05) == ("review", "mixed")


def test_a_lesion_is_never_dropped() -> None:
    assert one(score=0.9, touches_lesion=True) == ("review", "lesion_guard")
    assert one(is_black=True, touches_lesion=True) == ("review", "lesion_guard")
    assert one(touches_lesion=True) == ("keep", None)


@given(st.booleans(), st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.booleans())
def test_everything_but_a_plain_keep_has_a_reason(
    is_black: bool, score: float, breast: float, lesion: bool
) -> None:
    decision, reason = one(
        is_black=is_black, score=score, breast_fraction=breast, touches_lesion=lesion
    )
    assert (decision == "keep") == (reason is None)
    assert not (lesion and decision == "drop")


def judged(verdict: str | None, *, has_pixels: bool = True, **changes: object) -> tuple[str, str]:
    tile = {"is_black": False, "score": 0.0, "breast_fraction": 0.9, "touches_lesion": False}
    tile |= changes
    touches = np.array([tile["touches_lesion"]])
    decided = decide(
        is_black=np.array([tile["is_black"]]),
        score=np.array([tile["score"]], np.float32),
        breast_fraction=np.array([tile["breast_fraction"]], np.float32),
        touches_lesion=touches,
        threshold=0.5,
        tissue_for_review=0.05,
    )
    last = with_verdicts(
        decided,
        np.array([verdict], object),
        touches_lesion=touches,
        has_pixels=np.array([has_pixels]),
    )
    return last.decision[0], last.reason[0]


@pytest.mark.parametrize("verdict", ["keep", "drop", "review"])
@pytest.mark.parametrize(
    "tile",
    [{}, {"score": 0.9}, {"score": 0.9, "breast_fraction": 0.0}, {"is_black": True}],
)
def test_a_verdict_outranks_score_and_black_screen(verdict: str, tile: dict[str, object]) -> None:
    assert judged(verdict, **tile) == (verdict, "reviewer")


def test_a_lesion_is_not_dropped_even_by_a_person() -> None:
    for changes in ({}, {"score": 0.9}, {"is_black": True}):
        assert judged("drop", touches_lesion=True, **changes) == ("review", "lesion_guard")
    assert judged("keep", touches_lesion=True, score=0.9) == ("keep", "reviewer")
    assert judged("review", touches_lesion=True) == ("review", "reviewer")


def test_a_tile_without_stored_pixels_is_not_kept_by_a_person() -> None:
    assert judged("keep", is_black=True, has_pixels=False) == ("review", "no_pixels")
    assert judged("drop", is_black=True, has_pixels=False) == ("drop", "reviewer")


@given(st.booleans(), st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.booleans())
def test_without_a_verdict_nothing_changes(
    is_black: bool, score: float, breast: float, lesion: bool
) -> None:
    tile = {"is_black": is_black, "score": score, "breast_fraction": breast}
    assert judged(None, touches_lesion=lesion, **tile) == one(touches_lesion=lesion, **tile)


def test_a_lesion_on_a_film_called_normal_goes_to_a_person_whatever_its_score() -> None:
    normal = np.array([True, True, True, False])
    decided = decide(
        is_black=np.array([False, True, False, False]),
        score=np.float32([0.1, 0.1, 0.1, 0.1]),
        breast_fraction=np.full(4, 0.9, np.float32),
        touches_lesion=np.array([True, True, False, True]),
        threshold=0.5,
        tissue_for_review=0.05,
        called_normal=normal,
    )
    assert decided.decision.tolist() == ["review", "review", "keep", "keep"]
    assert decided.reason.tolist() == ["lesion_guard", "lesion_guard", None, None]
    assert decided.without_guard.tolist() == ["keep", "drop/black", "keep", "keep"]


def test_each_tile_has_its_own_threshold() -> None:
    decided = decide(
        is_black=np.zeros(3, bool),
        score=np.float32([0.6, 0.6, 0.6]),
        breast_fraction=np.zeros(3, np.float32),
        touches_lesion=np.zeros(3, bool),
        threshold=np.array([0.5, float(np.float32(0.6)), np.nextafter(1, 2)]),
        tissue_for_review=0.05,
    )
    assert decided.decision.tolist() == ["drop", "drop", "keep"]
