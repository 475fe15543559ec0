"""Stage: one trial of a published experiment, from a labelled picture set to its figures.

A trial is an experiment, a recipe and a seed. A killed one goes on from its last epoch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage import image_sets
from storage.errors import InputError
from storage.image_sets import LabelledPictures
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from tasks.charts import Charts
from tasks.fingerprint import source_fingerprint
from tasks.kernels import drawing
from tasks.published import OWN_RECIPE, PUBLISHED_RECIPE, RAW_PIXELS, SUPERVISED
from tasks.resumable import fit_or_go_on

if TYPE_CHECKING:
    from models.fitting import FitResult, FitSettings
    from models.objectives import Objective
    from models.resnet import ResNet18

KIND = "trials"
FIGURES = "figures.json"
HISTORY = "history.parquet"
CODE = (
    "models.augmentation",
    "models.autoencoder",
    "models.checkpoints",
    "models.contrastive",
    "models.conv_autoencoder",
    "models.encoding",
    "models.epochs",
    "models.evaluation",
    "models.fitting",
    "models.neighbour_means",
    "models.objectives",
    "models.optimizers",
    "models.planes",
    "models.resnet",
    "storage.image_sets",
    "tasks.charts",
    "tasks.kernels.drawing",
    "tasks.recipes",
    "tasks.resumable",
    "tasks.trials",
)
SHOWN = 12
DIGIT_CLUSTERS = 10
SUPERVISED_EPOCHS = 10


@dataclass(frozen=True)
class TrialSettings:
    """What a trial's outcome depends on."""

    experiment: str
    recipe: str
    seed: int
    quick: bool
    epochs: int | None
    precision: Literal["auto", "float32", "bfloat16"]
    training_threads: int | None
    weights_sha256: str | None = None
    """Of the file of ImageNet's weights that the supervised network starts from."""


def trial_key(data_sha256: str, settings: TrialSettings) -> str:
    """Key of a trial: data, settings and code."""
    return content_key(KIND, data_sha256, asdict(settings), source_fingerprint(*CODE))


