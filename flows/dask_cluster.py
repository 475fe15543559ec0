"""The Dask side of a run: a local cluster of its own, or the address of a standing one."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def dask_client(address: str | None, workers: int | None) -> Iterator[Any]:
    """Connect to a scheduler, or start one with single-threaded worker processes on loopback.

    Parameters
    ----------
    address : str or None
        Of a running scheduler, e.g. ``tcp://10.0.0.5:8786``.
    workers : int or None
        Processes of a local cluster; None is one a core.

    Yields
    ------
    distributed.Client
        The default client of this process until the block is left.
    """
    import dask
    from distributed import Client, LocalCluster

    logging.getLogger("distributed").setLevel(logging.WARNING)
    if address is not None:
        with Client(address, timeout="60s") as client:
            yield client
        return
    spawn = "distributed.nanny.pre-spawn-environ"
    local = {
        "temporary-directory": tempfile.gettempdir(),
        # Dask's own default (64 KiB) gives every freed block back at once: training took twice
        # as long, for the page faults
        f"{spawn}.MALLOC_TRIM_THRESHOLD_": 2**29,
        f"{spawn}.MALLOC_MMAP_THRESHOLD_": 2**25,
    }
    with (
        dask.config.set(local),
        LocalCluster(
            n_workers=workers or os.cpu_count() or 1,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=40,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def on_worker(step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a step on a worker of the default client and wait for it.

    A step is safe to repeat, so Dask runs it again elsewhere when its worker dies.
    """
    from distributed import default_client

    future = default_client().submit(step, *args, pure=False, **kwargs)
    try:
        result: R = future.result()
    finally:
        future.release()
    return result
