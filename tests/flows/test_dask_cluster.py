"""Where steps run: training and encoding on a worker with a GPU, where the cluster has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from distributed import Client, Scheduler, SpecCluster, Worker

from flows import steps
from flows.dask_cluster import gpu_resources, on_gpu_worker, on_worker
from tasks import encoders


@contextmanager
def cluster(**resources_of: dict[str, float]) -> Iterator[Client]:
    """Workers in this process, by name, each with what it declares."""
    own = {"nthreads": 1, "dashboard": False}
    workers = {
        name: {"cls": Worker, "options": own | {"resources": declared}}
        for name, declared in resources_of.items()
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard": False, "host": "127.0.0.1", "port": 0}}
    with SpecCluster(workers, scheduler, silence_logs=40) as made, Client(made) as client:
        client.wait_for_workers(len(workers))
        yield client


def where(*_: Any) -> str:
    from distributed import get_worker

    return str(get_worker().name)


def test_a_step_lands_on_the_worker_that_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "train_encoder", where)
    monkeypatch.setattr(encoders, "embed_shard", where)
    with cluster(first={}, second={"GPU": 1}, third={}) as client:
        assert gpu_resources(client) == {"GPU": 1}
        assert {on_gpu_worker(where) for _ in range(6)} == {"second"}
        assert steps.train.fn("uri", ["k"], {}, None) == "second"  # type: ignore[arg-type]
        assert steps.embed("uri", "k", "e") == "second"
        assert on_worker(where) in ("first", "second", "third")


def test_without_a_gpu_a_step_runs_on_any_worker() -> None:
    with cluster(first={}, second={"GPU": 0}) as client:
        assert gpu_resources(client) is None
        assert on_gpu_worker(where) in ("first", "second")
