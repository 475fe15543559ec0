"""Training of an autoencoder: repeatable, resumable, stopped early.

The same tiles, configuration, settings and seed give the same bytes of weights on the same
machine with the same number of threads, whether or not the training was interrupted between two
epochs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from models.autoencoder import Autoencoder, AutoencoderConfig, build, network_input, place
from models.checkpoints import (
    CheckpointError,
    build_quietly,
    load_into,
    plain_tensors,
    read_tensors,
)
from models.devices import (
    Precision,
    autocast,
    autocast_dtype,
    default_device,
    repeatable,
    threads,
)
from models.tile_source import TileSource


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
    precision : {"auto", "float32", "bfloat16"}
        Of convolutions and products; weights and losses are float32 throughout. ``auto``:
        bfloat16 where the device has it in hardware.
    """

    max_epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 1e-3
    patience: int = 5
    max_steps_per_epoch: int | None = None
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "patience", "max_steps_per_epoch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate={self.learning_rate} must be positive and finite.")


@dataclass(frozen=True)
class EpochRecord:
    """One line of the training history.

    Parameters
    ----------
    epoch : int
        From 1.
    training_loss, validation_loss : float
        Binary cross-entropy per pixel, natural logarithm; the validation loss is None without
        validation tiles. The training loss is the mean over the epoch, while weights change.
    seconds : float
        Wall time of the epoch, validation included.
    learning_rate : float
        Of Adam in this epoch.
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
    """

    model: Autoencoder
    history: tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool


class TrainingError(RuntimeError):
    """The loss is no longer a finite number."""


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
        Receives, after each epoch, the whole state as safetensors bytes.
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
    if validation_tiles is not None and len(validation_tiles) == 0:
        validation_tiles = None
    device = device or default_device()
    dtype = autocast_dtype(settings.precision, device)
    identity = _identity(tiles, validation_tiles, config, settings, seed)
    with threads(n_threads), repeatable(seed, device):
        state = _State.new(config, settings, device)
        if resume is not None:
            state.restore(resume, identity)
        while not state.finished(settings):
            record = _run_epoch(state, tiles, validation_tiles, settings, seed, device, dtype)
            state.add(record)
            if on_epoch is not None:
                on_epoch(record)
            if checkpoint is not None:
                checkpoint(state.to_bytes(identity))
        return state.result(settings)


@dataclass
class _State:
    """All that changes in a training."""

    model: Autoencoder
    optimizer: torch.optim.Adam
    best: dict[str, Tensor]
    history: list[EpochRecord] = field(default_factory=list)

    @classmethod
    def new(
        cls, config: AutoencoderConfig, settings: TrainingSettings, device: torch.device
    ) -> _State:
        # drawn on the CPU, so that a seed means the same first weights everywhere
        model = place(build(config), device)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=True)
        return cls(model=model, optimizer=optimizer, best=copied(model.state_dict()))

    @property
    def best_epoch(self) -> int:
        """The first epoch, from 1, with the lowest watched loss; 0 before any."""
        if not self.history:
            return 0
        return min(self.history, key=lambda record: record.watched_loss).epoch

    def finished(self, settings: TrainingSettings) -> bool:
        return len(self.history) >= settings.max_epochs or self.out_of_patience(settings)

    def out_of_patience(self, settings: TrainingSettings) -> bool:
        return len(self.history) - self.best_epoch >= settings.patience

    def add(self, record: EpochRecord) -> None:
        self.history.append(record)
        if self.best_epoch == record.epoch:
            self.best = copied(self.model.state_dict())

    def result(self, settings: TrainingSettings) -> TrainingResult:
        model = build_quietly(self.model.config)
        load_into(model, self.best, what="best weights")
        return TrainingResult(
            model=model.eval(),
            history=tuple(self.history),
            best_epoch=self.best_epoch,
            stopped_early=len(self.history) < settings.max_epochs,
        )

    def to_bytes(self, identity: dict[str, Any]) -> bytes:
        """Write model, best weights, Adam's moments and history; no pickle."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for name, moments in self._moments().items():
            tensors |= {f"adam.{key}.{name}": value for key, value in moments.items()}
        header = {
            "identity": identity,
            "history": [dataclasses.asdict(record) for record in self.history],
        }
        # one entry: safetensors writes several in changing order
        return save(plain_tensors(tensors), {"training": json.dumps(header, sort_keys=True)})

    def restore(self, data: bytes, identity: dict[str, Any]) -> None:
        """Take up what `to_bytes` wrote, if it is from this very training."""
        tensors = read_tensors(data)
        header = read_header(data)
        require_same(header["identity"], identity)
        load_into(self.model, with_prefix(tensors, "model."), what="training state")
        best = build_quietly(self.model.config)
        load_into(best, with_prefix(tensors, "best."), what="best weights")
        self.best = copied(best.state_dict())
        self.history = [EpochRecord(**record) for record in header["history"]]
        for name, parameter in self.model.named_parameters():
            self.optimizer.state[parameter] = {
                key: _moment(tensors, f"adam.{key}.{name}", parameter, key)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: dict(self.optimizer.state[parameter])
            for name, parameter in self.model.named_parameters()
        }


def _run_epoch(
    state: _State,
    tiles: TileSource,
    validation_tiles: TileSource | None,
    settings: TrainingSettings,
    seed: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> EpochRecord:
    start = time.perf_counter()
    epoch = len(state.history) + 1
    training_loss = _train_once(state, tiles, settings, epoch, seed, device, dtype)
    validation_loss = None
    if validation_tiles is not None:
        validation_loss = _validate(state.model, validation_tiles, settings, device, dtype)
        require_finite(
            validation_loss, epoch, settings.learning_rate, settings.precision, "validation"
        )
    return EpochRecord(
        epoch=epoch,
        training_loss=training_loss,
        validation_loss=validation_loss,
        seconds=time.perf_counter() - start,
        learning_rate=settings.learning_rate,
    )


def _train_once(
    state: _State,
    tiles: TileSource,
    settings: TrainingSettings,
    epoch: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> float:
    """Run one epoch of steps; mean loss over its tiles."""
    model = state.model.train()
    total, seen = 0.0, 0
    for indices in batches(epoch_order(len(tiles), settings, seed=seed, epoch=epoch), settings):
        images = network_input(tiles.read(indices), model.config, device)
        loss = _loss(model, images, device, dtype)
        value = loss.item()
        require_finite(value, epoch, settings.learning_rate, settings.precision, "training")
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        total += value * len(indices)
        seen += len(indices)
    return total / seen


@torch.no_grad()
def _validate(
    model: Autoencoder,
    tiles: TileSource,
    settings: TrainingSettings,
    device: torch.device,
    dtype: torch.dtype | None,
) -> float:
    """Mean loss over all validation tiles, with the running statistics."""
    model.eval()
    total = 0.0
    for indices in batches(np.arange(len(tiles), dtype=np.int64), settings):
        images = network_input(tiles.read(indices), model.config, device)
        total += _loss(model, images, device, dtype).item() * len(indices)
    return total / len(tiles)


def epoch_order(
    n_tiles: int, settings: EpochSettings, *, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Numbers of the tiles that an epoch sees, in its order: a function of seed and epoch alone."""
    order = np.random.default_rng([seed, epoch]).permutation(n_tiles).astype(np.int64)
    if settings.max_steps_per_epoch is not None:
        order = order[: settings.max_steps_per_epoch * settings.batch_size]
    return order


