"""Charts of the page, worked out as coordinates of an SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 20


@dataclass(frozen=True)
class ElbowCurve:
    """Inertia by number of clusters, in a box of ``WIDTH`` by ``HEIGHT``."""

    WIDTH, HEIGHT = 640, 260
    LEFT, RIGHT, TOP, BOTTOM = 72, 16, 16, 44

    line: str
    """Points of a polyline."""
    dots: tuple[tuple[float, float, int, str], ...]
    """x, y, number of clusters, inertia in words."""
    y_ticks: tuple[tuple[float, str], ...]
    elbow: tuple[float, float]
    chosen: tuple[float, float] | None
    """Where the number of clusters of this run lies, if it is on the curve."""


def elbow_curve(inertias: Sequence[float], *, elbow: int, chosen: int) -> ElbowCurve:
    """Draw inertia for 1, 2, ... clusters; the axis begins at 0."""
    high = max(*inertias, 0.0) or 1.0
    span_x = ElbowCurve.WIDTH - ElbowCurve.LEFT - ElbowCurve.RIGHT
    span_y = ElbowCurve.HEIGHT - ElbowCurve.TOP - ElbowCurve.BOTTOM

    def at(k: int, value: float) -> tuple[float, float]:
        across = (k - 1) / max(1, len(inertias) - 1)
        x = ElbowCurve.LEFT + 12 + across * (span_x - 24)
        return round(x, 1), round(ElbowCurve.TOP + (1 - value / (1.05 * high)) * span_y, 1)

    points = [at(k, v) for k, v in enumerate(inertias, start=1)]
    return ElbowCurve(
        line=" ".join(f"{x},{y}" for x, y in points),
        dots=tuple(
            (*p, k, f"{v:.4g}") for k, (p, v) in enumerate(zip(points, inertias, strict=True), 1)
        ),
        y_ticks=tuple((at(1, v)[1], _number(v)) for v in np.linspace(0, high, 5).tolist()),
        elbow=points[elbow - 1],
        chosen=points[chosen - 1] if chosen <= len(points) else None,
    )


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram."""

    title: str
    n: int
    share_of_most: float


def histogram(fractions: Sequence[float]) -> tuple[Bin, ...]:
    """How many pictures lie in each twentieth of the range of a share of their area."""
    highest = min(1.0, max([*fractions, 0.0]) or 1.0)
    counts, edges = np.histogram(fractions, bins=BINS, range=(0.0, highest))
    most = max(1, int(counts.max()))
    return tuple(
        Bin(f"{100 * low:.1f} to {100 * high:.1f} %", int(n), int(n) / most)
        for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
