"""What Prefect's server, its task runs, and Dask cost, beside the same steps in a plain loop.

    python benchmarks/orchestration.py --source films/ --tile-size-px 128 [--rounds 3]
    python benchmarks/orchestration.py --many 10000

The first form runs ``mammosift run --workers 1`` and the plain loop (the same steps on the same
shards, in one process, with neither Prefect nor Dask) in alternation, each as a process of its own,
and prints medians of wall and processor time, and whether the manifests are equal.

The second makes many tiny films and curates them: task runs, time by stage, largest memory of each
kind of process, size of Prefect's database. It shows what grows with the number of films alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from storage.manifest import read_manifest
from storage.workspace import Workspace, table_bytes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source")
    parser.add_argument("--tile-size-px", type=int, default=128)
    parser.add_argument("--max-epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, metavar="FILMS")
    parser.add_argument("--plain", metavar="WORKSPACE", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain is not None:
        plain_loop(given.source, given.plain, given.tile_size_px, given.max_epochs)
        return 0
    with tempfile.TemporaryDirectory(prefix="mammosift-orchestration-") as folder:
        if given.many is not None:
            many_films(Path(folder), given.many)
        else:
            compare(Path(folder), given)
    return 0


# -- the same run, with nothing around it ----------------------------------------------------------


def plain_loop(source: str, out: str, tile_size_px: int, max_epochs: int) -> None:
    """Curate in this process: the flow's own body, each step called as a function."""
    from flows import artifacts, curate, run_record, steps
    from tasks.settings import CurationSettings

    def call(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return step(*args, **kwargs)

    def loop(
        _: str, step: Callable[[Any], Any], shards: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        for i, shard in enumerate(shards):
            yield i, step(shard)

    def say_nothing(*_: Any) -> None:
        pass

    run_record.over_shards = loop  # type: ignore[assignment]
    steps.on_worker = steps.on_gpu_worker = call
    for name in ("train", "learn", "cluster", "find_duplicates", "gather_evidence", "calibrate",
                 "audit_shortcuts", "report"):  # fmt: skip
        setattr(steps, name, getattr(steps, name).fn)
    for name in ("warn", "exclusions", "summary", "verdicts"):
        setattr(artifacts, name, say_nothing)
    settings = CurationSettings(
        source=source, out=out, tile_size_px=tile_size_px, max_epochs=max_epochs, training_threads=1
    )
    curate._curate(run_record.RunRecord(Workspace.create(out), settings))


def compare(folder: Path, given: argparse.Namespace) -> None:
    options = [f"--source={given.source}", f"--tile-size-px={given.tile_size_px}",
               f"--max-epochs={given.max_epochs}"]  # fmt: skip
    figures: dict[str, list[tuple[float, float]]] = {"plain loop": [], "mammosift run": []}
    manifests: dict[str, set[bytes]] = {name: set() for name in figures}
    made = timed(
        [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
        folder / "prefect",
    )
    print(f"Prefect's database is made once, in {made[0]:.1f} s, which is not counted")
    for i in range(given.rounds):
        for name in figures:
            out = folder / f"{name.split()[0]}{i}"
            ours = [sys.executable, "-m", "flows.cli", "run", f"--out={out}", "--workers=1",
                    "--training-threads=1"]  # fmt: skip
            plain = [sys.executable, __file__, f"--plain={out}"]
            command = (ours if name == "mammosift run" else plain) + options
            figures[name].append(timed(command, folder / "prefect"))
            table = read_manifest(Workspace.open(str(out)))
            manifests[name].add(table_bytes(table.drop_columns(["run_id"])))
            print(f"round {i + 1} {name}: {figures[name][-1][0]:.1f} s wall, "
                  f"{figures[name][-1][1]:.1f} CPU-s", flush=True)  # fmt: skip
    wall, cpu = (
        {n: statistics.median(f[k] for f in v) for n, v in figures.items()} for k in (0, 1)
    )
    print("\n| | wall, s | processor, s |\n| --- | ---: | ---: |")
    for name in figures:
        print(f"| {name} | {wall[name]:.1f} | {cpu[name]:.1f} |")
    more = [100 * (m["mammosift run"] / m["plain loop"] - 1) for m in (wall, cpu)]
    print(f"| more by orchestration | {more[0]:+.1f} % | {more[1]:+.1f} % |")
    print(f"manifests equal: {len(manifests['plain loop'] | manifests['mammosift run']) == 1}")


def timed(command: list[str], home: Path) -> tuple[float, float]:
    """Wall and processor time of a command and all that it started."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, env=env, capture_output=True)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, sum(after[:2]) - sum(before[:2])


# -- very many films ------------------------------------------------------------------------------


def many_films(folder: Path, n: int) -> None:
    source, out, home = folder / "films", folder / "out", folder / "prefect"
    make_tiny_films(source, n)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "flows.cli", "run", f"--source={source}", f"--out={out}",
               "--tile-size-px=32", "--max-epochs=1", "--training-tiles=2000",
               "--planted-tiles=200", "--cluster-method=kmeans"]  # fmt: skip
    started = time.perf_counter()
    with (
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process,
        memory_by_kind(process.pid) as peaks,
    ):
        status = process.wait()
    seconds = time.perf_counter() - started
    if status != 0:
        raise SystemExit(f"the run ended with status {status}")
    (record,) = [json.loads(p.read_text()) for p in out.glob("runs/*.json")]
    print(f"{n:,} films, {record['tiles']['cut']:,} tiles, "
          f"{len(record['shards']['tiles']):,} shards: {seconds:.0f} s")  # fmt: skip
    for name, stage in record["stages"].items():
        print(f"  {name:12} {stage['seconds']:8.1f} s")
    database = home / "prefect.db"
    with sqlite3.connect(database) as db:
        runs = db.execute("SELECT count(*) FROM task_run").fetchone()[0]
        states = db.execute("SELECT count(*) FROM task_run_state").fetchone()[0]
    print(f"Prefect: {runs} task runs, {states} states, {database.stat().st_size / 2**20:.1f} MiB")
    for kind, peak in sorted(peaks.items()):
        print(f"largest {kind}: {peak / 2**20:,.0f} MiB resident")


def make_tiny_films(folder: Path, n: int) -> None:
    """Films of 96 x 64 pixels, all different: a bright half, and dark ground."""
    rng = np.random.default_rng(0)
    for i in range(n):
        film = rng.integers(0, 12, (96, 64), dtype=np.uint8)
        film[:, :32] += rng.integers(80, 140, dtype=np.uint8)
        film[:, :32] += rng.integers(0, 60, (96, 32), dtype=np.uint8)
        path = folder / f"{i // 400:03}" / f"p{i // 4:05}_{i % 4}.pgm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"P5 64 96 255\n" + film.tobytes())


@contextmanager
def memory_by_kind(pid: int) -> Iterator[dict[str, int]]:
    """Largest resident memory of flow, server and workers while the block lasts."""
    peaks: dict[str, int] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            try:
                root = psutil.Process(pid)
                processes = [root, *root.children(recursive=True)]
            except psutil.Error:
                return
            for process in processes:
                try:
                    words, rss = " ".join(process.cmdline()), process.memory_info().rss
                except psutil.Error:
                    continue
                kind = ("flow process" if process.pid == pid
                        else "Prefect server" if "prefect.server" in words
                        else "Dask worker" if "spawn_main" in words else "other")  # fmt: skip
                peaks[kind] = max(peaks.get(kind, 0), rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
