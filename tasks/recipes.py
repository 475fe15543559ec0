"""How each experiment is done: networks, views, schedules. Imports torch; for workers alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.augmentation import (
    Augmentation,
    Brightness,
    Contrast,
    Erase,
    FlipHorizontal,
    GaussianBlur,
    GaussianNoise,
    Operation,
    ResizedCrop,
    Rotate,
)
from models.contrastive import ContrastiveConfig
from models.devices import Precision
from models.evaluation import ProbeSettings
from models.fitting import FitSettings
from models.optimizers import OptimizerSettings, ScheduleSettings
from storage.errors import MammosiftError
from tasks.published import OWN_RECIPE, PUBLISHED_RECIPE

QUICK_PICTURES = {"train": 300, "validation": 100, "test": 100}
"""Of each part, in the variant for tests."""
QUICK_PROBE = ProbeSettings(epochs=3)


@dataclass(frozen=True, kw_only=True)
class ContrastiveRecipe:
    """A contrastive autoencoder from first weights to prototypes.

    Parameters
    ----------
    network : ContrastiveConfig
    views : tuple of Operation
        What makes two views of each picture.
    temperature : float
        Of NT-Xent.
    reconstruction_weight : float
        Of the mean squared error.
    encoder : FitSettings
        Training of encoder, projector and decoder.
    prototypes : FitSettings
        Training of the decoder from prototypes, the encoder frozen.
    assignment_temperature : float
        Of the soft assignment to prototypes.
    cluster_counts : tuple of int
        Among which the elbow of k-means chooses.
    mean_rounds, mean_neighbours : int
        Embeddings are moved so often to the mean of so many neighbours before k-means sees them
        (`models.neighbour_means`).
    """

    network: ContrastiveConfig
    views: tuple[Operation, ...]
    temperature: float
    reconstruction_weight: float
    encoder: FitSettings
    prototypes: FitSettings
    assignment_temperature: float = 0.1
    cluster_counts: tuple[int, ...] = (2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100)
    mean_rounds: int = 0
    mean_neighbours: int = 10

    @property
    def augmentation(self) -> Augmentation:
        """Chain of the views' operations."""
        return Augmentation(self.views)


PUBLISHED_VIEWS: tuple[Operation, ...] = (
    Rotate(0.5, (0.0, 30.0)),
    FlipHorizontal(0.5),
    ResizedCrop(0.5, (1.0, 0.5)),
    GaussianBlur(0.5, (0.1, 1.0)),
    GaussianNoise(0.5, (0.0, 0.1)),
)
"""Each with probability 1/2. Their strengths, the angle aside, are not published."""

OWN_VIEWS: tuple[Operation, ...] = (
    Rotate(0.5, (0.0, 30.0)),
    FlipHorizontal(0.5),
    ResizedCrop(0.8, (1.0, 0.4)),
    Brightness(0.5, (0.0, 0.3)),
    Contrast(0.5, (0.0, 0.4)),
    GaussianBlur(0.5, (0.1, 1.0)),
    GaussianNoise(0.5, (0.0, 0.1)),
    Erase(0.25, (0.02, 0.15)),
)

MNIST_CONV = FitSettings(
    max_epochs=3,
    batch_size=16,
    optimizer=OptimizerSettings(name="adadelta", learning_rate=1.0, rho=0.95),
    weights="last",
)
"""The batch size is not published: of 16, 32 and 128, all tried, 16 reaches the published loss."""


def contrastive_recipe(
    experiment: str, recipe: str, *, epochs: int | None, precision: Precision
) -> ContrastiveRecipe:
    """Look a recipe up, with fewer epochs where asked for.

    Parameters
    ----------
    experiment, recipe : str
        See `tasks.published`.
    epochs : int or None
        Of the encoder's training; the decoder from prototypes gets as many at most. None: the
        recipe's own.
    precision : {"auto", "float32", "bfloat16"}

    Raises
    ------
    MammosiftError
        There is no such recipe.
    """
    if recipe == PUBLISHED_RECIPE:
        made = _published()
    elif recipe == OWN_RECIPE:
        made = _own(experiment)
    else:
        raise MammosiftError(f"{experiment} has no contrastive recipe {recipe!r}.")
    encoder = replace(made.encoder, precision=precision)
    prototypes = replace(made.prototypes, precision=precision)
    if epochs is not None:
        share = epochs / encoder.max_epochs
        encoder = replace(encoder, max_epochs=epochs, schedule=_scaled(encoder.schedule, share))
        fewer = min(epochs, prototypes.max_epochs)
        prototypes = replace(
            prototypes, max_epochs=fewer, schedule=_scaled(prototypes.schedule, share)
        )
    return replace(made, encoder=encoder, prototypes=prototypes)


def _scaled(schedule: ScheduleSettings, share: float) -> ScheduleSettings:
    return replace(
        schedule,
        warmup_epochs=schedule.warmup_epochs * share,
        epochs=schedule.epochs * share,
        first_epoch=schedule.first_epoch * share,
    )


def _published() -> ContrastiveRecipe:
    """50 epochs of the encoder, then 50 of the decoder: LARS, one schedule over all 100.

    Temperature, batch size, filters, trust coefficient, weight decay, and among which numbers of
    clusters the elbow is looked for, are not published.
    """
    schedule = ScheduleSettings(kind="cosine", warmup_epochs=10, start=0.01, end=0.05, epochs=100)
    encoder = FitSettings(
        max_epochs=50,
        batch_size=128,
        optimizer=OptimizerSettings(
            name="lars", learning_rate=0.25, weight_decay=1e-6, trust_coefficient=5e-3
        ),
        schedule=schedule,
        drop_last=True,
        weights="last",
    )
    return ContrastiveRecipe(
        network=ContrastiveConfig(),
        views=PUBLISHED_VIEWS,
        temperature=0.2,
        reconstruction_weight=0.1,
        encoder=encoder,
        prototypes=replace(encoder, schedule=replace(schedule, first_epoch=50), drop_last=False),
    )


def _own(experiment: str) -> ContrastiveRecipe:
    """AdamW, batch normalisation, stronger views; neighbours' means are clustered."""
    digits = experiment == "mnist-contrastive"
    epochs = 40 if digits else 160  # a digit's epoch has 13 times the pictures
    encoder = FitSettings(
        max_epochs=epochs,
        batch_size=256,
        optimizer=OptimizerSettings(name="adamw", learning_rate=1e-3, weight_decay=1e-2),
        schedule=ScheduleSettings(kind="cosine", warmup_epochs=3, epochs=epochs),
        drop_last=True,
        weights="last",
    )
    views = tuple(v for v in OWN_VIEWS if not (digits and isinstance(v, FlipHorizontal)))
    return ContrastiveRecipe(
        network=ContrastiveConfig(name="contrastive-own", normalisation="batch"),
        views=views,
        temperature=0.2,
        reconstruction_weight=0.1,
        encoder=encoder,
        prototypes=replace(
            encoder,
            max_epochs=10,
            schedule=ScheduleSettings(kind="cosine", warmup_epochs=1, epochs=10),
            drop_last=False,
        ),
        mean_rounds=2,
    )
