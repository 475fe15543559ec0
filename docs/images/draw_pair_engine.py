"""Draw pair-engine.svg, beside this file, from the engine itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.dbscan import dbscan
from models.pairs.leaves import Leaves
from models.pairs.projection import Projection
from models.workers import ThreadWorkers

EPS, SIDE, LEAF_ROWS, QUERY = 0.35, 300, 12, 21
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def main() -> None:
    """Write the picture."""
    rng = np.random.default_rng(4)
    bend = rng.uniform(0, 3.1, 190)
    surface = np.column_stack([2.2 * np.cos(bend), 1.6 * np.sin(bend)])
    groups = (
        rng.normal(0, 0.12, (90, 2))
        + np.array([[-1, -0.6], [1.1, -0.7], [0, 0.1]])[rng.integers(0, 3, 90)]
    )
    rows = np.concatenate([surface + rng.normal(0, 0.09, surface.shape), groups])
    leaves = Leaves.of(rows, Projection(rows.mean(axis=0), np.eye(2), 1.0, pays=True), LEAF_ROWS)
    points = leaves.coordinates[:, :2]
    low, high = leaves.low[:, :2], leaves.high[:, :2]
    gap = np.maximum(np.maximum(low - high[QUERY], low[QUERY] - high), 0)
    near = np.linalg.norm(gap, axis=1) <= EPS
    own = slice(leaves.starts[QUERY], leaves.starts[QUERY + 1])
    inside = np.zeros(len(rows), dtype=bool)
    for leaf in np.flatnonzero(near):
        inside[leaves.starts[leaf] : leaves.starts[leaf + 1]] = True
    far = np.maximum(np.maximum(low[QUERY] - points, points - high[QUERY]), 0)
    passed = inside & (np.linalg.norm(far, axis=1) <= EPS)
    labels = dbscan(rows, EPS, 5, ThreadWorkers(1)).labels[leaves.order]

    middle, span = (points.max(0) + points.min(0)) / 2, np.ptp(points, axis=0).max() * 1.1

    def at(place: np.ndarray, panel: int) -> tuple[float, float]:
        x, y = (place - middle) / span * SIDE + SIDE / 2
        return x + 20 + panel * (SIDE + 30), y + 46

    def dot(i: int, panel: int, fill: str, radius: float = 2.6) -> str:
        x, y = at(points[i], panel)
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}"/>'

    def box(leaf: int, panel: int, style: str) -> str:
        x, y = at(low[leaf], panel)
        w, h = (high[leaf] - low[leaf]) / span * SIDE
        return f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" {style}/>'

    def title(panel: int, text: str) -> str:
        return f'<text x="{20 + panel * (SIDE + 30)}" y="24" class="t">{text}</text>'

    out = [title(0, "1  Leaves: rows that lie together"),
           title(1, "2  Leaves, then rows, within reach of one"),
           title(2, "3  One product, read by its sign"),
           title(3, "4  Cores joined: labels")]  # fmt: skip
    for leaf in range(len(leaves)):
        out.append(box(leaf, 0, 'fill="none" stroke="#7f8c99"'))
        if near[leaf] and leaf != QUERY:
            out.append(box(leaf, 1, 'fill="#56b4e9" fill-opacity=".25" stroke="#0072b2"'))
    reach = EPS / span * SIDE
    x, y = at(low[QUERY], 1)
    w, h = (high[QUERY] - low[QUERY]) / span * SIDE
    out.append(
        f'<rect x="{x - reach:.1f}" y="{y - reach:.1f}" width="{w + 2 * reach:.1f}" '
        f'height="{h + 2 * reach:.1f}" rx="{reach:.1f}" fill="none" stroke="#d55e00" '
        'stroke-dasharray="4 3"/>'
    )
    out.append(box(QUERY, 1, 'fill="#d55e00" fill-opacity=".25" stroke="#d55e00"'))
    for i in range(len(rows)):
        out.append(dot(i, 0, "#7f8c99"))
        out.append(dot(i, 1, "#0072b2" if passed[i] else "#b9c2ca"))
        noise = labels[i] < 0
        out.append(dot(i, 3, "#b9c2ca" if noise else COLOURS[labels[i] % len(COLOURS)]))
    targets = points[passed]
    queries = points[own]
    squares = np.square(queries[:, None] - targets).sum(axis=2) - EPS**2
    cell = min(14.0, SIDE / len(targets))
    left, top = 20 + 2 * (SIDE + 30), 110
    for i, row in enumerate(squares):
        for j, value in enumerate(row):
            fill = "#d55e00" if value < 0 else "#dfe5ea"
            out.append(
                f'<rect x="{left + j * cell:.1f}" y="{top + i * 14}" width="{cell - 0.8:.1f}" '
                f'height="13" fill="{fill}"/>'
            )
    bottom = top + len(squares) * 14
    out.append(f'<text x="{left}" y="{top - 12}" class="s">rows within reach</text>')
    for line, text in enumerate((
        "each entry: squared distance less eps squared",
        "negative: a pair, measured again in float64",
        "positive, by more than rounding can do: none",
    )):  # fmt: skip
        out.append(f'<text x="{left}" y="{bottom + 24 + 18 * line}" class="s">{text}</text>')
    width, height = 20 + 4 * (SIDE + 30), SIDE + 66
    style = ".t{font:600 15px sans-serif;fill:#1b2733}.s{font:13px sans-serif;fill:#45525e}"
    Path(__file__).with_name("pair-engine.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="How pairs within eps are found"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(out)}</svg>\n'
    )


if __name__ == "__main__":
    main()
