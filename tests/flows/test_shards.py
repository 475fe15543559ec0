"""A stage over many shards: few task runs, every shard once, and what a failure does."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.task_runners import ThreadPoolTaskRunner

from flows import shards
from flows.shards import over_shards
from tasks.planning import MOST_TASKS


@pytest.fixture(autouse=True)
def _no_waiting(prefect_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shards.STEP, "retry_delay_seconds", [0.0, 0.0])


@flow(task_runner=ThreadPoolTaskRunner(max_workers=MOST_TASKS))  # type: ignore[arg-type]
def spread(step: Any, n: int) -> tuple[str, list[tuple[int, int]]]:
    from prefect.runtime import flow_run

    return str(flow_run.id), list(over_shards("squares", step, range(n)))


def run(step: Any, n: int) -> tuple[str, list[tuple[int, int]]]:
    found: Any = spread.with_options(validate_parameters=False)(step, n)
    return found[0], found[1]


def task_runs(flow_run_id: str) -> list[str]:
    with get_client(sync_client=True) as client:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))  # type: ignore[list-item]
        return [t.name for t in client.read_task_runs(flow_run_filter=only, limit=200)]


@pytest.mark.parametrize("n", [0, 1, 3, MOST_TASKS, MOST_TASKS + 1, 1000])
def test_every_shard_is_done_once_whatever_their_number(n: int) -> None:
    times: Counter[int] = Counter()
    lock = threading.Lock()

    def square(i: int) -> int:
        with lock:
            times[i] += 1
        return i * i

    _, done = run(square, n)
    assert sorted(done) == [(i, i * i) for i in range(n)]
    assert times == Counter(range(n))


def test_a_stage_is_a_bounded_number_of_task_runs_named_by_their_shards() -> None:
    flow_run_id, _ = run(lambda i: i, 625)
    names = task_runs(flow_run_id)
    by = time.monotonic() + 60
    # the server takes runs and their names down a little later
    while sum(" to " in name for name in names) < MOST_TASKS and time.monotonic() < by:
        time.sleep(0.2)
        names = task_runs(flow_run_id)
    assert len(names) == MOST_TASKS
    ranges = sorted(tuple(map(int, name.split()[1::2])) for name in names)
    assert ranges[0][0] == 1
    assert ranges[-1][1] == 625
    assert all(a[1] + 1 == b[0] for a, b in itertools.pairwise(ranges))


def test_a_group_is_tried_again_where_storage_was_away_and_gives_each_shard_once() -> None:
    failed = threading.Event()

    def flaky(i: int) -> int:
        if i == 41 and not failed.is_set():
            failed.set()
            raise OSError("the share is away")
        return i

    _, done = run(flaky, 100)
    assert failed.is_set()
    assert sorted(done) == [(i, i) for i in range(100)]


def test_the_first_shard_that_fails_for_good_ends_the_stage_once_its_group_is_done() -> None:
    seen: set[int] = set()

    def breaks(i: int) -> int:
        seen.add(i)
        if i in (1, 2):
            raise ValueError(f"shard {i} breaks a rule")
        return i

    with pytest.raises(ValueError, match="shard 1 breaks a rule"):
        run(breaks, 4 * MOST_TASKS)
    assert {0, 1, 2, 3} <= seen
