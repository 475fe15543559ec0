"""Optimizers by name, and learning rates as a function of the epoch: nothing to be restored."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

OptimizerName = Literal["adam", "adamw", "adadelta", "sgd", "lars"]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Which optimizer, and its numbers.

    Parameters
    ----------
    name : {"adam", "adamw", "adadelta", "sgd", "lars"}
        lars: layer-wise adaptive rate scaling (You et al. 2017), of pytorch_optimizer.
    learning_rate : float
        The schedule's highest.
    weight_decay : float
        At least 0. AdamW's is decoupled from the gradient.
    momentum : float
        Of sgd and lars, in [0, 1).
    rho : float
        Of adadelta, in (0, 1).
    trust_coefficient : float
        Of lars: length of a layer's step over that of its weights, times the learning rate.
    """

    name: OptimizerName = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    rho: float = 0.95
    trust_coefficient: float = 1e-3

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimizerName):
            raise ValueError(
                f"optimizer {self.name!r} is unknown; use {', '.join(get_args(OptimizerName))}."
            )
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate={self.learning_rate} must be positive and finite.")
        if self.weight_decay < 0 or not 0 <= self.momentum < 1 or not 0 < self.rho < 1:
            raise ValueError("weight_decay >= 0, 0 <= momentum < 1 and 0 < rho < 1 must hold.")
        if not self.trust_coefficient > 0:
            raise ValueError(f"trust_coefficient={self.trust_coefficient} must be positive.")


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Learning rate over a training: constant, or a linear rise and then half a cosine.

    Parameters
    ----------
    kind : {"constant", "cosine"}
        constant: the optimizer's learning rate throughout.
    warmup_epochs : float
        Epochs in which the rate rises from ``start`` to the optimizer's.
    start, end : float
        Rate before the first step, and after the last.
    epochs : float
        Length of rise and cosine together; afterwards the rate stays at ``end``.
    first_epoch : float
        Epochs of the schedule that an earlier training has used up.
    """

    kind: Literal["constant", "cosine"] = "constant"
    warmup_epochs: float = 0.0
    start: float = 0.0
    end: float = 0.0
    epochs: float = 1.0
    first_epoch: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "cosine"):
            raise ValueError(f"schedule {self.kind!r} is unknown; use constant or cosine.")
        if not 0 <= self.warmup_epochs <= self.epochs or self.epochs <= 0 or self.first_epoch < 0:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} must lie in [0, epochs={self.epochs}], and "
                f"first_epoch={self.first_epoch} must not be negative."
            )
        if self.start < 0 or self.end < 0:
            raise ValueError(f"start={self.start} and end={self.end} must not be negative.")

    def rate(self, peak: float, epochs_done: float) -> float:
        """Learning rate after a number of epochs, parts of one included; ``peak`` is the highest.

        Loshchilov and Hutter 2017, without restarts.
        """
        if self.kind == "constant":
            return peak
        at = min(self.first_epoch + epochs_done, self.epochs)
        if at < self.warmup_epochs:
            return self.start + (peak - self.start) * at / self.warmup_epochs
        if at >= self.epochs:
            return self.end
        share = (at - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.end + (peak - self.end) * 0.5 * (1 + math.cos(math.pi * share))


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings
) -> torch.optim.Optimizer:
    """Make the optimizer that the settings name."""
    wanted = [p for p in parameters if p.requires_grad]
    rate: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.name == "adam":
        return torch.optim.Adam(wanted, **rate, fused=True)
    if settings.name == "adamw":
        return torch.optim.AdamW(wanted, **rate, fused=True)
    if settings.name == "adadelta":
        return torch.optim.Adadelta(wanted, **rate, rho=settings.rho)
    if settings.name == "sgd":
        return torch.optim.SGD(wanted, **rate, momentum=settings.momentum)
    from pytorch_optimizer import LARS  # slow to import, and needed by one objective alone

    lars: torch.optim.Optimizer = LARS(
        wanted, **rate, momentum=settings.momentum, trust_coefficient=settings.trust_coefficient
    )
    return lars
