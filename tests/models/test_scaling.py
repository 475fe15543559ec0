"""Standardisation by shards equals standardisation at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from models.scaling import Moments, Scaler, fit_scaler


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_shards_of_any_size_give_the_scaler_of_all_rows(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(rng.normal(0, 1e3, 4), rng.uniform(1e-3, 1e3, 4), (60, 4))
    scaler = fit_scaler(np.split(rows.astype(np.float32), sorted(cuts)))
    peer = StandardScaler().fit(rows.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(scaler.mean, peer.mean_, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scaler.scale, peer.scale_, rtol=1e-9)
    assert scaler.count == 60


def test_a_constant_column_becomes_zeros() -> None:
    rows = np.full((100, 2), 0.1, dtype=np.float32)
    rows[:, 1] = np.arange(100)
    scaler = fit_scaler([rows[:7], rows[7:]])
    assert scaler.scale[0] == 1
    standard = scaler.transform(rows)
    np.testing.assert_allclose(standard[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(standard.std(axis=0)[1], 1, rtol=1e-6)
    assert standard.dtype == np.float32


def test_one_row_becomes_zeros_and_no_rows_change_nothing() -> None:
    row = np.array([[3.0, -2.0]])
    assert fit_scaler([row]).transform(row).tolist() == [[0, 0]]
    assert fit_scaler([row[:0]]).transform(row).tolist() == row.tolist()


def test_a_scaler_comes_back_from_json_with_the_same_floats() -> None:
    scaler = fit_scaler([np.random.default_rng(0).normal(size=(9, 3))])
    restored = Scaler.from_json(scaler.to_json())
    assert np.array_equal(restored.mean, scaler.mean)
    assert np.array_equal(restored.scale, scaler.scale)
    assert restored.count == 9


def test_what_cannot_be_scaled_is_refused() -> None:
    rows = np.ones((3, 2))
    broken = rows.copy()
    broken[1, 0] = np.nan
    with pytest.raises(ValueError, match="Row 1 holds"):
        fit_scaler([broken])
    with pytest.raises(ValueError, match="no shard"):
        fit_scaler([])
    with pytest.raises(ValueError, match="2 and 3 columns"):
        Moments.of(rows).merge(Moments.of(np.ones((3, 3))))
    with pytest.raises(ValueError, match="fitted on 2 columns"):
        fit_scaler([rows]).transform(np.ones((3, 3)))
