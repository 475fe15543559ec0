"""Workers that start before the run asks for them, while Prefect's server does.

That takes seconds. They import the libraries of the steps, too: the first one hardly waits.
"""

from __future__ import annotations

import atexit
import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flows import dask_kinds
from tasks.run_settings import DaskCluster

LIBRARIES = (
    "cv2",
    "matplotlib.figure",
    "numba",
    "pandas",
    "pyarrow.dataset",
    "pydicom",
    "safetensors.torch",
    "scipy.spatial",
    "sklearn.ensemble",
    "zarr",
)
"""What takes long to import; one that is left out costs time and nothing else."""

_waiting: dict[int | None, Any] = {}
"""Local clusters by the number of workers that was asked for."""


@contextmanager
def begun(address: str | None, workers: int | None, kind: DaskCluster) -> Iterator[None]:
    """Start the cluster that a run in this process will ask for, if it is one on this machine.

    It ends with the block, whether it was taken or not.

    Parameters
    ----------
    address, workers, kind
        As for `flows.dask_cluster.dask_client`.
    """
    if address is not None or kind != "local":
        yield
        return
    from distributed import Client, fire_and_forget

    with (
        dask_kinds.started(kind, workers) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for worker in client.scheduler_info(n_workers=-1)["workers"]:
            fire_and_forget(client.submit(_prepare, pure=False, workers=[worker]))
        _waiting[workers] = cluster
        try:
            yield
        finally:
            _waiting.pop(workers, None)


def taken(workers: int | None, kind: DaskCluster) -> Any | None:
    """Cluster that was begun for a run with this number of workers; None where there is none."""
    return _waiting.pop(workers, None) if kind == "local" else None


def _prepare() -> None:
    """Import what the first steps would wait for; their own modules are small."""
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    # asking for what is so already makes torch import what it needs to answer
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
    atexit.register(gc.freeze)  # else a second goes into looking for garbage among the modules
