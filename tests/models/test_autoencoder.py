"""The networks' shapes, counts and the exactness of their one shortcut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from models.autoencoder import (
    CONFIGS,
    AutoencoderConfig,
    UpsampledConvTranspose2d,
    build,
    count_parameters,
    named_config,
    network_input,
)

CPU = torch.device("cpu")


def tiny(**changes: object) -> AutoencoderConfig:
    settings: dict[str, object] = {
        "name": "tiny",
        "input_size_px": 16,
        "channels": 1,
        "widths": (4, 6),
        "dense_dim": 8,
        "latent_dim": 5,
    }
    return AutoencoderConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_the_published_network_has_the_published_counts() -> None:
    counts = count_parameters(build(CONFIGS["ddsm"]))
    assert counts.total == 4_478_745
    assert counts.trainable == 4_478_105


def test_the_published_network_has_the_published_layers() -> None:
    model = build(CONFIGS["ddsm"])
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.dim() > 1}
    assert list(shapes.values()) == [
        (128, 3, 3, 3),
        (64, 128, 3, 3),
        (32, 64, 3, 3),
        (256, 8192),
        (150, 256),
        (256, 150),
        (8192, 256),
        (32, 32, 3, 3),
        (32, 64, 3, 3),
        (64, 128, 3, 3),
        (3, 128, 1, 1),
    ]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_encoding_and_decoding_have_the_configured_shapes(name: str) -> None:
    config = CONFIGS[name]
    model = build(config).eval()
    images = torch.rand(2, config.channels, config.input_size_px, config.input_size_px)
    with torch.inference_mode():
        latent = model.encode(images)
        decoded = model.decode(latent)
        whole = model(images)
    assert latent.shape == (2, config.latent_dim)
    assert decoded.shape == images.shape
    assert torch.equal(whole, decoded)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_only_the_published_network_cuts_its_embedding_at_zero() -> None:
    for activation, lowest_is_zero in (("relu", True), ("linear", False)):
        model = build(tiny(latent_activation=activation, latent_dim=64))
        latent = model.encode(torch.rand(4, 1, 16, 16))
        assert (latent.min().item() == 0) is lowest_is_zero


def test_the_combined_step_equals_upsampling_then_transposed_convolution() -> None:
    torch.manual_seed(0)
    step = UpsampledConvTranspose2d(5, 4, bias=True).double()
    torch.nn.init.normal_(step.weight)
    torch.nn.init.normal_(step.bias)  # type: ignore[arg-type]
    x = torch.randn(3, 5, 6, 7, dtype=torch.float64)
    upsampled = functional.interpolate(x, scale_factor=2, mode="nearest")
    plain = functional.conv_transpose2d(upsampled, step.weight, step.bias, padding=1)
    torch.testing.assert_close(step(x), plain, rtol=1e-12, atol=1e-12)


def test_a_tile_is_resized_by_the_mean_of_the_area_that_a_pixel_covers() -> None:
    tiles = np.arange(16, dtype=np.uint16).reshape(1, 4, 4)
    images = network_input(tiles, tiny(input_size_px=4, widths=(2,)), CPU)
    np.testing.assert_allclose(images[0, 0].numpy() * 65535, tiles[0], rtol=1e-6)
    halved = network_input(tiles, tiny(input_size_px=2, widths=(2,)), CPU)
    np.testing.assert_allclose(halved[0, 0].numpy() * 65535, [[2.5, 4.5], [10.5, 12.5]], rtol=1e-6)


def test_the_grey_film_is_repeated_over_three_channels() -> None:
    tiles = np.random.default_rng(0).integers(0, 65536, (2, 16, 16), dtype=np.uint16)
    images = network_input(tiles, tiny(channels=3), CPU)
    assert images.shape == (2, 3, 16, 16)
    assert torch.equal(images[:, 0], images[:, 2])


def test_read_only_and_reversed_tiles_are_accepted_and_left_alone() -> None:
    tiles = np.random.default_rng(0).integers(0, 65536, (2, 16, 16), dtype=np.uint16)
    tiles.flags.writeable = False
    images = network_input(tiles[::-1, ::-1], tiny(), CPU)
    np.testing.assert_allclose(
        images[:, 0].numpy(), tiles[::-1, ::-1] / np.float32(65535), rtol=1e-6
    )


def test_tiles_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="uint16"):
        network_input(np.zeros((1, 16, 16)), tiny(), CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"input_size_px": 18}, "multiple of 4"),
        ({"channels": 2}, "channels=2"),
        ({"widths": ()}, "widths"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"latent_activation": "tanh"}, "tanh"),
        ({"batch_norm_momentum": 0.0}, "batch_norm_momentum"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(
    changes: dict[str, object], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        tiny(**changes)


def test_an_unknown_network_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="use one of ddsm, light"):
        named_config("resnet")
