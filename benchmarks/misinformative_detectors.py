"""Detectors that need no peer: the published recipe, plain features, reconstruction, and ours."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from misinformative_tiles import Absent, Findings, Tiles
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models import checkpoints, encoding
from models.dbscan import DBSCANClusterer
from models.scaling import fit_scaler
from storage.embeddings import open_embeddings
from tasks.kernels.agreement import MISINFORMATIVE, TISSUE

PUBLISHED_EPS, PUBLISHED_MIN_SAMPLES = 0.9, 5
EXEMPLARS = 5
HISTOGRAM_BINS = 32
FOREST_SEEDS = 5
PCA_COMPONENTS = 32
FIGURES = ["dark_fraction", "mean", "std", "p01", "p99", "entropy"]
CONTRASTIVE = {"epochs": 10, "batch": 256, "learning_rate": 1e-3, "temperature": 0.5}


def black_screen(tiles: Tiles, _: argparse.Namespace) -> list[Findings]:
    nothing = np.zeros(int(tiles.is_screened.sum()), bool)
    return [Findings("black screen alone", flagged=nothing, seconds=0.0, note="in the run")]


def published(tiles: Tiles, options: argparse.Namespace) -> list[Findings]:
    rows = embeddings(tiles)
    labels = DBSCANClusterer(PUBLISHED_EPS, min_samples=PUBLISHED_MIN_SAMPLES).fit_predict(rows)
    noise, kinds = labels == -1, tiles.kinds()
    bad, tissue = (f"{noise[kinds == kind].mean():.1%}" for kind in (MISINFORMATIVE, TISSUE))
    note = (
        f"{rows.shape[1]} columns, {labels.max() + 1} clusters; in noise, which is rejected: {bad} "
        f"of the misinformative and {tissue} of the tissue tiles that are not black"
    )
    return [
        Findings("published: autoencoder, DBSCAN's noise", flagged=noise, note=note),
        by_exemplars("published: autoencoder, 5 exemplars", rows, tiles, options),
    ]


def histogram(tiles: Tiles, options: argparse.Namespace) -> list[Findings]:
    counts = np.stack([np.histogram(t, HISTOGRAM_BINS, (0, 1))[0] for t in tiles.small])
    share = counts / counts.sum(axis=1, keepdims=True)
    return [by_exemplars("histogram, 5 exemplars", share, tiles, options)]


def contrastive(tiles: Tiles, options: argparse.Namespace) -> list[Findings]:
    rows = contrastive_features(tiles.small, options.seed)
    return [by_exemplars("contrastive (SimCLR-like), 5 exemplars", rows, tiles, options)]


def isolation_forest(tiles: Tiles, options: argparse.Namespace) -> list[Findings]:
    figures = tiles.screened[FIGURES].to_numpy(np.float64)
    steps = np.abs(np.diff(tiles.small, axis=2))
    edges = np.stack([steps.mean(axis=(1, 2)), steps.max(axis=(1, 2))], axis=1)
    return [
        by_forest("isolation forest, intensity figures", figures, options.seed),
        by_forest("isolation forest, these and edges", np.hstack([figures, edges]), options.seed),
    ]


def pca(tiles: Tiles, options: argparse.Namespace) -> list[Findings]:
    from sklearn.decomposition import PCA

    rows = tiles.small.reshape(len(tiles.small), -1)
    model = PCA(min(PCA_COMPONENTS, *rows.shape), random_state=options.seed).fit(rows)
    rebuilt = model.inverse_transform(model.transform(rows))
    error = np.sqrt(np.square(rows - rebuilt).mean(axis=1))
    return [Findings("PCA reconstruction error", score=error, note=NO_THRESHOLD)]


def autoencoder(tiles: Tiles, _: argparse.Namespace) -> list[Findings]:
    workspace = tiles.workspace
    run = workspace.read_json(f"runs/{tiles.table['run_id'].iloc[0]}.json")
    shard = workspace.shard("encoders", run["shards"]["encoder"])
    weights, config = shard.read_bytes("weights.safetensors"), shard.read_bytes("config.json")
    model = checkpoints.from_bytes(weights, config.decode())
    error = np.empty(int(tiles.is_screened.sum()), np.float32)
    for positions, pixels in tiles.blocks():
        error[positions] = encoding.reconstruction_error(model, pixels)
    return [Findings("autoencoder reconstruction error", score=error, note=NO_THRESHOLD)]


def ours_alone(tiles: Tiles, _: argparse.Namespace) -> list[Findings]:
    score = tiles.screened["annotation_score"].to_numpy(np.float64)
    if np.isnan(score).all():
        raise Absent("not in this manifest")
    return [
        Findings(
            "ours, the tile alone (annotation_score)",
            score=score,
            seconds=np.nan,
            note=f"{NO_THRESHOLD}; time: in the run",
        )
    ]


def ours(tiles: Tiles, _: argparse.Namespace) -> list[Findings]:
    table = tiles.screened
    return [
        Findings(
            "ours, with the film (misinformative_score)",
            score=table["misinformative_score"].to_numpy(np.float64),
            flagged=table["decision"].isin(["drop", "review"]).to_numpy(),
            seconds=np.nan,
            note="rules tuned on public films, these among them; time: in the run",
        )
    ]


NO_THRESHOLD = "a ranking without a threshold"
DETECTORS: dict[str, Callable[[Tiles, argparse.Namespace], list[Findings]]] = {
    "black": black_screen,
    "published": published,
    "histogram": histogram,
    "contrastive": contrastive,
    "isolation-forest": isolation_forest,
    "pca": pca,
    "autoencoder": autoencoder,
    "ours-alone": ours_alone,
    "ours": ours,
}


def embeddings(tiles: Tiles) -> NDArray[np.float32]:
    """Embeddings of the tiles that are not black, standardised over all of them."""
    with open_embeddings(tiles.workspace.uri) as found:
        place = {name: i for i, name in enumerate(found.ids.to_pylist())}
        rows = np.asarray(found.rows)[[place[name] for name in tiles.screened["tile_id"]]]
    return fit_scaler([rows]).transform(rows)


def by_exemplars(
    title: str, rows: NDArray[np.floating], tiles: Tiles, options: argparse.Namespace
) -> Findings:
    """Rank by nearness to the nearest exemplar; a draw's own exemplars are left out of it."""
    scores = []
    for chosen in tiles.exemplar_draws(options.exemplar_draws, EXEMPLARS, options.seed):
        gaps = [np.linalg.norm(rows - rows[i], axis=1) for i in chosen]
        score = -np.min(gaps, axis=0)
        score[chosen] = np.nan
        scores.append(score)
    note = f"mean ± sd of {len(scores)} draws; {NO_THRESHOLD}"
    return Findings(title, score=np.stack(scores), note=note)


