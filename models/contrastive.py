"""Contrastive autoencoder with prototypes (after Ferrante et al.): networks and losses.

::

    encoder    a stage per width: 4 x 4 convolution of stride 2, GELU
               2 x 2 average pooling, linear -> embedding
    projector  three linear layers, GELU between them; used by the contrastive loss alone
    decoder    the encoder's mirror image: linear, 2 x upsampling, 4 x 4 transposed convolutions

Two views of a picture are embedded and projected; NT-Xent (Chen et al. 2020) draws the two
projections together and pushes all others of the batch away, and the decoder has to reconstruct
both views. Then the encoder is frozen, its embeddings are clustered, and a second decoder learns to
paint pictures from the embedding and its soft assignment to the clusters' prototypes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

KERNEL, STRIDE, PADDING = 4, 2, 1


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """Everything that fixes a network's shape.

    Parameters
    ----------
    name : str
        Name for logs and reports.
    input_size_px : int
        Side of the square that the network sees; the last feature map must hold 2 x 2 pixels.
    channels : int
        1 or 3.
    widths : tuple of int
        Filters of the encoder's convolutions, from the picture inwards.
    latent_dim : int
        Length of an embedding.
    projection_dims : tuple of int
        Units of the projector's layers.
    normalisation : {"none", "batch"}
        Batch normalisation after each convolution and each hidden layer of the projector.
    """

    name: str = "contrastive"
    input_size_px: int = 28
    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128)
    latent_dim: int = 128
    projection_dims: tuple[int, ...] = (128, 128, 64)
    normalisation: Literal["none", "batch"] = "none"

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths, default=0) < 1:
            raise ValueError(f"widths={self.widths} must name at least one positive filter count.")
        if not self.projection_dims or min(self.projection_dims, default=0) < 1:
            raise ValueError(f"projection_dims={self.projection_dims} must name positive numbers.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels} must be 1 or 3.")
        if self.latent_dim < 1:
            raise ValueError(f"latent_dim={self.latent_dim} must be at least 1.")
        if self.normalisation not in ("none", "batch"):
            raise ValueError(f"normalisation={self.normalisation!r} is not none or batch.")
        if self.sides[-1] < 2:
            least = 2 * STRIDE ** len(self.widths)
            raise ValueError(
                f"input_size_px={self.input_size_px} leaves no 2 x 2 pixels to average after "
                f"{len(self.widths)} stages; use at least {least}, or fewer widths."
            )

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of the picture and of each feature map, from the picture inwards."""
        sides = [self.input_size_px]
        for _ in self.widths:
            sides.append((sides[-1] + 2 * PADDING - KERNEL) // STRIDE + 1)
        return tuple(sides)

    @property
    def pooled_dim(self) -> int:
        """Numbers of the last feature map after pooling."""
        return self.widths[-1] * (self.sides[-1] // 2) ** 2


class Decoder(nn.Module):
    """The encoder's mirror image.

    Parameters
    ----------
    config : ContrastiveConfig
        Of the encoder.
    code_dim : int
        Length of what is decoded.
    """

    def __init__(self, config: ContrastiveConfig, code_dim: int) -> None:
        super().__init__()
        self.config = config
        self.from_code = nn.Linear(code_dim, config.pooled_dim)
        widths, sides = (config.channels, *config.widths)[::-1], config.sides[::-1]
        self.norms = nn.ModuleList()
        self.stages = nn.ModuleList()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            whole = (sides[i] - 1) * STRIDE - 2 * PADDING + KERNEL
            self.stages.append(
                nn.ConvTranspose2d(
                    fan_in, fan_out, KERNEL, STRIDE, PADDING, output_padding=sides[i + 1] - whole
                )
            )
            last = i == len(config.widths) - 1
            batch = config.normalisation == "batch" and not last
            self.norms.append(nn.BatchNorm2d(fan_out) if batch else nn.Identity())

    def forward(self, code: Tensor) -> Tensor:
        """Reconstruct before the sigmoid: (n, channels, input_size_px, input_size_px)."""
        side = self.config.sides[-1]
        x: Tensor = self.from_code(code).unflatten(
            1, (self.config.widths[-1], side // 2, side // 2)
        )
        x = functional.interpolate(functional.gelu(x), size=(side, side), mode="nearest")
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            x = norm(stage(x))
            if i < len(self.stages) - 1:
                x = functional.gelu(x)
        return x


class ContrastiveAutoencoder(nn.Module):
    """Encoder, projector and decoder, drawn at the head of this module.

    Images are float32 (n, channels, input_size_px, input_size_px) in [0, 1].
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        batch = config.normalisation == "batch"
        stages: list[nn.Module] = []
        for fan_in, fan_out in zip((config.channels, *config.widths), config.widths, strict=False):
            stages.append(nn.Conv2d(fan_in, fan_out, KERNEL, STRIDE, PADDING))
            stages += [nn.BatchNorm2d(fan_out)] if batch else []
            stages.append(nn.GELU())
        self.encoder = nn.Sequential(*stages, nn.AvgPool2d(2))
        self.to_latent = nn.Linear(config.pooled_dim, config.latent_dim)
        layers: list[nn.Module] = []
        dims = (config.latent_dim, *config.projection_dims)
        for fan_in, fan_out in itertools.pairwise(dims):
            layers.append(nn.Linear(fan_in, fan_out))
            layers += [nn.BatchNorm1d(fan_out)] if batch else []
            layers.append(nn.GELU())
        self.projector = nn.Sequential(*layers[: -2 if batch else -1])
        self.decoder = Decoder(config, config.latent_dim)

    def encode(self, images: Tensor) -> Tensor:
        """Embed images: float32 (n, latent_dim)."""
        latent: Tensor = self.to_latent(self.encoder(images).flatten(1))
        return latent

    def project(self, latent: Tensor) -> Tensor:
        """Map embeddings to where the contrastive loss compares them: (n, projection_dims[-1])."""
        projected: Tensor = self.projector(latent)
        return projected

    def decode_logits(self, latent: Tensor) -> Tensor:
        """Reconstruct before the sigmoid: (n, channels, input_size_px, input_size_px)."""
        logits: Tensor = self.decoder(latent)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Encode and decode; in [0, 1]."""
        return self.decode_logits(self.encode(images)).sigmoid()


class PrototypeDecoder(nn.Module):
    """Paints pictures from embeddings and their soft assignment to prototypes.

    Parameters
    ----------
    config : ContrastiveConfig
        Of the encoder that made the embeddings.
    prototypes : ndarray, shape (k, latent_dim)
        Centres of clusters of embeddings; they are kept with the weights and not trained.
    temperature : float
        Of the softmax; small values assign each embedding to one prototype alone.
    """

    prototypes: Tensor

    def __init__(
        self, config: ContrastiveConfig, prototypes: NDArray[np.floating], *, temperature: float
    ) -> None:
        super().__init__()
        if prototypes.ndim != 2 or prototypes.shape[1] != config.latent_dim:
            raise ValueError(
                f"prototypes of shape {prototypes.shape} do not fit embeddings of "
                f"{config.latent_dim} numbers."
            )
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be positive.")
        self.config, self.temperature = config, temperature
        self.register_buffer("prototypes", torch.tensor(prototypes, dtype=torch.float32))
        self.decoder = Decoder(config, 2 * config.latent_dim)

    def assign(self, latent: Tensor) -> Tensor:
        """Soft assignment of embeddings, (n, k): softmax of cosine similarities by temperature."""
        return soft_assignment(latent, self.prototypes, self.temperature)

    def forward(self, latent: Tensor) -> Tensor:
        """Reconstruct before the sigmoid: (n, channels, input_size_px, input_size_px)."""
        typical = self.assign(latent) @ self.prototypes
        logits: Tensor = self.decoder(torch.cat((latent, typical), 1))
        return logits

    def decode_prototypes(self) -> Tensor:
        """Pictures of the prototypes themselves, (k, channels, side, side) in [0, 1]."""
        pictures: Tensor = self(self.prototypes).sigmoid()
        return pictures


def soft_assignment(latent: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Softmax of cosine similarities over a temperature.

    Parameters
    ----------
    latent : Tensor, (n, dim)
    prototypes : Tensor, (k, dim)
    temperature : float
        Positive.

    Returns
    -------
    Tensor, (n, k)
        Rows add up to 1.
    """
    cosine = functional.normalize(latent, dim=1) @ functional.normalize(prototypes, dim=1).T
    return (cosine / temperature).softmax(1)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Contrastive loss of two views: normalised temperature-scaled cross-entropy.

    Chen et al. 2020, equation 1: of all 2 n - 1 other views of the batch, each view has to find its
    partner by cosine similarity.

    Parameters
    ----------
    first, second : Tensor, (n, dim)
        Projections; row i of both are of the same picture. At least two rows.
    temperature : float
        Positive; by it similarities are divided.

    Returns
    -------
    Tensor
        Mean over the 2 n views, in nats.
    """
    n = len(first)
    if n < 2 or first.shape != second.shape:
        raise ValueError(
            f"views of shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be compared; "
            "give at least two pictures, and two views of each."
        )
    views = functional.normalize(torch.cat((first, second)).float(), dim=1)
    similarity = views @ views.T / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=views.device)
    partner = torch.arange(2 * n, device=views.device).roll(n)
    return functional.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)
