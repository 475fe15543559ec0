from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.decisions import decide


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
