"""The score that a tile's place on its film gives it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.scoring import context_score, is_mixed

share = st.floats(0, 1, width=32)


def score(breast, foreign):
    return float(context_score(np.float32([breast]), np.float32([foreign]))[0])


def test_tiles_without_breast_score_one_and_breast_alone_scores_near_zero():
    assert score(0, 0) == score(0, 0.5) == 1.0
    assert score(1, 0) < 0.02


def test_the_odds_are_even_at_two_percent_of_breast_alone():
    assert score(0.02, 0) == pytest.approx(0.5)
    assert score(0.019, 0) > 0.5 > score(0.021, 0)


def test_breast_beside_clear_foreign_content_is_left_to_a_person():
    assert score(0.9, 0.2) == 0.5
    assert is_mixed(np.float32([0.9, 0.9, 0.01]), np.float32([0.2, 0.001, 0.2])).tolist() == [
        True,
        False,
        False,
    ]


@given(share, share, share)
def test_more_breast_never_raises_the_score(a, b, foreign):
    assert score(max(a, b), foreign) <= score(min(a, b), foreign)


@given(share, share, share)
def test_more_foreign_content_never_lowers_the_score(breast, a, b):
    assert score(breast, max(a, b)) >= score(breast, min(a, b))


@given(share, share)
def test_scores_lie_between_zero_and_one(breast, foreign):
    assert 0 <= score(breast, foreign) <= 1
