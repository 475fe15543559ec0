"""Training on several workers: each takes a part of every batch, and all take the same step.

A batch's loss is a mean over its pictures, so its gradient is the mean of the parts' gradients,
weighted by their pictures. Batch normalisation looks at the whole batch: mean and variance are
summed over the workers, forwards and backwards (`SyncedBatchNorm`); left alone, each worker would
normalise by its own part, and two workers would train another network than one does. What remains
is the rounding of sums in another order.

Processes meet by torch.distributed: nccl where each has a GPU of its own, else gloo.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

TIMEOUT_S = 300
"""A worker that has not answered for so long is taken for dead: the others end with an error."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Which of how many workers this is.

    Parameters
    ----------
    rank : int
        From 0.
    size : int
        Number of workers; with 1 nothing is sent.
    """

    rank: int = 0
    size: int = 1

    def part(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of a batch that this worker computes: every size-th."""
        return rows[self.rank :: self.size]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, of any shapes, by their sums over all workers."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()


ALONE = Ranks()


class _Sum(torch.autograd.Function):
    """Sum over all workers; so is the gradient's way back."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone()
        dist.all_reduce(summed)
        return summed


class SyncedBatchNorm(_BatchNorm):
    """Batch normalisation by mean and variance over the batches of all workers.

    torch's own needs GPUs; this one runs anywhere. Its weights and statistics are those of the
    layer that it stands for.
    """

    @classmethod
    def of(cls, layer: _BatchNorm) -> SyncedBatchNorm:
        """Stand in for a layer, sharing its parameters and running statistics."""
        made = cls(layer.num_features, layer.eps, layer.momentum, layer.affine)
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        return made.train(layer.training)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"an input of {x.ndim} dimensions has no channels")

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, channels, ...)."""
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        over = [d for d in range(x.ndim) if d != 1]
        values = x.float()
        count = torch.tensor([values.numel() / values.shape[1]], device=x.device)
        dist.all_reduce(count)
        total = _Sum.apply(values.sum(over))  # type: ignore[no-untyped-call]
        mean = total / count
        centred = values - _by_channel(mean, x)
        squares = _Sum.apply(centred.square().sum(over))  # type: ignore[no-untyped-call]
        variance = squares / count
        with torch.no_grad():
            self._remember(mean, variance * count / (count - 1).clamp(min=1))
        normal = centred * _by_channel((variance + self.eps).rsqrt(), x)
        if self.affine:
            normal = normal * _by_channel(self.weight, x) + _by_channel(self.bias, x)
        return normal.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        share = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(1, -1, *(1,) * (x.ndim - 2))


@contextmanager
def synced(network: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Let a network's batch normalisations see the batches of all workers inside."""
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    if ranks.size > 1:
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if isinstance(child, _BatchNorm):
                    replaced.append((parent, name, child))
                    setattr(parent, name, SyncedBatchNorm.of(child))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            child.train(getattr(parent, name).training)
            setattr(parent, name, child)


@contextmanager
def process_group(ranks: Ranks, address: str, *, backend: str | None = None) -> Iterator[Ranks]:
    """Meet the other workers inside.

    Parameters
    ----------
    ranks : Ranks
        Of this worker.
    address : str
        ``host:port`` of rank 0; the port is free there, and the others reach it.
    backend : {"gloo", "nccl"}, optional
        None: nccl where there is a GPU, else gloo.
    """
    chosen = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    dist.init_process_group(
        chosen,
        init_method=f"tcp://{address}",
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=timedelta(seconds=TIMEOUT_S),
    )
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def on_workers(client: Any, function: Callable[[Ranks, str], T], size: int) -> list[T]:
    """Run a function on several Dask workers at once, which can then meet.

    Parameters
    ----------
    client : distributed.Client
    function : callable
        Receives its `Ranks`, and the address for `process_group`.
    size : int
        Number of workers; each runs one.

    Returns
    -------
    list
        What the function gave, by rank.

    Raises
    ------
    ValueError
        The cluster has fewer workers.
    """
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    if len(workers) < size:
        raise ValueError(
            f"{size} workers are wanted and the cluster has {len(workers)}; start more, or train "
            "on fewer."
        )
    chosen = workers[:size]
    address = client.submit(_free_address, workers=[chosen[0]], pure=False).result()
    futures = [
        client.submit(function, Ranks(rank, size), address, workers=[worker], pure=False)
        for rank, worker in enumerate(chosen)
    ]
    results: list[T] = client.gather(futures)
    return results


def _free_address() -> str:
    """``host:port`` on this machine where nobody listens yet."""
    from distributed import get_worker

    host: str = get_worker().address.split("://")[-1].rsplit(":", 1)[0]
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"
