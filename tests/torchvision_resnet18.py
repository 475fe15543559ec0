"""torchvision's ResNet-18, by the names in its files: made-up weights, and what they compute."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

WIDTHS = (64, 128, 256, 512)


def _norms(name: str, width: int) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", torch.rand(width) + 0.5
    yield f"{name}.bias", torch.randn(width) * 0.1
    yield f"{name}.running_mean", torch.randn(width) * 0.1
    yield f"{name}.running_var", torch.rand(width) + 0.5
    yield f"{name}.num_batches_tracked", torch.tensor(7)


def _tensors() -> Iterator[tuple[str, Tensor]]:
    yield "conv1.weight", torch.randn(64, 3, 7, 7) * 0.05
    yield from _norms("bn1", 64)
    fan_in = 64
    for layer, width in enumerate(WIDTHS, 1):
        for block in (0, 1):
            at = f"layer{layer}.{block}"
            yield f"{at}.conv1.weight", torch.randn(width, fan_in, 3, 3) * 0.05
            yield from _norms(f"{at}.bn1", width)
            yield f"{at}.conv2.weight", torch.randn(width, width, 3, 3) * 0.05
            yield from _norms(f"{at}.bn2", width)
            if fan_in != width:
                yield f"{at}.downsample.0.weight", torch.randn(width, fan_in, 1, 1) * 0.05
                yield from _norms(f"{at}.downsample.1", width)
            fan_in = width
    yield "fc.weight", torch.randn(1000, 512)
    yield "fc.bias", torch.randn(1000)


def made_up(seed: int = 0) -> dict[str, Tensor]:
    """Weights by name, as a file of torchvision has them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(_tensors())


def features(tensors: dict[str, Tensor], padded: Tensor) -> Tensor:
    """Features of standardised pictures (n, 3, side + 6, side + 6) that carry their border."""

    def norm(x: Tensor, name: str) -> Tensor:
        of = (tensors[f"{name}.{part}"] for part in ("running_mean", "running_var"))
        return functional.batch_norm(x, *of, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    x = functional.conv2d(padded, tensors["conv1.weight"], stride=2)
    x = functional.max_pool2d(functional.relu(norm(x, "bn1")), 3, 2, 1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            at = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = functional.conv2d(x, tensors[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = functional.relu(norm(y, f"{at}.bn1"))
            y = norm(functional.conv2d(y, tensors[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            if f"{at}.downsample.0.weight" in tensors:
                x = functional.conv2d(x, tensors[f"{at}.downsample.0.weight"], stride=stride)
                x = norm(x, f"{at}.downsample.1")
            x = functional.relu(x + y)
    return x.mean((2, 3))
