"""Optimizers by name, and the learning rate as a function of the epoch."""

from __future__ import annotations

import pytest
import torch

from models.optimizers import OptimizerSettings, ScheduleSettings, make_optimizer

PUBLISHED = ScheduleSettings(kind="cosine", warmup_epochs=10, start=0.01, end=0.05, epochs=100)


@pytest.mark.parametrize(
    ("epochs_done", "rate"),
    [(0, 0.01), (5, 0.13), (10, 0.25), (55, 0.15), (100, 0.05), (300, 0.05)],
)
def test_a_rate_rises_and_follows_half_a_cosine(epochs_done: float, rate: float) -> None:
    assert PUBLISHED.rate(0.25, epochs_done) == pytest.approx(rate)


def test_a_second_training_goes_on_in_the_schedule_of_the_first() -> None:
    second = ScheduleSettings(
        kind="cosine", warmup_epochs=10, start=0.01, end=0.05, epochs=100, first_epoch=50
    )
    assert second.rate(0.25, 5) == PUBLISHED.rate(0.25, 55)


def test_a_constant_rate_stays() -> None:
    assert ScheduleSettings().rate(0.1, 77) == 0.1


@pytest.mark.parametrize("name", ["adam", "adamw", "adadelta", "sgd", "lars"])
def test_every_optimizer_goes_downhill(name: str) -> None:
    weight = torch.nn.Parameter(torch.full((3, 3), 2.0))
    settings = OptimizerSettings(name=name, learning_rate=0.5)  # type: ignore[arg-type]
    optimizer = make_optimizer([weight], settings)
    before = weight.square().sum().item()
    for _ in range(5):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.square().sum().item() < before


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: OptimizerSettings(name="adagrad"), "use adam, adamw, adadelta, sgd, lars"),  # type: ignore[arg-type]
        (lambda: OptimizerSettings(learning_rate=0), "positive and finite"),
        (lambda: OptimizerSettings(momentum=1.0), "momentum < 1"),
        (lambda: ScheduleSettings(kind="step"), "use constant or cosine"),  # type: ignore[arg-type]
        (lambda: ScheduleSettings(warmup_epochs=5, epochs=2), "must lie in"),
        (lambda: ScheduleSettings(start=-1), "must not be negative"),
    ],
)
def test_wrong_settings_are_refused(wrong: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()  # type: ignore[operator]
