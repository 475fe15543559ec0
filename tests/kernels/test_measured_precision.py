from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.measured_precision import measured, tally, wilson


def test_the_interval_is_that_of_the_literature() -> None:
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3
    for hits, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = wilson(hits, n)
        assert found.share == hits / n
        assert (round(found.low or 0, 4), round(found.high or 0, 4)) == (low, high)


def test_all_or_none_of_twenty() -> None:
    assert (wilson(0, 20).low, round(wilson(0, 20).high or 0, 4)) == (0.0, 0.1611)
    assert (round(wilson(20, 20).low or 0, 4), wilson(20, 20).high) == (0.8389, 1.0)


def test_nothing_counted_says_nothing() -> None:
    assert vars(wilson(0, 0)) == {"n": 0, "hits": 0, "share": None, "low": None, "high": None}


@pytest.mark.parametrize(("hits", "n"), [(2, 1), (-1, 3)])
def test_more_hits_than_verdicts_are_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= hits <= n"):
        wilson(hits, n)


@given(st.integers(1, 10_000), st.data())
def test_the_share_lies_in_its_interval(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    found = wilson(hits, n)
    assert found.low is not None
    assert found.share is not None
    assert found.high is not None
    assert 0 <= found.low <= found.share <= found.high <= 1
    assert found.low < found.high


def test_precision_counts_what_a_person_said_of_the_tiles_that_were_flagged() -> None:
    by_rule = np.array(["drop/misinformative"] * 5 + ["keep"] * 3 + ["drop/black"], object)
    verdict = np.array(
        ["drop", "drop", "keep", "review", None, "drop", "keep", "keep", "keep"], object
    )
    singly = np.array([True, False, False, True, True, True, True, False, True])
    counts = tally(by_rule, verdict, singly)
    assert sum(counts.values()) == 8
    found = measured(counts)
    assert (found["flagged"]["all"].hits, found["flagged"]["all"].n) == (2, 3)
    assert (found["flagged"]["singly"].hits, found["flagged"]["singly"].n) == (1, 1)
    assert (found["kept"]["all"].hits, found["kept"]["all"].n) == (1, 3)
    assert (found["kept"]["singly"].hits, found["kept"]["singly"].n) == (1, 2)
