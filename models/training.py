"""Training of an autoencoder: the objective, optimizer and stopping that curation uses.

The loop is `models.fitting.fit`, as for every objective. The same tiles, configuration, settings
and seed give the same bytes of weights on the same machine with the same number of threads,
whether or not the training was interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.autoencoder import Autoencoder, AutoencoderConfig, build
from models.devices import Precision
from models.epochs import EpochRecord
from models.fitting import FitSettings, fit
from models.objectives import Reconstruction
from models.optimizers import OptimizerSettings
from models.tile_source import TileSource


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How an autoencoder is trained.

    Parameters
    ----------
    max_epochs : int
        Passes over the tiles at most.
    batch_size : int
        Tiles a step.
    learning_rate : float
        Of Adam.
    patience : int
        Epochs without a lower loss after which training stops. The loss is that on the validation
        tiles, or the training loss where there are none.
    max_steps_per_epoch : int or None
        Cuts an epoch short; each then sees another random part of the tiles. None: all tiles.
    checkpoint_every_steps : int or None
        Also write the state within an epoch, after so many steps. None: after each epoch alone.
    precision : {"auto", "float32", "bfloat16"}
        Of convolutions and products; weights and losses are float32 throughout. ``auto``:
        bfloat16 where the device has it in hardware.
    """

    max_epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    patience: int = 5
    max_steps_per_epoch: int | None = None
    checkpoint_every_steps: int | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate={self.learning_rate} must be positive and finite.")
        self.for_fit()  # checks the others

    def for_fit(self) -> FitSettings:
        """What the loop is told."""
        return FitSettings(
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            optimizer=OptimizerSettings(name="adam", learning_rate=self.learning_rate),
            patience=self.patience,
            max_steps_per_epoch=self.max_steps_per_epoch,
            checkpoint_every_steps=self.checkpoint_every_steps,
            precision=self.precision,
        )


@dataclass(frozen=True)
class TrainingResult:
    """What a training gives.

    Parameters
    ----------
    model : Autoencoder
        With the weights of the best epoch, in evaluation mode, on the CPU.
    history : tuple of EpochRecord
        All epochs, those before an interruption included.
    best_epoch : int
        The epoch, from 1, that the weights are from.
    stopped_early : bool
        Whether patience ended the training before max_epochs.
    last : dict of str to Tensor
        Weights of the last epoch, on the CPU.
    """

    model: Autoencoder
    history: tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool
    last: dict[str, Tensor] = field(repr=False)


def train(
    tiles: TileSource,
    config: AutoencoderConfig,
    settings: TrainingSettings,
    *,
    validation_tiles: TileSource | None = None,
    seed: int,
    checkpoint: Callable[[bytes], None] | None = None,
    resume: bytes | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    n_threads: int | None = None,
    device: torch.device | None = None,
) -> TrainingResult:
    """Train an autoencoder by binary cross-entropy and Adam, with early stopping.

    Parameters
    ----------
    tiles : TileSource
        Training tiles, of any size; resized to the network's input by area.
    config : AutoencoderConfig
        The network.
    settings : TrainingSettings
        How to train.
    validation_tiles : TileSource, optional
        Tiles that early stopping watches; None or empty: it watches the training loss.
    seed : int
        Of the first weights and of every epoch's order.
    checkpoint : callable, optional
        Receives the whole state as safetensors bytes, best weights included.
    resume : bytes, optional
        The last such state. The result is the one that the undisturbed training gives.
    on_epoch : callable, optional
        Receives each new epoch's record, before ``checkpoint`` is called.
    n_threads : int, optional
        CPU threads for torch; restored afterwards. None: as they are.
    device : torch.device, optional
        None: the GPU where there is one.

    Raises
    ------
    ValueError
        No tiles.
    CheckpointError
        ``resume`` is damaged or from another training.
    TrainingError
        The loss is not finite.
    """
    if len(tiles) == 0:
        raise ValueError("There are no tiles to train on; all were dropped before, or none cut.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # on the CPU: a seed means the same first weights everywhere
        model = build(config)
    result = fit(
        Reconstruction(model),
        tiles,
        settings.for_fit(),
        seed=seed,
        validation=validation_tiles,
        checkpoint=checkpoint,
        resume=resume,
        on_epoch=on_epoch,
        n_threads=n_threads,
        device=device,
    )
    return TrainingResult(
        model, result.history, result.best_epoch, result.stopped_early, result.last
    )