def by_forest(title: str, rows: NDArray[np.floating], seed: int) -> Findings:
    """Rank by how easily a row is cut off; what is flagged is the first forest's."""
    from sklearn.ensemble import IsolationForest

    forests = [IsolationForest(random_state=seed + i).fit(rows) for i in range(FOREST_SEEDS)]
    score = np.stack([-forest.score_samples(rows) for forest in forests])
    flagged = forests[0].predict(rows) == -1
    return Findings(title, score, flagged, note=f"mean ± sd of {FOREST_SEEDS} forests")


def contrastive_features(small: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Train a small network so that two views of a tile are alike (Chen et al. 2020, SimCLR).

    Returns
    -------
    ndarray of float32, shape (n, 128)
        Of length 1.
    """
    images = torch.from_numpy(small)[:, None]
    epochs, batch = int(CONTRASTIVE["epochs"]), int(CONTRASTIVE["batch"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            _layer(1, 32), _layer(32, 64), _layer(64, 128), _layer(128, 128),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        head = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))
        parameters = [*network.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, CONTRASTIVE["learning_rate"])
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for start in range(0, max(1, len(order) - batch + 1), batch):
                chosen = images[order[start : start + batch]]
                views = torch.cat([_view(chosen), _view(chosen)])
                loss = _contrast(head(network(views)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        network.eval()
        with torch.inference_mode():
            rows = torch.cat([network(part) for part in images.split(1024)])
            return functional.normalize(rows).numpy()


def _layer(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def _view(images: Tensor) -> Tensor:
    """Crop, flip, brighten, stretch and blur with noise, each tile by a draw of its own."""
    n = len(images)
    side = torch.empty(n).uniform_(0.5**0.5, 1)
    flip = torch.randint(0, 2, (2, n)) * 2 - 1
    grid = torch.zeros(n, 2, 3)
    grid[:, 0, 0], grid[:, 1, 1] = side * flip[0], side * flip[1]
    grid[:, :, 2] = (1 - side)[:, None] * torch.empty(n, 2).uniform_(-1, 1)
    where = functional.affine_grid(grid, list(images.shape), align_corners=False)
    out = functional.grid_sample(images, where, align_corners=False, padding_mode="reflection")
    gain, offset = torch.empty(2, n, 1, 1, 1).uniform_(-1, 1)
    out = out * (1 + 0.4 * gain) + 0.1 * offset
    blurred = functional.avg_pool2d(out, 3, stride=1, padding=1, count_include_pad=False)
    out = torch.where(torch.rand(n, 1, 1, 1) < 0.5, blurred, out)
    return out + 0.02 * torch.randn_like(out)


def _contrast(rows: Tensor) -> Tensor:
    """Cross entropy of finding a row's other view among all rows of the batch."""
    rows = functional.normalize(rows)
    likeness = rows @ rows.T / CONTRASTIVE["temperature"]
    likeness.fill_diagonal_(float("-inf"))
    n = len(rows)
    return functional.cross_entropy(likeness, (torch.arange(n) + n // 2) % n)