def batches(order: NDArray[np.int64], settings: EpochSettings) -> Iterator[NDArray[np.int64]]:
    """Cut an epoch's order into steps; the last one may be smaller."""
    for start in range(0, len(order), settings.batch_size):
        yield order[start : start + settings.batch_size]


def _loss(
    model: Autoencoder, images: Tensor, device: torch.device, dtype: torch.dtype | None
) -> Tensor:
    """Binary cross-entropy per pixel of the reconstruction against the images, in float32."""
    with autocast(dtype, device):
        logits = model.decode_logits(model.encode(images))
    return functional.binary_cross_entropy_with_logits(logits.float(), images)


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


def _identity(
    tiles: TileSource,
    validation_tiles: TileSource | None,
    config: AutoencoderConfig,
    settings: TrainingSettings,
    seed: int,
) -> dict[str, Any]:
    """All that two parts of one training must share, as JSON would give it back."""
    identity = {
        "config": dataclasses.asdict(config),
        "settings": dataclasses.asdict(settings),
        "seed": seed,
        "n_tiles": len(tiles),
        "n_validation_tiles": 0 if validation_tiles is None else len(validation_tiles),
    }
    plain: dict[str, Any] = json.loads(json.dumps(identity))
    return plain


def require_same(stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse the state of another training; both are what their identities say."""
    differing = [key for key in wanted if stored.get(key) != wanted[key]]
    if differing:
        what = "; ".join(f"{key} was {stored.get(key)}, is {wanted[key]}" for key in differing)
        raise CheckpointError(
            f"The training state to resume is from another training: {what}. Train afresh."
        )


def read_header(data: bytes) -> dict[str, Any]:
    """Read the metadata of safetensors bytes that `read_tensors` has found sound.

    The format: 8 bytes little-endian length, then that many bytes of JSON.
    """
    length = int.from_bytes(data[:8], "little")
    try:
        header: dict[str, Any] = json.loads(
            json.loads(data[8 : 8 + length])["__metadata__"]["training"]
        )
        header["identity"], header["history"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"These bytes are no training state: {error!r}.") from error
    return header


def _moment(tensors: dict[str, Tensor], name: str, parameter: Tensor, key: str) -> Tensor:
    shape = torch.Size([]) if key == "step" else parameter.shape
    if name not in tensors or tensors[name].shape != shape:
        raise CheckpointError(f"The training state lacks a fitting {name}. Train afresh.")
    moment = tensors[name].to(parameter.device)
    # as Adam lays them out: a parameter's moments in its own memory order
    return moment if key == "step" else torch.empty_like(parameter.detach()).copy_(moment)


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin so, the prefix taken off."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, apart from what they were computed of."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
