"""Stage: what the published recipe makes of film tiles: autoencoder, DBSCAN, exemplars.

Each network is trained on tiles that are not black, encodes all of them, and DBSCAN clusters the
embeddings at scikit-learn's default radius and at the published one. Where pixel truth is given,
the five tiles with the most annotation are the exemplars: whether they fall into noise, and how
well their neighbourhood retrieves the other misinformative tiles, is measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from storage.errors import InputError, MammosiftError
from storage.tile_shards import read_index, read_pixels
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from tasks.charts import Charts
from tasks.fingerprint import source_fingerprint
from tasks.kernels import agreement, thumbnails
from tasks.resumable import fit_or_go_on

if TYPE_CHECKING:
    from models.fitting import FitSettings

KIND = "studies"
FIGURES = "figures.json"
NETWORKS = ("autoencoder", "variational", "contrastive")
CODE = (
    "models.augmentation",
    "models.autoencoder",
    "models.contrastive",
    "models.dbscan",
    "models.encoding",
    "models.epochs",
    "models.fitting",
    "models.objectives",
    "models.optimizers",
    "models.pairs",
    "models.planes",
    "models.variational",
    "tasks.charts",
    "tasks.film_study",
    "tasks.kernels.agreement",
    "tasks.kernels.drawing",
    "tasks.recipes",
    "tasks.resumable",
)
RADII = {"0.5": 0.5, "0.9": 0.9}
"""scikit-learn's default, and the published one."""
MIN_SAMPLES = 5
EXEMPLARS, NEIGHBOURS, SHOWN = 5, 8, 12
EPOCHS, BATCH, QUICK_TILES = 10, 64, 120


@dataclass(frozen=True)
class StudySettings:
    """What a study's outcome depends on."""

    network: str
    encoder: Literal["ddsm", "light"]
    seed: int
    quick: bool
    epochs: int | None
    max_tiles: int
    precision: Literal["auto", "float32", "bfloat16"]
    training_threads: int | None


def run_study(
    workspace_uri: str,
    tile_keys: Sequence[str],
    sources: Mapping[str, str],
    truth: str | None,
    settings: StudySettings,
) -> ShardRef:
    """Train a network on tiles and see what becomes of them, unless it is done.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    tile_keys : sequence of str
        Tile shards.
    sources : mapping of str to str
        Film's path by mammogram_id; by it the film's truth is found.
    truth : str or None
        Folder of truth pictures, ``<film>.png``.
    settings : StudySettings

    Returns
    -------
    ShardRef
        Of kind ``studies``; rows are the tiles encoded.
    """
    workspace = Workspace.open(workspace_uri)
    files = sorted(Path(truth).glob("*.png")) if truth else []
    seen = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    code = source_fingerprint(*CODE)
    key = content_key(
        KIND, sorted(tile_keys), sorted(sources.items()), seen, asdict(settings), code
    )
    aside = f"{KIND}/.{key}.training"
    ref = workspace.made(
        KIND, key, lambda w: _Study(w, settings, aside).run(tile_keys, sources, truth)
    )
    if workspace.exists(aside):
        workspace.fs.rm(workspace.path(aside), recursive=True)
    return ref


