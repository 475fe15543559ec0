"""Fully convolutional autoencoder: the small one for hand-written digits, of any widths.

With ``widths`` (16, 2) on 28 x 28 pixels of one channel: 937 parameters, a code of 2 x 7 x 7::

    encoder  a stage per width [16, 2]:   3 x 3 convolution, ReLU, 2 x 2 maximum pooling
    decoder  a stage per width [2, 16]:   3 x 3 convolution, ReLU, 2 x nearest upsampling
             3 x 3 convolution to the channels, sigmoid
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.autoencoder import initialise


@dataclass(frozen=True, kw_only=True)
class ConvAutoencoderConfig:
    """Everything that fixes a network's shape.

    Parameters
    ----------
    name : str
        Name for logs and reports.
    input_size_px : int
        Side of the square that the network sees; a multiple of ``2 ** len(widths)``.
    channels : int
        1 or 3.
    widths : tuple of int
        Filters of the encoder's convolutions, from the picture inwards.
    """

    name: str = "conv"
    input_size_px: int = 28
    channels: int = 1
    widths: tuple[int, ...] = (16, 2)

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths, default=0) < 1:
            raise ValueError(f"widths={self.widths} must name at least one positive filter count.")
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels} must be 1 or 3.")
        step = 2 ** len(self.widths)
        if self.input_size_px < step or self.input_size_px % step:
            raise ValueError(
                f"input_size_px={self.input_size_px} must be a multiple of {step}, as "
                f"{len(self.widths)} stages halve it."
            )

    @property
    def latent_dim(self) -> int:
        """Length of an embedding: the flattened code."""
        side: int = self.input_size_px // 2 ** len(self.widths)
        return self.widths[-1] * side * side


class ConvAutoencoder(nn.Module):
    """The family drawn at the head of this module.

    Images are float32 (n, channels, input_size_px, input_size_px) in [0, 1].
    """

    def __init__(self, config: ConvAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        inwards: list[nn.Module] = []
        for fan_in, fan_out in zip((config.channels, *config.widths), config.widths, strict=False):
            inwards += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        outwards: list[nn.Module] = []
        widths = config.widths[::-1]
        for fan_in, fan_out in zip((widths[0], *widths), widths, strict=False):
            outwards += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.Upsample(None, 2)]
        self.encoder = nn.Sequential(*inwards)
        self.decoder = nn.Sequential(*outwards)
        self.to_image = nn.Conv2d(widths[-1], config.channels, 3, padding=1)
        self.apply(initialise)

    def encode(self, images: Tensor) -> Tensor:
        """Embed images: (n, latent_dim), at least 0."""
        code: Tensor = self.encoder(images)
        return code.flatten(1)

    def decode_logits(self, latent: Tensor) -> Tensor:
        """Reconstruct before the sigmoid, (n, channels, input_size_px, input_size_px)."""
        side = self.config.input_size_px // 2 ** len(self.config.widths)
        code = latent.reshape(-1, self.config.widths[-1], side, side)
        logits: Tensor = self.to_image(self.decoder(code))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Encode and decode; in [0, 1]."""
        return self.decode_logits(self.encode(images)).sigmoid()
