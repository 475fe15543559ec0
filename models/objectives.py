"""What a network is trained for: a loss of a batch of pictures, each with its own network.

An objective knows neither optimizer nor loop nor storage (`models.fitting`). Whatever it draws
depends on its seed, the picture's number and the epoch, or comes from torch's global generator,
which the loop seeds for every step: a training that goes on after a break draws the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.augmentation import Augmentation, parameters, view_seeds
from models.autoencoder import ImageShape
from models.contrastive import ContrastiveAutoencoder, PrototypeDecoder, nt_xent
from models.variational import VariationalAutoencoder, divergence


class Objective(Protocol):
    """A network, and its loss."""

    @property
    def network(self) -> nn.Module:
        """All that is trained, and the statistics stored with it."""
        ...

    @property
    def shape(self) -> ImageShape:
        """Of the images that `loss` takes."""
        ...

    @property
    def is_mean(self) -> bool:
        """Whether a batch's loss is the mean of its pictures' own, so that batches can be split."""
        ...

    def loss(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Loss of a batch, a scalar in float32.

        Parameters
        ----------
        images : Tensor
            Float32 (n, channels, input_size_px, input_size_px) in [0, 1].
        rows : Tensor
            int64 (n,): numbers of the pictures in their source.
        epoch : int
            From 1; 0 for validation.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """All that two parts of one training must share, as JSON takes it."""
        ...


class Reconstruction:
    """Reconstruct the picture: binary cross-entropy per pixel.

    Parameters
    ----------
    network : Module
        With ``config``, ``encode`` and ``decode_logits``.
    """

    is_mean = True

    def __init__(self, network: Any) -> None:
        self.network, self.shape = network, network.config

    def loss(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Mean over pixels, in nats."""
        logits = self.network.decode_logits(self.network.encode(images))
        return functional.binary_cross_entropy_with_logits(logits.float(), images)

    def identity(self) -> dict[str, Any]:
        """Network and objective."""
        return {"objective": "reconstruction", "network": dataclasses.asdict(self.network.config)}


class Variational:
    """Reconstruct from a drawn code, and keep the codes near the prior (Kingma and Welling 2014).

    Parameters
    ----------
    network : VariationalAutoencoder
    beta : float
        Weight of the divergence (Higgins et al. 2017); 1 is the evidence's lower bound.
    """

    is_mean = True

    def __init__(self, network: VariationalAutoencoder, *, beta: float = 1.0) -> None:
        if beta < 0:
            raise ValueError(f"beta={beta} must not be negative.")
        self.network, self.shape, self.beta = network, network.config, beta

    def loss(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Negative lower bound, per pixel, in nats."""
        network = self.network
        mean, log_variance = network.distribution(images)
        mean, log_variance = mean.float(), log_variance.float()
        code = network.sample(mean, log_variance) if network.training else mean
        pixels = functional.binary_cross_entropy_with_logits(
            network.decode_logits(code).float(), images
        )
        per_pixel = divergence(mean, log_variance).mean() / images[0].numel()
        return pixels + self.beta * per_pixel

    def identity(self) -> dict[str, Any]:
        """Network and objective."""
        config = dataclasses.asdict(self.network.config)
        return {"objective": "variational", "beta": self.beta, "network": config}


class Contrastive:
    """Tell pictures apart by two views of each, and reconstruct both views.

    Parameters
    ----------
    network : ContrastiveAutoencoder
    augmentation : Augmentation
        Makes the views.
    seed : int
        Of the views.
    temperature : float
        Of NT-Xent.
    reconstruction_weight : float
        Of the mean squared error, averaged over both views.
    """

    is_mean = False

    def __init__(
        self,
        network: ContrastiveAutoencoder,
        augmentation: Augmentation,
        *,
        seed: int,
        temperature: float = 0.5,
        reconstruction_weight: float = 0.1,
    ) -> None:
        if not temperature > 0 or reconstruction_weight < 0:
            raise ValueError("temperature must be positive, reconstruction_weight at least 0.")
        self.network, self.shape, self.augmentation = network, network.config, augmentation
        self.seed, self.temperature, self.weight = seed, temperature, reconstruction_weight

    def loss(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """NT-Xent of the projections plus the weighted error of the reconstructions."""
        n = len(images)
        with torch.no_grad():
            seeds = [view_seeds(self.seed, rows, 2 * epoch + i) for i in (0, 1)]
            views = self.augmentation(torch.cat((images, images)), torch.cat(seeds))
        latent = self.network.encode(views)
        projected = self.network.project(latent).float()
        with torch.autocast(images.device.type, enabled=False):
            loss = nt_xent(projected[:n], projected[n:], self.temperature)
        if self.weight > 0:
            painted = self.network.decode_logits(latent).float().sigmoid()
            loss = loss + self.weight * functional.mse_loss(painted, views)
        return loss

    def identity(self) -> dict[str, Any]:
        """Network, views and objective."""
        return {
            "objective": "contrastive",
            "network": dataclasses.asdict(self.network.config),
            "augmentation": [parameters(o) for o in self.augmentation.operations],
            "seed": self.seed,
            "temperature": self.temperature,
            "reconstruction_weight": self.weight,
        }


class PrototypeReconstruction:
    """Reconstruct from embedding and prototypes, the encoder frozen: mean squared error.

    Parameters
    ----------
    encoder : ContrastiveAutoencoder
        Not trained; it stays in evaluation mode.
    network : PrototypeDecoder
    """

    is_mean = True

    def __init__(self, encoder: ContrastiveAutoencoder, network: PrototypeDecoder) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.network, self.shape = network, network.config

    def loss(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Mean over pixels."""
        with torch.no_grad():
            latent = self.encoder.encode(images)
        return functional.mse_loss(self.network(latent).float().sigmoid(), images)

    def identity(self) -> dict[str, Any]:
        """Network and objective."""
        return {
            "objective": "prototypes",
            "network": dataclasses.asdict(self.network.config),
            "prototypes": self.network.prototypes.tolist(),
            "temperature": self.network.temperature,
        }


class Classification:
    """Predict labels: cross-entropy, for supervised baselines.

    Parameters
    ----------
    network : Module
        Images to logits (n, classes).
    shape : ImageShape
        Of its images.
    labels : ndarray of int64, shape (n,)
        Of the pictures by number, from 0.
    augmentation : Augmentation, optional
        Makes a view of each picture in each epoch.
    seed : int
        Of the views.
    """

    is_mean = True

    def __init__(
        self,
        network: nn.Module,
        shape: ImageShape,
        labels: NDArray[np.integer] | Sequence[int],
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.network, self.shape = network, shape
        self.labels = torch.as_tensor(np.asarray(labels, dtype=np.int64))
        self.augmentation, self.seed = augmentation, seed

    def loss(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Mean over pictures, in nats."""
        if self.augmentation is not None:
            images = self.augmentation(images, view_seeds(self.seed, rows, epoch))
        logits: Tensor = self.network(images)
        return functional.cross_entropy(logits.float(), self.labels[rows].to(images.device))

    def identity(self) -> dict[str, Any]:
        """Labels and views."""
        operations = () if self.augmentation is None else self.augmentation.operations
        return {
            "objective": "classification",
            "network": type(self.network).__name__,
            "augmentation": [parameters(o) for o in operations],
            "seed": self.seed,
            "label_counts": torch.bincount(self.labels).tolist(),
        }
