from __future__ import annotations

import pytest

from flows.train import train
from storage.manifest import read_manifest
from tasks.settings import CurationSettings


@pytest.mark.slow
@pytest.mark.xdist_group("local-run")
def test_training_makes_the_shards_of_a_run_and_leaves_its_manifest_alone(
    local_run: CurationSettings,
) -> None:
    before = read_manifest(local_run.out)
    record = train(local_run)
    assert list(record["stages"]) == ["films", "tiles", "encoder"]
    assert [stage["made"] for stage in record["stages"].values()] == [0, 0, 0]
    assert record["stages"]["encoder"]["reused"] == 1
    assert read_manifest(local_run.out).equals(before)
