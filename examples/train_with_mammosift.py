"""Train a small classifier on a workspace with mammosift's TileDataset and plain PyTorch.

Usage: python examples/train_with_mammosift.py WORKSPACE [--epochs 3] [--workers 0]

Classes are drawn equally often, shards are read whole, and the validation is per patient. The same
without mammosift: examples/train_from_manifest.py.
"""

import argparse
from collections import defaultdict

import torch
from torch import nn
from torch.nn import functional

from mammosift import TileDataset


def small(pixels):
    """A batch at 64 x 64."""
    return functional.interpolate(pixels, (64, 64), mode="area")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("workspace")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--workers", type=int, default=0)
    given = options.parse_args()
    train = TileDataset(given.workspace, split="train", unlabelled="drop")
    if not train.classes:
        raise SystemExit("no kept tile of this manifest has a label")
    held_out = TileDataset(
        given.workspace,
        split=["validation", "test"],
        classes=train.classes,
        unlabelled="drop",
    )
    torch.manual_seed(0)
    net = nn.Sequential(
        *(m for i, o in ((1, 16), (16, 32), (32, 64)) for m in (nn.Conv2d(i, o, 3, 2), nn.ReLU())),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(train.classes)),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    loader = train.stream(32, balanced=True).loader(given.workers)
    for epoch in range(given.epochs):
        loader.set_epoch(epoch)
        losses = []
        for batch in loader:
            loss = functional.cross_entropy(net(small(batch["pixels"])), batch["target"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        print(f"epoch {epoch + 1}: loss {mean:.4f} on {len(train)} tiles of {train.classes}")
    if len(held_out):
        patients = list(by_patient(net, held_out).values())
        right = sum(said == true for said, true in patients)
        truths = [true for _, true in patients]
        common = max(truths.count(label) for label in set(truths))
        print(
            f"per patient: {right} of {len(patients)} right (the commonest class alone: {common})"
        )


@torch.no_grad()
def by_patient(net, data):
    """Class of each patient by the mean over its tiles, and its commonest true class."""
    patients = data.table["patient_key"].to_pylist()
    sums, classes = defaultdict(float), defaultdict(list)
    for batch in data.stream(256, shuffle=False):
        shares = net(small(batch["pixels"])).softmax(1)
        for index, said in zip(batch["index"].tolist(), shares, strict=True):
            sums[patients[index]] += said
            classes[patients[index]].append(int(data.targets[index]))
    return {
        patient: (int(said.argmax()), max(set(classes[patient]), key=classes[patient].count))
        for patient, said in sums.items()
    }


if __name__ == "__main__":
    main()
