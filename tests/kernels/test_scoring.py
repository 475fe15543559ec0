"""The score that a tile's place on its film gives it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.scoring import (
    CONTEXT_LIMIT,
    TILE_LIMIT,
    context_score,
    fused_score,
    is_beyond_doubt,
    is_mixed,
    probability,
    scaled_figures,
    scorer_weight,
)

share = st.floats(0, 1, width=32)
log_odds = st.floats(-20, 20, width=32)


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


def fused(context, odds, *, weight=0.4, breast=0.01, foreign=0.0):
    """Score of one tile; without breast and foreign content to speak of unless they are given."""
    one = (np.float32([v]) for v in (context, breast, foreign, odds))
    return float(fused_score(*one, weight=weight)[0])


def test_the_log_odds_of_both_judges_add_up():
    odds = np.log(0.8 / 0.2)
    assert fused(0.8, 2.0) == pytest.approx(1 / (1 + np.exp(-(odds + 0.4 * 2.0))))
    assert fused(0.8, -odds, weight=1.0) == pytest.approx(0.5)


def test_without_a_film_the_tile_alone_decides_at_full_weight():
    for weight in (0.0, 0.4, 1.0):
        for odds in (2.0, -9.0):  # beyond the limit beside a film, too
            found = fused(np.nan, odds, weight=weight, breast=np.nan, foreign=np.nan)
            assert found == pytest.approx(1 / (1 + np.exp(-odds)))


def test_a_tile_without_figures_is_scored_by_its_film():
    assert fused(0.8, np.nan) == pytest.approx(0.8)


@given(share, log_odds)
def test_with_weight_zero_the_film_alone_decides(context, odds):
    assert (fused(context, odds, weight=0.0) > 0.5) == (context > 0.5)


@given(share, log_odds, st.floats(0, 0.5))
def test_a_mixed_tile_is_scored_by_its_film_alone(context, odds, weight):
    mixed = fused(context, odds, weight=weight, breast=0.5, foreign=0.2)
    assert mixed == fused(context, 0.0, weight=weight)


@given(share, share, log_odds, st.floats(0, 0.5))
def test_a_higher_score_by_the_film_never_lowers_the_score(a, b, odds, weight):
    assert fused(max(a, b), odds, weight=weight) >= fused(min(a, b), odds, weight=weight)


@given(share, log_odds, log_odds, st.floats(0, 0.5))
def test_higher_odds_by_the_tile_never_lower_the_score(context, a, b, weight):
    assert fused(context, max(a, b), weight=weight) >= fused(context, min(a, b), weight=weight)


@given(share, log_odds, st.floats(0, 0.5))
def test_no_judge_is_believed_beyond_its_limit(context, odds, weight):
    most = CONTEXT_LIMIT + weight * TILE_LIMIT
    least = float(probability(np.array([-most]))[0])
    assert least - 1e-6 <= fused(context, odds, weight=weight) <= 1 - least + 1e-6


def test_the_scorers_weight_grows_with_patients_to_a_half():
    assert scorer_weight(0) == 0
    assert scorer_weight(10) == 0.25
    assert 0.49 < scorer_weight(1000) < 0.5


def test_the_probability_of_even_odds_is_a_half_and_unknown_stays_unknown():
    chance = probability(np.float32([0, np.log(3), -50, 50, np.nan]))
    np.testing.assert_allclose(chance, [0.5, 0.75, 0, 1, np.nan], atol=1e-6)


def test_scaled_figures_lie_within_five_spreads():
    figures = np.float32([[1, 10], [3, 10], [99, -99]])
    scaled = scaled_figures(figures, np.float32([1, 10]), np.float32([2, 1]))
    assert scaled.tolist() == [[0, 0], [1, 0], [5, -5]]


@given(share, st.sampled_from([0.0, 1e-4, 0.2]), log_odds, st.integers(0, 10_000))
def test_of_tissue_beyond_doubt_no_look_at_the_tile_makes_the_odds_even(
    breast, foreign, odds, patients
):
    tile = np.float32([breast]), np.float32([foreign])
    if is_beyond_doubt(*tile)[0]:
        look = np.float32([odds])
        found = fused_score(context_score(*tile), *tile, look, weight=scorer_weight(patients))
        assert found[0] < 0.5


def test_tissue_is_beyond_doubt_from_two_fifths_of_breast_on_and_never_without_a_film():
    breast, foreign = np.float32([0.3, 0.45, 0.45, np.nan]), np.float32([0, 0, 0.001, np.nan])
    assert is_beyond_doubt(breast, foreign).tolist() == [False, True, False, False]
