"""Each objective falls when it is trained, and draws the same numbers for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.augmentation import Augmentation, FlipHorizontal, GaussianNoise, Rotate
from models.autoencoder import AutoencoderConfig
from models.contrastive import ContrastiveAutoencoder, ContrastiveConfig, PrototypeDecoder
from models.conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
from models.fitting import FitSettings, fit
from models.objectives import (
    Classification,
    Contrastive,
    Objective,
    PrototypeReconstruction,
    Reconstruction,
    Variational,
)
from models.optimizers import OptimizerSettings
from models.tile_source import ArrayTiles
from models.variational import VariationalAutoencoder

VIEWS = Augmentation((Rotate(0.5, (0, 30)), FlipHorizontal(), GaussianNoise(0.5, (0, 0.1))))
SMALL = ContrastiveConfig(input_size_px=16, widths=(4, 6), latent_dim=5, projection_dims=(7, 6, 3))


def objective(name: str, config: AutoencoderConfig) -> Objective:
    torch.manual_seed(1)
    if name == "reconstruction":
        return Reconstruction(ConvAutoencoder(ConvAutoencoderConfig(input_size_px=16)))
    if name == "variational":
        return Variational(VariationalAutoencoder(config), beta=0.1)
    if name == "contrastive":
        return Contrastive(ContrastiveAutoencoder(SMALL), VIEWS, seed=5)
    if name == "prototypes":
        prototypes = np.random.default_rng(0).normal(size=(3, 5))
        decoder = PrototypeDecoder(SMALL, prototypes, temperature=0.1)
        return PrototypeReconstruction(ContrastiveAutoencoder(SMALL), decoder)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2))
    return Classification(network, SMALL, np.arange(40) % 2, augmentation=VIEWS)


@pytest.mark.parametrize(
    "name", ["reconstruction", "variational", "contrastive", "prototypes", "classification"]
)
def test_training_lowers_every_objective(
    name: str, tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    settings = FitSettings(
        max_epochs=30,
        batch_size=10,
        optimizer=OptimizerSettings(learning_rate=5e-3),
        weights="last",
        clip_norm=5.0,
    )
    trained = objective(name, tiny_config)
    result = fit(trained, ArrayTiles(tiles), settings, seed=1, n_threads=1)
    losses = [record.training_loss for record in result.history]
    assert np.mean(losses[-3:]) < losses[0]
    assert not trained.network.training


def test_two_views_of_a_picture_differ_and_come_back_with_the_epoch() -> None:
    images, rows = torch.rand(4, 1, 16, 16), torch.arange(4)
    trained = Contrastive(ContrastiveAutoencoder(SMALL), VIEWS, seed=5)
    losses = [trained.loss(images, rows, epoch).item() for epoch in (1, 2, 1)]
    assert losses[0] == losses[2] != losses[1]


def test_the_encoder_below_a_prototype_decoder_stays_as_it_is(tiles: NDArray[np.uint16]) -> None:
    torch.manual_seed(0)
    encoder = ContrastiveAutoencoder(SMALL)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    decoder = PrototypeDecoder(SMALL, np.eye(3, 5), temperature=0.1)
    trained = PrototypeReconstruction(encoder, decoder)
    fit(trained, ArrayTiles(tiles), FitSettings(max_epochs=1, batch_size=20), seed=0, n_threads=1)
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    assert torch.equal(decoder.prototypes, torch.eye(3, 5))
