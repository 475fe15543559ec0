"""Stage: what each cluster holds, so that a person can decide on clusters and not on tiles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from storage.manifest import SPLITS
from storage.schemas import EVIDENCE
from storage.tile_shards import PLANTED_INDEX, read_index, read_pixels
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint
from tasks.kernels.cluster_names import ClusterFigures, cluster_name

KIND = "evidence"
TABLE = "evidence.parquet"
EMBEDDINGS, ENCODERS, CLUSTERS = "embeddings", "encoders", "clusters"
BLOCK_ROWS = 64 * 1024
OUTLINE = (0.05, 0.95)
"""Shares of breast between which a tile shows the outline of it."""
TISSUE = 0.95
"""Share of breast from which on a tile counts for the brightness of the run's tissue."""

_BOX = ["x", "y", "width", "height"]
_MANIFEST_COLUMNS = ["tile_id", "mammogram_id", "patient_key", "scanner", *_BOX, "mean"]
_MANIFEST_COLUMNS += ["decision", "misinformative_score", "cluster_label"]


@dataclass(frozen=True)
class EvidenceSettings:
    """The settings that the evidence depends on."""

    misinformative_threshold: float


@dataclass
class Tally:
    """What is counted and summed of one cluster, or of the run's tissue."""

    size: int = 0
    flagged: int = 0
    review: int = 0
    outline: int = 0
    rim: int = 0
    films: int = 0
    breast: float = 0.0
    foreign: float = 0.0
    brightness: float = 0.0
    brightness_squared: float = 0.0
    scanners: Counter[str] = field(default_factory=Counter)
    patients: set[str] = field(default_factory=set)

    def add(self, rows: pd.DataFrame) -> None:
        """Count rows of one shard: films lie in one shard each."""
        self.size += len(rows)
        self.flagged += int(rows["is_flagged"].sum())
        self.review += int(rows["is_review"].sum())
        self.outline += int(rows["breast_fraction"].between(*OUTLINE, inclusive="neither").sum())
        self.rim += int(rows["is_rim"].sum())
        self.films += rows["mammogram_id"].nunique()
        mean = rows["mean"].to_numpy(np.float64)
        self.breast += float(rows["breast_fraction"].sum())
        self.foreign += float(rows["foreign_fraction"].sum())
        self.brightness += float(mean.sum())
        self.brightness_squared += float((mean**2).sum())
        self.scanners.update(rows["scanner"].dropna())
        self.patients.update(rows["patient_key"])

    def plain(self) -> list[Any]:
        """All of it as JSON would have it: what the key of the evidence is made of."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return [*(sorted(v) if isinstance(v, set) else v for v in values.values())]


def gather_evidence(
    workspace_uri: str,
    parts: Sequence[tuple[str, str]],
    clustered: str,
    encoder: str,
    settings: EvidenceSettings,
) -> ShardRef:
    """Say of each cluster what it holds, unless that was said of the same manifest.

    Read shard by shard. Flagged is a tile that scores at least the threshold or is in review. The
    planted tiles, those of a sample of films with annotations drawn on, are encoded and counted
    with the cluster of their nearest tile; where no shard has any, their columns are null.

    Parameters
    ----------
    workspace_uri : str
        Of a workspace whose manifest is published.
    parts : sequence of (str, str)
        Tile shards, each with the embedding shard of it; their order changes nothing.
    clustered, encoder : str
        Keys of the clustering and of the encoder.
    settings : EvidenceSettings
        Threshold.

    Returns
    -------
    ShardRef
        Of kind ``evidence``: ``evidence.parquet``, schema ``storage.schemas.EVIDENCE``, one row a
        cluster by its label. Counts: clusters (the noise is none), planted.
    """
    workspace = Workspace.open(workspace_uri)
    parts = sorted(parts)
    clusters, tissue = _tallies(workspace, parts, settings.misinformative_threshold)
    code = source_fingerprint(
        "models.autoencoder",
        "models.checkpoints",
        "models.encoding",
        "models.neighbours",
        "models.scaling",
        "tasks.evidence",
        "tasks.kernels.cluster_names",
    )
    counted = [[label, tally.plain()] for label, tally in clusters.items()]
    key = content_key(KIND, parts, clustered, encoder, counted, tissue.plain(), code)
    return workspace.made(
        KIND, key, lambda writer: _write(writer, parts, clustered, encoder, clusters, tissue)
    )


def _write(
    writer: ShardWriter,
    parts: Sequence[tuple[str, str]],
    clustered: str,
    encoder: str,
    clusters: dict[int, Tally],
    tissue: Tally,
) -> None:
    planted = planted_by_cluster(writer.workspace, parts, clustered, encoder)
    rows = evidence_rows(clusters, tissue, planted)
    writer.write_table(TABLE, pa.Table.from_pylist(rows, schema=EVIDENCE))
    writer.rows = len(rows)
    writer.counts = {
        "clusters": sum(label >= 0 for label in clusters),
        "planted": sum((planted or {}).values()),
    }


# -- what the tiles say ----------------------------------------------------------------------


def _tallies(
    workspace: Workspace, parts: Sequence[tuple[str, str]], threshold: float
) -> tuple[dict[int, Tally], Tally]:
    """Tallies by cluster label, rising, and of the run's tissue."""
    clusters: dict[int, Tally] = {}
    tissue = Tally()
    for key, _ in parts:
        rows = _rows(workspace, key, threshold)
        for label, members in rows.groupby("cluster_label", sort=True):
            clusters.setdefault(int(str(label)), Tally()).add(members)
        tissue.add(rows[rows["breast_fraction"] >= TISSUE])
    return dict(sorted(clusters.items())), tissue


