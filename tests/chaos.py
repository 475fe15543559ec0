"""Faults at random moments of real runs, each resumed to the end by the same command.

    python tests/chaos.py [--faults 30] [--films 200] [--seed 0] [--only KIND ...]

An undisturbed run over made-up films is the measure. Then, for each fault, a run in a fresh
workspace is disturbed at a random moment; where it ends, the same command is given again, without
any cleaning by hand. The manifest must be byte for byte that of the undisturbed run (its run_id
aside), and no finished shard may be made twice. The last line is
``faults N, recovered N, identical N``; the exit status is 0 where all three are the same.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import psutil

from storage.manifest import read_manifest
from storage.workspace import COMPLETE, Workspace, table_bytes

SETTINGS = {
    "tile-size-px": 64,
    "films-per-shard": 8,
    "max-epochs": 2,
    "batch-size": 64,
    "training-tiles": 256,
    "planted-tiles": 100,
    "min-cluster-size": 5,
    "workers": 2,
}
BEGUN, FINISHED = "headers 1/", "Finished in state"
LIMIT_S, TRIES, LATER_S = 900.0, 4, 1.5
FROZEN_S = 15.0
SMALL_DISK_MB = 400


@dataclass
class Run:
    """One ``mammosift run`` as a process, and what it has said so far."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, films: Path, out: Path, home: Path, *options: str) -> Run:
        """Start the command that any user would give."""
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        env |= {"PREFECT_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        command = [sys.executable, "-m", "flows.cli", "run", f"--source={films}", f"--out={out}"]
        process = subprocess.Popen(
            [*command, *settings, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
        )
        run = cls(process)
        threading.Thread(target=run._listen, daemon=True).start()
        return run

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)

    def reach(self, lines: int) -> None:
        """Wait until it has said so much, or has ended."""
        while len(self.said) < lines and self.process.poll() is None:
            time.sleep(0.02)

    def children(self, mark: str) -> list[psutil.Process]:
        """Processes below this one whose command holds a word."""
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if mark in " ".join(child.cmdline()):
                        found.append(child)
        return found

    def wait(self) -> int:
        """Exit status; a run that hangs is a failure of ours."""
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            print("".join(self.said[-20:]), file=sys.stderr)
            raise SystemExit("a run hung: no fault may do that") from None


# -- faults: each is done to a run that has begun, and gives what undoes it ----------------------


def kill_worker(run: Run, _: Chaos) -> Callable[[], None]:
    workers = run.children("spawn_main")
    if workers:
        random.choice(workers).kill()
    return nothing


def freeze_worker(run: Run, _: Chaos) -> Callable[[], None]:
    workers = run.children("spawn_main")
    if workers:
        worker = random.choice(workers)
        worker.suspend()
        threading.Timer(FROZEN_S, lambda: _resume(worker)).start()
    return nothing


def kill_flow(run: Run, _: Chaos) -> Callable[[], None]:
    run.process.kill()
    return nothing


def kill_all(run: Run, _: Chaos) -> Callable[[], None]:
    for process in [psutil.Process(run.process.pid), *run.children("")]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return nothing


def kill_server(run: Run, _: Chaos) -> Callable[[], None]:
    for server in run.children("prefect.server"):
        server.kill()
    return nothing


def kill_scheduler(_: Run, chaos: Chaos) -> Callable[[], None]:
    chaos.cluster.kill_scheduler()
    return chaos.cluster.start


def fill_disk(_: Run, chaos: Chaos) -> Callable[[], None]:
    filler = chaos.disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as f:
        while True:
            f.write(bytes(2**20))
    return lambda: filler.unlink()


def nothing() -> None:
    """Nothing has to be undone."""


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.resume()


FAULTS: dict[str, Callable[[Run, Chaos], Callable[[], None]]] = {
    "Dask worker killed": kill_worker,
    "flow process killed": kill_flow,
    "flow and workers killed": kill_all,
    "Prefect server killed": kill_server,
    "Dask scheduler killed": kill_scheduler,
    "disk full": fill_disk,
    "Dask worker frozen": freeze_worker,
}


class Cluster:
    """A standing Dask cluster on loopback, for the fault that kills its scheduler."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port: int = s.getsockname()[1]
        self.folder, self.processes = folder, list[subprocess.Popen[bytes]]()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start scheduler and workers; those of before are gone."""
        self.stop()
        python = [sys.executable, "-m"]
        self._start(*python, "distributed.cli.dask_scheduler", "--host=127.0.0.1",
                    f"--port={self.port}", "--no-dashboard")  # fmt: skip
        for _ in range(2):
            self._start(*python, "distributed.cli.dask_worker", self.address, "--nthreads=1",
                        "--no-dashboard", "--host=127.0.0.1")  # fmt: skip

    def _start(self, *command: str) -> None:
        with (self.folder / "dask.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
            )

    def kill_scheduler(self) -> None:
        """Kill it; its workers find nobody and are ended too, as a batch system would."""
        self.processes[0].kill()

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


class Chaos:
    """Films, the undisturbed manifest, and what the faults need."""

    def __init__(self, folder: Path, films: int) -> None:
        self.folder, self.films, self.home = folder, folder / "films", folder / "prefect"
        make_films(self.films, films)
        self.cluster = Cluster(folder)
        self.disk = folder / "small-disk"
        self.has_disk = _mounted(self.disk)
        started = time.monotonic()
        run = Run.start(self.films, folder / "undisturbed", self.home)
        if run.wait() != 0:
            raise SystemExit("the undisturbed run failed:\n" + "".join(run.said[-40:]))
        self.seconds = time.monotonic() - started
        begun = next(i for i, line in enumerate(run.said) if BEGUN in line)
        finished = next(i for i, line in enumerate(run.said) if FINISHED in line)
        self.lines = begun, finished
        self.manifest = manifest_bytes(folder / "undisturbed")

    def disturb(self, kind: str, number: int, moment: float) -> tuple[bool, bool, str]:
        """One fault: whether the run recovered, whether its manifest is identical, a table row."""
        random.seed(number)
        out = (self.disk if kind == "disk full" else self.folder) / f"run{number}"
        options = []
        if kind == "Dask scheduler killed":
            self.cluster.start()
            options = [f"--dask-address={self.cluster.address}"]
        started = time.monotonic()
        run = Run.start(self.films, out, self.home, *options)
        begun, end = self.lines
        run.reach(begun + round(moment * (end - begun)))
        time.sleep(random.uniform(0, LATER_S))
        ended_before = run.process.poll() is not None
        finished = finished_shards(out)
        at = time.monotonic()
        undo = FAULTS[kind](run, self)
        status = run.wait()
        noticed, tries = time.monotonic() - at, 1
        undo()
        while status != 0 and tries < TRIES:
            tries += 1
            run = Run.start(self.films, out, self.home, *options)
            status = run.wait()
        recovered = time.monotonic() - at
        total = time.monotonic() - started
        if status != 0:
            print("".join(run.said[-30:]), file=sys.stderr)
        now = finished_shards(out)
        redone = sum(now.get(name) != mark for name, mark in finished.items())
        identical = status == 0 and manifest_bytes(out) == self.manifest
        stage = "after its end" if ended_before else f"{len(finished)} shards done"
        row = (
            f"| {number} | {kind} | {at - started:.0f} s, {stage} | "
            f"{'-' if tries == 1 else f'{noticed:.0f}'} | {recovered:.0f} | {tries} | {redone} | "
            f"{total - self.seconds:+.0f} | {'yes' if identical else 'NO'} |"
        )
        self.cluster.stop()
        shutil.rmtree(out, ignore_errors=True)
        return status == 0, identical, row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), metavar="KIND")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mammosift-chaos-") as folder, _folder(folder) as path:
        chaos = Chaos(path, given.films)
        kinds = [k for k in given.only or FAULTS if k != "disk full" or chaos.has_disk]
        print(f"{given.films} films, seed {given.seed}; undisturbed: {chaos.seconds:.0f} s")
        if not chaos.has_disk:
            print("left out: disk full (no right to mount a small disk here)")
        print(
            "| | fault | after | command ended, s | whole again, s | commands | shards made twice "
            "| extra s | identical |\n| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
            flush=True,
        )
        moments = np.random.default_rng(given.seed).uniform(0, 0.97, given.faults)
        recovered = identical = 0
        for i, moment in enumerate(moments):
            whole, same, row = chaos.disturb(kinds[i % len(kinds)], i + 1, float(moment))
            recovered, identical = recovered + whole, identical + same
            print(row, flush=True)
    print(f"faults {given.faults}, recovered {recovered}, identical {identical}")
    return 0 if recovered == identical == given.faults else 1


