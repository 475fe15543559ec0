"""What a run must come to, wherever its workers, server and workspace are."""

from __future__ import annotations

from pathlib import Path

from storage.manifest import read_manifest
from storage.workspace import Workspace, table_bytes


def manifest_bytes(out: str | Path) -> bytes:
    """Parquet bytes of a workspace's manifest, its run_id aside."""
    return table_bytes(read_manifest(Workspace.open(out)).drop_columns(["run_id"]))
