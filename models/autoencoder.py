"""Convolutional autoencoders: the published one for DDSM tiles, and a light one for two CPU cores.

The family, with ``ddsm`` in brackets (input 128 x 128 x 3; 4,478,745 parameters, of which the
640 running statistics of its batch normalisations are not trained)::

    encoder  a stage per width [128, 64, 32]:
               3 x 3 convolution without bias, batch normalisation, ReLU, 2 x 2 maximum pooling
             dense [256], linear -> dense [150], ReLU
    decoder  dense [256], linear -> dense [8192 = 16 x 16 x 32], ReLU
             a stage per width, mirrored [32, 64, 128]:
               2 x nearest upsampling, 3 x 3 transposed convolution, batch normalisation, ReLU
               (the last one with bias, without normalisation)
             1 x 1 convolution to the channels, sigmoid
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

UINT16_MAX = 65535


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Everything that fixes a network's shape.

    Parameters
    ----------
    name : str
        Name for logs and reports.
    input_size_px : int
        Side of the square that the network sees; a multiple of ``2 ** len(widths)``.
    channels : int
        1, or 3 for the published network, which repeats the grey film three times.
    widths : tuple of int
        Filters of the encoder's convolutions, from the film inwards.
    dense_dim : int
        Units between the last feature map and the latent vector.
    latent_dim : int
        Length of an embedding.
    latent_activation : {"relu", "linear"}
        The published network cuts its embedding at zero, which leaves dead units.
    batch_norm_momentum : float
        Weight of a new batch in the running statistics, in (0, 1] (Keras states 1 minus this).
    """

    name: str
    input_size_px: int
    channels: int
    widths: tuple[int, ...]
    dense_dim: int
    latent_dim: int
    latent_activation: Literal["relu", "linear"] = "linear"
    batch_norm_momentum: float = 0.1

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths, default=0) < 1:
            raise ValueError(f"widths={self.widths} must name at least one positive filter count.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels} must be 1 or 3.")
        if self.dense_dim < 1 or self.latent_dim < 1:
            raise ValueError("dense_dim and latent_dim must be at least 1.")
        if self.latent_activation not in ("relu", "linear"):
            raise ValueError(f"latent_activation={self.latent_activation!r} is not relu or linear.")
        if not 0 < self.batch_norm_momentum <= 1:
            raise ValueError(f"batch_norm_momentum={self.batch_norm_momentum} is not in (0, 1].")
        step = 2 ** len(self.widths)
        if self.input_size_px < step or self.input_size_px % step:
            raise ValueError(
                f"input_size_px={self.input_size_px} must be a multiple of {step}, as "
                f"{len(self.widths)} stages halve it."
            )

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """Shape (filters, height, width) of the innermost feature map."""
        side = self.input_size_px // 2 ** len(self.widths)
        return self.widths[-1], side, side


CONFIGS: dict[str, AutoencoderConfig] = {
    "ddsm": AutoencoderConfig(
        name="ddsm",
        input_size_px=128,
        channels=3,
        widths=(128, 64, 32),
        dense_dim=256,
        latent_dim=150,
        latent_activation="relu",
        batch_norm_momentum=0.01,
    ),
    "light": AutoencoderConfig(
        name="light",
        input_size_px=64,
        channels=1,
        widths=(8, 16, 32),
        dense_dim=128,
        latent_dim=32,
    ),
}


class UpsampledConvTranspose2d(nn.Module):
    """Nearest upsampling by two, then a 3 x 3 transposed convolution of stride 1, in one step.

    Upsampling followed by a convolution with kernel w is a stride-2 transposed convolution whose
    4 x 4 kernel is w convolved with a 2 x 2 square of ones: the same function and the same 3 x 3
    parameters at 16 instead of 36 multiplications for each weight and input pixel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in, h, w) to (n, out, 2h, 2w)."""
        rows = functional.pad(self.weight, (0, 0, 0, 1)) + functional.pad(self.weight, (0, 0, 1, 0))
        kernel = functional.pad(rows, (0, 1)) + functional.pad(rows, (1, 0))  # (in, out, 4, 4)
        return functional.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class Autoencoder(nn.Module):
    """The family drawn at the head of this module.

    Images are float32 (n, channels, input_size_px, input_size_px) in [0, 1]; see `network_input`
    for the way from stored tiles to these.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        code_dim = int(np.prod(config.code_shape))
        self.encoder_stages = nn.Sequential(*_encoder_stages(config))
        self.to_latent = nn.Sequential(
            nn.Linear(code_dim, config.dense_dim),
            nn.Linear(config.dense_dim, config.latent_dim),
            nn.ReLU() if config.latent_activation == "relu" else nn.Identity(),
        )
        self.from_latent = nn.Sequential(
            nn.Linear(config.latent_dim, config.dense_dim),
            nn.Linear(config.dense_dim, code_dim),
            nn.ReLU(),
        )
        self.decoder_stages = nn.Sequential(*_decoder_stages(config))
        self.to_image = nn.Conv2d(config.widths[0], config.channels, 1)
        self.apply(initialise)

    def encode(self, images: Tensor) -> Tensor:
        """Embed images.

        Parameters
        ----------
        images : Tensor
            Float32 (n, channels, input_size_px, input_size_px) in [0, 1].

        Returns
        -------
        Tensor
            Float32 (n, latent_dim); at least 0 where the latent activation is ReLU.
        """
        code = self.encoder_stages(images)  # (n, filters, side, side)
        latent: Tensor = self.to_latent(code.flatten(1))
        return latent

    def decode_logits(self, latent: Tensor) -> Tensor:
        """Reconstruct before the sigmoid: what binary cross-entropy takes in a stable way."""
        code = self.from_latent(latent).unflatten(1, self.config.code_shape)
        logits: Tensor = self.to_image(self.decoder_stages(code))
        return logits

    def decode(self, latent: Tensor) -> Tensor:
        """Reconstruct images (n, channels, input_size_px, input_size_px) in [0, 1]."""
        return torch.sigmoid(self.decode_logits(latent))

    def forward(self, images: Tensor) -> Tensor:
        """Encode and decode."""
        return self.decode(self.encode(images))


class ParameterCounts(NamedTuple):
    """Numbers of a network's values, as Keras counts them: running statistics included."""

    total: int
    trainable: int


