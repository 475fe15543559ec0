"""Training of any objective: repeatable, and resumable to the bit, in mid-epoch too.

What a step computes depends on the seed, the epoch and the step's number alone, and on the state
that a checkpoint holds: weights, the optimizer's state, the losses so far. So a training that was
killed ends with the bytes of an undisturbed one, on the same machine with the same number of
threads. The learning rate is a function of the epoch, and torch's random generator is seeded for
each step: neither has a state to be lost.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from models.autoencoder import network_input, place
from models.checkpoints import (
    CheckpointError,
    copied,
    load_into,
    plain_tensors,
    read_header,
    read_tensors,
    require_same,
    with_prefix,
)
from models.devices import Precision, autocast, autocast_dtype, default_device, repeatable, threads
from models.epochs import EpochRecord, batches, epoch_order, require_finite
from models.objectives import Objective
from models.optimizers import OptimizerSettings, ScheduleSettings, make_optimizer
from models.parallel import ALONE, Ranks, synced
from models.tile_source import TileSource

VALIDATION_STEP = 2**31
"""Stands for the step's number where validation draws."""


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a network is trained, whatever its objective.

    Parameters
    ----------
    max_epochs : int
        Passes over the pictures at most.
    batch_size : int
        Pictures a step.
    optimizer : OptimizerSettings
    schedule : ScheduleSettings
        Of the learning rate.
    clip_norm : float or None
        Longest gradient, all parameters together; longer ones are shortened. None: as they are.
    patience : int or None
        Epochs without a lower loss after which training stops. None: it goes on to max_epochs.
    max_steps_per_epoch : int or None
        Cuts an epoch short; each then sees another random part. None: all pictures.
    drop_last : bool
        Leave out a last batch that is not full: contrastive losses compare within a batch.
    checkpoint_every_steps : int or None
        Also write the state within an epoch, after so many steps. None: after each epoch alone.
    weights : {"best", "last"}
        Which epoch's weights come out.
    precision : {"auto", "float32", "bfloat16"}
        Of convolutions and products; weights and losses are float32 throughout.
    """

    max_epochs: int
    batch_size: int = 128
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    clip_norm: float | None = None
    patience: int | None = None
    max_steps_per_epoch: int | None = None
    drop_last: bool = False
    checkpoint_every_steps: int | None = None
    weights: Literal["best", "last"] = "best"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        at_least_one = (
            "max_epochs",
            "batch_size",
            "patience",
            "max_steps_per_epoch",
            "checkpoint_every_steps",
        )
        for name in at_least_one:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm} must be positive; None does not clip.")
        if self.weights not in ("best", "last"):
            raise ValueError(f"weights={self.weights!r} is not best or last.")


@dataclass(frozen=True)
class FitResult:
    """What a training gives; the objective's network holds the weights of ``settings.weights``.

    Parameters
    ----------
    history : tuple of EpochRecord
        All epochs, those before an interruption included.
    best_epoch : int
        The first epoch, from 1, with the lowest watched loss.
    stopped_early : bool
        Whether patience ended the training before max_epochs.
    best, last : dict of str to Tensor
        Weights of the best and of the last epoch, on the CPU.
    """

    history: tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool
    best: dict[str, Tensor] = field(repr=False)
    last: dict[str, Tensor] = field(repr=False)


def fit(
    objective: Objective,
    pictures: TileSource,
    settings: FitSettings,
    *,
    seed: int,
    validation: TileSource | None = None,
    checkpoint: Callable[[bytes], None] | None = None,
    resume: bytes | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    n_threads: int | None = None,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
) -> FitResult:
    """Train the objective's network, from the weights that it has.

    Parameters
    ----------
    objective : Objective
        Its network is moved to the device, trained, and left in evaluation mode on the CPU with
        the weights that ``settings.weights`` names.
    pictures : TileSource
        Of any size; resized to the network's input by area.
    settings : FitSettings
        How to train.
    seed : int
        Of every epoch's order, and of what the objective draws from torch's generator.
    validation : TileSource, optional
        Early stopping and the best epoch go by the loss on these; None or empty: by that on the
        pictures trained on.
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
    ranks : Ranks
        Of several workers that train together, each on its part of every batch, inside of
        `models.parallel.process_group`. All call this with the same arguments; checkpoints are the
        same on all, and one is enough.

    Raises
    ------
    ValueError
        No pictures, or not one full batch where ``drop_last`` is set; several workers, and an
        objective that compares the pictures of a batch, or a last batch of fewer than one each.
    CheckpointError
        ``resume`` is damaged or from another training.
    TrainingError
        The loss is not finite.
    """
    if validation is not None and len(validation) == 0:
        validation = None
    _require_a_step(len(pictures), settings)
    _require_parts(len(pictures), settings, objective, ranks)
    device = device or default_device()
    run = _Run(objective, pictures, validation, settings, seed, device, ranks)
    with threads(n_threads), repeatable(seed, device), synced(objective.network, ranks):
        state = _State.new(objective.network, settings, device)
        if resume is not None:
            state.restore(resume, run.identity)
        while not state.finished(settings):
            record = run.epoch(state, checkpoint)
            state.add(record)
            if on_epoch is not None:
                on_epoch(record)
            if checkpoint is not None:
                checkpoint(state.to_bytes(run.identity))
    return state.result(settings)


@dataclass
class _State:
    """All that changes in a training."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor]
    history: list[EpochRecord] = field(default_factory=list)
    steps_done: int = 0
    """Of the epoch that goes on."""
    total: float = 0.0
    """Of the losses of these steps, each times its pictures."""
    seen: int = 0
    seconds: float = 0.0

    @classmethod
    def new(cls, network: nn.Module, settings: FitSettings, device: torch.device) -> _State:
        placed = place(network, device)
        optimizer = make_optimizer(placed.parameters(), settings.optimizer)
        return cls(placed, optimizer, copied(placed.state_dict()))

    @property
    def best_epoch(self) -> int:
        if not self.history:
            return 0
        return min(self.history, key=lambda record: record.watched_loss).epoch

    def finished(self, settings: FitSettings) -> bool:
        waited = len(self.history) - self.best_epoch
        return len(self.history) >= settings.max_epochs or (
            settings.patience is not None and waited >= settings.patience
        )

    def add(self, record: EpochRecord) -> None:
        self.history.append(record)
        self.steps_done, self.total, self.seen, self.seconds = 0, 0.0, 0, 0.0
        if self.best_epoch == record.epoch:
            self.best = copied(self.network.state_dict())

    def result(self, settings: FitSettings) -> FitResult:
        last = copied(self.network.state_dict())
        chosen = self.best if settings.weights == "best" else last
        load_into(self.network, chosen, what="weights")
        self.network.to("cpu").eval()
        return FitResult(
            tuple(self.history),
            self.best_epoch,
            len(self.history) < settings.max_epochs,
            plain_tensors(self.best),
            plain_tensors(last),
        )

    def to_bytes(self, identity: dict[str, Any]) -> bytes:
        tensors = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        numbers: dict[str, dict[str, Any]] = {}
        for name, values in self._moments().items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{key}.{name}"] = value
                else:
                    numbers.setdefault(name, {})[key] = value
        header = {
            "identity": identity,
            "history": [dataclasses.asdict(record) for record in self.history],
            "numbers": numbers,
            # lars keeps its counter here, others nothing that changes but the rate
            "groups": _plain_groups(self.optimizer),
            "position": [self.steps_done, self.total, self.seen, self.seconds],
        }
        return save(plain_tensors(tensors), {"training": json.dumps(header, sort_keys=True)})

    def restore(self, data: bytes, identity: dict[str, Any]) -> None:
        tensors = read_tensors(data)
        header = read_header(data)
        require_same(header["identity"], identity)
        load_into(self.network, with_prefix(tensors, "model."), what="training state")
        best = with_prefix(tensors, "best.")
        if best.keys() != self.best.keys():
            raise CheckpointError("The training state lacks the best weights. Train afresh.")
        self.best = {name: value.to(self.best[name].device) for name, value in best.items()}
        self.history = [EpochRecord(**record) for record in header["history"]]
        self.steps_done, self.total, self.seen, self.seconds = header["position"]
        for group, stored in zip(self.optimizer.param_groups, header["groups"], strict=True):
            group.update(stored)
        moments = with_prefix(tensors, "optimizer.")
        for name, parameter in self.network.named_parameters():
            values: dict[str, Any] = dict(header["numbers"].get(name, {}))
            for key in {full.split(".", 1)[0] for full in moments}:
                if (value := moments.get(f"{key}.{name}")) is not None:
                    values[key] = _laid_out(value, parameter)
            if values:
                self.optimizer.state[parameter] = values

    def _moments(self) -> dict[str, dict[str, Any]]:
        return {
            name: dict(self.optimizer.state[parameter])
            for name, parameter in self.network.named_parameters()
            if parameter in self.optimizer.state
        }


