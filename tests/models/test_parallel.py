"""Two workers train the network that one does; batch normalisation sees the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.augmentation import Augmentation
from models.autoencoder import AutoencoderConfig, build
from models.checkpoints import to_bytes
from models.contrastive import ContrastiveAutoencoder, ContrastiveConfig
from models.fitting import FitSettings, fit
from models.objectives import Contrastive, Reconstruction
from models.optimizers import OptimizerSettings
from models.parallel import ALONE, Ranks, on_workers, process_group
from models.tile_source import ArrayTiles

SETTINGS = FitSettings(
    max_epochs=50,
    batch_size=10,
    max_steps_per_epoch=1,
    optimizer=OptimizerSettings(learning_rate=1e-3),
    weights="last",
)
"""Fifty steps, each an epoch of its own, so that the loss of each is recorded."""


def train(
    tiles: NDArray[np.uint16], config: AutoencoderConfig, ranks: Ranks = ALONE, address: str = ""
) -> tuple[list[float], bytes]:
    torch.manual_seed(2)
    objective = Reconstruction(build(config))

    def run() -> list[float]:
        source = ArrayTiles(tiles)
        result = fit(objective, source, SETTINGS, seed=1, n_threads=1, ranks=ranks)
        return [record.training_loss for record in result.history]

    if ranks.size == 1:
        return run(), to_bytes(objective.network)
    with process_group(ranks, address, backend="gloo"):
        return run(), to_bytes(objective.network)


def _remote(
    tiles: NDArray[np.uint16], config: AutoencoderConfig, ranks: Ranks, address: str
) -> tuple[list[float], bytes]:
    return train(tiles, config, ranks, address)


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=40,
        ) as cluster,
        Client(cluster) as connected,
    ):
        yield connected


def test_two_workers_take_the_steps_of_one_for_fifty_steps(
    client: Any, tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    alone, _ = train(tiles, tiny_config)
    client.upload_file(__file__)
    first, second = on_workers(client, partial(_remote, tiles, tiny_config), 2)
    assert first == second  # the losses, and the weights to the bit
    assert len(first[0]) == 50
    assert np.abs(np.array(first[0]) - np.array(alone)).max() < 1e-4
    assert alone[-1] < alone[0] - 0.05


def test_more_workers_than_there_are_is_refused(client: Any) -> None:
    with pytest.raises(ValueError, match="the cluster has 2; start more"):
        on_workers(client, lambda ranks, address: None, 3)


def test_what_cannot_be_split_is_refused(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    two = Ranks(0, 2)
    pair = Contrastive(
        ContrastiveAutoencoder(ContrastiveConfig(input_size_px=16, widths=(4, 6))),
        Augmentation(()),
        seed=0,
    )
    with pytest.raises(ValueError, match="train it on one"):
        fit(pair, ArrayTiles(tiles), SETTINGS, seed=0, ranks=two)
    odd = FitSettings(max_epochs=1, batch_size=13)
    with pytest.raises(ValueError, match="a batch of 1 cannot be split over 2"):
        fit(Reconstruction(build(tiny_config)), ArrayTiles(tiles), odd, seed=0, ranks=two)
