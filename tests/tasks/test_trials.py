"""A trial of each recipe writes its figures, pictures and weights, and repeats itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file

from storage import image_sets
from storage.errors import InputError
from storage.workspace import ShardRef, Workspace
from tasks.published import EXPERIMENTS, FIGURES
from tasks.reproduce_reports import figure_text, tabulate
from tasks.trials import KIND, TrialSettings, run_trial, weights_sha256
from tests import torchvision_resnet18


@pytest.fixture(scope="module")
def medmnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs and squares, in MedMNIST's layout."""
    folder = tmp_path_factory.mktemp("medmnist")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16]
    arrays: dict[str, np.ndarray] = {}
    for part, n in (("train", 90), ("val", 20), ("test", 30)):
        labels = rng.integers(0, 2, n)
        cy, cx = rng.uniform(6, 10, (2, n, 1, 1))
        disc = np.hypot(y - cy, x - cx) < 4
        square = (abs(y - cy) < 4) & (abs(x - cx) < 4)
        shapes = np.where(labels[:, None, None] == 1, disc, square)
        noise = rng.integers(0, 50, (n, 16, 16))
        arrays[f"{part}_images"] = (150 * shapes + noise).astype(np.uint8)
        arrays[f"{part}_labels"] = labels[:, None].astype(np.uint8)
    np.savez_compressed(folder / "shapes.npz", **arrays)  # type: ignore[arg-type]
    return folder


def settings(experiment: str, recipe: str, **changed: Any) -> TrialSettings:
    given: dict[str, Any] = {
        "experiment": experiment,
        "recipe": recipe,
        "seed": 0,
        "quick": True,
        "epochs": None,
        "precision": "float32",
        "training_threads": 1,
    }
    return TrialSettings(**given | changed)


def run(folder: Path, out: Path, how: TrialSettings) -> tuple[ShardRef, dict[str, Any]]:
    workspace = Workspace.create(out)
    ref = run_trial(workspace.uri, str(folder), image_sets.fingerprint(folder), how)
    record = json.loads(workspace.shard(KIND, ref.key).read_bytes("figures.json"))
    return ref, record


@pytest.mark.parametrize(
    ("experiment", "recipe", "pictures"),
    [
        (
            "mnist-conv",
            "published",
            ["losses", "losses-dark", "map", "tsne", "latent", "reconstructions"],
        ),
        (
            "pneumonia-contrastive",
            "published",
            ["losses", "elbow", "views", "tsne-dark", "latent", "prototypes", "reconstructions"],
        ),
        ("pneumonia-contrastive", "own", ["losses", "prototypes"]),
        ("mnist-contrastive", "own", ["losses", "prototypes"]),
        ("pneumonia-contrastive", "raw-pixels", ["elbow"]),
        ("pneumonia-contrastive", "resnet18", ["losses"]),
    ],
)
def test_a_trial_measures_all_that_is_published(
    medmnist: Path, tmp_path: Path, experiment: str, recipe: str, pictures: list[str]
) -> None:
    ref, record = run(medmnist, tmp_path / "w", settings(experiment, recipe))
    measured = {(f["split"], f["metric"]): f["value"] for f in record["figures"]}
    assert FIGURES.get((experiment, recipe), {}).keys() <= measured.keys()
    assert all(np.isfinite(v) for v in measured.values())
    shard = Workspace.open(tmp_path / "w").shard(KIND, ref.key)
    for name in pictures:
        data = np.frombuffer(shard.read_bytes(f"{name}.png"), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_COLOR) is not None
    assert record["alts"].keys() >= {n for n in pictures if n in ("losses", "elbow", "tsne")}
    assert record["pictures"] == {"train": 90, "validation": 20, "test": 30}


def test_the_supervised_network_starts_from_imagenets_weights(
    medmnist: Path, tmp_path: Path
) -> None:
    file = tmp_path / "resnet18.safetensors"
    save_file(torchvision_resnet18.made_up(), file)
    digest = weights_sha256(str(file))
    how = settings("pneumonia-contrastive", "resnet18", weights_sha256=digest)
    workspace, data = Workspace.create(tmp_path / "w"), image_sets.fingerprint(medmnist)
    ref = run_trial(workspace.uri, str(medmnist), data, how, str(file))
    record = json.loads(workspace.shard(KIND, ref.key).read_bytes("figures.json"))
    assert record["facts"]["imagenet_weights_sha256"] == digest
    measured = {(f["split"], f["metric"]) for f in record["figures"]}
    for of in ("", "imagenet_"):
        assert ("test", f"{of}features_mapping_accuracy") in measured
    assert str(tmp_path) not in json.dumps(record), "where the file lay is nobody's business"
    file.write_bytes(file.read_bytes()[:-4] + b"else")
    with pytest.raises(InputError, match="has changed since the run began"):
        run_trial(workspace.uri, str(medmnist), data, replace(how, seed=1), str(file))


def test_a_second_run_does_nothing_and_another_seed_something_else(
    medmnist: Path, tmp_path: Path
) -> None:
    how = settings("mnist-conv", "published")
    first, _ = run(medmnist, tmp_path / "w", how)
    second, _ = run(medmnist, tmp_path / "w", how)
    other, _ = run(medmnist, tmp_path / "w", settings("mnist-conv", "published", seed=1))
    assert not first.reused
    assert second.reused
    assert other.key != first.key


def test_the_same_trial_elsewhere_gives_the_same_figures(medmnist: Path, tmp_path: Path) -> None:
    how = settings("pneumonia-contrastive", "published", epochs=10)
    assert (
        run(medmnist, tmp_path / "a", how)[1]["figures"]
        == run(medmnist, tmp_path / "b", how)[1]["figures"]
    )


def test_the_published_conv_autoencoder_has_937_parameters_in_the_table() -> None:
    figures = [{"split": "all", "metric": "parameters", "value": 937.0}]
    trials = [{"settings": {"recipe": "published", "seed": s}, "figures": figures} for s in (0, 1)]
    assert tabulate("mnist-conv", trials) == [
        {
            "experiment": "mnist-conv",
            "split": "all",
            "metric": "parameters",
            "published": 937,
            "ours_mean": 937.0,
            "ours_sd": 0.0,
            "seeds": 2,
        }
    ]


def test_other_recipes_have_other_names_and_one_seed_no_spread() -> None:
    figures = [{"split": "test", "metric": "knn_accuracy", "value": 0.5}]
    trials = [{"settings": {"recipe": "own", "seed": 0}, "figures": figures}]
    (row,) = tabulate("pneumonia-contrastive", trials)
    assert row["experiment"] == "pneumonia-contrastive (own)"
    assert (row["published"], row["ours_sd"], row["seeds"]) == (0.84, None, 1)


def test_published_figures_belong_to_recipes_that_there_are() -> None:
    for experiment, recipe in FIGURES:
        assert recipe in EXPERIMENTS[experiment].recipes


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (None, "purity", "-"),
        (4478745, "parameters", "4,478,745"),
        (1.0, "clusters_at_eps_0.9", "1"),
        (2.5, "clusters", "2.5000"),
        (1.0, "purity", "1.0000"),
    ],
)
def test_figures_in_short(value: float | None, metric: str, text: str) -> None:
    assert figure_text(value, metric) == text
