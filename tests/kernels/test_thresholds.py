"""Thresholds for a wanted recall or precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.thresholds import threshold_for_precision, threshold_for_recall

TEN = np.arange(1, 11) / 10
scores = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40).map(np.float32)
shares = st.floats(0.01, 1)


@pytest.mark.parametrize(
    ("recall", "threshold"), [(1.0, 0.1), (0.9, 0.2), (0.85, 0.2), (0.5, 0.6), (0.01, 1.0)]
)
def test_of_ten_scores_the_recall_says_which_is_the_last(recall: float, threshold: float) -> None:
    assert threshold_for_recall(TEN, recall) == pytest.approx(threshold)


def test_equal_scores_are_found_together() -> None:
    assert threshold_for_recall(np.array([0.7, 0.7, 0.7, 0.2]), 0.5) == 0.7


@given(scores, shares)
def test_the_recall_is_reached_and_the_next_higher_score_would_miss_it(
    positive: np.ndarray, recall: float
) -> None:
    threshold = threshold_for_recall(positive, recall)
    assert (positive >= threshold).mean() >= recall - 1e-9
    higher = positive[positive > threshold]
    if len(higher):
        assert (positive >= higher.min()).mean() < recall


def test_the_lowest_threshold_with_the_precision_is_taken() -> None:
    negative = np.array([0.15, 0.15, 0.35, 0.05])
    # at 0.1: 10 of 13; at 0.2: 9 of 10; at 0.4: 7 of 7
    for precision, threshold in ((0.7, 0.1), (0.8, 0.2), (0.95, 0.4)):
        found = threshold_for_precision(TEN, negative, precision, negatives_per_positive=0.4)
        assert found == pytest.approx(threshold)


def test_many_negatives_in_the_run_ask_for_a_higher_threshold() -> None:
    negative = np.array([0.15, 0.15, 0.35, 0.05])
    # each of the four stands for 10: at 0.2, 9 of 19; at 0.4, 7 of 7
    found = threshold_for_precision(TEN, negative, 0.6, negatives_per_positive=4)
    assert found == pytest.approx(0.4)


def test_without_any_such_threshold_nothing_is_flagged() -> None:
    found = threshold_for_precision(TEN, np.array([1.0]), 0.99, negatives_per_positive=1)
    assert found > 1


@given(scores, st.lists(st.floats(0, 1, width=32), max_size=40).map(np.float32), shares)
def test_the_precision_is_reached_or_nothing_is_flagged(
    positive: np.ndarray, negative: np.ndarray, precision: float
) -> None:
    ratio = len(negative) / len(positive)
    threshold = threshold_for_precision(positive, negative, precision, negatives_per_positive=ratio)
    right, wrong = (positive >= threshold).sum(), (negative >= threshold).sum()
    assert threshold > 1 or right / (right + wrong) >= precision - 1e-9
    if not len(negative):
        assert threshold == positive.min()
