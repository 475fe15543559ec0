"""What a run says of itself: ``runs/<run_id>.json``."""

from __future__ import annotations

import contextlib
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TypeVar

from flows import artifacts
from flows.shards import over_shards
from storage import lease
from storage.errors import FULL, MammosiftError, OutOfSpace
from storage.schemas import SCHEMA_VERSION
from storage.workspace import ShardRef, Workspace
from tasks.settings import CurationSettings

S = TypeVar("S")
R = TypeVar("R")

PACKAGES = ("mammosift", "numpy", "torch", "scikit-learn", "hdbscan", "zarr", "pyarrow", "pydicom")


@dataclass
class StageRecord:
    """One stage: how many shards were made and how many were there, and what they counted."""

    shards: int = 0
    made: int = 0
    reused: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, refs: Sequence[ShardRef]) -> None:
        """Count shards."""
        for ref in refs:
            self.shards += 1
            self.reused += ref.reused
            self.made += not ref.reused
            for name, n in ref.counts.items():
                self.counts[name] = self.counts.get(name, 0) + n


class RunRecord:
    """Collects while the run goes on, writes when it is over."""

    def __init__(self, workspace: Workspace, settings: CurationSettings) -> None:
        self.workspace, self.settings = workspace, settings
        self.started = datetime.now(UTC)
        self.run_id = f"{self.started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self.stages: dict[str, StageRecord] = {}
        self.facts: dict[str, Any] = {}
        self.found = 0
        """Files that discovery came upon, counted before anything is made of them."""
        self._lease: lease.Lease | None = None

    @contextmanager
    def exclusive(self, *, wait_min: float = 0.0) -> Iterator[None]:
        """Be the only run in the workspace.

        Parameters
        ----------
        wait_min : float
            Minutes to wait for another run.

        Raises
        ------
        WorkspaceInUse
            Another run holds the workspace; the message names it.
        """
        with lease.hold(
            self.workspace, self.run_id, wait_s=60 * wait_min, waiting=artifacts.waiting
        ) as self._lease:
            try:
                yield
            finally:
                self._lease = None

    @contextmanager
    def stage(self, name: str) -> Iterator[StageRecord]:
        """Time a stage.

        Raises
        ------
        WorkspaceError
            Another run took the workspace over while this process stood still.
        """
        if self._lease is not None:
            self._lease.check()
            self._lease.note(stage=name, done=0, total=None)
        record = self.stages[name] = StageRecord()
        started = time.perf_counter()
        try:
            yield record
        finally:
            record.seconds = round(time.perf_counter() - started, 3)

    def follow(
        self, name: str, step: Callable[[S], R], shards: Sequence[S]
    ) -> Iterator[tuple[int, R]]:
        """Do a step for each shard; number and result of each as it is done (`over_shards`)."""
        for done, found in enumerate(over_shards(name, step, shards), start=1):
            if self._lease is not None:
                self._lease.note(done=done, total=len(shards))
            yield found

    def in_order(self, name: str, step: Callable[[S], R], shards: Sequence[S]) -> list[R]:
        """Do a step for each shard; the results in the shards' order."""
        done = sorted(self.follow(name, step, shards), key=lambda pair: pair[0])
        return [found for _, found in done]

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Write the record of a run that fails, too: with what it had, and why it ended."""
        try:
            yield
        except Exception as e:
            self.facts["failed"] = f"{type(e).__name__}: {e}"
            with contextlib.suppress(OSError):  # where the disk is full, the reason still shows
                self.write()
            if isinstance(e, OSError) and e.errno in FULL:
                raise OutOfSpace(self.workspace.uri) from e
            raise

    def check(self) -> None:
        """Refuse a run whose counts do not add up.

        Raises
        ------
        MammosiftError
            Films or tiles were lost on the way.
        """
        films, tiles = self.facts["films"], self.facts["tiles"]
        sums = {
            "films found = used + excluded": (
                films["found"],
                films["used"] + sum(films["excluded"].values()),
            ),
            "tiles cut = kept + dropped + in review": (
                tiles["cut"],
                sum(tiles["by_decision"].values()),
            ),
            "kept tiles = sum over the parts": (
                tiles["by_decision"].get("keep", 0),
                sum(tiles["kept_by_split"].values()),
            ),
        }
        for rule, (left, right) in sums.items():
            if left != right:
                raise MammosiftError(
                    f"the counts of run {self.run_id} do not add up: {rule}, but {left} != {right}."
                    " The manifest was not published; please report this with the run's log."
                )

    def write(self) -> dict[str, Any]:
        """Write ``runs/<run_id>.json`` and return what is in it."""
        finished = datetime.now(UTC)
        record = {
            "run_id": self.run_id,
            "schema_version": SCHEMA_VERSION,
            "started": self.started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "seconds": round((finished - self.started).total_seconds(), 3),
            "settings": self.settings.model_dump(mode="json"),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in PACKAGES},
            **self.facts,
            "stages": {name: vars(stage) for name, stage in self.stages.items()},
        }
        self.workspace.write_json(f"runs/{self.run_id}.json", record)
        return record
