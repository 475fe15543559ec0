"""The manifest: what a training job reads. Hive-partitioned by split, published in one step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from storage.errors import WorkspaceError
from storage.schemas import MANIFEST
from storage.workspace import Workspace, _writer_name

PREVIOUS = ".manifest.previous"
PUBLISHING = ".manifest.publishing.json"
"""On an object store: some parts of the manifest are there, and some are not."""
SPLITS = ("train", "validation", "test")

Filters: TypeAlias = "pc.Expression | list[tuple[str, str, Any]] | list[list[tuple[str, str, Any]]]"


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
        """Replace the manifest by the parts written.

        On a disk two renames do it. An object store has no folder to move: a note lies beside the
        manifest until its last part is there, and `read_manifest` refuses while it does.
        """
        source, target = (self.workspace.path(n) for n in (self.staging, "manifest"))
        if not self.workspace.is_local:
            self.workspace.write_json(PUBLISHING, {"parts_from": self.staging})
            if self.workspace.exists("manifest"):
                self.workspace.fs.rm(target, recursive=True)
            for part in self.workspace.fs.find(source):
                self.workspace.fs.mv(part, target + part.removeprefix(source))
            self.workspace.fs.rm(self.workspace.path(PUBLISHING))
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


def read_manifest(
    workspace: Workspace | str | Path,
    columns: list[str] | None = None,
    filters: Filters | None = None,
) -> pa.Table:
    """Manifest of a workspace with its ``split`` column, in published order.

    Parameters
    ----------
    workspace : Workspace, str or Path
        A workspace, its folder, or any URI that fsspec knows.
    columns : list of str, optional
        These only; default: all (docs/manifest.md).
    filters : pyarrow.compute.Expression or list, optional
        Rows wanted: an expression, ``pc.field("view") == "MLO"``, or tuples as in pandas and
        pyarrow, ``[("view", "==", "MLO"), ("label", "in", ["benign", "malignant"])]`` (all must
        hold; of a list of such lists, one). Default: all rows.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    WorkspaceError
        There is no workspace, no manifest in it, or one of which parts are missing (a run on an
        object store publishes it, or was killed while it did).
    ValueError
        A column or filter that the manifest cannot answer.
    """
    if not isinstance(workspace, Workspace):
        workspace = Workspace.open(workspace)
    if not workspace.exists("manifest"):
        raise WorkspaceError(
            f"{workspace.uri} holds no manifest: no run in it has finished. "
            "Finish one with: mammosift run --out"
        )
    if not workspace.is_local and workspace.exists(PUBLISHING):
        raise WorkspaceError(
            f"the manifest of {workspace.uri} is not whole: a run publishes it just now, or was "
            "killed while it did. Wait, or give the run's command again."
        )
    partitioning = ds.partitioning(pa.schema([("split", pa.string())]), flavor="hive")
    schema = pa.schema([*MANIFEST, pa.field("split", pa.string())], metadata=MANIFEST.metadata)
    dataset = ds.dataset(
        workspace.path("manifest"),
        filesystem=None if workspace.is_local else workspace.fs,
        format="parquet",
        partitioning=partitioning,
        schema=schema,
    )
    try:
        scanner = dataset.scanner(columns=columns, filter=_expression(filters))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as e:
        raise ValueError(
            f"the manifest cannot answer columns={columns} with filters={filters} "
            f"({str(e).splitlines()[0]}). Its columns are {', '.join(schema.names)}."
        ) from e
    return scanner.to_table()


def _expression(filters: Filters | None) -> pc.Expression | None:
    if filters is None or isinstance(filters, pc.Expression):
        return filters
    try:
        return pq.filters_to_expression(filters) if filters else None
    except (ValueError, TypeError) as e:
        raise ValueError(
            f"filters={filters!r}: an expression of pyarrow, or tuples (column, operator, value) "
            f"({e})."
        ) from e
