"""Published tiles on an object store: a local server that speaks S3 stands in for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAM = """
import sys
import boto3, fsspec, torch
from torch.utils.data import DataLoader
from storage.manifest import ManifestWriter, read_manifest
from storage.workspace import Workspace
from tasks.tile_dataset import TileDataset

folder = sys.argv[1]
boto3.client("s3").create_bucket(Bucket="films")
fsspec.filesystem("s3").put(folder, "films/run", recursive=True)
here, there = TileDataset(folder), TileDataset("s3://films/run")
assert here.table.equals(there.table)
for workers in (0, 1):
    loader = DataLoader(there.stream(8), batch_size=None, num_workers=workers)
    for mine, theirs in zip(here.stream(8), loader, strict=True):
        assert torch.equal(mine["index"], theirs["index"])
        assert torch.equal(mine["pixels"], theirs["pixels"])
print("READ", len(there))

remote = Workspace.open("s3://films/run")
writer = ManifestWriter(remote, ManifestWriter.staging_name())
test = read_manifest(remote, filters=[("split", "==", "test")])
writer.write_part("p", "test", test.drop_columns("split"))
writer.publish()
assert read_manifest(remote).num_rows == test.num_rows
print("PUBLISHED", test.num_rows)
"""


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield os.environ | {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": "us-east-1",
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    server.stop()


def test_tiles_are_read_and_published_on_s3(environment: dict[str, str], published: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(published)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "READ 84" in done.stdout, done.stderr
    assert "PUBLISHED 20" in done.stdout, done.stderr
