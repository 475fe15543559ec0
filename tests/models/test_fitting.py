"""Training of any objective repeats itself, resumes to the bit, and stops early."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.augmentation import Augmentation, GaussianNoise, ResizedCrop
from models.autoencoder import AutoencoderConfig
from models.checkpoints import CheckpointError, to_bytes
from models.contrastive import ContrastiveAutoencoder, ContrastiveConfig
from models.fitting import FitResult, FitSettings, fit
from models.objectives import Contrastive, Variational
from models.optimizers import OptimizerSettings, ScheduleSettings
from models.tile_source import ArrayTiles
from models.variational import VariationalAutoencoder

CONFIG = ContrastiveConfig(
    input_size_px=16, widths=(4, 6), latent_dim=5, projection_dims=(7, 3), normalisation="batch"
)
SETTINGS = FitSettings(
    max_epochs=3,
    batch_size=8,
    optimizer=OptimizerSettings(learning_rate=1e-2),
    schedule=ScheduleSettings(kind="cosine", warmup_epochs=1, start=1e-3, epochs=3),
    drop_last=True,
    checkpoint_every_steps=2,
)


def contrastive() -> Contrastive:
    torch.manual_seed(1)
    views = Augmentation((ResizedCrop(), GaussianNoise(0.5, (0, 0.1))))
    return Contrastive(ContrastiveAutoencoder(CONFIG), views, seed=5)


def run(
    tiles: NDArray[np.uint16],
    settings: FitSettings = SETTINGS,
    **options: object,
) -> tuple[bytes, FitResult]:
    objective = contrastive()
    arguments: dict[str, object] = {"seed": 3, "n_threads": 1, **options}
    result = fit(objective, ArrayTiles(tiles), settings, **arguments)  # type: ignore[arg-type]
    return to_bytes(objective.network), result


def losses(result: FitResult) -> list[tuple[int, float, float | None, float]]:
    return [(r.epoch, r.training_loss, r.validation_loss, r.learning_rate) for r in result.history]


@pytest.mark.parametrize("optimizer", ["adam", "adadelta", "lars"])
def test_resumed_anywhere_a_training_ends_with_the_undisturbed_bytes(
    tiles: NDArray[np.uint16], optimizer: str
) -> None:
    settings = dataclasses.replace(
        SETTINGS,
        optimizer=OptimizerSettings(name=optimizer, learning_rate=0.05),  # type: ignore[arg-type]
    )
    states: list[bytes] = []
    undisturbed, result = run(tiles, settings, checkpoint=states.append)
    assert len(states) == 3 * (5 // 2 + 1)  # within each epoch after 2 and 4 of 5 steps
    for state in (states[0], states[4], states[-1]):
        again, resumed = run(tiles, settings, resume=state)
        assert again == undisturbed
        assert losses(resumed) == losses(result)


def test_a_variational_training_resumes_exactly_too(
    tiles: NDArray[np.uint16], tiny_config: AutoencoderConfig
) -> None:
    def train(**options: object) -> bytes:
        torch.manual_seed(1)
        objective = Variational(VariationalAutoencoder(tiny_config))
        validation = ArrayTiles(tiles[:8])
        arguments = {"validation": validation, "seed": 3, "n_threads": 1, **options}
        fit(objective, ArrayTiles(tiles[8:]), SETTINGS, **arguments)  # type: ignore[arg-type]
        return to_bytes(objective.network)

    states: list[bytes] = []
    undisturbed = train(checkpoint=states.append)
    assert train(resume=states[3]) == undisturbed


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[3])
from test_fitting import contrastive, SETTINGS
from models.fitting import fit
from models.tile_source import ArrayTiles
import dataclasses
state, tiles = Path(sys.argv[1]), np.load(sys.argv[2])
written = 0
def checkpoint(data):
    global written
    aside = state.with_suffix(".partial"); aside.write_bytes(data); aside.replace(state)
    written += 1
    if written == 4:
        print("in mid-epoch", flush=True); time.sleep(600)
fit(contrastive(), ArrayTiles(tiles), SETTINGS, seed=3, n_threads=1, checkpoint=checkpoint)
"""


