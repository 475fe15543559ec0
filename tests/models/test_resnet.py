"""ResNet-18 starts from torchvision's weights, and then computes what torchvision's does."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from models.checkpoints import CheckpointError
from models.resnet import (
    IMAGENET_MEAN,
    IMAGENET_SD,
    ResNet18,
    ResNetConfig,
    start_from_imagenet,
)
from tests import torchvision_resnet18


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_those_of_torchvisions_network(channels: int) -> None:
    tensors = torchvision_resnet18.made_up()
    network = ResNet18(ResNetConfig(input_size_px=64, channels=channels)).eval()
    last = network.to_classes.weight.detach().clone()
    start_from_imagenet(network, tensors)
    images = torch.rand(2, channels, 64, 64)
    mean, sd = (torch.tensor(v)[None, :, None, None] for v in (IMAGENET_MEAN, IMAGENET_SD))
    black_border = functional.pad(images.expand(2, 3, 64, 64), (3, 3, 3, 3))
    with torch.no_grad():
        found = network.encode(images)
        wanted = torchvision_resnet18.features(tensors, (black_border - mean) / sd)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert found.std() > 0.01, "the made-up weights say something"
    assert torch.equal(network.to_classes.weight, last), "the last layer is our own"


def test_files_without_batch_counts_are_read() -> None:
    tensors = torchvision_resnet18.made_up()
    older = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    start_from_imagenet(ResNet18(ResNetConfig()), older)


def test_other_weights_are_refused() -> None:
    network = ResNet18(ResNetConfig())
    tensors = torchvision_resnet18.made_up()
    with pytest.raises(CheckpointError, match=r"lack layer3\.1\.bn2\.bias"):
        start_from_imagenet(network, {n: t for n, t in tensors.items() if "3.1.bn2.b" not in n})
    with pytest.raises(CheckpointError, match=r"\(64, 1, 7, 7\)"):
        start_from_imagenet(network, tensors | {"conv1.weight": torch.zeros(64, 1, 7, 7)})
    with pytest.raises(CheckpointError, match=r"blocks\.0\.first\.weight"):
        start_from_imagenet(network, tensors | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)})