def weights_sha256(path: str) -> str:
    """Fingerprint of a file of weights."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_trial(
    workspace_uri: str,
    folder: str,
    data_sha256: str,
    settings: TrialSettings,
    weights: str | None = None,
) -> ShardRef:
    """Train and measure, unless it is done.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    folder : str
        Holds the picture set (`storage.image_sets`).
    data_sha256 : str
        Its fingerprint.
    settings : TrialSettings
    weights : str, optional
        File with the fingerprint ``settings.weights_sha256``.

    Returns
    -------
    ShardRef
        Of kind ``trials``: ``figures.json``, ``history.parquet``, weights, pictures.
    """
    workspace = Workspace.open(workspace_uri)
    key = trial_key(data_sha256, settings)
    aside = f"{KIND}/.{key}.training"
    ref = workspace.made(
        KIND,
        key,
        lambda writer: _Trial(writer, settings, aside, weights).run(_load(folder, settings)),
    )
    if workspace.exists(aside):
        workspace.fs.rm(workspace.path(aside), recursive=True)
    return ref


def _load(folder: str, settings: TrialSettings) -> dict[str, LabelledPictures]:
    parts = image_sets.read(folder)
    if not settings.quick:
        return parts
    from tasks.recipes import QUICK_PICTURES

    return {name: part.head(QUICK_PICTURES[name]) for name, part in parts.items()}


@dataclass
class _Trial:
    """A trial while it runs: what was measured, and where it goes."""

    writer: ShardWriter
    settings: TrialSettings
    aside: str
    weights: str | None

    def __post_init__(self) -> None:
        self.figures: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.seed = self.settings.seed
        self.charts = Charts(self.writer)

    def run(self, parts: Mapping[str, LabelledPictures]) -> None:
        recipe = self.settings.recipe
        if self.settings.experiment == "mnist-conv":
            self._convolutional(parts)
        elif recipe in (PUBLISHED_RECIPE, OWN_RECIPE):
            self._contrastive(parts)
        elif recipe == RAW_PIXELS:
            self._raw_pixels(parts)
        elif recipe == SUPERVISED:
            self._supervised(parts)
        else:
            raise ValueError(f"recipe {recipe!r} of {self.settings.experiment} is unknown")
        record = {
            "settings": asdict(self.settings),
            "pictures": {name: len(part) for name, part in parts.items()},
            "facts": self.facts,
            "figures": self.figures,
            "alts": self.charts.alts,
        }
        self.writer.write_bytes(FIGURES, json.dumps(record, indent=2).encode())
        self.writer.write_table(HISTORY, pa.Table.from_pylist(self.history, schema=_HISTORY))
        self.writer.rows = len(parts["train"])
        self.writer.counts = {"pictures": len(parts["train"]), "figures": len(self.figures)}

    # -- experiments -----------------------------------------------------------------------------

    def _convolutional(self, parts: Mapping[str, LabelledPictures]) -> None:
        from models import encoding, evaluation
        from models.conv_autoencoder import ConvAutoencoder, ConvAutoencoderConfig
        from models.objectives import Reconstruction
        from tasks.recipes import MNIST_CONV

        side = parts["train"].pixels.shape[1]
        network = _seeded(lambda: ConvAutoencoder(ConvAutoencoderConfig(input_size_px=side)), self)
        settings = self._shortened(replace(MNIST_CONV, precision=self.settings.precision))
        result = self._fit(
            "autoencoder", Reconstruction(network), parts["train"], settings, parts["test"]
        )
        self._measure("train", "loss", result.history[-1].training_loss)
        self._measure("test", "loss", result.history[-1].validation_loss)
        codes = {name: encoding.encode(network, p.pixels) for name, p in parts.items()}
        clusterer = evaluation.cluster_rows(codes["train"], DIGIT_CLUSTERS, seed=self.seed)
        for name, part in parts.items():
            clusters = clusterer.predict(codes[name])
            self._measure_all(name, asdict(evaluation.agreement(part.labels, clusters)))
            shares = _largest_shares(part.labels, clusters)
            self._measure(name, "least_cluster_share", min(shares))
            self._measure(name, "median_cluster_share", float(np.median(shares)))
            self._measure(name, "most_cluster_share", max(shares))
        self._curve()
        self._map(codes["test"], parts["test"].labels)
        self.charts.latent(network, codes["test"], least=0.0)
        shown = parts["test"].pixels[:SHOWN]
        self.charts.tiles("reconstructions", [shown / 65535, encoding.reconstruct(network, shown)])

    def _contrastive(self, parts: Mapping[str, LabelledPictures]) -> None:
        from models import encoding, evaluation
        from models.contrastive import ContrastiveAutoencoder
        from models.neighbour_means import NeighbourMeans, unit_rows
        from models.objectives import Contrastive
        from tasks.recipes import QUICK_PROBE, contrastive_recipe

        given = self.settings
        recipe = contrastive_recipe(
            given.experiment, given.recipe, epochs=given.epochs, precision=given.precision
        )
        side = parts["train"].pixels.shape[1]
        config = replace(recipe.network, input_size_px=side)
        network = _seeded(lambda: ContrastiveAutoencoder(config), self)
        objective = Contrastive(
            network,
            recipe.augmentation,
            seed=self.seed,
            temperature=recipe.temperature,
            reconstruction_weight=recipe.reconstruction_weight,
        )
        self._views(recipe.augmentation, parts["train"].pixels)
        self._fit("encoder", objective, parts["train"], self._shortened(recipe.encoder))
        rows = {name: encoding.encode(network, p.pixels) for name, p in parts.items()}
        means = NeighbourMeans(
            rows["train"],
            neighbours=min(recipe.mean_neighbours, len(rows["train"])),
            rounds=recipe.mean_rounds,
        )
        clustered = {n: means.rows_ if n == "train" else means.transform(rows[n]) for n in rows}
        k = self._choose(clustered["train"], recipe.cluster_counts)
        measured = evaluation.evaluate(
            {n: evaluation.Part(rows=rows[n], labels=p.labels) for n, p in parts.items()},
            n_clusters=k,
            seed=self.seed,
            probe=QUICK_PROBE if given.quick else None,
            by_cosine=True,
            clustered=clustered,
        )
        for name, found in measured.items():
            self._measure_all(name, found)
        self._curve()
        self._map(unit_rows(rows["test"]), parts["test"].labels)
        self.charts.latent(network, rows["test"], least=None)
        length = float(np.linalg.norm(rows["train"], axis=1).mean())  # as long as embeddings are
        self._prototypes(network, clustered["train"], length, k, recipe, parts)

    def _prototypes(
        self,
        network: Any,
        clustered: npt.NDArray[np.float32],
        length: float,
        k: int,
        recipe: Any,
        parts: Mapping[str, LabelledPictures],
    ) -> None:
        """Freeze the encoder, and learn to paint from prototypes of this length."""
        import torch

        from models import encoding, evaluation
        from models.contrastive import PrototypeDecoder
        from models.neighbour_means import unit_rows
        from models.objectives import PrototypeReconstruction

        centres = evaluation.cluster_rows(clustered, k, seed=self.seed)
        decoder = _seeded(
            lambda: PrototypeDecoder(
                network.config,
                unit_rows(centres.cluster_centers_) * length,
                temperature=recipe.assignment_temperature,
            ),
            self,
        )
        objective = PrototypeReconstruction(network, decoder)
        result = self._fit(
            "prototypes", objective, parts["train"], self._shortened(recipe.prototypes)
        )
        self._measure("train", "prototype_loss", result.history[-1].training_loss)
        shown = parts["test"].pixels[:SHOWN]
        with torch.no_grad():
            pictures = decoder.decode_prototypes().mean(1).numpy()
            latent = torch.from_numpy(encoding.encode(network, shown))
            painted = decoder(latent).sigmoid().mean(1).numpy()
        self.charts.tiles("prototypes", [pictures[i : i + SHOWN] for i in range(0, k, SHOWN)][:1])
        self.charts.tiles(
            "reconstructions", [shown / 65535, encoding.reconstruct(network, shown), painted]
        )

    def _raw_pixels(self, parts: Mapping[str, LabelledPictures]) -> None:
        from models import evaluation
        from tasks.recipes import QUICK_PROBE

        rows = {
            n: (p.pixels.reshape(len(p), -1) / 65535).astype(np.float32) for n, p in parts.items()
        }
        k = self._choose(rows["train"], tuple(range(2, 21)))
        measured = evaluation.evaluate(
            {n: evaluation.Part(rows=rows[n], labels=p.labels) for n, p in parts.items()},
            n_clusters=k,
            seed=self.seed,
            probe=QUICK_PROBE if self.settings.quick else None,
        )
        for name, found in measured.items():
            self._measure_all(name, found)

    def _supervised(self, parts: Mapping[str, LabelledPictures]) -> None:
        """Train with all labels; then freeze, and cluster the features as embeddings are."""
        from models import evaluation
        from models.fitting import FitSettings
        from models.objectives import Classification
        from models.optimizers import OptimizerSettings, ScheduleSettings
        from models.resnet import ResNet18, ResNetConfig

        train = parts["train"]
        classes = int(max(p.labels.max() for p in parts.values())) + 1
        config = ResNetConfig(input_size_px=train.pixels.shape[1], classes=classes)
        network = _seeded(lambda: ResNet18(config), self)
        if self.weights is not None:
            self._start_from_imagenet(network)
            self._cluster(_features(network, parts), parts, of="imagenet_")
        settings = FitSettings(
            max_epochs=SUPERVISED_EPOCHS,
            batch_size=128,
            optimizer=OptimizerSettings(
                name="adamw", learning_rate=1e-4 if self.weights else 1e-3, weight_decay=1e-2
            ),
            schedule=ScheduleSettings(kind="cosine", warmup_epochs=1, epochs=SUPERVISED_EPOCHS),
            drop_last=True,
            weights="last",
            precision=self.settings.precision,
        )
        self._fit(
            "resnet18",
            Classification(network, config, train.labels),
            train,
            self._shortened(settings),
        )
        features = _features(network, parts)
        for name, part in parts.items():
            if name != "train":
                found = evaluation.scores(part.labels, _predicted(network, features[name]))
                self._measure_all(name, asdict(found))
        self._cluster(features, parts)
        self._curve()

    def _start_from_imagenet(self, network: ResNet18) -> None:
        from models.checkpoints import read_tensors
        from models.resnet import start_from_imagenet

        data = Path(str(self.weights)).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != self.settings.weights_sha256:
            raise InputError(f"{self.weights} has changed since the run began; start it again.")
        start_from_imagenet(network, read_tensors(data))
        self.facts["imagenet_weights_sha256"] = digest

    def _cluster(
        self,
        features: Mapping[str, npt.NDArray[np.float32]],
        parts: Mapping[str, LabelledPictures],
        of: str = "",
    ) -> None:
        """Cluster features as embeddings are, and measure the mapping of clusters to labels."""
        from models import evaluation
        from tasks.recipes import QUICK_PROBE

        measured = evaluation.evaluate(
            {n: evaluation.Part(rows=features[n], labels=p.labels) for n, p in parts.items()},
            n_clusters=self._choose(features["train"], tuple(range(2, 21)), of),
            seed=self.seed,
            probe=QUICK_PROBE if self.settings.quick else None,
        )
        for name, found in measured.items():
            self._measure(name, f"{of}features_mapping_accuracy", found["mapping_accuracy"])

    # -- what they share -------------------------------------------------------------------------

    def _fit(
        self,
        phase: str,
        objective: Objective,
        pictures: LabelledPictures,
        settings: FitSettings,
        validation: LabelledPictures | None = None,
    ) -> FitResult:
        """Train, writing the state after each epoch; a killed trial's state is gone on from."""
        from safetensors.torch import save

        from models.autoencoder import count_parameters
        from models.checkpoints import to_bytes
        from models.tile_source import ArrayTiles

        own = self.settings
        result = fit_or_go_on(
            objective,
            ArrayTiles(pictures.pixels),
            settings,
            workspace=self.writer.workspace,
            state=f"{self.aside}/{phase}.safetensors",
            name=f"{own.experiment} {own.recipe} {phase}",
            seed=self.seed,
            validation=None if validation is None else ArrayTiles(validation.pixels),
            n_threads=own.training_threads,
        )
        self.writer.write_bytes(f"{phase}.safetensors", to_bytes(objective.network))
        self.writer.write_bytes(f"{phase}-best.safetensors", save(result.best))
        self.history += [{"phase": phase, **asdict(record)} for record in result.history]
        self.facts[phase] = {
            "parameters": count_parameters(objective.network).total,
            "epochs": len(result.history),
            "seconds": round(sum(record.seconds for record in result.history), 1),
            "settings": asdict(settings),
        }
        self._measure("all", "parameters", self.facts[phase]["parameters"], only_first=True)
        return result

    def _shortened(self, settings: FitSettings) -> FitSettings:
        if not self.settings.quick:
            return settings
        return replace(settings, max_epochs=2, batch_size=min(settings.batch_size, 64))

    def _choose(self, rows: npt.NDArray[np.float32], counts: Sequence[int], of: str = "") -> int:
        """Number of clusters at the elbow, with the curve as a picture; ``of`` begins its names."""
        from models.kmeans import sweep

        most = max(2, len(rows) // 10)
        found = sweep(rows, [k for k in counts if k <= most], random_state=self.seed)
        self._measure("train", f"{of}clusters", found.elbow)
        points = list(zip(found.counts, found.inertias, strict=True))
        self.charts.curves(
            f"{of}elbow".replace("_", "-"),
            {"k-means": points},
            across="number of clusters",
            up="inertia (squared distance)",
            mark=(found.elbow, "elbow"),
        )
        return found.elbow

    def _measure(
        self, split: str, metric: str, value: float | None, *, only_first: bool = False
    ) -> None:
        if only_first and any((f["split"], f["metric"]) == (split, metric) for f in self.figures):
            return
        if value is not None:
            self.figures.append({"split": split, "metric": metric, "value": float(value)})

    def _measure_all(self, split: str, values: Mapping[str, float]) -> None:
        for metric, value in values.items():
            self._measure(split, metric, value)

    def _curve(self) -> None:
        """Losses of the first phase over its epochs."""
        phase = self.history[0]["phase"]
        own = [h for h in self.history if h["phase"] == phase]
        series = {"training loss": [(h["epoch"], h["training_loss"]) for h in own]}
        if own[0]["validation_loss"] is not None:
            series["validation loss"] = [(h["epoch"], h["validation_loss"]) for h in own]
        self.charts.curves("losses", series, across="epoch", up="loss", whole=True)

    def _map(self, rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
        """Maps of embeddings, coloured by label."""
        self.charts.maps(rows, drawing.grouped(labels), legend="label", seed=self.seed)

    def _views(self, augmentation: Any, pixels: npt.NDArray[np.uint16]) -> None:
        """Pictures of the first few, and below them two views of each."""
        import torch

        from models.augmentation import view_seeds

        shown = torch.from_numpy(pixels[:SHOWN].astype(np.float32) / 65535)[:, None]
        numbers = torch.arange(len(shown))
        views = [augmentation(shown, view_seeds(self.seed, numbers, view)) for view in (2, 3)]
        self.charts.tiles("views", [v[:, 0].numpy() for v in (shown, *views)])


_HISTORY = pa.schema(
    [
        pa.field("phase", pa.string(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("training_loss", pa.float64(), nullable=False),
        pa.field("validation_loss", pa.float64()),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
    ]
)


def _seeded(make: Any, trial: _Trial) -> Any:
    """Build a network whose first weights are those of the trial's seed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        return make()


def _features(
    network: ResNet18, parts: Mapping[str, LabelledPictures]
) -> dict[str, npt.NDArray[np.float32]]:
    """Features before the last layer of each part, (n, 512)."""
    from models.encoding import encode

    return {name: encode(network, part.pixels) for name, part in parts.items()}


def _predicted(network: ResNet18, features: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Label that the last layer gives to each row of features, (n,)."""
    import torch

    with torch.no_grad():
        rows = torch.from_numpy(features).to(network.to_classes.weight.device)
        labels: npt.NDArray[np.int64] = network.to_classes(rows).argmax(1).cpu().numpy()
    return labels


def _largest_shares(
    labels: npt.NDArray[np.int64], clusters: npt.NDArray[np.integer]
) -> list[float]:
    """Of each cluster, the share of the label that most of its rows have."""
    return [
        float(np.bincount(labels[clusters == c]).max() / (clusters == c).sum())
        for c in np.unique(clusters)
    ]
