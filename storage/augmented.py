"""Augmented copies of a run's training tiles: pixels in shards, and one table beside the manifest.

The table belongs to one manifest, by its run: a run takes the old one away before it publishes, so
what lies there fits.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import WorkspaceError
from storage.workspace import Workspace

KIND = "augmented"
"""Kind of the shards, and folder of the table."""
ROWS, PIXELS = "copies.parquet", "pixels.zarr"
TABLE = f"{KIND}/{ROWS}"

SCHEMA = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("source_tile_id", pa.string(), nullable=False),
        pa.field("mammogram_id", pa.string(), nullable=False),
        pa.field("patient_key", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("operations", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("view_seed", pa.int64(), nullable=False),
        pa.field("pixels_uri", pa.string(), nullable=False),
        pa.field("pixels_index", pa.int64(), nullable=False),
    ]
)
"""One row a copy. ``operations``: what was done to it, in order, with the values drawn, as JSON;
``seed`` is the run's, ``view_seed`` the copy's own."""


def withdraw(workspace: Workspace) -> None:
    """Take the table away, before another manifest is published."""
    if workspace.exists(TABLE):
        workspace.fs.rm(workspace.path(TABLE))


def publish(workspace: Workspace, keys: Sequence[str], run_id: str) -> None:
    """Write the rows of shards as one table, for the manifest of a run."""
    schema = SCHEMA.with_metadata({"run_id": run_id})
    data = io.BytesIO()
    with pq.ParquetWriter(data, schema, compression="zstd") as writer:
        for key in keys:
            rows = workspace.shard(KIND, key).table(ROWS)
            writer.write_table(rows.replace_schema_metadata(schema.metadata))
    workspace.write_bytes(TABLE, data.getvalue())


def read(workspace: Workspace, run_ids: Sequence[str]) -> pa.Table:
    """Copies that belong to the manifest of these runs.

    Raises
    ------
    WorkspaceError
        There are none, or they belong to another manifest.
    """
    if not workspace.exists(TABLE):
        raise WorkspaceError(
            f"{workspace.uri} holds no augmented copies for its manifest. Make them with "
            "augment_copies and augment_labels of mammosift run."
        )
    table = workspace.read_table(TABLE)
    owner = (table.schema.metadata or {}).get(b"run_id", b"").decode()
    if set(run_ids) - {owner}:
        raise WorkspaceError(
            f"{workspace.path(TABLE)} belongs to the manifest of run {owner}, not to this one. Run "
            "again to publish both."
        )
    return table
