"""What tuning to one half of the patients would gain on the other half.

    python benchmarks/halves.py --workspace W --truth DIR [--ignore DIR] [--splits 20]

W is a finished run over films. For each random split of its patients, the weight of the tile's own
look and the threshold are fitted to the pixel truth of one half (largest F1), and judged on the
other beside the defaults, which know no truth. Where the defaults do as well, they are not made for
the films that they are measured on. Scores are put together anew from what the run stored; the
rules of the film's map stay as they are.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from misinformative_tiles import Tiles
from numpy.typing import NDArray

from storage.tile_shards import read_index
from storage.workspace import Workspace
from tasks.kernels.agreement import MISINFORMATIVE, TISSUE, average_precision
from tasks.kernels.scoring import SCORER_PATIENTS, SCORER_SHARE, fused_score

SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0)
THRESHOLDS = tuple(np.round(np.arange(0.05, 0.96, 0.05), 2))
DEFAULT = (SCORER_SHARE, 0.5)
Bools = NDArray[np.bool_]


def main() -> None:
    """Print mean figures over the splits, on the half that was not fitted to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--ignore", type=Path)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    workspace = Workspace.open(given.workspace)
    tiles = Tiles.read(workspace, given.truth, given.ignore, Path(tempfile.gettempdir())).table
    tiles = tiles[tiles["kind"].isin([MISINFORMATIVE, TISSUE])]
    tiles = with_map(tiles, workspace)
    patients = np.array(sorted(set(tiles["patient_key"])))
    positive = tiles["kind"].eq(MISINFORMATIVE).to_numpy()
    black = tiles["is_black"].to_numpy(bool)
    scores = {share: score(tiles, share, len(patients)) for share in SHARES}
    rng = np.random.default_rng(given.seed)
    lines = []
    for split in range(given.splits):
        chosen = rng.permutation(patients)[: len(patients) // 2]
        fitted_to = tiles["patient_key"].isin(chosen).to_numpy()
        best = max(
            itertools.product(SHARES, THRESHOLDS),
            key=lambda at: (
                figures(positive, scores[at[0]], black, fitted_to, at[1])["F1"],
                -abs(at[1] - 0.5),
                -at[0],
            ),
        )
        for name, (share, threshold) in (("defaults", DEFAULT), ("fitted", best)):
            found = figures(positive, scores[share], black, ~fitted_to, threshold)
            lines.append({"how": name, "share": share, "threshold": threshold, **found})
        print(
            f"split {split}: best on one half at share {best[0]}, threshold {best[1]}", flush=True
        )
    table = pd.DataFrame(lines)
    print(f"\n{len(patients)} patients; on the other half, mean and sd of {given.splits} splits")
    print(table.groupby("how").agg(["mean", "std"]).round(4).T.to_string())


def with_map(tiles: pd.DataFrame, workspace: Workspace) -> pd.DataFrame:
    """Add what the film's map said of each tile."""
    columns = ["tile_id", "is_black", "context_score", "breast_fraction", "foreign_fraction"]
    keys = sorted({p.name for p in (Path(workspace.uri) / "tiles").iterdir()})
    known = pd.concat([read_index(workspace, k, columns).to_pandas() for k in keys])
    known = known.drop_duplicates("tile_id")
    return tiles.drop(columns=set(columns[1:]) & set(tiles)).merge(known, on="tile_id")


def score(tiles: pd.DataFrame, share: float, patients: int) -> NDArray[np.float32]:
    """Score with another weight of the tile's own look."""
    alone = tiles["annotation_score"].to_numpy(np.float64)
    with np.errstate(divide="ignore"):
        odds = (np.log(alone) - np.log1p(-alone)).astype(np.float32)
    context, breast, foreign = (
        tiles[name].to_numpy(np.float32)
        for name in ("context_score", "breast_fraction", "foreign_fraction")
    )
    weight = share * patients / (patients + SCORER_PATIENTS)
    return fused_score(context, breast, foreign, odds, weight=weight)


def figures(
    positive: Bools, scores: NDArray[np.float32], black: Bools, where: Bools, threshold: float
) -> dict[str, float]:
    """Recall, precision, F1, tissue lost and average precision of some of the tiles."""
    flagged = (scores >= threshold) & ~black & where
    out = (flagged | black) & where
    recall = (out & positive).sum() / max((positive & where).sum(), 1)
    precision = (flagged & positive).sum() / max(flagged.sum(), 1)
    seen = where & ~black
    return {
        "recall": float(recall),
        "precision": float(precision),
        "F1": float(2 * recall * precision / max(recall + precision, 1e-9)),
        "tissue lost": float((out & ~positive).sum() / max((~positive & where).sum(), 1)),
        "AP": average_precision(positive[seen], scores[seen].astype(np.float64)),
    }


if __name__ == "__main__":
    main()
