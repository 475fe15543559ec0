"""Where work runs: threads of this process, or the workers of a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import islice
from typing import Any, Protocol, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Protocol):
    """Runs one function on many items; the results come in the order of the items."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Run the function, which must be safe to repeat, on each item."""
        ...


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep matrix products to the thread that asks for them, as each of ours has its own work."""
    with _libraries().limit(limits=1, user_api="blas"):
        yield


@cache
def _libraries() -> ThreadpoolController:
    """Find the libraries once: it takes milliseconds."""
    import scipy.linalg.cython_blas  # noqa: F401  loaded now, or the limit would miss it

    return ThreadpoolController()


class ThreadWorkers:
    """Threads of this process, for functions that leave the interpreter's lock.

    Parameters
    ----------
    n_threads : int or None
        None: one a core.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        self.n_threads = available_cores() if n_threads is None else n_threads

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Run the function on each item; at most twice as many as threads are under way."""
        with one_blas_thread(), ThreadPoolExecutor(self.n_threads) as pool:
            yield from _in_order(
                lambda item: pool.submit(function, item), items, self.n_threads * 2
            )


class DaskWorkers:
    """Workers of a Dask cluster; an item whose worker dies is run again elsewhere.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Run the function on each item; some a worker thread are under way at a time."""
        threads = sum(self.client.nthreads().values()) or 1
        yield from _in_order(
            lambda item: self.client.submit(_on_one_core, function, item, pure=False),
            items,
            threads * 3,
        )


def _on_one_core(function: Callable[[Item], Result], item: Item) -> Result:
    with one_blas_thread():
        return function(item)


def _in_order(
    submit: Callable[[Item], Future[Result]], items: Iterable[Item], most: int
) -> Iterator[Result]:
    waiting = iter(items)
    running = [submit(item) for item in islice(waiting, most)]
    while running:
        first = running.pop(0)
        result = first.result()
        del first  # Dask keeps a result as long as its future is held
        running.extend(submit(item) for item in islice(waiting, 1))
        yield result
