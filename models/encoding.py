"""A trained network at work: embeddings, reconstructions, and how far these are off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.autoencoder import Autoencoder, network_input, place
from models.contrastive import ContrastiveAutoencoder
from models.conv_autoencoder import ConvAutoencoder
from models.devices import Precision, autocast, autocast_dtype, default_device
from models.resnet import ResNet18

Network: TypeAlias = Autoencoder | ConvAutoencoder | ContrastiveAutoencoder
Encoder: TypeAlias = Network | ResNet18

FILLED_TO = 32
"""A batch is filled to a multiple of this: oneDNN compiles code for each number that it meets, and
keeps it. Shards end in batches of any."""


def encode(
    model: Encoder,
    tiles: NDArray[np.uint16],
    *,
    batch_size: int = 256,
    device: torch.device | None = None,
    precision: Precision = "float32",
) -> NDArray[np.float32]:
    """Embed tiles, in their order.

    Parameters
    ----------
    model : Encoder
        Trained; it is moved to the device and put in evaluation mode.
    tiles : ndarray of uint16, shape (n, size, size)
        Normalised scale: 0 to 65535 stands for 0 to 1.
    batch_size : int
        Tiles at a time; bounds the memory. A tile's embedding does not depend on the others in
        its batch beyond the rounding of float32.
    device : torch.device, optional
        None: the GPU where there is one.
    precision : {"float32", "bfloat16", "auto"}
        Of convolutions and products; the result is float32 in any case.

    Returns
    -------
    ndarray of float32, shape (n, latent_dim)
        Of shape (0, latent_dim) for no tiles.
    """
    return _by_batches(
        model, tiles, model.encode, (model.config.latent_dim,), batch_size, device, precision
    )


def reconstruct(
    model: Network,
    tiles: NDArray[np.uint16],
    *,
    batch_size: int = 256,
    device: torch.device | None = None,
    precision: Precision = "float32",
) -> NDArray[np.float32]:
    """Encode and decode tiles, for a person to compare.

    Parameters are those of `encode`.

    Returns
    -------
    ndarray of float32, shape (n, input_size_px, input_size_px)
        In [0, 1], at the network's size; the mean of its channels.
    """
    side = model.config.input_size_px
    return _by_batches(
        model,
        tiles,
        lambda images: model(images).mean(dim=1),
        (side, side),
        batch_size,
        device,
        precision,
    )


def reconstruction_error(
    model: Network,
    tiles: NDArray[np.uint16],
    *,
    batch_size: int = 256,
    device: torch.device | None = None,
    precision: Precision = "float32",
) -> NDArray[np.float32]:
    """Measure per tile how far its reconstruction is off.

    Parameters are those of `encode`.

    Returns
    -------
    ndarray of float32, shape (n,)
        Root of the mean squared difference at the network's size, in [0, 1].
    """
    return _by_batches(
        model,
        tiles,
        lambda images: (model(images).float() - images).square().mean(dim=(1, 2, 3)).sqrt(),
        (),
        batch_size,
        device,
        precision,
    )


def _by_batches(
    model: Encoder,
    tiles: NDArray[np.uint16],
    function: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    batch_size: int,
    device: torch.device | None,
    precision: Precision,
) -> NDArray[np.float32]:
    """Apply a function of images to all tiles; rows of ``shape``, float32, in their order."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1.")
    device = device or default_device()
    dtype = autocast_dtype(precision, device)
    place(model, device).eval()
    result = np.empty((len(tiles), *shape), dtype=np.float32)
    with torch.inference_mode():
        for rows in _slices(len(tiles), batch_size):
            batch = tiles[rows]
            n = len(batch)
            if filling := min(-n % FILLED_TO, batch_size - n):
                batch = np.concatenate([batch, np.zeros((filling, *batch.shape[1:]), batch.dtype)])
            images = network_input(batch, model.config, device)
            with autocast(dtype, device):
                values = function(images)[:n]
            result[rows] = values.float().cpu().numpy()
    return result


def _slices(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))
