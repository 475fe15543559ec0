"""What a run does when a film kills its workers, the disk is full, or another run is at work."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed  # noqa: F401  its defaults must be there before they are set aside
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.curate import curate
from flows.status import describe
from storage import lease, quarantine
from storage.errors import OutOfSpace, WorkspaceInUse
from storage.manifest import read_manifest
from storage.workspace import Workspace
from tasks import films
from tasks.settings import CurationSettings

INJECTED = str(Path(__file__).with_name("injected.py"))


@pytest.fixture
def faulty_workers() -> Iterator[None]:
    """Workers that do what the environment says, and are given up at their first death."""
    config = {"distributed.worker.preload": [INJECTED], "distributed.scheduler.allowed-failures": 0}
    with dask.config.set(config):
        yield


@pytest.fixture
def settings(
    prefect_server: str, film_folder: Path, small: dict[str, int], tmp_path: Path
) -> CurationSettings:
    return CurationSettings(source=str(film_folder), out=str(tmp_path / "w"), **small)


@pytest.mark.slow
def test_a_film_that_kills_its_workers_is_put_in_quarantine_and_the_run_ends_without_it(
    settings: CurationSettings, faulty_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAMMOSIFT_POISON", "case2/L film.png")
    record = curate(settings)
    workspace = Workspace.open(settings.out)
    assert record["films"]["excluded"] == {"quarantined": 1}
    (row,) = [f for f in films.read(workspace) if f.excluded_reason is not None]
    assert row.source == "case2/L film.png"
    assert "Each worker process that cut it ended" in str(row.excluded_rule)
    assert f"remove {quarantine.FOLDER}/{row.source_sha256}.json" in str(row.excluded_remedy)
    assert record["tiles"]["cut"] == read_manifest(workspace).num_rows

    again = curate(settings)  # nobody dies this time
    assert again["stages"]["tiles"]["made"] == 0
    assert again["films"] == record["films"]
    assert any("quarantine  1 films" in line for line in describe(settings.out))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_a_reason_and_the_next_one_goes_on(
    settings: CurationSettings,
    faulty_workers: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    full = tmp_path / "full"
    full.touch()
    monkeypatch.setenv("MAMMOSIFT_FULL", str(full))
    with pytest.raises(OutOfSpace, match=r"no space is left .* goes on where this"):
        curate(settings)
    workspace = Workspace.open(settings.out)
    assert not workspace.exists("manifest")
    assert not list(Path(settings.out).rglob("*.partial")), "half a shard takes no space"
    assert any("no space is left" in line for line in describe(settings.out))
    (failed,) = Path(settings.out).glob("runs/*.json")
    assert json.loads(failed.read_text())["failed"].startswith("OutOfSpace")

    full.unlink()
    record = curate(settings)
    assert record["tiles"]["cut"] == read_manifest(workspace).num_rows


def test_a_run_in_a_workspace_where_another_is_at_work_changes_nothing(
    settings: CurationSettings,
) -> None:
    workspace = Workspace.create(settings.out)
    with lease.hold(workspace, "another") as held:
        held.note(stage="tiles", done=2, total=9)
        workspace.write_json(lease.FILE, dict(held._holder))
        with pytest.raises(WorkspaceInUse, match=f"run another on .*process {os.getpid()}"):
            curate(settings)
        assert not workspace.exists("runs")
        told = CliRunner().invoke(app, ["status", "--workspace", settings.out]).output
        assert "at work     run another" in told
        assert "stage       tiles, 2 of 9 done" in told
        assert "none has ended yet" in told
    assert "at work     nobody" in describe(settings.out)[1]
