"""A run whose Dask workers are jobs of a real Slurm."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dask
import dask_jobqueue  # noqa: F401 - its defaults must be there before a test changes some
import pytest

from flows.curate import curate
from flows.dask_cluster import dask_client, on_worker
from storage.errors import InputError
from tasks.settings import CurationSettings
from tests.flows.batch_system import MISSING, PATH, Slurm
from tests.flows.local_run import manifest_bytes

WAIT_S = 60

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("local-run"),
    pytest.mark.skipif(
        bool(MISSING), reason=f"Slurm is not installed (Debian: slurm-wlm): {', '.join(MISSING)}"
    ),
]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    folder = tmp_path / "slurm"
    folder.mkdir()
    system = Slurm(folder)
    monkeypatch.setenv("SLURM_CONF", str(system.conf))
    monkeypatch.setenv("PATH", PATH)
    monkeypatch.setenv("HOME", str(tmp_path))
    site = {
        "queue": "night",
        "cores": 1,
        "memory": "4GB",
        "job-directives-skip": ["--mem"],  # the node says of itself that it has less
        "log-directory": str(folder / "jobs"),
        "scheduler-options": {"host": "127.0.0.1"},
        "worker-extra-args": ["--host", "127.0.0.1", "--no-dashboard"],
    }
    try:
        system.start()
        with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in site.items()}):
            yield system
    finally:
        system.stop()


@pytest.mark.slow
def test_a_run_on_slurm_publishes_the_manifest_of_a_local_run(
    slurm: Slurm, local_run: CurationSettings, tmp_path: Path
) -> None:
    settings = local_run.model_copy(
        update={"out": str(tmp_path / "on-slurm"), "dask_cluster": "slurm", "workers": 2}
    )
    record = curate(settings)
    logs = sorted((slurm.folder / "jobs").glob("*.err"))
    assert len(logs) == 2, "two jobs have run"
    assert all("tls://127.0.0.1" in log.read_text() for log in logs)
    assert record["stages"]["tiles"]["made"] == record["stages"]["tiles"]["shards"]
    assert manifest_bytes(settings.out) == manifest_bytes(local_run.out)
    assert not slurm.ask("squeue", "--noheader").strip(), "no job outlives the run"
    assert not list(tmp_path.rglob("*.pem")), "no key outlives the run"


def test_a_job_that_is_cancelled_is_replaced_and_its_step_done_again(slurm: Slurm) -> None:
    begun = slurm.folder / "begun"
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}),
        ThreadPoolExecutor(1) as pool,
        dask_client(None, 1, "slurm"),
    ):
        step = pool.submit(on_worker, never_ends_in_the_first_job, begun)
        deadline = time.monotonic() + WAIT_S
        while not begun.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        slurm.ask("scancel", begun.read_text())
        assert step.result(WAIT_S) != begun.read_text()


def never_ends_in_the_first_job(begun: Path) -> str:
    number = os.environ["SLURM_JOB_ID"]
    if not begun.exists():
        begun.with_suffix(".new").write_text(number)
        begun.with_suffix(".new").rename(begun)
        time.sleep(WAIT_S)
    return number


def test_a_queue_that_does_not_exist_is_told(slurm: Slurm) -> None:
    with (
        dask.config.set({"jobqueue.slurm.queue": "day"}),
        pytest.raises(InputError, match="invalid partition"),
        dask_client(None, 1, "slurm"),
    ):
        on_worker(os.getpid)
