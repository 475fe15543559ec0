"""The manifest: what a training job reads. Hive-partitioned by split, published in one step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from storage.schemas import MANIFEST
from storage.workspace import Workspace, _writer_name

PREVIOUS = ".manifest.previous"
SPLITS = ("train", "validation", "test")


class ManifestWriter:
    """Parts written aside by any number of workers; ``publish`` swaps them in at once.

    Parameters
    ----------
    workspace : Workspace
        Where the manifest will lie.
    staging : str
        Name of the folder aside, the same for all workers of a run.
    """

    def __init__(self, workspace: Workspace, staging: str) -> None:
        self.workspace, self.staging = workspace, staging

    @staticmethod
    def staging_name() -> str:
        """Return a folder name that later runs recognise as abandoned if this one dies."""
        return f".manifest.{_writer_name()}.partial"

    def write_part(self, part: str, split: str, table: pa.Table) -> None:
        """Write one part of one split; an empty part is not written."""
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: one of {', '.join(SPLITS)}")
        if table.num_rows:
            self.workspace.write_table(
                f"{self.staging}/split={split}/{part}.parquet", table.cast(MANIFEST)
            )

    def publish(self) -> None:
        """Replace the manifest by the parts written."""
        source, target = (self.workspace.path(n) for n in (self.staging, "manifest"))
        if not self.workspace.is_local:
            if self.workspace.exists("manifest"):
                self.workspace.fs.rm(target, recursive=True)
            self.workspace.fs.mv(source, target, recursive=True)
            return
        Path(source).mkdir(parents=True, exist_ok=True)
        recover(self.workspace)
        if Path(target).exists():
            Path(target).rename(self.workspace.path(PREVIOUS))
        Path(source).rename(target)
        shutil.rmtree(self.workspace.path(PREVIOUS), ignore_errors=True)


def recover(workspace: Workspace) -> None:
    """Put the manifest back that a run killed while publishing had moved aside."""
    if not workspace.is_local:
        return
    previous, target = (Path(workspace.path(name)) for name in (PREVIOUS, "manifest"))
    if previous.exists() and not target.exists():
        previous.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


def read_manifest(workspace: Workspace, columns: list[str] | None = None) -> pa.Table:
    """Whole manifest of a workspace with its ``split`` column, in published order."""
    partitioning = ds.partitioning(pa.schema([("split", pa.string())]), flavor="hive")
    dataset = ds.dataset(
        workspace.path("manifest"),
        filesystem=None if workspace.is_local else workspace.fs,
        format="parquet",
        partitioning=partitioning,
        schema=pa.schema([*MANIFEST, pa.field("split", pa.string())], metadata=MANIFEST.metadata),
    )
    return dataset.to_table(columns=columns)