@dataclass
class _Study:
    """A study while it runs: what was measured, and where it goes."""

    writer: ShardWriter
    settings: StudySettings
    aside: str

    def __post_init__(self) -> None:
        self.figures: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self.charts = Charts(self.writer)

    def run(self, tile_keys: Sequence[str], sources: Mapping[str, str], truth: str | None) -> None:
        from models import encoding

        network, objective = self._network()
        size_px = network.config.input_size_px
        frame, pixels = _load(self.writer.workspace, tile_keys, size_px)
        if self.settings.quick:
            few = np.unique(np.linspace(0, len(frame) - 1, QUICK_TILES).astype(int))
            frame, pixels = frame.iloc[few].reset_index(drop=True), pixels[few]
        rng = np.random.default_rng(self.settings.seed)
        drawn = np.sort(rng.permutation(len(pixels))[: self.settings.max_tiles])
        self._fit(network, objective, pixels[drawn])
        rows = encoding.encode(network, pixels)
        self._measure("tiles", len(rows))
        noise = self._cluster(rows)
        shown = pixels[np.linspace(0, len(pixels) - 1, min(SHOWN, len(pixels))).astype(int)]
        self.charts.tiles("reconstructions", [shown / 65535, encoding.reconstruct(network, shown)])
        groups = {"tile": np.arange(len(rows))}
        if truth is not None:
            kinds, annotation = _classes(frame, sources, Path(truth))
            groups = {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}
            self._exemplars(rows, pixels, kinds, annotation, frame, noise)
        self.charts.maps(rows, groups, legend="kind of tile", seed=self.settings.seed)
        self.charts.latent(network, rows, least=_least(network))
        record = {
            "settings": asdict(self.settings),
            "facts": self.facts,
            "figures": self.figures,
            "alts": self.charts.alts,
        }
        self.writer.write_bytes(FIGURES, json.dumps(record, indent=2).encode())
        self.writer.rows = len(rows)
        self.writer.counts = {"tiles": len(rows), "figures": len(self.figures)}

    def _network(self) -> tuple[Any, Any]:
        """The network with the seed's first weights, and its objective."""
        import torch

        from models.augmentation import Augmentation
        from models.autoencoder import Autoencoder, count_parameters, named_config
        from models.contrastive import ContrastiveAutoencoder, ContrastiveConfig
        from models.objectives import Contrastive, Reconstruction, Variational
        from models.variational import VariationalAutoencoder
        from tasks.recipes import OWN_VIEWS

        config = named_config(self.settings.encoder)
        network: Any
        objective: Any
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            if self.settings.network == "autoencoder":
                self._measure(
                    "parameters", count_parameters(Autoencoder(named_config("ddsm"))).total
                )
                network = Autoencoder(config)
                objective = Reconstruction(network)
            elif self.settings.network == "variational":
                whole = VariationalAutoencoder(named_config("ddsm"))
                self._measure("parameters", count_parameters(whole).total)
                network = VariationalAutoencoder(config)
                objective = Variational(network)
            elif self.settings.network == "contrastive":
                shape = ContrastiveConfig(
                    input_size_px=config.input_size_px,
                    channels=1,
                    widths=(32, 64, 128, 128),
                    latent_dim=config.latent_dim,
                    normalisation="batch",
                )
                network = ContrastiveAutoencoder(shape)
                views = Augmentation(OWN_VIEWS)
                objective = Contrastive(network, views, seed=self.settings.seed, temperature=0.2)
                self._measure("parameters", count_parameters(network).total)
            else:
                raise MammosiftError(
                    f"network {self.settings.network!r} is unknown; use {', '.join(NETWORKS)}."
                )
        return network, objective

    def _fit(self, network: Any, objective: Any, pixels: npt.NDArray[np.uint16]) -> None:
        """Train, holding a tenth out; a killed study's state is gone on from."""
        from models.autoencoder import count_parameters
        from models.checkpoints import to_bytes
        from models.fitting import FitSettings
        from models.optimizers import OptimizerSettings
        from models.tile_source import ArrayTiles

        own = self.settings
        settings: FitSettings = FitSettings(
            max_epochs=2 if own.quick else own.epochs or EPOCHS,
            batch_size=min(BATCH, max(2, len(pixels) // 4)),
            optimizer=OptimizerSettings(name="adam", learning_rate=1e-3),
            drop_last=True,
            weights="last",
            precision=own.precision,
        )
        held_out = max(1, len(pixels) // 10)
        result = fit_or_go_on(
            objective,
            ArrayTiles(pixels[held_out:]),
            settings,
            workspace=self.writer.workspace,
            state=f"{self.aside}/state.safetensors",
            name=f"ddsm-study {own.network}",
            seed=own.seed,
            validation=ArrayTiles(pixels[:held_out]) if held_out > 1 else None,
            n_threads=own.training_threads,
        )
        self.writer.write_bytes("weights.safetensors", to_bytes(network))
        history = [asdict(record) for record in result.history]
        self.writer.write_table("history.parquet", pa.Table.from_pylist(history))
        self._measure("first_loss", result.history[0].training_loss)
        self._measure("last_loss", result.history[-1].training_loss)
        series = {"training loss": [(r.epoch, r.training_loss) for r in result.history]}
        held = [(r.epoch, r.validation_loss) for r in result.history]
        if known := [(epoch, loss) for epoch, loss in held if loss is not None]:
            series["held out"] = known
        self.charts.curves("losses", series, across="epoch", up="loss", whole=True)
        self.facts["training"] = {
            "parameters": count_parameters(network).total,
            "epochs": len(result.history),
            "seconds": round(sum(r.seconds for r in result.history), 1),
            "settings": asdict(settings),
            "network": asdict(network.config),
        }

    def _cluster(self, rows: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.bool_]]:
        """Cluster at both radii; which rows are noise."""
        from models.dbscan import DBSCANClusterer

        noise, sizes = {}, {}
        for name, radius in RADII.items():
            labels = DBSCANClusterer(radius, min_samples=MIN_SAMPLES).fit(rows).labels_
            noise[name] = labels < 0
            counts = np.sort(np.bincount(labels[labels >= 0], minlength=1))[::-1]
            self._measure(f"clusters_at_eps_{name}", int((counts > 0).sum()))
            self._measure(f"noise_share_at_eps_{name}", float(noise[name].mean()))
            self._measure(f"largest_cluster_share_at_eps_{name}", counts[0] / len(rows))
            ranked = [(i + 1, float(n)) for i, n in enumerate(counts[:200].tolist()) if n]
            if ranked:
                sizes[f"eps {name}"] = ranked
        if sizes:
            self.charts.curves(
                "clusters",
                sizes,
                across="rank of the cluster",
                up="size of the cluster (tiles)",
                whole=True,
            )
        return noise

    def _exemplars(
        self,
        rows: npt.NDArray[np.float32],
        pixels: npt.NDArray[np.uint16],
        kinds: npt.NDArray[np.object_],
        annotation: npt.NDArray[np.float64],
        frame: pd.DataFrame,
        noise: Mapping[str, npt.NDArray[np.bool_]],
    ) -> None:
        """Fate and neighbours of the exemplars, and how well they retrieve their kind."""
        from models.neighbours import nearest

        chosen = choose_exemplars(kinds, annotation, frame["mammogram_id"].to_numpy(object))
        if len(chosen) == 0:
            self.facts["exemplars"] = "no tile is misinformative by the truth"
            return
        for name, is_noise in noise.items():
            self._measure(f"exemplars_in_noise_at_eps_{name}", float(is_noise[chosen].mean()))
        others = np.setdiff1d(np.arange(len(rows)), chosen)
        judged = others[(kinds[others] != agreement.AMBIGUOUS) & (kinds[others] != agreement.MIXED)]
        distance = nearest(rows[judged], rows[chosen], 1).distances[:, 0]
        positive = kinds[judged] == agreement.MISINFORMATIVE
        self._measure("misinformative_share", float(positive.mean()))
        if positive.any():
            ap = agreement.average_precision(positive, -distance)
            self._measure("exemplar_retrieval_average_precision", ap)
        near = nearest(rows[chosen], rows[others], min(NEIGHBOURS, len(others)))
        self._measure(
            "neighbours_of_exemplars_misinformative",
            float((kinds[others][near.indices] == agreement.MISINFORMATIVE).mean()),
        )
        shown = [
            np.concatenate([pixels[e : e + 1], pixels[others[found]]]) / 65535
            for e, found in zip(chosen, near.indices, strict=True)
        ]
        self.charts.tiles("neighbours", shown)
        self.facts["exemplars"] = frame["tile_id"].to_numpy(object)[chosen].tolist()

    def _measure(self, metric: str, value: float) -> None:
        self.figures.append(
            {"split": self.settings.network, "metric": metric, "value": float(value)}
        )


def _least(network: Any) -> float | None:
    """Least value of the network's embeddings; None where there is none."""
    return 0.0 if getattr(network.config, "latent_activation", None) == "relu" else None


def choose_exemplars(
    kinds: npt.NDArray[np.object_],
    annotation: npt.NDArray[np.float64],
    films: npt.NDArray[np.object_],
) -> npt.NDArray[np.int64]:
    """Numbers of the misinformative tiles with the most annotation, one a film, five at most.

    Parameters
    ----------
    kinds : object, (n,)
        Of `agreement.tile_classes`.
    annotation : float64, (n,)
        Share of each tile; NaN where there is no truth.
    films : object, (n,)
        Film of each tile.
    """
    order = np.argsort(-np.nan_to_num(annotation), kind="stable")
    chosen: list[int] = []
    used: set[Any] = set()
    for i in order.tolist():
        if kinds[i] == agreement.MISINFORMATIVE and films[i] not in used:
            chosen.append(i)
            used.add(films[i])
        if len(chosen) == EXEMPLARS:
            break
    return np.array(chosen, dtype=np.int64)


def _load(
    workspace: Workspace, tile_keys: Sequence[str], size_px: int
) -> tuple[pd.DataFrame, npt.NDArray[np.uint16]]:
    """Rows and pixels of all tiles that are not black, pixels at the network's size."""
    frames, blocks = [], []
    columns = ["tile_id", "mammogram_id", "x", "y", "width", "height", "is_black", "pixels_index"]
    for key in sorted(tile_keys):
        frame = read_index(workspace, key, columns).to_pandas()
        frame = frame[~frame["is_black"]].sort_values("pixels_index")
        frames.append(frame)
        for block in read_pixels(workspace, key, frame["pixels_index"].to_numpy(np.int64)):
            small = [thumbnails.shrink(t, size_px, size_px) for t in block]
            blocks.append(np.stack(small))
    whole = pd.concat(frames, ignore_index=True)
    if len(whole) < 2 * BATCH // 8:
        raise MammosiftError(
            f"only {len(whole)} tiles are not black, too few to train on; use more films, or a "
            "smaller --tile-size-px."
        )
    return whole, np.concatenate(blocks)


def _classes(
    frame: pd.DataFrame, sources: Mapping[str, str], truth: Path
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float64]]:
    """What tiles are by the truth, and their share of annotation; ambiguous where there is none."""
    shares = np.full((len(frame), 3), np.nan)
    found = 0
    for film, rows in frame.groupby("mammogram_id", sort=False):
        file = _truth_of(sources[str(film)], truth)
        if file is None:
            continue
        found += 1
        boxes = rows[["x", "y", "width", "height"]].to_numpy(np.int64)
        shares[rows.index.to_numpy()] = agreement.truth_shares(_read_truth(file), boxes)
    if not found:
        raise InputError(
            f"--truth {truth} has a picture for none of the films; they are called like the film, "
            "with the ending .png."
        )
    return agreement.tile_classes(shares), shares[:, 1]


def _truth_of(source: str, folder: Path) -> Path | None:
    path = PurePosixPath(source)
    for name in (path.stem, f"{path.parent.name}_{path.stem}"):
        if (file := folder / f"{name}.png").is_file():
            return file
    return None


def _read_truth(file: Path) -> npt.NDArray[np.uint8]:
    import cv2

    picture = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 2 or picture.dtype != np.uint8:
        raise InputError(f"{file} is no grey picture of 8 bits, so it is no pixel truth.")
    return np.asarray(picture, np.uint8)
