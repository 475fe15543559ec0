"""The knee of a curve."""

from __future__ import annotations

import numpy as np
import pytest

from models.knee import knee


class TestKnee:
    def test_the_knee_is_where_the_curve_turns_upwards(self) -> None:
        curve = np.concatenate([np.linspace(1, 2, 80), np.linspace(2.5, 30, 20)])
        assert knee(np.random.default_rng(0).permutation(curve)) == pytest.approx(2, abs=0.6)

    def test_one_far_row_does_not_move_the_knee(self) -> None:
        curve = np.concatenate([np.linspace(1, 2, 160), np.linspace(2.5, 30, 40)])
        assert knee(np.append(curve, 1e6)) == pytest.approx(knee(curve), abs=0.5)

    @pytest.mark.parametrize(
        ("distances", "eps"),
        [
            ([], 1.0),
            ([0.0, 0.0], 1.0),
            ([np.inf, np.inf], 1.0),
            ([3.0], 3.0),
            ([3.0, 3.0, 3.0], 3.0),
            ([0.0, 0.0, 0.0, 0.5], 0.5),
        ],
    )
    def test_the_knee_is_positive_in_every_edge_case(
        self, distances: list[float], eps: float
    ) -> None:
        assert knee(np.array(distances)) == eps
