"""Tiles per second of both networks: ours against a bare loop over a batch that lies ready.

    python benchmarks/encode.py [--threads N] [--seconds S] [--networks light ddsm]

``plain`` is what one would write first: float32, torch's own memory order, upsampling and
transposed convolution one after the other. ``bare`` is our network in a loop over one float32
batch in memory; ``ours`` is `train` and `encode` on stored uint16 tiles, with all that they do
besides: reading, scaling, shuffling, loss bookkeeping. Variants alternate, and each figure is the
median of three.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.autoencoder import (
    CONFIGS,
    Autoencoder,
    AutoencoderConfig,
    UpsampledConvTranspose2d,
    build,
    place,
)
from models.devices import Precision, autocast, autocast_dtype, default_device, threads
from models.encoding import encode
from models.tile_source import ArrayTiles
from models.training import TrainingSettings, train

BATCH = {"light": 128, "ddsm": 32}
ROUNDS = 3


class _Plain(UpsampledConvTranspose2d):
    """The same layer in two steps."""

    def forward(self, x: Tensor) -> Tensor:
        upsampled = functional.interpolate(x, scale_factor=2, mode="nearest")
        return functional.conv_transpose2d(upsampled, self.weight, self.bias, padding=1)


def plain_network(config: AutoencoderConfig) -> Autoencoder:
    model = build(config)
    for module in model.modules():
        if isinstance(module, UpsampledConvTranspose2d):
            module.__class__ = _Plain
    return model


def rate(step: Callable[[], object], tiles_per_step: int, seconds: float) -> float:
    step()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count == 0:
        step()
        count += 1
    return count * tiles_per_step / elapsed


def bare_training(model: Autoencoder, images: Tensor, precision: Precision) -> Callable[[], object]:
    device = images.device
    dtype = autocast_dtype(precision, device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    model.train()

    def step() -> float:
        with autocast(dtype, device):
            logits = model.decode_logits(model.encode(images))
        loss = functional.binary_cross_entropy_with_logits(logits.float(), images)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def bare_encoding(model: Autoencoder, images: Tensor, precision: Precision) -> Callable[[], object]:
    dtype = autocast_dtype(precision, images.device)
    model.eval()

    def step() -> object:
        with torch.inference_mode(), autocast(dtype, images.device):
            return model.encode(images).float().cpu()

    return step


def our_training_rate(
    config: AutoencoderConfig, tiles: ArrayTiles, precision: Precision, steps: int
) -> float:
    settings = TrainingSettings(
        max_epochs=2,
        batch_size=BATCH[config.name],
        max_steps_per_epoch=steps,
        precision=precision,
    )
    history = train(tiles, config, settings, seed=0).history
    return min(len(tiles), steps * settings.batch_size) / history[-1].seconds


def measure(name: str, seconds: float) -> list[tuple[str, str, float, float, float]]:
    config, device, batch = CONFIGS[name], default_device(), BATCH[name]
    side = config.input_size_px
    stored = np.random.default_rng(0).integers(0, 65536, (8 * batch, side, side), np.uint16)
    images = torch.rand(batch, config.channels, side, side, device=device)
    ordered = images.contiguous(memory_format=torch.channels_last)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    found: dict[tuple[str, str, str], list[float]] = {}

    def note(work: str, precision: str, variant: str, value: float) -> None:
        found.setdefault((work, precision, variant), []).append(value)

    for _ in range(ROUNDS):
        plain = plain_network(config).to(device)
        step = bare_training(plain, images, "float32")
        note("train", "float32", "plain", rate(step, batch, seconds))
        step = bare_encoding(plain, images, "float32")
        note("encode", "float32", "plain", rate(step, batch, seconds))
        for precision in precisions:
            model = place(build(config), device)
            bare = rate(bare_training(model, ordered, precision), batch, seconds)
            note("train", precision, "bare", bare)
            steps = max(1, min(8, round(seconds * bare / batch)))
            note(
                "train",
                precision,
                "ours",
                our_training_rate(config, ArrayTiles(stored), precision, steps),
            )
            bare = rate(bare_encoding(model, ordered, precision), batch, seconds)
            note("encode", precision, "bare", bare)

            def encode_all(model: Autoencoder = model, precision: Precision = precision) -> object:
                return encode(model, stored, batch_size=batch, precision=precision)

            note("encode", precision, "ours", rate(encode_all, len(stored), seconds))

    medians = {key: statistics.median(values) for key, values in found.items()}
    return [
        (
            work,
            precision,
            medians[work, "float32", "plain"],
            medians[work, precision, "bare"],
            medians[work, precision, "ours"],
        )
        for work in ("train", "encode")
        for precision in precisions
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--networks", nargs="+", choices=sorted(CONFIGS), default=["light", "ddsm"])
    arguments = parser.parse_args()
    print(f"tiles/s on {default_device()}, {arguments.threads} threads, torch {torch.__version__}")
    print(
        f"{'network':8} {'work':7} {'inside':9} {'plain':>8} {'bare':>8} {'ours':>8} "
        f"{'ours/bare':>9} {'ours/plain':>10}"
    )
    with threads(arguments.threads):
        for name in arguments.networks:
            for work, precision, plain, bare, ours in measure(name, arguments.seconds):
                print(
                    f"{name:8} {work:7} {precision:9} {plain:8.1f} {bare:8.1f} {ours:8.1f} "
                    f"{ours / bare:9.2f} {ours / plain:10.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
