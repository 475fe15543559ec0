"""Settings of the flows over pictures: measuring and augmenting. Defaults live here alone.

The same models are the commands' options, the TOML file's keys and the forms in the Prefect UI.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.run_settings import (
    DaskCluster,
    RunSettings,
    dask_cluster_field,
    one_dask_side,
    whole_path,
)


class PictureSettings(RunSettings):
    """What any run over a folder of pictures is told. Frozen: a run cannot change it."""

    source: str = Field(
        title="Pictures",
        description="Folder of pictures, a glob pattern, or a csv of paths (column source).",
        min_length=1,
    )
    out: str = Field(
        title="Workspace",
        description="Folder (or fsspec URI) for everything the run makes. A second run in it does "
        "only what is missing.",
        min_length=1,
    )
    kind: Literal["photographs", "films"] = Field(
        "photographs",
        title="Kind of picture",
        description="photographs: JPEG, PNG and TIFF in colour. films: every format that "
        "mammosift run reads, one grey channel on the pipeline's intensity scale.",
    )
    films_csv: str | None = Field(
        None,
        title="Table of pictures",
        description="csv with the columns source and pixel_spacing_mm (and others, see mammosift "
        "run). Default: films.csv in the folder, where there is one.",
    )
    max_film_megapixels: float = Field(
        100.0,
        title="Largest picture",
        description="A picture whose header asks for more is excluded before anything is "
        "allocated. Unit: million pixels.",
        gt=0,
        le=4000,
    )
    images_per_shard: int = Field(
        64,
        title="Pictures per shard",
        description="About how many pictures one unit of work holds; a killed run loses at most "
        "this much of a stage per worker.",
        ge=1,
        le=4096,
    )
    seed: int = Field(
        0,
        title="Seed",
        description="Same pictures, same settings, same seed: same result.",
        ge=0,
        lt=2**31,
    )
    dask_address: str | None = Field(
        None,
        title="Dask scheduler",
        description="Address of a running cluster (tcp://host:8786) whose workers see the pictures "
        "and the workspace; default: a local cluster for this run.",
    )
    dask_cluster: DaskCluster = dask_cluster_field()
    workers: int | None = Field(
        None,
        title="Workers",
        description="Single-threaded processes of the Dask cluster. Default: one a core of this "
        "machine.",
        ge=1,
    )

    _side = model_validator(mode="after")(one_dask_side)
    _whole = field_validator("source", "out", "films_csv")(whole_path)


class MeasureSettings(PictureSettings):
    """What a run is told that clusters pixels by colour and measures areas."""

    clusters: int | None = Field(
        None,
        title="Clusters",
        description="Of pixels, from dark to light. Default: 2 for photographs (dark, light), 3 "
        "for films (background, fat, dense).",
        ge=1,
        le=64,
    )
    colour_space: Literal["rgb", "lab", "hsv"] = Field(
        "rgb",
        title="Colour space",
        description="In which distances are measured; films have one grey channel whatever is "
        "chosen.",
    )
    balance: Literal["median", "none"] = Field(
        "median",
        title="Colour balance",
        description="median: the colours of each photograph are multiplied so that its median is "
        "the same grey in all, or clusters would tell light and skins apart instead of what lies "
        "on the skin. none: as they are. Films stay as they are.",
    )
    sample_fraction: float = Field(
        0.05,
        title="Sample",
        description="Of each picture's pixels, drawn at random, the clusters are fitted to. Unit: "
        "share.",
        gt=0,
        le=1,
    )
    max_sample_px: int = Field(
        1_000_000,
        title="Largest sample",
        description="Of larger sets the same share of every picture's sample is used, so that the "
        "fit stays small. Unit: pixels over all pictures.",
        ge=1000,
        le=50_000_000,
    )
    starts: int = Field(
        5,
        title="Starts",
        description="Of k-means; the one with the lowest inertia is taken.",
        ge=1,
        le=100,
    )
    most_clusters: int = Field(
        8,
        title="Clusters of the elbow curve",
        description="Inertia is worked out for 1 to this many clusters, for the report.",
        ge=1,
        le=20,
    )
    pixel_spacing_mm: float | None = Field(
        None,
        title="Pixel spacing",
        description="Of pictures whose spacing is not known otherwise; areas are then given in "
        "square millimetres too. Unit: mm.",
        gt=0,
        le=100,
    )
    masks: bool | None = Field(
        None,
        title="Write masks",
        description="Also write the clusters of every pixel, as a PNG a picture, whose grey value "
        "is the cluster (255 outside the breast).",
    )

    @property
    def n_clusters(self) -> int:
        """Clusters, by the kind of picture where none is given."""
        return self.clusters or {"photographs": 2, "films": 3}[self.kind]


class AugmentSettings(PictureSettings):
    """What a run is told that writes altered copies of pictures."""

    rotate: float | None = Field(
        None,
        title="Rotate",
        description="Counter-clockwise; multiples of 90 turn without loss and may change the "
        "picture's shape, others keep it. Unit: degrees.",
        ge=-360,
        le=360,
    )
    flip_h: bool | None = Field(
        None, title="Mirror left and right", description="Mirror left and right."
    )
    flip_v: bool | None = Field(
        None, title="Mirror top and bottom", description="Mirror top and bottom."
    )
    crop: float | None = Field(
        None,
        title="Crop",
        description="Cut a box of this share of the area out, at a random place, and enlarge it "
        "to the picture's size.",
        gt=0,
        le=1,
    )
    blur_sigma: float | None = Field(
        None, title="Blur", description="Sigma of a Gaussian. Unit: pixels.", gt=0, le=100
    )
    sharpen: float | None = Field(
        None, title="Sharpen", description="Amount of an unsharp mask of 1 px.", gt=0, le=20
    )
    brightness: float | None = Field(
        None,
        title="Brightness",
        description="Change of the factor, 0.2 is a fifth brighter; negative is darker.",
        ge=-1,
        le=10,
    )
    contrast: float | None = Field(
        None, title="Contrast", description="Change of the factor.", ge=-1, le=10
    )
    saturation: float | None = Field(
        None,
        title="Saturation",
        description="Change of the factor; grey pictures are left out.",
        ge=-1,
        le=10,
    )
    hue: float | None = Field(
        None,
        title="Hue",
        description="Turn of the hue; grey pictures are left out. Unit: turns of the circle.",
        ge=-0.5,
        le=0.5,
    )
    noise: float | None = Field(
        None,
        title="Noise",
        description="Standard deviation of normal noise. Unit: share of full scale.",
        gt=0,
        le=1,
    )
    erase: float | None = Field(
        None,
        title="Erase",
        description="Fill a box of this share of the area, at a random place, with the mean.",
        gt=0,
        lt=1,
    )
    mix: float | None = Field(
        None,
        title="Mix",
        description="Weight of a second picture of the folder's, chosen by the seed, that is "
        "resized and added.",
        gt=0,
        lt=1,
    )
    copies: int = Field(
        0,
        title="Random copies",
        description="Besides one copy of each picture for each operation named, this many with all "
        "of them combined: each is used with probability 1/2, at a random strength up to the one "
        "given.",
        ge=0,
        le=10_000,
    )
    only_copies: bool | None = Field(
        None, title="Random copies only", description="Leave the one copy an operation out."
    )
    format: Literal["png", "jpeg"] = Field(
        "png",
        title="Format",
        description="Of the copies; pictures of 16 bits are always written as PNG.",
    )
    quality: int = Field(95, title="JPEG quality", description="Of jpeg.", ge=1, le=100)

    @property
    def operations(self) -> dict[str, float]:
        """Operations named, with the strength given, in the order in which they are combined."""
        named: dict[str, float | bool | None] = self.only(*OPERATION_OPTIONS)
        return {name: float(value) for name, value in named.items() if value}

    @model_validator(mode="after")
    def _something_to_do(self) -> AugmentSettings:
        if not self.operations:
            options = ", ".join("--" + name.replace("_", "-") for name in OPERATION_OPTIONS)
            raise ValueError(f"no operation is named; name at least one of {options}.")
        if self.only_copies and not self.copies:
            raise ValueError("only_copies without copies leaves nothing to write; set copies.")
        return self


OPERATION_OPTIONS = (
    "rotate", "flip_h", "flip_v", "crop", "blur_sigma", "sharpen", "brightness", "contrast",
    "saturation", "hue", "noise", "erase", "mix",
)  # fmt: skip
