"""ResNet-18 (He et al. 2016), from scratch: the supervised baseline of the experiments."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """What the network sees and tells apart.

    Parameters
    ----------
    name : str
        Name for logs and reports.
    input_size_px : int
        Side of the square, at least 16.
    channels : int
        1 or 3.
    classes : int
        Number of labels.
    """

    name: str = "resnet18"
    input_size_px: int = 28
    channels: int = 1
    classes: int = 2

    def __post_init__(self) -> None:
        if self.input_size_px < 16 or self.channels not in (1, 3) or self.classes < 2:
            raise ValueError("input_size_px >= 16, channels 1 or 3 and classes >= 2 must hold.")


class _Block(nn.Module):
    """Two 3 x 3 convolutions, and the way around them."""

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(fan_in, fan_out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(fan_out)
        self.second = nn.Conv2d(fan_out, fan_out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(fan_out)
        same = stride == 1 and fan_in == fan_out
        self.around: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(x)))
        inner = self.second_norm(self.second(inner))
        return functional.relu(inner + self.around(x))


class ResNet18(nn.Module):
    """7 x 7 convolution of stride 2, maximum pooling, four stages of two blocks, linear.

    Images are float32 (n, channels, input_size_px, input_size_px) in [0, 1].
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Sequential(
            nn.Conv2d(config.channels, WIDTHS[0], 7, 2, 3, bias=False),
            nn.BatchNorm2d(WIDTHS[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks: list[nn.Module] = []
        fan_in = WIDTHS[0]
        for width in WIDTHS:
            for i in range(BLOCKS):
                stride = 2 if i == 0 and width != WIDTHS[0] else 1
                blocks.append(_Block(fan_in, width, stride))
                fan_in = width
        self.blocks = nn.Sequential(*blocks)
        self.to_classes = nn.Linear(fan_in, config.classes)

    def encode(self, images: Tensor) -> Tensor:
        """Features before the last layer, (n, 512)."""
        features: Tensor = self.blocks(self.stem(images))
        return features.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (n, classes)."""
        logits: Tensor = self.to_classes(self.encode(images))
        return logits