def build(config: AutoencoderConfig) -> Autoencoder:
    """Build a network with fresh weights from torch's global random generator."""
    return Autoencoder(config)


_Network = TypeVar("_Network", bound=nn.Module)


def place(model: _Network, device: torch.device) -> _Network:
    """Move a network to a device, its kernels channels last in memory like the images."""
    placed: _Network = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


def named_config(name: str) -> AutoencoderConfig:
    """Look up a configuration by its name, ``ddsm`` or ``light``."""
    if name not in CONFIGS:
        raise ValueError(f"network={name!r} is unknown; use one of {', '.join(sorted(CONFIGS))}.")
    return CONFIGS[name]


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count parameters, and the running means and variances that are stored but not trained."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    statistics = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    return ParameterCounts(total=trainable + frozen + statistics, trainable=trainable)


class ImageShape(Protocol):
    """What a network sees."""

    @property
    def input_size_px(self) -> int:
        """Side of the square."""
        ...

    @property
    def channels(self) -> int:
        """1 or 3."""
        ...


def network_input(tiles: NDArray[np.uint16], config: ImageShape, device: torch.device) -> Tensor:
    """Bring stored tiles to a network's size, channels and scale.

    Parameters
    ----------
    tiles : ndarray of uint16, shape (n, size, size)
        Normalised scale: 0 to 65535 stands for 0 to 1. Any size: each pixel of the network's
        input is the mean of the area that it covers.
    config : ImageShape
        Of the network.
    device : torch.device
        Where the images are needed.

    Returns
    -------
    Tensor
        Float32 (n, channels, input_size_px, input_size_px) in [0, 1], channels last in memory,
        which is the faster order on CPU and GPU alike.
    """
    if tiles.ndim != 3 or tiles.dtype != np.uint16:
        raise ValueError(
            f"tiles must be uint16 of shape (n, size, size), not {tiles.dtype} {tiles.shape}."
        )
    pixels = torch.from_numpy(np.require(tiles, requirements=["C", "W"])).to(device)
    images = pixels.unsqueeze(1).to(torch.float32).div_(UINT16_MAX)
    side = config.input_size_px
    if images.shape[-2:] != (side, side):
        images = functional.interpolate(images, size=(side, side), mode="area")
    images = images.expand(-1, config.channels, -1, -1)
    return images.contiguous(memory_format=torch.channels_last)


def _encoder_stages(config: AutoencoderConfig) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip((config.channels, *config.widths), config.widths, strict=False):
        layers += [
            nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False),
            _batch_norm(fan_out, config),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return layers


def _decoder_stages(config: AutoencoderConfig) -> list[nn.Module]:
    widths = config.widths[::-1]
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip((widths[0], *widths), widths[:-1], strict=False):
        layers += [
            UpsampledConvTranspose2d(fan_in, fan_out, bias=False),
            _batch_norm(fan_out, config),
            nn.ReLU(),
        ]
    fan_in = widths[-2] if len(widths) > 1 else widths[0]
    return [*layers, UpsampledConvTranspose2d(fan_in, widths[-1], bias=True), nn.ReLU()]


def _batch_norm(channels: int, config: AutoencoderConfig) -> nn.BatchNorm2d:
    """Batch normalisation with Keras' epsilon, and without torch's counter of batches."""
    norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=config.batch_norm_momentum)
    norm.num_batches_tracked = None
    return norm


def initialise(module: nn.Module) -> None:
    """Draw a layer's weights by Glorot's uniform rule, biases zero: Keras' defaults."""
    if isinstance(module, nn.Conv2d | nn.Linear | UpsampledConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
