"""mammosift reproduce: from the command to results.json and the page."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from pydantic import ValidationError
from typer.testing import CliRunner

from flows.cli import BAD_ARGUMENTS, _told, app
from flows.reproduce import reproduce
from storage.errors import InputError
from tasks.film_study import choose_exemplars
from tasks.reproduce_settings import ReproduceSettings, check_inputs

run = CliRunner().invoke
KEYS = {"experiment", "split", "metric", "published", "ours_mean", "ours_sd", "seeds"}


def write_set(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, n in (("train", 80), ("test", 20)):
        labels = rng.integers(0, 2, n)
        pictures = rng.integers(0, 60, (n, 16, 16)) + 120 * labels[:, None, None]
        arrays[f"{part}_images"] = pictures.astype(np.uint8)
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    np.savez(folder / "set.npz", **arrays)  # type: ignore[arg-type]
    return folder


def test_an_experiment_ends_with_results_figures_and_a_page(
    prefect_server: str, tmp_path: Path
) -> None:
    data, out = write_set(tmp_path / "data"), tmp_path / "out"
    settings = ReproduceSettings(
        name="mnist-conv", data=str(data), out=str(out), quick=True, seeds=2, training_threads=1
    )
    record = reproduce(settings)
    results = json.loads((out / "results.json").read_text())
    assert {frozenset(row) for row in results} == {frozenset(KEYS)}
    rows = {(row["split"], row["metric"]): row for row in results}
    assert rows["test", "loss"]["published"] == 0.0926
    assert rows["test", "loss"]["seeds"] == 2
    assert rows["test", "loss"]["ours_sd"] > 0
    page = (out / "report/index.html").read_text()
    assert "its figures mean nothing" in page
    assert page.count("data:image/png") == 8  # three charts light and dark, two sheets of tiles
    assert "http" not in page.split("<body>")[1]
    for name in ("losses", "map", "tsne", "latent", "reconstructions"):
        assert cv2.imread(str(out / f"figures/published-{name}.png")) is not None
    assert record["stages"]["trials"]["made"] == 2
    key = ArtifactFilterKey(any_=["training-mnist-conv-published-autoencoder-0"])
    with get_client(sync_client=True) as client:
        (bar,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
    assert bar.data == 100.0
    assert "epoch 2/2: loss 0." in str(bar.description)
    again = reproduce(settings)
    assert again["stages"]["trials"]["reused"] == 2
    assert json.loads((out / "results.json").read_text()) == results


def test_the_study_of_films_measures_exemplars_by_pixel_truth(
    prefect_server: str, film_folder: Path, tmp_path: Path
) -> None:
    truth = tmp_path / "truth"
    truth.mkdir()
    for path in film_folder.rglob("*.png"):
        film = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        kinds = np.zeros(film.shape, np.uint8)
        plate = film > 51_000
        bare = np.where(plate, 0, film)
        kinds[cv2.GaussianBlur(bare, (0, 0), 5) > 8000] = 1
        kinds[cv2.dilate(plate.astype(np.uint8), np.ones((5, 5))) > 0] = 2
        cv2.imwrite(str(truth / f"{path.parent.name}_{path.name}"), kinds)
    settings = ReproduceSettings(
        name="ddsm-study",
        data=str(film_folder),
        out=str(tmp_path / "out"),
        quick=True,
        encoder="light",
        tile_size_px=64,
        truth=str(truth),
        training_threads=1,
    )
    reproduce(settings)
    rows = {
        (row["split"], row["metric"]): row
        for row in json.loads((tmp_path / "out/results.json").read_text())
    }
    assert rows["autoencoder", "parameters"]["ours_mean"] == 4_478_745
    assert rows["variational", "parameters"]["ours_mean"] == 4_517_295
    for network in ("autoencoder", "variational", "contrastive"):
        for metric in (
            "exemplar_retrieval_average_precision",
            "exemplars_in_noise_at_eps_0.9",
            "noise_share_at_eps_0.5",
            "clusters_at_eps_0.9",
        ):
            assert rows[network, metric]["ours_mean"] >= 0, (network, metric)
        assert (tmp_path / f"out/figures/{network}-neighbours.png").is_file()


def test_exemplars_are_the_most_annotated_and_of_different_films() -> None:
    kinds = np.array(["misinformative", "misinformative", "tissue", "misinformative"], object)
    annotation = np.array([0.2, 0.5, 0.9, 0.1])
    films = np.array(["a", "a", "b", "c"], object)
    assert choose_exemplars(kinds, annotation, films).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "cifar"}, "mnist-conv"),
        ({"name": "mnist-conv", "recipe": "own"}, "has no recipe own; use published"),
        ({"name": "mnist-conv", "truth": "/t"}, "truth is for ddsm-study"),
        ({"name": "mnist-conv", "data": "relative"}, "give the whole path"),
        ({"name": "mnist-conv", "imagenet_weights": "/w"}, "is for the recipe resnet18"),
    ],
)
def test_wrong_settings_are_refused(changed: dict[str, str], said: str) -> None:
    given = {"name": "mnist-conv", "data": "/d", "out": "/o"} | changed
    with pytest.raises(ValidationError, match=said):
        ReproduceSettings(**given)  # type: ignore[arg-type]


def test_the_command_takes_the_name_first_and_says_what_is_missing(tmp_path: Path) -> None:
    help_text = run(app, ["reproduce", "--help"]).output
    assert "Example: mammosift reproduce mnist-conv" in help_text
    done = run(app, ["reproduce", "nothing", "--data", "d", "--out", str(tmp_path / "o")])
    assert done.exit_code == BAD_ARGUMENTS
    assert "pneumonia-contrastive" in done.output


@pytest.mark.parametrize(("data", "said"), [(None, "is no file"), (b"PK\3\4" * 9, "changed into")])
def test_weights_that_are_none_are_refused_before_anything_is_made(
    tmp_path: Path, data: bytes | None, said: str
) -> None:
    weights = tmp_path / "resnet18.pth"
    if data is not None:
        weights.write_bytes(data)
    settings = ReproduceSettings(
        name="pneumonia-contrastive",
        data=str(write_set(tmp_path / "data")),
        out=str(tmp_path / "out"),
        imagenet_weights=str(weights),
    )
    with pytest.raises(InputError, match=said):
        check_inputs(settings)


def test_a_folder_without_a_set_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    given = ["mnist-conv", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    done = run(app, ["reproduce", *given])
    assert isinstance(done.exception, InputError)
    message, code = _told(done.exception)
    assert "holds no picture set" in message
    assert code == BAD_ARGUMENTS
    assert not (tmp_path / "out").exists()
