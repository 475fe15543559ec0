"""A run whose workspace is a bucket: moto's server stands in for S3."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from flows.curate import curate
from flows.status import describe
from storage import lease
from storage.errors import WorkspaceError, WorkspaceInUse
from storage.manifest import PUBLISHING, read_manifest
from storage.workspace import Workspace
from tasks.settings import CurationSettings
from tests.flows.local_run import manifest_bytes
from tests.s3_store import CREDENTIALS, s3_store

pytestmark = pytest.mark.xdist_group("local-run")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Credentials come from the environment alone."""
    with s3_store() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        yield "s3://films"
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.slow
def test_a_run_on_s3_publishes_the_manifest_of_a_local_run(
    bucket: str, local_run: CurationSettings, tmp_path: Path
) -> None:
    settings = local_run.model_copy(update={"out": f"{bucket}/run"})
    record = curate(settings)
    assert manifest_bytes(settings.out) == manifest_bytes(local_run.out)
    workspace = Workspace.open(settings.out)
    assert not workspace.exists(lease.FILE)
    assert not workspace.exists(PUBLISHING)
    told = "\n".join(describe(settings.out))
    assert f"tiles       {record['tiles']['cut']:,} cut" in told

    again = curate(settings)
    assert {name: stage["made"] for name, stage in again["stages"].items() if stage["made"]} == {}

    fsspec.filesystem("s3").get(workspace.root, str(tmp_path / "copy"), recursive=True)
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    files = [f for f in (tmp_path / "copy").rglob("*") if f.is_file()]
    assert files
    assert not [f for f in files if secret in f.read_bytes()], "no secret is written down"

    workspace.write_json(PUBLISHING, {})
    with pytest.raises(WorkspaceError, match="is not whole"):
        read_manifest(settings.out)


def test_of_many_that_take_the_lease_at_once_one_holds_it(bucket: str) -> None:
    workspace = Workspace.create(f"{bucket}/w")
    leave, outcomes = threading.Event(), list[str]()

    def take(name: str) -> None:
        try:
            with lease.hold(workspace, name):
                outcomes.append("held")
                leave.wait(30)
        except WorkspaceInUse:
            outcomes.append("refused")
            if len(outcomes) == 8:
                leave.set()

    threads = [threading.Thread(target=take, args=(f"run-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["held"] + 7 * ["refused"]
    assert lease.read(workspace) == {}


def test_a_lease_that_was_renewed_meanwhile_is_not_taken_over(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace.create(f"{bucket}/w")
    long_ago = (datetime.now(UTC) - timedelta(seconds=300)).isoformat()
    theirs = {"run_id": "theirs", "host": "elsewhere", "pid": 1, "token": "t"}
    workspace.write_json(lease.FILE, theirs | {"renewed": long_ago})
    read = lease.read

    def renewed_after_reading(w: Workspace) -> dict[str, object]:
        found = read(w)
        w.write_json(lease.FILE, theirs | {"renewed": datetime.now(UTC).isoformat()})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(lease, "read", renewed_after_reading)
        with pytest.raises(WorkspaceInUse, match="run theirs"), lease.hold(workspace, "ours"):
            pass
    assert json.loads(workspace.read_bytes(lease.FILE))["run_id"] == "theirs"

    workspace.write_json(lease.FILE, theirs | {"renewed": long_ago})
    with lease.hold(workspace, "ours"):
        assert lease.read(workspace)["run_id"] == "ours"