def test_a_training_killed_in_mid_epoch_ends_with_the_undisturbed_weights(
    tiles: NDArray[np.uint16], tmp_path: Path
) -> None:
    state, stored = tmp_path / "state.safetensors", tmp_path / "tiles.npy"
    np.save(stored, tiles)
    program = [sys.executable, "-c", KILLED, str(state), str(stored), str(Path(__file__).parent)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in mid-epoch\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    undisturbed, result = run(tiles)
    resumed, after = run(tiles, resume=state.read_bytes())
    assert resumed == undisturbed
    assert losses(after) == losses(result)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    tiles: NDArray[np.uint16],
) -> None:
    assert run(tiles)[0] == run(tiles)[0] != run(tiles, seed=4)[0]


def test_checkpoints_within_epochs_change_nothing(tiles: NDArray[np.uint16]) -> None:
    never = dataclasses.replace(SETTINGS, checkpoint_every_steps=None)
    states: list[bytes] = []
    run(tiles, checkpoint=states.append)
    assert run(tiles, never, resume=states[1])[0] == run(tiles, never)[0]


def test_resumed_after_an_epochs_last_step_its_record_is_the_same(
    tiles: NDArray[np.uint16],
) -> None:
    whole = dataclasses.replace(SETTINGS, checkpoint_every_steps=5)  # of 5 steps
    states: list[bytes] = []
    undisturbed, result = run(tiles, whole, checkpoint=states.append)
    again, resumed = run(tiles, whole, resume=states[0])
    assert again == undisturbed
    assert losses(resumed) == losses(result)


def test_patience_ends_a_training_and_the_best_weights_come_out(
    tiles: NDArray[np.uint16],
) -> None:
    wild = dataclasses.replace(
        SETTINGS,
        max_epochs=40,
        patience=2,
        optimizer=OptimizerSettings(name="sgd", learning_rate=1e-9),
        schedule=ScheduleSettings(),
    )
    best, result = run(tiles, wild)
    assert result.stopped_early
    assert len(result.history) == result.best_epoch + 2
    last, _ = run(tiles, dataclasses.replace(wild, weights="last"))
    assert best != last


def test_a_long_gradient_is_clipped(tiles: NDArray[np.uint16]) -> None:
    sgd = OptimizerSettings(name="sgd", learning_rate=1.0, momentum=0.0)
    settings = FitSettings(
        max_epochs=1, batch_size=8, max_steps_per_epoch=1, optimizer=sgd, clip_norm=1e-3
    )
    before = contrastive().network
    objective = contrastive()
    fit(objective, ArrayTiles(tiles), settings, seed=0, n_threads=1)
    pairs = zip(before.parameters(), objective.network.parameters(), strict=True)
    moved = sum(float((a - b).detach().square().sum()) for a, b in pairs) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_the_state_of_another_training_is_refused(tiles: NDArray[np.uint16]) -> None:
    states: list[bytes] = []
    run(tiles, checkpoint=states.append)
    with pytest.raises(CheckpointError, match="seed was 3, is 4"):
        run(tiles, resume=states[0], seed=4)
    with pytest.raises(CheckpointError, match="damaged"):
        run(tiles, resume=states[0][:50])


def test_too_few_pictures_for_a_batch_are_refused(tiles: NDArray[np.uint16]) -> None:
    with pytest.raises(ValueError, match="do not fill one batch"):
        run(tiles[:5])
    with pytest.raises(ValueError, match="no pictures"):
        run(tiles[:0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_training_resumes_to_the_undisturbed_bytes(tiles: NDArray[np.uint16]) -> None:
    states: list[bytes] = []
    undisturbed, _ = run(tiles, checkpoint=states.append)
    assert run(tiles, resume=states[1])[0] == undisturbed
