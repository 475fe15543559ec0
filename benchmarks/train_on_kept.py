"""A small network trained on the kept tiles and on all tiles, evaluated per patient.

    mammosift run --source ../shared/data/mini-mias --tile-size-px 128 --max-epochs 1 --out W
    python benchmarks/train_on_kept.py W [--epochs 2] [--seeds 5]

The question is whether a film shows anything but a normal breast, by its label. The network sees
tiles, and learns the film's label from each. A patient's score is the mean over the tiles of its
films; the AUC is over the patients of validation and test, none of whom was trained on, with the
95 % interval of 2,000 bootstraps over patients. "All" are all tiles whose pixels are stored: the
kept ones, those in review, the misinformative ones, and the black ones nearest to the threshold.
Both networks are evaluated on both sets of tiles. Nothing is chosen by a result.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mammosift import TileDataset

SETS = {"kept": ("keep",), "all": None}
HELD_OUT = ("validation", "test")
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    found = {name: data_sets(given.workspace, decisions) for name, decisions in SETS.items()}
    print("| trained on | tiles | seed | s | loss of each epoch | AUC on kept | AUC on all |")
    print("| --- | ---: | ---: | ---: | --- | --- | --- |")
    aucs: dict[tuple[str, str], list[float]] = {}
    for seed in range(given.seeds):
        for name, (train, _) in found.items():
            started = time.perf_counter()
            net, losses = fit(train, given.epochs, seed)
            seconds = time.perf_counter() - started
            cells = []
            for on, (_, held_out) in found.items():
                patients = scores_by_patient(net, held_out)
                value, low, high = auc_with_interval(*patients)
                aucs.setdefault((name, on), []).append(value)
                cells.append(f"{value:.2f} ({low:.2f} to {high:.2f})")
            shown = ", ".join(f"{loss:.3f}" for loss in losses)
            print(
                f"| {name} | {len(train):,} | {seed} | {seconds:.0f} | {shown} | "
                + " | ".join(cells)
                + " |",
                flush=True,
            )
    print("\n| trained on | evaluated on | patients | mean AUC over seeds | least | most |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for (name, on), values in aucs.items():
        n = len(set(found[on][1].table["patient_key"].to_pylist()))
        print(
            f"| {name} | {on} | {n} | {np.mean(values):.3f} | {min(values):.3f} | "
            f"{max(values):.3f} |"
        )


def data_sets(
    workspace: Path, decisions: tuple[str, ...] | None
) -> tuple[TileDataset, TileDataset]:
    return (
        TileDataset(workspace, split="train", decisions=decisions, unlabelled="drop"),
        TileDataset(workspace, split=HELD_OUT, decisions=decisions, unlabelled="drop"),
    )


def is_abnormal(data: TileDataset) -> Tensor:
    """1 for tiles of films with any other label than normal, int64 (n,)."""
    return torch.tensor([label != "normal" for label in data.table["label"].to_pylist()]).long()


def network() -> nn.Module:
    layers: list[nn.Module] = []
    for inside, outside in ((1, 16), (16, 32), (32, 64)):
        layers += [
            nn.Conv2d(inside, outside, 3, 2, 1),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))


def smaller(pixels: Tensor) -> Tensor:
    return functional.interpolate(pixels, (64, 64), mode="area")


def fit(data: TileDataset, epochs: int, seed: int) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(seed)
    net, targets = network(), is_abnormal(data)
    counts = torch.bincount(targets, minlength=2).float()
    weights = counts.sum() / (2 * counts)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    loader = data.stream(BATCH, seed=seed).loader()
    losses = []
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        sum_of_losses = 0.0
        for batch in loader:
            loss = functional.cross_entropy(
                net(smaller(batch["pixels"])), targets[batch["index"]], weights
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sum_of_losses += loss.item() * len(batch["index"])
        losses.append(sum_of_losses / len(data))
    return net, losses


@torch.no_grad()
def scores_by_patient(net: nn.Module, data: TileDataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean score of each patient's tiles, and whether any of its films is abnormal."""
    net.eval()
    scores = np.zeros(len(data))
    for batch in data.stream(256, shuffle=False):
        scores[batch["index"]] = net(smaller(batch["pixels"])).softmax(1)[:, 1]
    patients = np.array(data.table["patient_key"].to_pylist())
    truth = is_abnormal(data).numpy()
    names = np.unique(patients)
    return (
        np.array([scores[patients == p].mean() for p in names]),
        np.array([truth[patients == p].max() for p in names]),
    )


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Share of pairs in which the abnormal one scores higher; ties count half."""
    pairs = scores[truth == 1][:, None] - scores[truth == 0][None]
    return float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


def auc_with_interval(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    rng = np.random.default_rng(0)
    found = []
    while len(found) < 2000:
        drawn = rng.integers(0, len(truth), len(truth))
        if 0 < truth[drawn].sum() < len(truth):
            found.append(auc(scores[drawn], truth[drawn]))
    low, high = np.quantile(found, [0.025, 0.975])
    return auc(scores, truth), float(low), float(high)


if __name__ == "__main__":
    main()
