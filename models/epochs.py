"""Epochs: in which order one goes through its tiles, and what is written down of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.devices import Precision
from models.tile_source import BLOCKS_HELD


class EpochSettings(Protocol):
    """How an epoch is cut into steps."""

    @property
    def batch_size(self) -> int:
        """Tiles a step."""
        ...

    @property
    def max_steps_per_epoch(self) -> int | None:
        """Cuts an epoch short."""
        ...


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training history.

    Parameters
    ----------
    epoch : int
        From 1.
    training_loss, validation_loss : float
        Of the objective; the validation loss is None without validation tiles. The training loss
        is the mean over the epoch, while weights change.
    seconds : float
        Wall time of the epoch, validation included.
    learning_rate : float
        Of the epoch's last step.
    """

    epoch: int
    training_loss: float
    validation_loss: float | None
    seconds: float
    learning_rate: float

    @property
    def watched_loss(self) -> float:
        """The loss that early stopping watches."""
        return self.training_loss if self.validation_loss is None else self.validation_loss


class TrainingError(RuntimeError):
    """The loss is no longer a finite number."""


def epoch_order(
    n_tiles: int,
    settings: EpochSettings,
    *,
    seed: int,
    epoch: int,
    block_ends: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Numbers of the tiles that an epoch sees, in its order: a function of seed and epoch alone.

    Parameters
    ----------
    n_tiles : int
    settings : EpochSettings
    seed, epoch : int
        Not negative.
    block_ends : ndarray of int64, optional
        Of a source that is read by blocks: number of the first tile behind each. Blocks are then
        shuffled, and tiles are mixed within ``BLOCKS_HELD`` of them at a time. None: all are mixed.
    """
    rng = np.random.default_rng([seed, epoch])
    if block_ends is None or len(block_ends) <= BLOCKS_HELD:
        order = rng.permutation(n_tiles).astype(np.int64)
    else:
        starts = np.concatenate([[0], block_ends[:-1]])
        blocks = rng.permutation(len(block_ends))
        order = np.concatenate(
            [
                rng.permutation(
                    np.concatenate([np.arange(starts[b], block_ends[b]) for b in together])
                )
                for together in np.split(blocks, range(BLOCKS_HELD, len(blocks), BLOCKS_HELD))
            ]
        ).astype(np.int64)
    if settings.max_steps_per_epoch is not None:
        order = order[: settings.max_steps_per_epoch * settings.batch_size]
    return order


def batches(order: NDArray[np.int64], settings: EpochSettings) -> Iterator[NDArray[np.int64]]:
    """Cut an epoch's order into steps; the last one may be smaller."""
    for start in range(0, len(order), settings.batch_size):
        yield order[start : start + settings.batch_size]


def require_finite(
    loss: float, epoch: int, learning_rate: float, precision: Precision, which: str
) -> None:
    """Refuse a loss that is no number: `TrainingError`."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"The {which} loss is {loss} in epoch {epoch}: training diverged at "
            f"learning_rate={learning_rate}; use a smaller one"
            + ("." if precision == "float32" else ', or precision="float32".')
        )
