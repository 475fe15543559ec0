"""Training on tiles streamed from Zarr, against the same steps on a batch that lies ready.

    python benchmarks/train.py [--threads N] [--tiles N] [--steps N] [--networks light ddsm]

``plain`` is what one would write first: float32, torch's own memory order, a batch in memory.
``bare`` is the same loop at our precision and memory order. ``ours`` is `models.fitting.fit` on
tiles in a Zarr array on disk, in random order, with all that it does besides: reading ahead,
scaling, seeding, bookkeeping. The variants alternate within one run; figures are medians of three.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.storage import LocalStore

from models.autoencoder import CONFIGS, AutoencoderConfig, build, place
from models.devices import autocast, autocast_dtype, default_device, threads
from models.fitting import FitSettings, fit
from models.objectives import Reconstruction
from models.tile_source import StoredTiles
from storage.workspace import ArrayWriter
from storage.zarr_rows import rows_of

BATCH = {"light": 128, "ddsm": 32}
ROUNDS = 3


def bare_rate(config: AutoencoderConfig, images: Tensor, *, ours: bool, steps: int) -> float:
    network = build(config).train()
    if ours:
        network = place(network, images.device)
        images = images.contiguous(memory_format=torch.channels_last)
    dtype = autocast_dtype("auto", images.device) if ours else None
    optimizer = torch.optim.Adam(network.parameters(), fused=ours)
    objective, rows = Reconstruction(network), torch.arange(len(images))
    start = 0.0
    for step in range(steps + 1):
        if step == 1:  # the first one warms up
            start = time.perf_counter()
        with autocast(dtype, images.device):
            loss = objective.loss(images, rows, 1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
    return steps * len(images) / (time.perf_counter() - start)


def our_rate(config: AutoencoderConfig, source: StoredTiles, steps: int) -> float:
    batch = BATCH[config.name]
    settings = FitSettings(
        max_epochs=2, batch_size=batch, max_steps_per_epoch=steps, precision="auto"
    )
    history = fit(Reconstruction(build(config)), source, settings, seed=0).history
    return steps * batch / history[-1].seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tiles", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--networks", nargs="+", choices=sorted(CONFIGS), default=["light"])
    given = parser.parse_args()
    print(f"tiles/s on {default_device()}, {given.threads} threads, torch {torch.__version__}")
    print(f"{'network':8} {'plain':>8} {'bare':>8} {'ours':>8} {'ours/bare':>9} {'ours/plain':>10}")
    with threads(given.threads), tempfile.TemporaryDirectory() as folder:
        for name in given.networks:
            config = CONFIGS[name]
            side = config.input_size_px
            store = LocalStore(Path(folder) / name)
            writer = ArrayWriter(store, (side, side), "uint16", {})
            rng = np.random.default_rng(0)
            for start in range(0, given.tiles, 1024):
                n = min(1024, given.tiles - start)
                writer.append(rng.integers(0, 4096, (n, side, side), np.uint16))
            writer.close()
            array = zarr.open_array(store, mode="r")
            images = torch.rand(BATCH[name], config.channels, side, side, device=default_device())
            found: dict[str, list[float]] = {"plain": [], "bare": [], "ours": []}
            steps = min(given.steps, given.tiles // BATCH[name])
            for _ in range(ROUNDS):
                found["plain"].append(bare_rate(config, images, ours=False, steps=steps))
                found["bare"].append(bare_rate(config, images, ours=True, steps=steps))
                found["ours"].append(our_rate(config, StoredTiles([rows_of(array)]), steps))
            plain, bare, ours = (statistics.median(found[k]) for k in ("plain", "bare", "ours"))
            print(
                f"{name:8} {plain:8.1f} {bare:8.1f} {ours:8.1f} {ours / bare:9.2f} "
                f"{ours / plain:10.2f}",
                flush=True,
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"largest resident size of this process: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
