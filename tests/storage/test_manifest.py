from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from storage.manifest import PREVIOUS, ManifestWriter, read_manifest, recover
from storage.schemas import MANIFEST, SCHEMA_VERSION
from storage.workspace import Workspace


def rows(*tile_ids: str) -> pa.Table:
    columns = {}
    for field in MANIFEST:
        if field.name == "tile_id":
            values = list(tile_ids)
        elif field.nullable:
            values = [None] * len(tile_ids)
        elif pa.types.is_string(field.type):
            values = ["x"] * len(tile_ids)
        else:
            values = [1] * len(tile_ids)
        columns[field.name] = pa.array(values, field.type)
    return pa.table(columns, schema=MANIFEST)


@pytest.fixture(params=["local", "memory"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    where = tmp_path / "w" if request.param == "local" else f"memory://{tmp_path.name}/m"
    return Workspace.create(where)


def publish(workspace: Workspace, **parts: pa.Table) -> None:
    writer = ManifestWriter(workspace, ManifestWriter.staging_name())
    for split, table in parts.items():
        writer.write_part("p", split, table)
    writer.publish()


def test_what_is_published_reads_back_with_its_split(workspace: Workspace) -> None:
    publish(workspace, train=rows("a", "b"), test=rows("c"))
    table = read_manifest(workspace)
    assert dict(zip(*table.select(["tile_id", "split"]).to_pydict().values(), strict=True)) == {
        "a": "train",
        "b": "train",
        "c": "test",
    }
    assert table.schema.metadata[b"schema_version"] == SCHEMA_VERSION.encode()


def test_publishing_again_replaces_the_manifest_whole(workspace: Workspace) -> None:
    publish(workspace, train=rows("a"), validation=rows("b"))
    publish(workspace, train=rows("c"))
    assert read_manifest(workspace)["tile_id"].to_pylist() == ["c"]


def test_an_unpublished_part_is_not_seen(workspace: Workspace) -> None:
    publish(workspace, train=rows("a"))
    ManifestWriter(workspace, ManifestWriter.staging_name()).write_part("p", "train", rows("b"))
    assert read_manifest(workspace)["tile_id"].to_pylist() == ["a"]


def test_an_unknown_split_is_refused(workspace: Workspace) -> None:
    writer = ManifestWriter(workspace, "s")
    with pytest.raises(ValueError, match="one of train, validation, test"):
        writer.write_part("p", "holdout", rows("a"))


def test_a_manifest_moved_aside_by_a_killed_run_is_put_back(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w")
    publish(workspace, train=rows("a"))
    Path(workspace.path("manifest")).rename(workspace.path(PREVIOUS))  # and here it was killed
    workspace.remove_abandoned()
    recover(workspace)
    assert read_manifest(workspace)["tile_id"].to_pylist() == ["a"]


def test_a_damaged_part_is_not_taken_for_a_wrong_question(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w")
    publish(workspace, train=rows("a"))
    with pytest.raises(ValueError, match=r"cannot answer columns=\['colour'"):
        read_manifest(workspace, columns=["colour"])
    (part,) = Path(workspace.path("manifest")).rglob("*.parquet")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(pa.ArrowInvalid, match="Parquet"):
        read_manifest(workspace, columns=["tile_id"])