def make_films(folder: Path, n: int) -> None:
    """Made-up films, four a patient: a half ellipse of breast, and lettering on every third."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:256, 0:192].astype(np.float32)
    inside = np.clip(1 - (x / 110) ** 2 - ((y - 128) / 108) ** 2, 0, 1)
    for i in range(n):
        texture = cv2.GaussianBlur(rng.standard_normal((256, 192)).astype(np.float32), (0, 0), 3)
        film = 10 + 2 * rng.standard_normal((256, 192)) + np.sqrt(inside) * (110 + 220 * texture)
        picture = np.clip(film, 0, 255).astype(np.uint8)
        if i % 3 == 0:
            cv2.putText(picture, "RCC", (120, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 235, 2)
        path = folder / f"patient{i // 4:04}" / f"film{i % 4}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture)


def manifest_bytes(out: Path) -> bytes:
    return table_bytes(read_manifest(Workspace.open(out)).drop_columns(["run_id"]))


def finished_shards(out: Path) -> dict[str, int]:
    marks = [m for m in out.rglob(COMPLETE) if ".partial" not in str(m)]
    found = {}
    for mark in marks:
        with contextlib.suppress(FileNotFoundError):
            found[str(mark.relative_to(out))] = mark.stat().st_mtime_ns
    return found


def _mounted(folder: Path) -> bool:
    """A disk of its own that is soon full, where we may mount one."""
    folder.mkdir()
    size = f"size={SMALL_DISK_MB}m"
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "mammosift-chaos", str(folder)],
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def _folder(name: str) -> Iterator[Path]:
    path = Path(name)
    try:
        yield path
    finally:
        if (disk := path / "small-disk").is_mount():
            subprocess.run(["umount", "--lazy", str(disk)], check=False)


if __name__ == "__main__":
    sys.exit(main())
