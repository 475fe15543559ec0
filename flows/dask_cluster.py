"""The Dask side of a run: the address of a standing cluster, or one of its own, as it is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from flows import dask_kinds, early_workers
from storage.errors import FULL, InputError, MammosiftError, OutOfSpace
from tasks.run_settings import DaskCluster


class EndsWorkers(MammosiftError):
    """A step has ended every worker process that it ran on."""


P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def dask_client(
    address: str | None, workers: int | None, kind: DaskCluster = "local"
) -> Iterator[Any]:
    """Connect to a scheduler, or to a cluster that was begun for this run, or start one.

    One that is started ends with the block.

    Parameters
    ----------
    address : str or None
        Of a running scheduler, e.g. ``tcp://10.0.0.5:8786``.
    workers : int or None
        Single-threaded processes of a cluster that is started; None is one a core of this machine.
    kind : str
        Where they are started: local, slurm, pbs or kubernetes.

    Yields
    ------
    distributed.Client
        The default client of this process until the block is left.

    Raises
    ------
    InputError
        The scheduler does not answer, or the cluster cannot be started as configured.
    """
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.WARNING)
    if address is not None:
        try:
            client = Client(address, timeout="20s")
        except (OSError, ValueError) as e:
            raise InputError(
                f"--dask-address {address} does not answer ({type(e).__name__}); is the scheduler "
                "up, and can this machine reach it?"
            ) from e
        with client:
            yield client
        return
    if (begun := early_workers.taken(workers, kind)) is not None:
        with Client(begun) as client:
            yield client
        return
    with dask_kinds.started(kind, workers) as cluster, Client(cluster) as client:
        yield client


@contextmanager
def dask_client_if_asked(
    address: str | None, workers: int | None, kind: DaskCluster
) -> Iterator[Any | None]:
    """Connect as `dask_client` does, or give None where neither address nor workers are named."""
    if address is None and workers is None:
        yield None
        return
    with dask_client(address, workers, kind) as client:
        yield client


def on_worker(step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a step on a worker of the default client and wait for it.

    A step is safe to repeat, so Dask runs it again elsewhere when its worker dies.

    Raises
    ------
    EndsWorkers
        The step has ended every worker that it ran on.
    OutOfSpace
        The disk that it writes to is full.
    """
    from distributed import default_client

    return _result(step, default_client().submit(step, *args, pure=False, **kwargs))


def on_gpu_worker(step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a step where it finds a GPU, if the cluster has one, and wait for it; see `on_worker`.

    A worker with a GPU is one that was started with ``--resources GPU=1``: it gets one such step at
    a time. Where none is up at this moment, the step runs on any worker.
    """
    from distributed import default_client

    client = default_client()
    future = client.submit(step, *args, pure=False, resources=gpu_resources(client), **kwargs)
    return _result(step, future)


def gpu_resources(client: Any) -> dict[str, float] | None:
    """What a step that wants a GPU asks of Dask; None where no worker has one."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    has_gpu = any((worker.get("resources") or {}).get("GPU", 0) >= 1 for worker in workers)
    return {"GPU": 1} if has_gpu else None


def _result(step: Callable[..., R], future: Any) -> R:
    from distributed import KilledWorker

    try:
        result: R = future.result()
    except KilledWorker as e:
        raise EndsWorkers(
            f"the step {step.__name__} has ended each worker that it ran on: one of its films "
            "kills the process, or memory was short. The log names the shard; run with fewer "
            "workers, or leave films out by a csv of paths as source."
        ) from e
    except OSError as e:
        if e.errno in FULL:
            raise OutOfSpace() from e
        raise
    finally:
        future.release()
    return result
