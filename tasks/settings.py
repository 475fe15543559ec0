"""All settings of a curation run, flat. Defaults live here and nowhere else.

The same model is the command's options, the TOML file's keys and the form in the Prefect UI.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.run_settings import (
    DaskCluster,
    RunSettings,
    dask_cluster_field,
    one_dask_side,
    whole_path,
)


def _field(title: str, description: str, *, unit: str | None = None, **bounds: Any) -> Any:
    """Field with a title, a sentence, a unit and bounds, for the help and for the form."""
    if unit is not None:
        description = f"{description} Unit: {unit}."
    default = bounds.pop("default", ...)
    return Field(default, title=title, description=description, **bounds)


class CurationSettings(RunSettings):
    """What a curation run is told. Frozen: a run cannot change it."""

    # -- where -------------------------------------------------------------------------------
    source: str = _field(
        "Films",
        "Folder of films, a glob pattern, or a csv of paths (column source). DICOM, DDSM LJPEG, "
        "PNG, TIFF, PGM and JPEG are recognised by content.",
        min_length=1,
    )
    out: str = _field(
        "Workspace",
        "Folder (or fsspec URI) for everything the run makes. A second run in it does only what is "
        "missing.",
        min_length=1,
    )
    films_csv: str | None = _field(
        "Table of films",
        "csv with the columns source, patient, laterality, view, label, scanner, pixel_spacing_mm "
        "(those that you have). Default: films.csv in the folder of films, where there is one.",
        default=None,
    )
    lesions_csv: str | None = _field(
        "Table of lesions",
        "csv with the columns source, pathology, x_px, y_px, radius_px. Default: lesions.csv in "
        "the folder of films, where there is one.",
        default=None,
    )
    exemplars: str | None = _field(
        "Exemplars",
        "csv of tiles that you know: column tile_id, or source, x, y, width, height, or image (a "
        "picture's path, relative to the table); kind is misinformative (the default) or "
        "informative. They sharpen the score, each dropped tile names the one it looks most like, "
        "and the report shows their nearest neighbours.",
        default=None,
    )

    verdicts: str | None = _field(
        "Verdicts",
        "csv or Parquet of what people decided about tiles or clusters (columns tile_id or "
        "cluster, clustering, verdict, reviewed_by, reviewed_at, note). They outrank the score. "
        "What is recorded in the workspace already (mammosift review) applies without it.",
        default=None,
    )

    # -- films -------------------------------------------------------------------------------
    max_film_megapixels: float = _field(
        "Largest film",
        "A film whose header asks for more is excluded before anything is allocated.",
        unit="million pixels",
        default=200.0,
        gt=0,
        le=4000,
    )
    films_per_shard: int = _field(
        "Films per shard",
        "About how many films one unit of work holds; a killed run loses at most this much of a "
        "stage per worker.",
        default=16,
        ge=1,
        le=4096,
    )

    # -- tiles -------------------------------------------------------------------------------
    tile_size_px: int = _field(
        "Tile size",
        "Edge of a stored tile. Without a size in millimetres it is also the edge of the box that "
        "is cut from the film.",
        unit="pixels",
        default=512,
        ge=16,
        le=4096,
    )
    tile_size_mm: float | None = _field(
        "Tile size in millimetres",
        "Cut boxes of this edge on every film, whatever its scanner, and resize them to the tile "
        "size. Films of unknown spacing are then excluded.",
        unit="mm",
        default=None,
        gt=0,
        le=300,
    )
    stride_px: int | None = _field(
        "Stride",
        "Step from one tile to the next; smaller than the tile size makes tiles overlap. Default: "
        "the tile size.",
        unit="pixels of the stored tile",
        default=None,
        ge=1,
    )
    edge: Literal["shift", "drop", "pad"] = _field(
        "Film edge",
        "shift: the last tile of a row is moved inward, so that both chest walls are covered; "
        "drop: tiles that do not fit are left out; pad: they are filled up with the film's "
        "background.",
        default="shift",
    )
    black_samples_per_film: int = _field(
        "Black tiles kept as samples",
        "Pixels of the black tiles nearest to the threshold are stored, for the report; those of "
        "the others are not.",
        default=2,
        ge=0,
        le=64,
    )

    context: Literal["film", "tile"] = _field(
        "Context",
        "film: the map of the whole film (breast, ground, what is foreign to both) and the tile's "
        "own look decide together; tile: for folders of tiles without their films, each is judged "
        "by its own look alone.",
        default="film",
    )

    planted_tiles: int = _field(
        "Tiles planted to learn from",
        "Annotations are drawn on this many tiles of tissue, and on as many of bare ground: the "
        "tile scorer learns from them. More take longer and teach little.",
        default=1500,
        ge=100,
        le=100_000,
    )

    # -- decisions ---------------------------------------------------------------------------
    misinformative_threshold: float = _field(
        "Threshold of the misinformative score",
        "Tiles that score at least this are dropped, or sent to review where they hold tissue too. "
        "Below 0.5 it reaches only tiles with less than 40 % of breast or with foreign content: of "
        "the others the film's map alone decides.",
        default=0.5,
        ge=0,
        le=1,
    )
    wanted_recall: float | None = _field(
        "Wanted recall",
        "Instead of a threshold: for each scanner the highest one at which this share of the "
        "planted annotations is found.",
        default=None,
        gt=0,
        le=1,
    )
    wanted_precision: float | None = _field(
        "Wanted precision",
        "Instead of a threshold: for each scanner the lowest one at which this share of what is "
        "flagged is expected to be misinformative, by planted annotations and untouched tissue.",
        default=None,
        gt=0,
        le=1,
    )
    tissue_for_review: float = _field(
        "Tissue that sends a tile to review",
        "A misinformative tile with at least this share of breast is not dropped: a person "
        "decides.",
        unit="share of the tile",
        default=0.05,
        ge=0,
        le=1,
    )

    near_duplicates: Literal["off", "list", "drop"] = _field(
        "Near-duplicates",
        "Tiles that show nearly the same as another one: a film scanned twice, or exported again. "
        "list: the manifest names the other tile in duplicate_of; drop: they are dropped too, "
        "unless they touch a lesion; off: they are not searched for.",
        default="list",
    )

    # -- split -------------------------------------------------------------------------------
    validation_fraction: float = _field(
        "Validation share", "Share of the patients.", default=0.15, ge=0, lt=1
    )
    test_fraction: float = _field("Test share", "Share of the patients.", default=0.15, ge=0, lt=1)
    seed: int = _field(
        "Seed", "Same films, same settings, same seed: same manifest.", default=0, ge=0, lt=2**31
    )

    # -- encoder -----------------------------------------------------------------------------
    encoder: Literal["light", "ddsm"] = _field(
        "Autoencoder",
        "light: a small one that two CPU cores train in a minute; ddsm: the published network "
        "(128 x 128 x 3, latent 150), for a GPU.",
        default="light",
    )
    training_tiles: int = _field(
        "Training tiles",
        "At most this many tiles, drawn over all shards, train the autoencoder.",
        default=4096,
        ge=2,
        le=10_000_000,
    )
    max_epochs: int = _field(
        "Epochs", "At most; training stops earlier once it no longer improves.", default=20, ge=1
    )
    patience: int = _field(
        "Patience",
        "Stop after this many epochs without a better validation loss.",
        unit="epochs",
        default=5,
        ge=1,
    )
    batch_size: int = _field("Batch size", "Tiles per training step.", default=64, ge=1, le=65536)
    learning_rate: float = _field("Learning rate", "Of Adam.", default=1e-3, gt=0, le=1)
    precision: Literal["auto", "float32", "bfloat16"] = _field(
        "Precision", "Arithmetic of training; auto takes the faster one.", default="auto"
    )

    training_threads: int | None = _field(
        "Training threads",
        "CPU threads of training; default: all cores. The same number gives the same weights. "
        "On a machine that is busy otherwise, 1 is faster than many.",
        default=None,
        ge=1,
        le=1024,
    )

    tensorboard: bool = _field(
        "Losses for TensorBoard",
        "Write the losses of training into the workspace's folder tensorboard/ as well; needs the "
        "extra mammosift[tensorboard].",
        default=False,
    )

    # -- clusters ----------------------------------------------------------------------------
    cluster_method: Literal["hdbscan", "dbscan", "kmeans"] = _field(
        "Clusterer", "Gives cluster_label and outlier_score of the manifest.", default="hdbscan"
    )
    n_clusters: int = _field("Clusters", "Of KMeans.", default=12, ge=1, le=100_000)
    eps: float | None = _field(
        "Radius",
        "Of DBSCAN, on standardised embeddings; default: the knee of the k-distance curve.",
        default=None,
        gt=0,
    )
    min_samples: int = _field(
        "Neighbours of a core point",
        "Of DBSCAN and HDBSCAN, the point itself counted.",
        default=5,
        ge=1,
    )
    min_cluster_size: int = _field(
        "Smallest cluster", "Of HDBSCAN.", unit="tiles", default=10, ge=2
    )

    # -- augmented copies --------------------------------------------------------------------
    augment_copies: int = _field(
        "Augmented copies",
        "Of each kept training tile of the labels below, this many altered copies are written "
        "beside the manifest (augmented/), with what was done to each. Tiles of the validation and "
        "test parts are never copied. 0: none.",
        default=0,
        ge=0,
        le=1000,
    )
    augment_labels: str | None = _field(
        "Labels to copy",
        "Names of labels, with commas between them, such as the rare ones: malignant, benign. "
        "Labels are the films', not the tiles'.",
        default=None,
    )
    augment_rotate: float = _field(
        "Copies: rotation",
        "Largest angle to either side; each operation is used on half of the copies, at a random "
        "strength up to the one given. 0: never.",
        unit="degrees",
        default=15.0,
        ge=0,
        le=180,
    )
    augment_flip_h: bool = _field(
        "Copies: mirror left and right",
        "The copy's laterality is then the other one.",
        default=True,
    )
    augment_flip_v: bool = _field(
        "Copies: mirror top and bottom", "Mirror top and bottom.", default=True
    )
    augment_brightness: float = _field(
        "Copies: brightness",
        "Largest change of the factor to either side. 0: never.",
        unit="share",
        default=0.1,
        ge=0,
        le=1,
    )
    augment_contrast: float = _field(
        "Copies: contrast",
        "Largest change of the factor to either side. 0: never.",
        unit="share",
        default=0.1,
        ge=0,
        le=1,
    )
    augment_blur_sigma: float = _field(
        "Copies: blur",
        "Largest sigma of a Gaussian. 0: never.",
        unit="pixels",
        default=0.0,
        ge=0,
        le=100,
    )
    augment_noise: float = _field(
        "Copies: noise",
        "Largest standard deviation of normal noise. 0: never.",
        unit="share of full scale",
        default=0.01,
        ge=0,
        le=1,
    )

    # -- report ------------------------------------------------------------------------------
    film_pages: int = _field(
        "Films with a page of their own",
        "In the report: the film with every tile drawn on it and each tile's reason. Those with "
        "the largest share of tiles flagged or in review come first, a third is drawn at random. "
        "A page takes some 0.2 s and half a megabyte; 0: none.",
        unit="films",
        default=100,
        ge=0,
        le=100_000,
    )

    # -- machine -----------------------------------------------------------------------------
    dask_address: str | None = _field(
        "Dask scheduler",
        "Address of a running cluster (tcp://host:8786) whose workers see the films and the "
        "workspace; default: a local cluster for this run.",
        default=None,
    )
    dask_cluster: DaskCluster = dask_cluster_field()
    workers: int | None = _field(
        "Workers",
        "Single-threaded processes of the Dask cluster. Default: one a core of this machine.",
        default=None,
        ge=1,
    )
    wait_for_workspace_min: float = _field(
        "Wait for the workspace",
        "How long to wait where another run is at work in this workspace; 0: refuse at once, and "
        "say who holds it.",
        unit="minutes",
        default=0.0,
        ge=0,
        le=7 * 24 * 60,
    )

    _side = model_validator(mode="after")(one_dask_side)
    _whole = field_validator("source", "out", "films_csv", "lesions_csv", "exemplars", "verdicts")(
        whole_path
    )

    @model_validator(mode="after")
    def _consistent(self) -> CurationSettings:
        if self.stride_px is not None and self.stride_px > self.tile_size_px:
            raise ValueError(
                f"stride_px={self.stride_px} leaves gaps between tiles of "
                f"tile_size_px={self.tile_size_px}; use stride_px <= {self.tile_size_px}."
            )
        if self.wanted_recall is not None and self.wanted_precision is not None:
            raise ValueError(
                "wanted_recall and wanted_precision ask for two thresholds; give one of them."
            )
        if self.context == "tile" and (self.wanted_recall or self.wanted_precision):
            raise ValueError(
                "wanted_recall and wanted_precision are measured on planted films, and "
                "context='tile' has no films; set misinformative_threshold instead."
            )
        if self.augment_copies and not self.labels_to_copy:
            raise ValueError(
                f"augment_copies={self.augment_copies} needs augment_labels: whose tiles are "
                "copied, such as augment_labels=malignant."
            )
        if self.augment_copies and not self.copy_operations:
            raise ValueError(
                "augment_copies without any operation would write equal tiles; set augment_rotate, "
                "augment_flip_h or another one."
            )
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} and "
                f"test_fraction={self.test_fraction} leave no patient to train on; "
                "their sum must be below 1."
            )
        return self

    @property
    def labels_to_copy(self) -> tuple[str, ...]:
        """Names of ``augment_labels``, sorted, each once."""
        names = (self.augment_labels or "").split(",")
        return tuple(sorted({name.strip() for name in names if name.strip()}))

    @property
    def copy_operations(self) -> tuple[tuple[str, float], ...]:
        """Operations of the copies with their strengths, in the order in which they are applied."""
        names = ("rotate", "flip_h", "flip_v", "blur_sigma", "brightness", "contrast", "noise")
        given = {name: float(getattr(self, f"augment_{name}")) for name in names}
        return tuple((name, value) for name, value in given.items() if value)
