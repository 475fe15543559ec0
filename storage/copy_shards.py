"""How the shards of an augmentation are called and what is in them: what its stages rely on."""

from __future__ import annotations

import pyarrow as pa

from storage.area_shards import EXCLUSION

COPIES = "augmented"
"""Kind of shards."""
FOLDER = "images"
"""Where the copies lie in the workspace, in the folders of their sources."""
TABLE = "copies/copies.parquet"
ROWS, IMAGES, PREVIEWS = "copies.parquet", "images.parquet", "previews.parquet"
ORIGINAL = "original"

COPIES_SCHEMA = pa.schema(
    [
        pa.field("output", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),
        pa.field("operations", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("view_seed", pa.int64(), nullable=False),
        pa.field("partner_id", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("channels", pa.int32(), nullable=False),
        pa.field("bits", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("output_sha256", pa.string(), nullable=False),
    ]
)
"""One row a copy; what is published begins with source, source_sha256, patient_key and label."""
IMAGES_SCHEMA = pa.schema([pa.field("image_id", pa.string(), nullable=False), *EXCLUSION])
PREVIEWS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("view", pa.string(), nullable=False),
        pa.field("jpeg", pa.binary(), nullable=False),
    ]
)
