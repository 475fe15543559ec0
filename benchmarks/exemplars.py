"""What five exemplars add to tiles that are judged by themselves, over random draws.

    python benchmarks/exemplars.py --workspace W --truth DIR [--draws 20] [--with-only]

W is a finished run with ``--context tile``. For each draw, exemplars are taken at random from the
tiles that the truth calls misinformative, the tile scorer is learned anew with them, and every tile
that is not black is scored; the exemplars themselves are left out of the figure.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from misinformative_tiles import Tiles

from storage.tile_shards import read_index
from storage.workspace import Workspace
from tasks import decisions, scorers
from tasks.kernels.agreement import average_precision


def main() -> None:
    """Print the average precision of each draw, then mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--truth", required=True, type=Path)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--exemplars", type=int, default=5)
    parser.add_argument("--with-only", action="store_true", help="do not score without exemplars")
    parser.add_argument("--planted-tiles", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    workspace = Workspace.open(given.workspace)
    manifest = Tiles.read(workspace, given.truth, None, Path(tempfile.gettempdir())).table
    last = max(Path(given.workspace).glob("runs/*.json"), key=lambda p: p.stat().st_mtime)
    record = workspace.read_json("runs", last.name)
    keys = record["shards"]["tiles"]
    films = manifest.drop_duplicates("mammogram_id")
    stored = workspace.shard("scorers", record["shards"]["scorer"])
    folds = json.loads(stored.read_bytes("scorer.json"))["fold_of_film"]
    sources = dict(zip(films["mammogram_id"], films["source"], strict=True))
    patients = films["patient_key"].nunique()

    def score(exemplars: Path | None, seed: int) -> pd.Series:
        table = None if exemplars is None else str(exemplars)
        how = scorers.ScorerSettings("tile", table, seed, given.planted_tiles)
        ref = scorers.train_scorer(workspace.uri, keys, folds, sources, patients, how)
        judge = decisions.Judge.read(workspace, ref.key)
        tiles = pd.concat([judge.scored(read_index(workspace, k).to_pandas(), k) for k in keys])
        return tiles[~tiles["is_black"]].set_index("tile_id")["score"]

    def precision(scores: pd.Series, without: set[str]) -> float:
        known = manifest[manifest["kind"].isin(["misinformative", "tissue"])]
        known = known[known["tile_id"].isin(scores.index) & ~known["tile_id"].isin(without)]
        truth = known["kind"].eq("misinformative").to_numpy()
        return average_precision(truth, scores[known["tile_id"]].to_numpy(np.float64))

    rng = np.random.default_rng(given.seed)
    pool = manifest[(manifest["kind"] == "misinformative") & manifest["pixels_index"].notna()]
    plain, found = [], []
    for draw in range(given.draws):
        started = time.perf_counter()
        chosen = pool.iloc[rng.choice(len(pool), given.exemplars, replace=False)]["tile_id"]
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "exemplars.csv"
            table.write_text("tile_id\n" + "\n".join(chosen) + "\n")
            found.append(precision(score(table, draw), set(chosen)))
        plain.append(np.nan if given.with_only else precision(score(None, draw), set()))
        print(
            f"draw {draw}: {plain[-1]:.4f} without, {found[-1]:.4f} with "
            f"({time.perf_counter() - started:.0f} s)",
            flush=True,
        )
    for name, values in (("without", plain), ("with", found)):
        print(f"{name}: mean {np.mean(values):.4f}, sd {np.std(values):.4f}")


if __name__ == "__main__":
    main()
