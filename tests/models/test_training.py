"""Training repeats itself, resumes exactly, stops early and says what went wrong."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models import fitting
from models.autoencoder import AutoencoderConfig, build
from models.checkpoints import CheckpointError, to_bytes
from models.encoding import reconstruction_error
from models.epochs import EpochRecord, TrainingError
from models.tile_source import ArrayTiles, TileSource
from models.training import TrainingResult, TrainingSettings, train

SETTINGS = TrainingSettings(max_epochs=4, batch_size=16, learning_rate=1e-2)


def run(
    tiles: NDArray[np.uint16],
    config: AutoencoderConfig,
    settings: TrainingSettings = SETTINGS,
    **options: object,
) -> TrainingResult:
    arguments: dict[str, object] = {"validation_tiles": ArrayTiles(tiles[:8]), "seed": 3}
    return train(ArrayTiles(tiles[8:]), config, settings, **{**arguments, **options})  # type: ignore[arg-type]


def test_training_lowers_the_loss_and_the_reconstruction_error(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    result = run(tiles, tiny_config, dataclasses.replace(SETTINGS, max_epochs=25, patience=25))
    losses = [record.training_loss for record in result.history]
    assert losses[-1] < losses[0] - 0.1
    untrained = reconstruction_error(build(tiny_config), tiles).mean()
    assert reconstruction_error(result.model, tiles).mean() < 0.8 * untrained


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_bytes(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig, precision: str
) -> None:
    settings = dataclasses.replace(SETTINGS, precision=precision, max_epochs=2)
    first, second = (to_bytes(run(tiles, tiny_config, settings).model) for _ in range(2))
    other_seed = to_bytes(run(tiles, tiny_config, settings, seed=4).model)
    assert first == second
    assert first != other_seed


@pytest.mark.parametrize("interrupted_after", [1, 2, 3, 4])
def test_a_resumed_training_ends_with_the_bytes_of_an_undisturbed_one(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig, interrupted_after: int
) -> None:
    states: list[bytes] = []
    undisturbed = run(tiles, tiny_config, checkpoint=states.append)
    assert len(states) == 4
    new_epochs: list[EpochRecord] = []
    resumed_states: list[bytes] = []
    resumed = run(
        tiles,
        tiny_config,
        resume=states[interrupted_after - 1],
        on_epoch=new_epochs.append,
        checkpoint=resumed_states.append,
    )
    assert [record.epoch for record in new_epochs] == list(range(interrupted_after + 1, 5))
    assert to_bytes(resumed.model) == to_bytes(undisturbed.model)
    assert resumed.best_epoch == undisturbed.best_epoch
    assert losses(resumed) == losses(undisturbed)


def test_a_training_resumed_within_an_epoch_ends_with_the_undisturbed_bytes(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    settings = dataclasses.replace(SETTINGS, max_epochs=2, checkpoint_every_steps=1)  # of 2
    states: list[bytes] = []
    undisturbed = run(tiles, tiny_config, settings, checkpoint=states.append)
    resumed = run(tiles, tiny_config, settings, resume=states[0])
    assert to_bytes(resumed.model) == to_bytes(undisturbed.model)
    assert resumed.last.keys() == undisturbed.last.keys()
    assert all(torch.equal(resumed.last[name], undisturbed.last[name]) for name in resumed.last)
    assert losses(resumed) == losses(undisturbed)


def losses(result: TrainingResult) -> list[tuple[int, float, float | None]]:
    return [(r.epoch, r.training_loss, r.validation_loss) for r in result.history]


def test_the_best_epochs_weights_come_back_after_the_patience_is_used_up(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = itertools.chain([0.9, 0.5, 0.6, 0.5, 0.7])
    monkeypatch.setattr(fitting._Run, "_validate", lambda *_: next(planned))
    settings = dataclasses.replace(SETTINGS, max_epochs=30, patience=3)
    result = run(tiles, tiny_config, settings)
    assert [record.validation_loss for record in result.history] == [0.9, 0.5, 0.6, 0.5, 0.7]
    assert result.best_epoch == 2  # the first of equals
    assert result.stopped_early
    planned_again = itertools.chain([0.9, 0.5])
    monkeypatch.setattr(fitting._Run, "_validate", lambda *_: next(planned_again))
    two_epochs = run(tiles, tiny_config, dataclasses.replace(settings, max_epochs=2))
    assert to_bytes(result.model) == to_bytes(two_epochs.model)
    assert not two_epochs.stopped_early


@pytest.mark.parametrize("validation", [None, ArrayTiles(np.zeros((0, 20, 20), np.uint16))])
def test_without_validation_tiles_the_training_loss_is_watched(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig, validation: TileSource | None
) -> None:
    result = run(tiles, tiny_config, validation_tiles=validation)
    assert all(record.validation_loss is None for record in result.history)
    lowest = min(result.history, key=lambda record: record.training_loss)
    assert result.best_epoch == lowest.epoch


def test_one_tile_is_enough_to_train_on(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    result = train(ArrayTiles(tiles[:1]), tiny_config, SETTINGS, seed=0)
    assert len(result.history) == 4


def test_no_tiles_are_refused(tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig) -> None:
    with pytest.raises(ValueError, match="no tiles to train on"):
        train(ArrayTiles(tiles[:0]), tiny_config, SETTINGS, seed=0)


def test_a_diverging_training_names_epoch_and_learning_rate(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    settings = TrainingSettings(learning_rate=1e30, batch_size=4, precision="float32")
    with pytest.raises(TrainingError, match=r"epoch 1: .* learning_rate=1e\+30"):
        run(tiles, tiny_config, settings)


def test_threads_random_state_and_determinism_are_left_as_they_were(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    random_state = torch.get_rng_state()
    seen: list[int] = []
    run(
        tiles,
        tiny_config,
        n_threads=1,
        on_epoch=lambda record: seen.append(torch.get_num_threads()),
    )
    assert set(seen) == {1}
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_state_of_another_training_is_not_resumed(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    states: list[bytes] = []
    run(tiles, tiny_config, checkpoint=states.append)
    with pytest.raises(CheckpointError, match="seed was 3, is 4"):
        run(tiles, tiny_config, resume=states[0], seed=4)
    with pytest.raises(CheckpointError, match="n_pictures was 32, is 31"):
        run(tiles[:-1], tiny_config, resume=states[0])


def test_a_damaged_state_is_not_resumed(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    states: list[bytes] = []
    result = run(tiles, tiny_config, checkpoint=states.append)
    for damaged in (b"", states[0][:-100], b"\xff" * 200):
        with pytest.raises(CheckpointError, match="damaged"):
            run(tiles, tiny_config, resume=damaged)
    with pytest.raises(CheckpointError, match="no training state"):
        run(tiles, tiny_config, resume=to_bytes(result.model))


def test_states_hold_no_pickle(tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig) -> None:
    states: list[bytes] = []
    run(tiles, tiny_config, checkpoint=states.append)
    assert states[-1][8:9] == b"{"  # safetensors: a length, then JSON
    assert b"torch" not in states[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 0),
        ("batch_size", 0),
        ("patience", 0),
        ("max_steps_per_epoch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        TrainingSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_training_repeats_itself(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    first, second = (to_bytes(run(tiles, tiny_config).model) for _ in range(2))
    assert first == second
