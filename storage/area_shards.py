"""How the shards of a measuring are called and what is in them: what its stages rely on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from storage.workspace import ShardRef, Workspace

SAMPLES, COLOURS, AREAS = "samples", "colours", "areas"
"""Kinds of shards."""
TABLE = "areas/areas.parquet"
IMAGES, ROWS, FIT, POINTS = "images.parquet", "areas.parquet", "fit.json", "points.parquet"
PICTURES = "mammograms/mammograms.parquet"
"""The table of pictures found, excluded ones too."""
CLASSES = {("photographs", 2): ("dark", "light"), ("films", 2): ("fat", "dense"),
           ("films", 3): ("background", "fat", "dense")}  # fmt: skip
"""Names of clusters, from dark to light, where they have any."""

EXCLUSION = [
    pa.field("excluded_reason", pa.string()),
    pa.field("excluded_rule", pa.string()),
    pa.field("excluded_remedy", pa.string()),
]
SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("measured_px", pa.int64(), nullable=False),
        pa.field("bits", pa.int32()),
        pa.field("pixels", pa.large_binary()),
        *EXCLUSION,
    ]
)
AREAS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("cluster_name", pa.string()),
        pa.field("pixel_count", pa.int64(), nullable=False),
        pa.field("measured_px", pa.int64(), nullable=False),
        pa.field("image_px", pa.int64(), nullable=False),
        pa.field("area_fraction", pa.float64()),
        pa.field("area_mm2", pa.float64()),
        pa.field("largest_region_px", pa.int64(), nullable=False),
        pa.field("largest_region_mm2", pa.float64()),
        pa.field("regions", pa.int64(), nullable=False),
        pa.field("pixel_spacing_mm", pa.float64()),
        pa.field("colour", pa.string(), nullable=False),
        pa.field("lightness", pa.float64(), nullable=False),
    ]
)
"""One row a picture and cluster; what is published begins with source and source_sha256."""
IMAGES_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("thumbnail_jpeg", pa.binary()),
        pa.field("labels_png", pa.binary()),
        *EXCLUSION,
    ]
)


def read_fit(workspace: Workspace, key: str) -> dict[str, Any]:
    """What `fit_colours` wrote in ``fit.json``."""
    fit: dict[str, Any] = json.loads(workspace.shard(COLOURS, key).read_bytes(FIT))
    return fit


def cluster_names(kind: str, n_clusters: int) -> Sequence[str | None]:
    """Names of the clusters from dark to light; None where they have none."""
    return CLASSES.get((kind, n_clusters), (None,) * n_clusters)


def exclusions(workspace: Workspace, refs: Sequence[ShardRef]) -> dict[str, dict[str, str]]:
    """What the stages found to be unusable, by image_id."""
    out: dict[str, dict[str, str]] = {}
    for ref in refs:
        if ref.counts["excluded"]:
            columns = ["image_id", *(field.name for field in EXCLUSION)]
            for row in workspace.shard(ref.kind, ref.key).table(IMAGES, columns).to_pylist():
                if row["excluded_reason"] is not None:
                    out[row.pop("image_id")] = row
    return out
