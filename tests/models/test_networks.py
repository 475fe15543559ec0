"""The published networks have the published numbers of parameters, and do what they are said to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.autoencoder import AutoencoderConfig, count_parameters, named_config
from models.contrastive import (
    ContrastiveAutoencoder,
    ContrastiveConfig,
    PrototypeDecoder,
    nt_xent,
    soft_assignment,
)
from models.conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from models.variational import VariationalAutoencoder, divergence

SMALL = ContrastiveConfig(input_size_px=16, widths=(4, 6), latent_dim=5, projection_dims=(7, 6, 3))


def test_the_digit_autoencoder_has_937_parameters() -> None:
    network = ConvAutoencoder(ConvAutoencoderConfig())
    assert count_parameters(network) == (937, 937)
    assert network.config.latent_dim == 7 * 7 * 2


def test_the_variational_ddsm_network_has_one_more_layer() -> None:
    network = VariationalAutoencoder(named_config("ddsm"))
    assert count_parameters(network).total == 4_478_745 + 256 * 150 + 150


@pytest.mark.parametrize("size_px", [28, 32, 17, 64])
@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_a_contrastive_decoder_gives_back_the_encoders_size(
    size_px: int, normalisation: str
) -> None:
    config = ContrastiveConfig(
        input_size_px=size_px,
        channels=3,
        widths=(4, 6),
        latent_dim=5,
        normalisation=normalisation,  # type: ignore[arg-type]
    )
    network = ContrastiveAutoencoder(config)
    images = torch.rand(3, 3, size_px, size_px)
    assert network.encode(images).shape == (3, 5)
    assert network(images).shape == images.shape


def test_the_conv_autoencoder_gives_back_its_input_size() -> None:
    network = ConvAutoencoder(ConvAutoencoderConfig(input_size_px=24, channels=3, widths=(5, 4, 3)))
    images = torch.rand(2, 3, 24, 24)
    assert network(images).shape == images.shape
    assert network.encode(images).shape == (2, network.config.latent_dim)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: ConvAutoencoderConfig(input_size_px=30), "multiple of 4"),
        (lambda: ConvAutoencoderConfig(widths=()), "at least one positive"),
        (lambda: ConvAutoencoderConfig(channels=2), "must be 1 or 3"),
        (lambda: ContrastiveConfig(input_size_px=12), "use at least 16"),
        (lambda: ContrastiveConfig(projection_dims=()), "positive numbers"),
        (lambda: ContrastiveConfig(latent_dim=0), "at least 1"),
        (lambda: ContrastiveConfig(normalisation="layer"), "not none or batch"),  # type: ignore[arg-type]
        (lambda: PrototypeDecoder(SMALL, np.zeros((2, 9)), temperature=1), "do not fit"),
        (lambda: PrototypeDecoder(SMALL, np.zeros((2, 5)), temperature=0), "positive"),
        (lambda: nt_xent(torch.zeros(1, 2), torch.zeros(1, 2), 0.5), "at least two pictures"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_rule(wrong: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()  # type: ignore[operator]


def test_nt_xent_of_two_pictures_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 3.0]])  # lengths do not matter
    partners_alike = nt_xent(first, first, temperature=0.5)
    e = np.exp
    # each view: its partner at cosine 1, the two views of the other picture at cosine 0
    assert partners_alike.item() == pytest.approx(-np.log(e(2) / (e(2) + 2)), rel=1e-5)
    swapped = nt_xent(first, first.flip(0), temperature=0.5)
    assert swapped.item() == pytest.approx(-np.log(1 / (e(2) + 2)), rel=1e-5)


def test_soft_assignment_by_hand_and_at_low_temperature() -> None:
    latent = torch.tensor([[2.0, 0.0], [0.0, 0.5], [1.0, 1.0]])
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    soft = soft_assignment(latent, prototypes, temperature=1.0)
    share = np.e / (np.e + 1)
    expected = [[share, 1 - share], [1 - share, share], [0.5, 0.5]]
    torch.testing.assert_close(soft, torch.tensor(expected, dtype=torch.float32))
    hard = soft_assignment(latent, prototypes, temperature=0.01)
    torch.testing.assert_close(hard[:2], torch.eye(2))


def test_a_prototype_decoder_keeps_its_prototypes_and_paints_them() -> None:
    prototypes = np.random.default_rng(0).normal(size=(3, 5))
    network = PrototypeDecoder(SMALL, prototypes, temperature=0.1)
    assert "prototypes" in network.state_dict()
    assert all(name != "prototypes" for name, _ in network.named_parameters())
    painted = network.decode_prototypes()
    assert painted.shape == (3, 1, 16, 16)
    assert 0 <= painted.min() <= painted.max() <= 1


def test_the_divergence_is_zero_at_the_prior_and_right_elsewhere() -> None:
    mean, log_variance = torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.zeros(2, 2)
    torch.testing.assert_close(divergence(mean, log_variance), torch.tensor([0.0, 2.5]))
    wider = divergence(torch.zeros(1, 1), torch.full((1, 1), np.log(4.0)))
    assert wider.item() == pytest.approx(0.5 * (4 - 1 - np.log(4)), rel=1e-5)


def test_a_variational_embedding_is_the_mean_whatever_the_config_says() -> None:
    config = AutoencoderConfig(
        name="t",
        input_size_px=16,
        channels=1,
        widths=(4, 6),
        dense_dim=16,
        latent_dim=5,
        latent_activation="relu",
    )
    torch.manual_seed(0)  # some weights have no negative mean, one in 32
    network = VariationalAutoencoder(config).eval()
    images = torch.rand(40, 1, 16, 16)
    mean, _ = network.distribution(images)
    torch.testing.assert_close(network.encode(images), mean)
    assert (mean < 0).any()
