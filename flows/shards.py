"""A stage over many shards: a few Prefect tasks, each a group of shards made side by side.

Prefect keeps a row, some states and some events of each task run, and every worker of a scheduled
run reports to the same server; ten thousand films must not mean thousands of task runs. So a stage
is at most ``MOST_TASKS`` of them, whatever the number of shards. What is made, kept, and made again
after a fault stays the single shard.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from storage.errors import MammosiftError
from storage.workspace import ShardRef
from tasks.planning import MOST_TASKS
from tasks.words import about

S = TypeVar("S")
R = TypeVar("R")

MOST_AT_ONCE = 16
"""Shards of a group that wait for Dask at a time, each in a sleeping thread."""

TICK_S = 2.0
"""The progress bar moves at most this often: a call to the server each time."""

RETRIES = 2
DELAYS_S = [2.0, 15.0]
"""For what reads and writes storage: a share that was away for a moment, a worker that died."""


def may_pass(_task: object, _task_run: object, state: State[object]) -> bool:
    """Whether trying again can help: storage or the network, not a rule that was broken."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError | TimeoutError) and not isinstance(error, MammosiftError)


STEP: Any = {
    "retries": RETRIES,
    "retry_delay_seconds": DELAYS_S,
    "retry_condition_fn": may_pass,
    "cache_policy": NO_CACHE,
}
"""Options of a Prefect task that sends steps to workers."""


def over_shards(stage: str, step: Callable[[S], R], shards: Sequence[S]) -> Iterator[tuple[int, R]]:
    """Do a step for every shard; one log line each.

    Parameters
    ----------
    stage : str
        Name of the progress artifact and of the task runs.
    step : callable
        Does one shard and waits for it. It is called in threads, and again for a shard that it has
        done already when another one of its group failed and the group is retried.
    shards : sequence
        What the step is called with.

    Yields
    ------
    index : int
        Of the shard, from 0.
    result : object
        Of the step. In the order in which they are done, each index once.

    Raises
    ------
    Exception
        Whatever the first shard that failed for good raised, once its group is done.
    """
    if not shards:
        return
    # results as they come; None where a group has ended, well or not
    finished: queue.SimpleQueue[tuple[int, R] | None] = queue.SimpleQueue()

    def do_group(first: int, last: int) -> None:
        errors = []
        with ThreadPoolExecutor(min(MOST_AT_ONCE, last - first + 1)) as pool:
            running = {pool.submit(step, shards[i]): i for i in range(first - 1, last)}
            for future in as_completed(running):
                if (error := future.exception()) is None:
                    finished.put((running[future], future.result()))
                else:
                    errors.append((running[future], error))
        if errors:
            number, error = min(errors, key=lambda e: e[0])
            get_run_logger().error("%s: shard %d of %d failed", stage, number + 1, len(shards))
            raise error

    named: Any = task(name=stage, task_run_name=f"{stage} {{first}} to {{last}}", **STEP)
    group = named(do_group)
    ends = _ends(len(shards), MOST_TASKS)
    futures = []
    for before, last in zip([0, *ends], ends, strict=False):
        future = group.submit(before + 1, last)
        future.add_done_callback(lambda _: finished.put(None))
        futures.append(future)
    yield from _followed(stage, finished, futures, len(shards))


def _ends(n: int, groups: int) -> list[int]:
    """Last numbers, from 1, of groups of nearly the same size."""
    groups = min(n, groups)
    return [n * (i + 1) // groups for i in range(groups)]


def _followed(
    stage: str, finished: queue.SimpleQueue[Any], futures: list[Any], n: int
) -> Iterator[tuple[int, Any]]:
    logger = get_run_logger()
    bar: Any = create_progress_artifact(0.0, key=f"progress-{stage}", description=f"Stage {stage}")
    started = ticked = time.monotonic()
    seen: set[int] = set()
    running = list(futures)
    while len(seen) < n or running:
        found = finished.get()
        if found is None:
            ended = [f for f in running if f.wrapped_future.done()]
            for future in ended:
                future.result()
            running = [f for f in running if f not in ended]
            continue
        index, result = found
        if index in seen:
            continue
        seen.add(index)
        done, now = len(seen), time.monotonic()
        left = (now - started) / done * (n - done)
        logger.info("%s %d/%d%s, about %s left", stage, done, n, _said(result), about(left))
        if done == n or now - ticked > TICK_S:
            ticked = now
            update_progress_artifact(bar, 100.0 * done / n)
        yield index, result


def _said(result: Any) -> str:
    if isinstance(result, ShardRef):
        counts = ", ".join(f"{n} {name}" for name, n in result.counts.items() if n)
        where = "already there" if result.reused else f"{result.seconds:.1f} s"
        return f": {counts}; {where}"
    if isinstance(result, list):
        return f": {len(result)} files"
    return ""
