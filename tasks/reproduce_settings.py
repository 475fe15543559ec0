"""Settings of the reproductions of published experiments. Defaults live here alone.

The same model is the command's options, the TOML file's keys and the form in the Prefect UI.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.published import EXPERIMENTS, RAW_PIXELS, SUPERVISED
from tasks.run_settings import (
    DaskCluster,
    RunSettings,
    dask_cluster_field,
    one_dask_side,
    whole_path,
)

Name = Literal["mnist-conv", "mnist-contrastive", "pneumonia-contrastive", "ddsm-study"]
Recipe = Literal["published", "own", "raw-pixels", "resnet18"]
MAX_WEIGHTS_BYTES = 256 * 2**20
"""Of a file of ResNet-18: its own take 45 MiB."""
UNTRAINED = (RAW_PIXELS, SUPERVISED)
"""Recipes whose length ``epochs`` does not change."""


class ReproduceSettings(RunSettings):
    """What a reproduction is told. Frozen: a run cannot change it."""

    name: Name = Field(
        title="Experiment",
        description="mnist-conv: a 937-parameter autoencoder. mnist-contrastive and "
        "pneumonia-contrastive: a contrastive autoencoder with prototypes. ddsm-study: "
        "autoencoders and DBSCAN on film tiles.",
        json_schema_extra={"positional": True},
    )
    data: str = Field(
        title="Data",
        description="Folder with MNIST's four idx files, with one npz in MedMNIST's layout, or "
        "(for ddsm-study) with films as mammosift run reads them.",
        min_length=1,
    )
    out: str = Field(
        title="Workspace",
        description="Folder (or fsspec URI) for everything the run makes: results.json, report, "
        "figures, weights. A second run in it does only what is missing.",
        min_length=1,
    )
    recipe: Recipe | None = Field(
        None,
        title="Recipe",
        description="published: the paper's protocol. own: one of ours by the same rules, no "
        "labels in training. raw-pixels and resnet18: baselines. Default: all of them.",
    )
    seeds: int | None = Field(
        None,
        title="Seeds",
        description="Trials of each recipe, with the seeds 0, 1, ... The table gives their mean "
        "and spread. Default: 5 for the small experiments, else 1; 1 with --quick.",
        ge=1,
        le=100,
    )
    quick: bool | None = Field(
        None,
        title="Quick",
        description="A few hundred pictures and two epochs: shows that it works, and no figure of "
        "any meaning.",
    )
    epochs: int | None = Field(
        None,
        title="Epochs",
        description="Of the encoder's training, where the recipe's own number takes too long; its "
        "schedule is shortened with it, and the table says so. Default: the recipe's.",
        ge=1,
        le=10_000,
    )
    imagenet_weights: str | None = Field(
        None,
        title="ImageNet weights",
        description="resnet18: safetensors file with the weights of torchvision's resnet18, from "
        "which it then starts; its features are clustered before its training too. Default: none, "
        "it starts from scratch.",
    )
    truth: str | None = Field(
        None,
        title="Pixel truth",
        description="ddsm-study: folder of pictures <film>.png of the films' size (0 background, 1 "
        "breast, 2 annotation, 3 other artefact), by which the retrieval of exemplars is measured.",
    )
    tile_size_px: int = Field(
        256,
        title="Tile size",
        description="ddsm-study: side of the square tiles. Unit: pixels.",
        ge=16,
        le=4096,
    )
    encoder: Literal["ddsm", "light"] = Field(
        "ddsm",
        title="Network",
        description="ddsm-study: ddsm is the published network (3.5 tiles/s and core in training), "
        "light one for two CPU cores, of the same family.",
    )
    max_tiles: int = Field(
        4000,
        title="Tiles trained on",
        description="ddsm-study: at most so many tiles train each network; all are encoded.",
        ge=16,
        le=1_000_000,
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        title="Precision",
        description="Of convolutions in training. auto: bfloat16 where the machine multiplies "
        "it in hardware, else float32.",
    )
    training_threads: int | None = Field(
        None,
        title="Threads",
        description="Of a training; the same number gives the same bytes. Default: one a core.",
        ge=1,
    )
    tensorboard: bool | None = Field(
        None,
        title="Losses for TensorBoard",
        description="Write the losses of each training into the folder tensorboard/ of the "
        "workspace as well; needs the extra mammosift[tensorboard].",
    )
    dask_address: str | None = Field(
        None,
        title="Dask scheduler",
        description="Address of a running cluster (tcp://host:8786) whose workers see data and "
        "workspace; default: a local cluster for this run.",
    )
    dask_cluster: DaskCluster = dask_cluster_field()
    workers: int = Field(
        1,
        title="Workers",
        description="Processes of the Dask cluster: trials at a time. A training uses all cores "
        "by itself unless told otherwise.",
        ge=1,
    )

    _side = model_validator(mode="after")(one_dask_side)
    _whole = field_validator("data", "out", "truth", "imagenet_weights")(whole_path)

    @model_validator(mode="after")
    def _recipe_exists(self) -> ReproduceSettings:
        known = EXPERIMENTS[self.name].recipes
        if self.recipe is not None and self.recipe not in known:
            raise ValueError(f"{self.name} has no recipe {self.recipe}; use {', '.join(known)}.")
        if self.truth is not None and self.name != "ddsm-study":
            raise ValueError(f"truth is for ddsm-study; {self.name} has labels of its own.")
        if self.imagenet_weights is not None and SUPERVISED not in self.recipes:
            raise ValueError("imagenet_weights is for the recipe resnet18, which this run has not.")
        return self

    @property
    def recipes(self) -> tuple[str, ...]:
        """Recipes of this run, in order."""
        return EXPERIMENTS[self.name].recipes if self.recipe is None else (self.recipe,)

    @property
    def n_seeds(self) -> int:
        """Trials of each recipe."""
        if self.seeds is not None:
            return self.seeds
        return 1 if self.quick else EXPERIMENTS[self.name].seeds


def check_inputs(settings: ReproduceSettings) -> None:
    """Refuse a run whose data is not there, before anything long begins.

    Raises
    ------
    InputError
        It is not, or is none that the experiment can use.
    """
    from storage import image_sets
    from storage.errors import InputError

    if settings.name == "ddsm-study":
        from tasks import films

        films.check_inputs(settings.data, films_csv=None, lesions_csv=None, exemplars=None)
        if settings.truth is not None and not Path(settings.truth).is_dir():
            raise InputError(f"--truth {settings.truth} is no folder; check the path.")
    else:
        image_sets.find_files(settings.data)
        if settings.imagenet_weights is not None:
            _check_weights(Path(settings.imagenet_weights))


def _check_weights(path: Path) -> None:
    from storage.errors import InputError

    if not path.is_file():
        raise InputError(f"--imagenet-weights {path} is no file; check the path.")
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size > MAX_WEIGHTS_BYTES or not 0 < header < size:
        raise InputError(
            f"--imagenet-weights {path} ({size} bytes) is no safetensors file of ResNet-18. A .pth "
            'file of torchvision is changed into one by: python -c "import sys, torch; from '
            "safetensors.torch import save_file; save_file(torch.load(sys.argv[1], "
            'weights_only=True), sys.argv[2])" resnet18.pth resnet18.safetensors'
        )