def _rows(workspace: Workspace, key: str, threshold: float) -> pd.DataFrame:
    """Tiles of a shard that are in a cluster or in the noise, in the order of their ids."""
    names = [f"manifest/split={split}/{key}.parquet" for split in SPLITS]
    tables = [
        workspace.read_table(name, columns=_MANIFEST_COLUMNS)
        for name in names
        if workspace.exists(name)
    ]
    rows = pa.concat_tables(tables).to_pandas().sort_values("tile_id", ignore_index=True)
    review = rows["decision"].eq("review")
    rows = rows.assign(
        is_rim=_at_rim(rows),
        is_review=review,
        is_flagged=review | rows["misinformative_score"].ge(threshold),
    )
    rows = rows[rows["cluster_label"].notna()].astype({"cluster_label": np.int64})
    columns = ["tile_id", "breast_fraction", "foreign_fraction"]
    shares = read_index(workspace, key, columns).to_pandas()
    shares = shares.astype(dict.fromkeys(columns[1:], np.float64))
    both: pd.DataFrame = rows.merge(shares, on="tile_id", how="left", validate="one_to_one")
    return both


def _at_rim(rows: pd.DataFrame) -> pd.Series:
    """Whether each tile lies in the outermost row or column of its film's tiles."""
    film = rows["mammogram_id"]
    at_rim = pd.Series(False, rows.index)
    for low, size in (("x", "width"), ("y", "height")):
        high = rows[low] + rows[size]
        first, last = rows[low].groupby(film), high.groupby(film)
        at_rim |= (rows[low] == first.transform("min")) | (high == last.transform("max"))
    return at_rim


