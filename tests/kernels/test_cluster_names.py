from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.kernels.cluster_names import ClusterFigures, cluster_name

TISSUE = ClusterFigures(
    cluster_label=3,
    breast_fraction=1.0,
    foreign_fraction=0.0,
    brightness=0.5,
    outline_share=0.0,
    rim_share=0.2,
)
OUTSIDE = replace(TISSUE, breast_fraction=0.02, brightness=0.05)


def name(figures: ClusterFigures, spread: float = 0.1) -> str:
    return cluster_name(figures, tissue_brightness=0.5, tissue_spread=spread)


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (replace(OUTSIDE, cluster_label=-1, planted=90, planted_lift=9.0), "noise"),
        (replace(OUTSIDE, planted=5, planted_lift=3.0), "annotations"),
        (replace(TISSUE, planted=5, planted_lift=3.0), "mixed: tissue and annotations"),
        (replace(OUTSIDE, planted=4, planted_lift=30.0), "dark ground"),
        (replace(OUTSIDE, planted=50, planted_lift=2.9), "dark ground"),
        (replace(OUTSIDE, foreign_fraction=0.02), "annotations"),
        (replace(TISSUE, foreign_fraction=0.02), "mixed: tissue and annotations"),
        (replace(OUTSIDE, rim_share=0.5), "film edges"),
        (replace(OUTSIDE, rim_share=0.5, foreign_fraction=0.3), "film edges"),
        (replace(TISSUE, rim_share=0.9), "tissue"),
        (replace(OUTSIDE, breast_fraction=0.1, outline_share=0.5), "skin line"),
        (replace(TISSUE, breast_fraction=0.6, outline_share=0.9), "skin line"),
        (OUTSIDE, "dark ground"),
        (replace(TISSUE, brightness=0.56), "dense tissue"),
        (replace(TISSUE, brightness=0.44), "fatty tissue"),
        (replace(TISSUE, brightness=0.54), "tissue"),
    ],
)
def test_each_rule_names_what_it_is_for(figures: ClusterFigures, expected: str) -> None:
    assert name(figures) == expected


def test_where_all_tissue_is_equally_bright_none_is_dense() -> None:
    assert name(TISSUE, spread=0.0) == "tissue"
