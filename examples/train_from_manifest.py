"""Train a small classifier from a manifest, with pyarrow, zarr and torch alone.

Usage: python examples/train_from_manifest.py WORKSPACE [--epochs 3]

What a downstream job does: read the kept tiles of each split, follow pixels_uri and pixels_index
into the Zarr arrays, train, validate. Nothing of mammosift is imported. The label here is that of
the film; for labels of tiles use lesion_fraction (null: not known).
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
import zarr
from torch import nn


def load(workspace, manifest, split, classes):
    """Tiles of a split at 64 x 64 on [0, 1], and their classes."""
    rows = manifest.filter(pc.field("split") == split).to_pandas()
    images, labels = [], []
    for uri, group in rows.groupby("pixels_uri"):
        tiles = zarr.open_array(workspace / uri, mode="r").oindex[group.pixels_index.to_numpy()]
        tiles = torch.from_numpy(np.asarray(tiles, np.float32) / 65535)[:, None]
        images.append(nn.functional.interpolate(tiles, (64, 64), mode="area"))
        labels += [classes.index(label) for label in group.label]
    return (torch.cat(images), torch.tensor(labels)) if images else None


def main():
    options = argparse.ArgumentParser()
    options.add_argument("workspace", type=Path)
    options.add_argument("--epochs", type=int, default=3)
    given = options.parse_args()
    keep = (pc.field("decision") == "keep") & pc.field("label").is_valid()
    data = ds.dataset(given.workspace / "manifest", partitioning="hive").filter(keep)
    manifest = data.to_table(columns=["split", "label", "pixels_uri", "pixels_index"])
    classes = sorted(set(manifest["label"].to_pylist()))
    splits = ("train", "validation", "test")
    parts = {split: load(given.workspace, manifest, split, classes) for split in splits}
    x, y = parts["train"] or next((part for part in parts.values() if part), (None, None))
    if x is None:
        raise SystemExit("no kept tile of this manifest has a label")
    torch.manual_seed(0)
    net = nn.Sequential(
        *(m for i, o in ((1, 16), (16, 32), (32, 64)) for m in (nn.Conv2d(i, o, 3, 2), nn.ReLU())),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(classes)),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for epoch in range(given.epochs):
        losses = []
        for batch in torch.randperm(len(x)).split(32):
            loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f} on {len(x)} tiles of {classes}")
    for split, part in parts.items():
        if part and split != "train":
            right = (net(part[0]).argmax(1) == part[1]).float().mean()
            common = part[1].bincount().max() / len(part[1])
            print(f"{split}: accuracy {right:.3f} on {len(part[1])} tiles (the commonest class "
                  f"alone: {common:.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
