"""Workers that start before the run asks for them."""

from __future__ import annotations

import sys

import psutil
import pytest

from flows import early_workers
from flows.dask_cluster import dask_client, on_worker
from tasks.run_settings import DaskCluster


def _modules() -> tuple[int, bool]:
    return psutil.Process().pid, {"torch", "sklearn"} <= set(sys.modules)


def _running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_run_takes_the_workers_that_were_begun_for_it() -> None:
    with early_workers.begun(None, 1, "local"):
        with dask_client(None, 1) as client:
            pid, has_modules = on_worker(_modules)
            assert has_modules
            assert len(client.scheduler_info()["workers"]) == 1
        with dask_client(None, 1):  # taken once: the next one has a cluster of its own
            other, has_modules = on_worker(_modules)
            assert other != pid
            assert not has_modules
        assert _running(pid)
        assert not _running(other)
    assert not _running(pid)


def test_workers_that_no_run_takes_end_with_the_block() -> None:
    before = _children()
    with early_workers.begun(None, 1, "local"):
        workers = _children() - before
        assert workers
    assert early_workers.taken(1, "local") is None
    assert not any(_running(pid) for pid in workers)


def _children() -> set[int]:
    """Processes below this one, Python's own resource tracker aside: it stays."""
    return {
        c.pid
        for c in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(c.cmdline())
    }


@pytest.mark.parametrize(
    ("address", "kind"), [("tcp://127.0.0.1:1", "local"), (None, "slurm")], ids=["address", "slurm"]
)
def test_nothing_starts_for_a_cluster_that_is_elsewhere(
    address: str | None, kind: DaskCluster
) -> None:
    before = _children()
    with early_workers.begun(address, 1, kind):
        assert _children() == before
        assert early_workers.taken(1, kind) is None
