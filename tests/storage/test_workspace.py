from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import workspace as ws
from storage.errors import ShardError, WorkspaceError
from storage.workspace import Workspace, content_key

TABLE = pa.table({"tile_id": ["a", "b"], "x": pa.array([1, 2], pa.int32())})


@pytest.fixture(params=["local", "memory"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    """The same facts hold on a local disk and on an object store."""
    where = tmp_path / "w" if request.param == "local" else f"memory://{tmp_path.name}/w"
    return Workspace.create(where)


def write(workspace: Workspace, pixels: np.ndarray, key: str = "k") -> None:
    with workspace.write_shard("tiles", key) as writer:
        array = writer.array("pixels.zarr", pixels.shape[1:], "uint16", {})
        array.append(pixels)
        array.close()
        writer.write_table("index/tiles.parquet", TABLE)
        writer.rows = len(pixels)
        writer.counts = {"tiles": len(pixels)}


def test_a_shard_reads_back_as_it_was_written(workspace: Workspace) -> None:
    pixels = np.arange(2 * 4 * 4, dtype=np.uint16).reshape(2, 4, 4)
    write(workspace, pixels)
    shard = workspace.shard("tiles", "k")
    shard.check(deep=True)
    np.testing.assert_array_equal(shard.array("pixels.zarr")[:], pixels)
    assert shard.table("index/tiles.parquet").equals(TABLE)
    assert shard.ref().counts == {"tiles": 2}


def test_a_shard_whose_writer_failed_does_not_exist(workspace: Workspace) -> None:
    with (  # noqa: PT012
        pytest.raises(RuntimeError, match="half way"),
        workspace.write_shard("tiles", "k") as w,
    ):
        w.write_table("index/tiles.parquet", TABLE)
        raise RuntimeError("half way")
    assert not workspace.shard("tiles", "k").is_complete()
    with pytest.raises(ShardError, match="not complete"):
        workspace.shard("tiles", "k").record()
    write(workspace, np.ones((1, 4, 4), np.uint16))
    assert workspace.shard("tiles", "k").is_complete()


def test_a_missing_chunk_is_an_error_and_not_zeros(workspace: Workspace) -> None:
    write(workspace, np.ones((3, 4, 4), np.uint16))
    chunk = workspace.path("tiles/k/pixels.zarr/c/0/0/0")
    workspace.fs.rm(chunk)
    with pytest.raises(ShardError, match="missing or altered"):
        workspace.shard("tiles", "k").check()


def test_an_altered_byte_is_found_by_the_deep_check(workspace: Workspace) -> None:
    write(workspace, np.ones((3, 4, 4), np.uint16))
    chunk = workspace.path("tiles/k/pixels.zarr/c/0/0/0")
    data = bytearray(workspace.fs.cat_file(chunk))
    data[-1] ^= 1
    workspace.fs.pipe_file(chunk, bytes(data))
    with pytest.raises(ShardError, match="missing or altered"):
        workspace.shard("tiles", "k").check(deep=True)


def test_no_path_leads_out_of_the_workspace(workspace: Workspace) -> None:
    for path in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(ValueError, match="out of the workspace"):
            workspace.path(path)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(WorkspaceError, match=r"thesis\.docx"):
        Workspace.create(tmp_path)


def test_opening_what_is_no_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="is no workspace"):
        Workspace.open(tmp_path)


def test_a_workspace_of_a_later_layout_is_refused(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path)
    workspace.write_json(ws.MARKER, {"layout_version": 99})
    with pytest.raises(WorkspaceError, match="layout version 99"):
        Workspace.create(tmp_path)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (50, 32, 32), np.uint16)
    records = []
    for name in ("one", "two"):
        workspace = Workspace.create(tmp_path / name)
        write(workspace, pixels)
        records.append(workspace.shard("tiles", "k").record()["files"])
    assert records[0] == records[1]


@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sizes=st.lists(st.integers(0, 7), max_size=6))
def test_rows_appended_in_any_portions_read_back_in_order(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws, "ZARR_SHARD_BYTES", 3 * 8)
    monkeypatch.setattr(ws, "ZARR_CHUNK_BYTES", 8)
    workspace = Workspace.create(tmp_path / content_key(sizes))
    rows = np.arange(4 * sum(sizes), dtype=np.uint16).reshape(-1, 2, 2)
    with workspace.write_shard("tiles", content_key(*sizes)) as writer:
        array = writer.array("pixels.zarr", (2, 2), "uint16", {})
        start = 0
        for n in sizes:
            array.append(rows[start : start + n])
            start += n
        array.close()
    read = workspace.shard("tiles", content_key(*sizes)).array("pixels.zarr")
    np.testing.assert_array_equal(read[:], rows)


def test_what_a_killed_writer_left_is_removed_and_what_lives_stays(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w")
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    host = os.uname().nodename
    dead = Path(workspace.path(f"tiles/.k.{host}~{int(child.stdout)}~abc.partial"))
    alive = Path(workspace.path(f"tiles/.k.{host}~{os.getpid()}~abc.partial"))
    elsewhere = Path(workspace.path(f"tiles/.k.other-host~{int(child.stdout)}~abc.partial"))
    for folder in (dead, alive, elsewhere):
        folder.mkdir(parents=True)
    assert workspace.remove_abandoned() == 1
    assert [f.exists() for f in (dead, alive, elsewhere)] == [False, True, True]


def test_two_writers_of_one_key_leave_one_whole_shard(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w")
    pixels = np.ones((2, 4, 4), np.uint16)
    with workspace.write_shard("tiles", "k") as slow:
        slow.write_table("index/tiles.parquet", TABLE)
        write(workspace, pixels)
    workspace.shard("tiles", "k").check(deep=True)
    np.testing.assert_array_equal(workspace.shard("tiles", "k").array("pixels.zarr")[:], pixels)
    assert [p.name for p in Path(workspace.path("tiles")).iterdir()] == ["k"]


def test_a_shard_with_a_lost_file_is_made_again(workspace: Workspace) -> None:
    def make(writer: ws.ShardWriter) -> None:
        writer.write_table("index/tiles.parquet", TABLE)
        writer.rows = 2

    assert not workspace.made("tiles", "k", make).reused
    assert workspace.made("tiles", "k", make).reused
    workspace.fs.rm(workspace.path("tiles/k/index/tiles.parquet"))
    assert not workspace.made("tiles", "k", make).reused
    assert workspace.shard("tiles", "k").is_whole()


def test_an_object_store_that_makes_no_empty_folders_holds_a_workspace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "makedirs", lambda *_args, **_kwargs: None)
    workspace = Workspace.create(f"memory://{tmp_path.name}-bucket/w")
    write(workspace, np.ones((2, 4, 4), np.uint16))
    assert workspace.shard("tiles", "k").is_whole()


def test_a_chained_uri_is_refused() -> None:
    with pytest.raises(WorkspaceError, match="cannot hold '::'"):
        Workspace.create("/x/a::b")
