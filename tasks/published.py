"""Figures of the published experiments, and who reports them: what a reproduction is held against.

Percentages of the papers as shares. Where a paper says nothing on a metric there is no entry.
"""

from __future__ import annotations

from dataclasses import dataclass

PUBLISHED_RECIPE, OWN_RECIPE = "published", "own"
RAW_PIXELS, SUPERVISED = "raw-pixels", "resnet18"


@dataclass(frozen=True)
class Experiment:
    """A published experiment.

    Parameters
    ----------
    title : str
        For the page.
    source : str
        Who published it.
    recipes : tuple of str
        What is run, in order: the published protocol, a recipe of our own, baselines.
    seeds : int
        Repetitions where nothing else is said.
    """

    title: str
    source: str
    recipes: tuple[str, ...]
    seeds: int


EXPERIMENTS = {
    "mnist-conv": Experiment(
        "Convolutional autoencoder on MNIST",
        "a published convolutional autoencoder, with k-means on its code",
        (PUBLISHED_RECIPE,),
        5,
    ),
    "mnist-contrastive": Experiment(
        "Contrastive autoencoder on MNIST",
        "Ferrante et al. 2022",
        (PUBLISHED_RECIPE, OWN_RECIPE, RAW_PIXELS),
        1,
    ),
    "pneumonia-contrastive": Experiment(
        "Contrastive autoencoder on PneumoniaMNIST",
        "Ferrante et al. 2022",
        (PUBLISHED_RECIPE, OWN_RECIPE, RAW_PIXELS, SUPERVISED),
        5,
    ),
    "ddsm-study": Experiment(
        "Autoencoders and DBSCAN on film tiles",
        "a study of 48,596 tiles of normal DDSM films",
        (PUBLISHED_RECIPE,),
        1,
    ),
}

_MNIST_CONTRASTIVE = {
    ("test", "mapping_accuracy"): 0.90,
    ("test", "knn_accuracy"): 0.98,
    ("test", "linear_accuracy"): 0.98,
}
_PNEUMONIA_CONTRASTIVE = {
    ("validation", "mapping_accuracy"): 0.80,
    ("validation", "knn_accuracy"): 0.84,
    ("validation", "linear_accuracy"): 0.84,
    ("test", "mapping_accuracy"): 0.73,
    ("test", "knn_accuracy"): 0.84,
    ("test", "linear_accuracy"): 0.84,
}

FIGURES: dict[tuple[str, str], dict[tuple[str, str], float]] = {
    ("mnist-conv", PUBLISHED_RECIPE): {
        ("train", "loss"): 0.0968,
        ("test", "loss"): 0.0926,
        ("train", "median_cluster_share"): 0.48,
        ("all", "parameters"): 937,
    },
    ("mnist-contrastive", PUBLISHED_RECIPE): _MNIST_CONTRASTIVE,
    ("mnist-contrastive", OWN_RECIPE): _MNIST_CONTRASTIVE,
    ("pneumonia-contrastive", PUBLISHED_RECIPE): _PNEUMONIA_CONTRASTIVE,
    ("pneumonia-contrastive", OWN_RECIPE): _PNEUMONIA_CONTRASTIVE,
    ("pneumonia-contrastive", SUPERVISED): {
        ("test", "accuracy"): 0.74,
        ("test", "features_mapping_accuracy"): 0.69,
    },
    ("ddsm-study", PUBLISHED_RECIPE): {
        ("autoencoder", "parameters"): 4_478_745,
        ("autoencoder", "noise_share_at_eps_0.9"): 0.73,
        ("autoencoder", "exemplars_in_noise_at_eps_0.9"): 1.0,
    },
}
"""By experiment and recipe: part (or network) and metric to figure."""


def published_figure(experiment: str, recipe: str, split: str, metric: str) -> float | None:
    """Figure of the paper; None where it says nothing."""
    return FIGURES.get((experiment, recipe), {}).get((split, metric))
