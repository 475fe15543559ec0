"""ResNet-18 (He et al. 2016), the supervised baseline: from scratch, or from ImageNet's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.checkpoints import CheckpointError, load_into

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2

IMAGENET_MEAN, IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the three channels that torchvision's weights expect to be standardised by."""


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

    @property
    def latent_dim(self) -> int:
        """Number of features before the last layer."""
        return WIDTHS[-1]


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


def start_from_imagenet(network: ResNet18, tensors: Mapping[str, Tensor]) -> None:
    """Take over all but the last layer of torchvision's ResNet-18 trained on ImageNet.

    Standardising the channels is put into the first layer, and for one channel its filters are
    added up: a grey picture then gives what torchvision's network makes of three equal channels.
    Near the border that holds roughly, as what is added there is black here and the mean there.

    Parameters
    ----------
    network : ResNet18
        Changed in place.
    tensors : mapping of str to Tensor
        By torchvision's names: ``conv1.weight``, ``layer1.0.bn1.running_mean`` ...

    Raises
    ------
    CheckpointError
        A tensor is missing, or not of ResNet-18's shape.
    """
    state = network.state_dict()
    found = {name: value for name, value in state.items() if name.startswith("to_classes.")}
    for name, own in state.items():
        if name in found:
            continue
        theirs = _torchvision_name(name)
        if theirs in tensors:
            found[name] = tensors[theirs]
        elif name.endswith("num_batches_tracked"):  # files of old versions have none
            found[name] = own
        else:
            raise CheckpointError(
                f"The weights lack {theirs}; they are not of torchvision's resnet18."
            )
    mean, sd = (torch.tensor(v)[None, :, None, None] for v in (IMAGENET_MEAN, IMAGENET_SD))
    filters = found["stem.0.weight"]
    if filters.shape[1:] != (3, 7, 7):
        raise CheckpointError(
            f"conv1.weight is of shape {tuple(filters.shape)}, torchvision's resnet18 has "
            "(64, 3, 7, 7)."
        )
    filters = filters / sd
    found["stem.1.running_mean"] = found["stem.1.running_mean"] + (filters * mean).sum((1, 2, 3))
    if network.config.channels == 1:
        filters = filters.sum(1, keepdim=True)
    found["stem.0.weight"] = filters
    load_into(network, found, what="weights of ImageNet")


def _torchvision_name(name: str) -> str:
    """Torchvision's name of one of our tensors."""
    part, rest = name.split(".", 1)
    if part == "stem":
        return rest.replace("0.", "conv1.", 1) if rest[0] == "0" else rest.replace("1.", "bn1.", 1)
    number, inner, tensor = rest.split(".", 2)
    layer, block = divmod(int(number), BLOCKS)
    known = {
        "first": "conv1",
        "first_norm": "bn1",
        "second": "conv2",
        "second_norm": "bn2",
        "around": "downsample",
    }
    return f"layer{layer + 1}.{block}.{known[inner]}.{tensor}"