def evidence_rows(
    clusters: dict[int, Tally], tissue: Tally, planted: dict[int, int] | None
) -> list[dict[str, Any]]:
    """Rows of the table.

    Parameters
    ----------
    clusters : dict of int to Tally
        By label.
    tissue : Tally
        Of all tiles inside the breast.
    planted : dict of int to int, optional
        Planted tiles by the label of the cluster that they fall into; None where there are none.
    """
    n = max(1, tissue.size)
    mean = tissue.brightness / n
    spread = math.sqrt(max(0.0, tissue.brightness_squared / n - mean**2))
    total = sum(tally.size for tally in clusters.values())
    all_planted = sum(planted.values()) if planted else 0
    out = []
    for label, tally in clusters.items():
        here = (planted or {}).get(label, 0) if all_planted else None
        share = None if here is None else here / all_planted
        figures = ClusterFigures(
            cluster_label=label,
            breast_fraction=tally.breast / tally.size,
            foreign_fraction=tally.foreign / tally.size,
            brightness=tally.brightness / tally.size,
            outline_share=tally.outline / tally.size,
            rim_share=tally.rim / tally.size,
            planted=here,
            planted_lift=None if share is None else share * total / tally.size,
        )
        known = sorted(tally.scanners.items(), key=lambda item: (-item[1], item[0]))
        out.append(
            {
                **vars(figures),
                "name": cluster_name(figures, tissue_brightness=mean, tissue_spread=spread),
                "size": tally.size,
                "flagged_share": tally.flagged / tally.size,
                "review_share": tally.review / tally.size,
                "films": tally.films,
                "patients": len(tally.patients),
                "scanner": known[0][0] if known else None,
                "scanner_share": known[0][1] / tally.size if known else None,
                "planted_share": share,
            }
        )
    return out


# -- what the planted tiles say --------------------------------------------------------------


def planted_by_cluster(
    workspace: Workspace, parts: Sequence[tuple[str, str]], clustered: str, encoder: str
) -> dict[int, int] | None:
    """Number of planted tiles whose nearest tile lies in each cluster; None where there are none.

    The search is exact, one block of embeddings in memory at a time; at equal distance the earlier
    shard and row is taken.

    Parameters
    ----------
    workspace : Workspace
        Where all of it lies.
    parts : sequence of (str, str)
        Tile and embedding shards, in order.
    clustered, encoder : str
        Keys.
    """
    from models.neighbours import nearest
    from models.scaling import fit_scaler

    queries = list(_planted(workspace, [key for key, _ in parts], encoder))
    if not queries:
        return None
    keys = [key for _, key in parts]
    scaler = fit_scaler(block for key in keys for _, block in _blocks(workspace, key))
    scaled = scaler.transform(np.concatenate(queries))
    best = np.full(len(scaled), np.inf, np.float32)
    label = np.full(len(scaled), -1, np.int64)
    for key in keys:
        labels = workspace.shard(CLUSTERS, clustered).table(f"{key}.parquet", ["cluster_label"])
        label_of = labels["cluster_label"].to_numpy()
        for start, block in _blocks(workspace, key):
            if len(block):
                indices, distances = nearest(scaled, scaler.transform(block), 1)
                closer = distances[:, 0] < best
                best[closer] = distances[closer, 0]
                label[closer] = label_of[start + indices[closer, 0]]
    return {int(k): int(n) for k, n in zip(*np.unique(label, return_counts=True), strict=True)}


def _planted(
    workspace: Workspace, tile_keys: Sequence[str], encoder: str
) -> Iterator[npt.NDArray[np.float32]]:
    """Embeddings of the tiles that something was drawn on, (n, dim) each."""
    from models import checkpoints, encoding

    model = None
    for key in tile_keys:
        if not workspace.exists("tiles", key, PLANTED_INDEX):
            continue
        table = workspace.shard("tiles", key).table(
            PLANTED_INDEX, ["planted_fraction", "is_black", "pixels_index"]
        )
        index = table.to_pandas()
        drawn = (index["planted_fraction"] > 0) & ~index["is_black"]
        rows = index.loc[drawn & index["pixels_index"].notna(), "pixels_index"]
        if not len(rows):
            continue
        if model is None:
            saved = workspace.shard(ENCODERS, encoder)
            saved.check()
            model = checkpoints.from_bytes(
                saved.read_bytes("weights.safetensors"), saved.read_bytes("config.json").decode()
            )
        for tiles in read_pixels(workspace, key, np.sort(rows.to_numpy(np.int64)), planted=True):
            yield encoding.encode(model, tiles)


def _blocks(workspace: Workspace, key: str) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    array = workspace.shard(EMBEDDINGS, key).array("embeddings.zarr")
    for start in range(0, max(1, array.shape[0]), BLOCK_ROWS):
        yield start, np.asarray(array[start : start + BLOCK_ROWS])