@dataclass
class _Run:
    """What stays the same throughout a training."""

    objective: Objective
    pictures: TileSource
    validation: TileSource | None
    settings: FitSettings
    seed: int
    device: torch.device
    ranks: Ranks

    def __post_init__(self) -> None:
        self.dtype = autocast_dtype(self.settings.precision, self.device)
        settings = dataclasses.asdict(self.settings)
        del settings["checkpoint_every_steps"]  # when the state is written changes nothing
        identity = {
            "objective": self.objective.identity(),
            "settings": settings,
            "seed": self.seed,
            "n_pictures": len(self.pictures),
            "n_validation": 0 if self.validation is None else len(self.validation),
        }
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))

    def epoch(self, state: _State, checkpoint: Callable[[bytes], None] | None) -> EpochRecord:
        """Run what is left of an epoch."""
        begun = time.perf_counter()
        epoch = len(state.history) + 1
        steps = self._steps(epoch)
        every = self.settings.checkpoint_every_steps
        rate = self._rate(epoch - 1 + (len(steps) - 1) / len(steps))  # of the last step
        state.network.train()
        for number, images, rows in self._read(steps, state.steps_done):
            rate = self._rate(epoch - 1 + number / len(steps))
            _set_rate(state.optimizer, rate)
            value = self._step(state, images, rows, epoch, number)
            require_finite(value, epoch, rate, self.settings.precision, "training")
            state.total += value * len(rows)
            state.seen += len(rows)
            state.steps_done = number + 1
            if checkpoint is not None and every and state.steps_done % every == 0:
                now = time.perf_counter()
                state.seconds, begun = state.seconds + now - begun, now
                checkpoint(state.to_bytes(self.identity))
        loss = state.total / state.seen
        validation_loss = self._validate(state.network) if self.validation is not None else None
        if validation_loss is not None:
            require_finite(validation_loss, epoch, rate, self.settings.precision, "validation")
        seconds = state.seconds + time.perf_counter() - begun
        return EpochRecord(epoch, loss, validation_loss, seconds, rate)

    def _steps(self, epoch: int) -> list[NDArray[np.int64]]:
        order = epoch_order(
            len(self.pictures),
            self.settings,
            seed=self.seed,
            epoch=epoch,
            block_ends=getattr(self.pictures, "block_ends", None),
        )
        steps = list(batches(order, self.settings))
        if self.settings.drop_last and len(steps[-1]) < self.settings.batch_size:
            steps.pop()
        return steps

    def _read(
        self, steps: list[NDArray[np.int64]], first: int
    ) -> Iterator[tuple[int, NDArray[np.uint16], NDArray[np.int64]]]:
        """Batches from a step on; the next one is read while one is trained on.

        Of several workers each reads its part; the rows are those of the whole batch.
        """

        def read(number: int) -> NDArray[np.uint16]:
            return self.pictures.read(self.ranks.part(steps[number]))

        with ThreadPoolExecutor(1, "read pictures") as ahead:
            waiting = None
            for number in range(first, len(steps)):
                batch = waiting.result() if waiting else read(number)
                following = number + 1 < len(steps)
                waiting = ahead.submit(read, number + 1) if following else None
                yield number, batch, steps[number]

    def _rate(self, epochs_done: float) -> float:
        peak = self.settings.optimizer.learning_rate
        return self.settings.schedule.rate(peak, epochs_done)

    def _step(
        self,
        state: _State,
        tiles: NDArray[np.uint16],
        rows: NDArray[np.int64],
        epoch: int,
        number: int,
    ) -> float:
        torch.manual_seed(_step_seed(self.seed, epoch, number))
        loss = self._loss(tiles, self.ranks.part(rows), epoch)
        if self.ranks.size > 1:  # a part of the batch counts by its pictures
            loss = loss * (len(tiles) / len(rows))
        value = loss.detach().clone()
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in state.network.parameters() if p.grad is not None]
        self.ranks.sum([value, *gradients])
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(state.network.parameters(), self.settings.clip_norm)
        state.optimizer.step()
        return float(value.item())

    def _loss(self, tiles: NDArray[np.uint16], rows: NDArray[np.int64], epoch: int) -> Tensor:
        images = network_input(tiles, self.objective.shape, self.device)
        with autocast(self.dtype, self.device):
            return self.objective.loss(images, torch.from_numpy(rows), epoch)

    @torch.no_grad()
    def _validate(self, network: nn.Module) -> float:
        """Mean loss over all validation pictures, with the running statistics."""
        network.eval()
        source = self.validation
        if source is None:
            raise ValueError("there are no validation pictures")
        total = 0.0
        for rows in batches(np.arange(len(source), dtype=np.int64), self.settings):
            torch.manual_seed(_step_seed(self.seed, 0, VALIDATION_STEP + int(rows[0])))
            total += float(self._loss(source.read(rows), rows, 0).item()) * len(rows)
        return total / len(source)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _step_seed(seed: int, epoch: int, number: int) -> int:
    """Seed of torch's generator for one step; distinct steps have unrelated ones."""
    state = np.random.SeedSequence([seed, epoch, number]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _require_a_step(n: int, settings: FitSettings) -> None:
    if n == 0:
        raise ValueError("There are no pictures to train on.")
    if settings.drop_last and n < settings.batch_size:
        raise ValueError(
            f"{n} pictures do not fill one batch of batch_size={settings.batch_size}; use a "
            "smaller batch_size, or more pictures."
        )


def _require_parts(n: int, settings: FitSettings, objective: Objective, ranks: Ranks) -> None:
    if ranks.size == 1:
        return
    if not objective.is_mean:
        raise ValueError(
            f"{type(objective).__name__} compares the pictures of a batch with each other, so it "
            "cannot be split over workers; train it on one."
        )
    last = 0 if settings.drop_last else n % settings.batch_size
    if settings.batch_size < ranks.size or 0 < last < ranks.size:
        raise ValueError(
            f"a batch of {last or settings.batch_size} cannot be split over {ranks.size} workers; "
            "set drop_last, or another batch_size."
        )


def _plain_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Numbers of the parameter groups, parameters aside, as JSON takes them."""
    return [
        {k: v for k, v in group.items() if isinstance(v, bool | int | float | str)}
        for group in optimizer.param_groups
    ]


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment as the optimizer lays it out: in the parameter's own memory order."""
    if value.shape != parameter.shape:
        return value  # a counter, which stays on the CPU
    return torch.empty_like(parameter.detach()).copy_(value)
