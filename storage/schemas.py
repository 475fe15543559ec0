"""Arrow schemas of the tables in a workspace. The manifest's is a contract."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = "1"
"""Of the manifest; a change of a column's meaning bumps it."""

LESION = pa.struct(
    [
        ("kind", pa.string()),
        ("pathology", pa.string()),
        ("x_px", pa.float32()),
        ("y_px", pa.float32()),
        ("radius_px", pa.float32()),
        ("source", pa.string()),
    ]
)

MAMMOGRAMS = pa.schema(
    [
        pa.field("mammogram_id", pa.string()),
        pa.field("patient_key", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string()),
        pa.field("file_size_bytes", pa.int64()),
        pa.field("modified_ns", pa.int64()),
        pa.field("file_format", pa.string()),
        pa.field("rows", pa.int32()),
        pa.field("columns", pa.int32()),
        pa.field("bits_stored", pa.int16()),
        pa.field("pixel_spacing_mm", pa.float32()),
        pa.field("laterality", pa.string()),
        pa.field("view", pa.string()),
        pa.field("scanner", pa.string()),
        pa.field("grey_scale", pa.string()),
        pa.field("label", pa.string()),
        pa.field("breast_density", pa.string()),
        pa.field("role", pa.string(), nullable=False),
        pa.field("finding", pa.string()),
        pa.field("lesions", pa.list_(LESION), nullable=False),
        pa.field("excluded_reason", pa.string()),
        pa.field("excluded_rule", pa.string()),
        pa.field("excluded_remedy", pa.string()),
    ]
)

INTENSITY_FIGURES = ("dark_fraction", "mean", "std", "p01", "p99", "entropy")
"""Per tile, on the normalised scale [0, 1]; entropy in bits of the 256-bin histogram."""

TILES = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("mammogram_id", pa.string(), nullable=False),
        pa.field("x", pa.int32(), nullable=False),
        pa.field("y", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("lesion_fraction", pa.float32()),
        *(pa.field(name, pa.float32(), nullable=False) for name in INTENSITY_FIGURES),
        pa.field("is_black", pa.bool_(), nullable=False),
        pa.field("breast_fraction", pa.float32()),
        pa.field("foreign_fraction", pa.float32()),
        pa.field("context_score", pa.float32()),
        pa.field("pixels_index", pa.int64()),
    ]
)
"""Rows of a tile shard. Nothing in them depends on where the film lies or what it is called. What
comes from the film's map is null where tiles are judged without it."""

DUPLICATES = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string(), nullable=False),
        pa.field("likeness", pa.float32(), nullable=False),
    ]
)
"""A tile, the one that it nearly equals (and that is no duplicate itself), and the correlation of
the two."""

EVIDENCE = pa.schema(
    [
        pa.field("cluster_label", pa.int32(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("flagged_share", pa.float64(), nullable=False),
        pa.field("review_share", pa.float64(), nullable=False),
        pa.field("breast_fraction", pa.float64(), nullable=False),
        pa.field("foreign_fraction", pa.float64(), nullable=False),
        pa.field("brightness", pa.float64(), nullable=False),
        pa.field("outline_share", pa.float64(), nullable=False),
        pa.field("rim_share", pa.float64(), nullable=False),
        pa.field("films", pa.int64(), nullable=False),
        pa.field("patients", pa.int64(), nullable=False),
        pa.field("scanner", pa.string()),
        pa.field("scanner_share", pa.float64()),
        pa.field("planted", pa.int64()),
        pa.field("planted_share", pa.float64()),
        pa.field("planted_lift", pa.float64()),
    ]
)
"""One row a cluster, the noise (-1) included: what it holds, and a plain name for it
(``tasks.evidence``)."""

MANIFEST = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("mammogram_id", pa.string(), nullable=False),
        pa.field("patient_key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("x", pa.int32(), nullable=False),
        pa.field("y", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("pixel_spacing_mm", pa.float32()),
        pa.field("laterality", pa.string()),
        pa.field("view", pa.string()),
        pa.field("scanner", pa.string()),
        pa.field("label", pa.string()),
        pa.field("lesion_fraction", pa.float32()),
        *(pa.field(name, pa.float32(), nullable=False) for name in INTENSITY_FIGURES),
        pa.field("decision", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("misinformative_score", pa.float32()),
        pa.field("annotation_score", pa.float32()),
        pa.field("nearest_exemplar", pa.string()),
        pa.field("duplicate_of", pa.string()),
        pa.field("reviewed_by", pa.string()),
        pa.field("reviewed_at", pa.timestamp("ms", tz="UTC")),
        pa.field("cluster_label", pa.int32()),
        pa.field("outlier_score", pa.float32()),
        pa.field("pixels_uri", pa.string()),
        pa.field("pixels_index", pa.int64()),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("schema_version", pa.string(), nullable=False),
    ],
    metadata={b"schema_version": SCHEMA_VERSION.encode()},
)
"""Columns inside a file of ``manifest/split=<train|validation|test>/``; ``split`` is the folder."""
