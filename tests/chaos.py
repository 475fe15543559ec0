"""Faults at random moments of real runs, each resumed to the end by the same command.

    python tests/chaos.py [--faults 30] [--films 200] [--per-run 5] [--seed 0] [--only KIND ...]

An undisturbed run over made-up films is the measure. Then runs in fresh workspaces are disturbed,
several times each, at moments drawn uniformly from the time that the undisturbed one took; where
the command ends, it is given again, without any cleaning by hand. The manifest must be byte for
byte that of the undisturbed run (its run_id aside), and no finished shard may be made twice. The
last line is ``faults N, recovered N, identical N``; the exit status is 0 where all three are the
same.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import httpx
import numpy as np
import psutil

from storage.manifest import read_manifest
from storage.workspace import COMPLETE, Workspace, table_bytes
from tests.chaos_served import ServedRun

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
BEGUN = "headers 1/"
LIMIT_S, TRIES, STALLED_S = 900.0, 4, 120.0
FROZEN_S, AWAY_S, CUT_S, LOOK_S = 15.0, 5.0, 60.0, 0.2
SMALL_DISK_MB = 600


@dataclass
class Run:
    """One ``mammosift run`` as a process, and what it has said so far."""

    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    started: ClassVar[list[subprocess.Popen[str]]] = []

    @classmethod
    def start(
        cls, films: Path, out: Path, home: Path, *options: str, env: dict[str, str] | None = None
    ) -> Run:
        """Start the command that any user would give."""
        given, env = env or {}, {k: v for k, v in os.environ.items() if k[:8] != "PREFECT_"}
        env |= {"PREFECT_HOME": str(home), "PYTHONUNBUFFERED": "1"} | given
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
        cls.started.append(process)
        threading.Thread(target=run._listen, daemon=True).start()
        return run

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)

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

    @classmethod
    def end_all(cls) -> None:
        """End what still runs, where we are stopped ourselves."""
        for process in cls.started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()

    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.process.poll() is not None

    def begin(self) -> None:
        """Wait until the films are being looked at, or it has ended."""
        while not any(BEGUN in line for line in self.said) and not self.over():
            time.sleep(0.02)


# -- what faults need: a cluster, a server, a disk of their own -----------------------------------


class Standing:
    """Processes that outlive a run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, list[subprocess.Popen[bytes]]()
        self.port = _free_port()

    def spawn(self, *command: str, env: dict[str, str] | None = None) -> None:
        """Start a process; what it says goes to a file."""
        with (self.folder / "standing.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, env=env)
            )

    def stop(self) -> None:
        """End what runs."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()


class Cluster(Standing):
    """A Dask scheduler with two workers; one of them behind a network that can be cut."""

    OWN = os.getpid() % 250
    NAMESPACE, OUTSIDE, INSIDE = f"mammosift-chaos-{OWN}", f"mmchaos{OWN}a", f"mmchaos{OWN}b"
    HERE, THERE = f"10.77.{OWN}.1", f"10.77.{OWN}.2"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.has_network = self._lay_network()
        self.host = self.HERE if self.has_network else "127.0.0.1"
        self.address = f"tcp://{self.host}:{self.port}"

    def start(self) -> None:
        """Start scheduler and workers; those of before are ended."""
        self.stop()
        python = [sys.executable, "-m"]
        self.spawn(*python, "distributed.cli.dask_scheduler", f"--host={self.host}",
                   f"--port={self.port}", "--no-dashboard")  # fmt: skip
        worker = [*python, "distributed.cli.dask_worker", self.address, "--nthreads=1",
                  "--no-dashboard"]  # fmt: skip
        self.spawn(*worker, f"--host={self.host}")
        if self.has_network:
            self.spawn("ip", "netns", "exec", self.NAMESPACE, *worker, f"--host={self.THERE}")
        else:
            self.spawn(*worker, f"--host={self.host}")

    def kill_scheduler(self) -> None:
        """Kill it; its workers find nobody and are ended too, as a batch system would."""
        self.processes[0].kill()

    def workers(self) -> list[psutil.Process]:
        """Worker processes, below their nannies."""
        found = []
        for process in self.processes[1:]:
            with contextlib.suppress(psutil.Error):
                below = psutil.Process(process.pid).children(recursive=True)
                found += [p for p in below if "spawn_main" in " ".join(p.cmdline())]
        return found

    def connect(self, whole: bool) -> None:
        """Cut the network of the second worker, or mend it."""
        _ip("link", "set", self.OUTSIDE, "up" if whole else "down")

    def _lay_network(self) -> bool:
        return (
            _ip("netns", "add", self.NAMESPACE)
            and _ip("link", "add", self.OUTSIDE, "type", "veth", "peer", "name", self.INSIDE)
            and _ip("link", "set", self.INSIDE, "netns", self.NAMESPACE)
            and _ip("addr", "add", f"{self.HERE}/24", "dev", self.OUTSIDE)
            and _ip("link", "set", self.OUTSIDE, "up")
            and all(
                _ip("-n", self.NAMESPACE, *command)
                for command in (
                    ("addr", "add", f"{self.THERE}/24", "dev", self.INSIDE),
                    ("link", "set", self.INSIDE, "up"),
                    ("link", "set", "lo", "up"),
                )
            )
        )

    def remove(self) -> None:
        """End everything, and take the network away."""
        self.stop()
        if self.has_network:
            _ip("link", "del", self.OUTSIDE)
            _ip("netns", "del", self.NAMESPACE)


class Server(Standing):
    """A standing Prefect server."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def start(self) -> None:
        """Start it and wait until it answers."""
        env = {**os.environ, "PREFECT_HOME": str(self.folder / "server")}
        self.spawn(sys.executable, "-m", "prefect", "server", "start", "--host=127.0.0.1",
                   f"--port={self.port}", "--no-ui", env=env)  # fmt: skip
        by = time.monotonic() + 180
        while time.monotonic() < by:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{self.url}/health").raise_for_status()
                return
            time.sleep(0.2)
        raise SystemExit("the Prefect server does not start")


# -- faults: each is done to a run that has begun, and gives what undoes it ----------------------


def nothing() -> None:
    """Nothing has to be undone."""


def kill_worker(run: Run, chaos: Chaos) -> Callable[[], None]:
    if workers := chaos.workers(run):
        random.choice(workers).kill()
    return nothing


def freeze_worker(run: Run, chaos: Chaos) -> Callable[[], None]:
    if workers := chaos.workers(run):
        worker = random.choice(workers)
        worker.suspend()
        chaos.later(FROZEN_S, lambda: _resume(worker))
    return nothing


def kill_flow(run: Run, _: Chaos) -> Callable[[], None]:
    run.process.kill()
    return nothing


def kill_all(run: Run, chaos: Chaos) -> Callable[[], None]:
    below = [] if run.process.poll() is not None else run.children("")
    run.process.kill()
    for process in [*below, *chaos.workers(run)]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return nothing


def kill_server(run: Run, chaos: Chaos) -> Callable[[], None]:
    if chaos.server.processes:
        return restart_server(run, chaos)
    for server in run.children("prefect.server"):
        server.kill()
    return nothing


def restart_server(_: Run, chaos: Chaos) -> Callable[[], None]:
    for process in chaos.server.processes:
        process.kill()
        process.wait()
    chaos.server.processes.clear()
    chaos.later(AWAY_S, chaos.server.start)
    return nothing


def kill_scheduler(_: Run, chaos: Chaos) -> Callable[[], None]:
    chaos.cluster.kill_scheduler()
    return chaos.cluster.start


def cut_network(_: Run, chaos: Chaos) -> Callable[[], None]:
    chaos.cluster.connect(False)
    chaos.later(CUT_S, lambda: chaos.cluster.connect(True))
    return nothing


def fill_disk(_: Run, chaos: Chaos) -> Callable[[], None]:
    filler = chaos.disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as f:
        while True:
            f.write(bytes(2**20))
    return lambda: filler.unlink(missing_ok=True)


def _resume(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.resume()


@dataclass(frozen=True)
class Kind:
    """A kind of fault: what is done, whether the command ends by it, and what it is done to."""

    do: Callable[[Run, Chaos], Callable[[], None]]
    ends: bool
    needs: Literal["", "cluster", "network", "server", "disk"] = ""


@dataclass(frozen=True)
class ServedKind:
    """A kind of fault of a run that was started from the UI."""

    do: Callable[[ServedRun], float | None]


BY_ITSELF = {
    "Dask worker killed": Kind(kill_worker, ends=False),
    "flow process killed": Kind(kill_flow, ends=True),
    "flow and workers killed": Kind(kill_all, ends=True),
    "disk full": Kind(fill_disk, ends=True, needs="disk"),
    "Prefect server of the run killed": Kind(kill_server, ends=True),
}
ON_WHAT_STANDS = {
    "Dask scheduler killed": Kind(kill_scheduler, ends=True, needs="cluster"),
    "network of a worker cut for 60 s": Kind(cut_network, ends=False, needs="network"),
    "Dask worker frozen for 15 s": Kind(freeze_worker, ends=False),
    "standing Prefect server restarted": Kind(restart_server, ends=False, needs="server"),
    "flow process killed, standing server": Kind(kill_flow, ends=True, needs="server"),
}
SERVED = {
    "Prefect worker killed": ServedKind(ServedRun.kill_worker),
    "Prefect server, worker, flow and Dask workers killed": ServedKind(ServedRun.kill_all),
    "flow process of the Prefect worker killed": ServedKind(ServedRun.kill_flow),
}
GROUPS = tuple(tuple(kinds) for kinds in (BY_ITSELF, ON_WHAT_STANDS, SERVED))
"""Kinds that befall the same run; the groups take turns."""
FAULTS = BY_ITSELF | ON_WHAT_STANDS | SERVED


@dataclass
class Fault:
    """One fault, and what became of it."""

    number: int
    kind: str
    moment: float
    """Share of the undisturbed run's time."""
    at: float = 0.0
    said: str = ""
    shards: int = 0
    ended_s: float | None = None
    working_s: float = 0.0
    made_twice: int = 0

    def happens(self, out: Path, started: float, *, over: bool) -> dict[str, int]:
        """Note when, and how far the run was; gives the finished shards."""
        before = finished_shards(out)
        self.at, self.shards = time.monotonic(), len(before)
        self.said = f"{self.at - started:.0f} s, " + (
            "after its end" if over else f"{self.shards} shards"
        )
        return before

    def compare(self, before: dict[str, int], out: Path) -> None:
        """Count the finished shards that were made again."""
        now = finished_shards(out)
        self.made_twice = sum(now.get(name) != mark for name, mark in before.items())

    def works_again(self, watch: Watch, ended: float) -> None:
        """Note when the next shard, or the run, was finished."""
        self.working_s = (watch.after(self.at, self.shards) or ended) - self.at


class Watch:
    """How many shards of a workspace are complete, over time."""

    def __init__(self, out: Path) -> None:
        self.out, self.started = out, time.monotonic()
        self.steps: list[tuple[float, int]] = [(self.started, 0)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            n = len(finished_shards(self.out))
            if n > self.steps[-1][1]:
                self.steps.append((time.monotonic(), n))

    @property
    def count(self) -> int:
        return self.steps[-1][1]

    def after(self, moment: float, count: int) -> float | None:
        """When there were more than so many shards, later than a moment."""
        return next((t for t, n in self.steps if t > moment and n > count), None)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


class Chaos:
    """Films, the undisturbed manifest, and what the faults need."""

    def __init__(self, folder: Path, films: int, undone: contextlib.ExitStack) -> None:
        self.folder, self.films, self.home = folder, folder / "films", folder / "prefect"
        make_films(self.films, films)
        undone.callback(Run.end_all)
        self.server = Server(folder)
        undone.callback(self.server.stop)
        self.cluster = Cluster(folder)
        undone.callback(self.cluster.remove)
        self.disk = folder / "small-disk"
        self.has_disk = _mounted(self.disk)
        self._timers: list[threading.Timer] = []
        out = folder / "undisturbed"
        started = time.monotonic()
        watch = Watch(out)
        run = Run.start(self.films, out, self.home)
        run.begin()
        self.begun = time.monotonic()
        if run.wait() != 0:
            raise SystemExit("the undisturbed run failed:\n" + "".join(run.said[-40:]))
        self.ended = time.monotonic()
        self.seconds = self.ended - started
        watch.stop()
        self.profile = watch.steps
        self.manifest = manifest_bytes(out)

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something in a while; a run is not over before it is done."""
        timer = threading.Timer(seconds, do)
        timer.start()
        self._timers.append(timer)

    def workers(self, run: Run) -> list[psutil.Process]:
        """Dask workers of a run: its own, or those of the standing cluster."""
        return self.cluster.workers() or run.children("spawn_main")

    def can(self, kind: str) -> bool:
        """Whether this machine lets us do it."""
        known = FAULTS[kind]
        needs = known.needs if isinstance(known, Kind) else ""
        return (needs != "disk" or self.has_disk) and (
            needs != "network" or self.cluster.has_network
        )

    def disturb(self, number: int, faults: list[Fault]) -> tuple[bool, bool, float]:
        """A run with several faults: whether it ended well, with the same manifest, and when."""
        needed = {kind.needs for f in faults if isinstance(kind := FAULTS[f.kind], Kind)}
        out = (self.disk if "disk" in needed else self.folder) / f"run{number}"
        options, env = [], {}
        if needed & {"cluster", "network"}:
            self.cluster.start()
            options = [f"--dask-address={self.cluster.address}"]
        if "server" in needed:
            self.server.start()
            env = {"PREFECT_API_URL": self.server.url}
        started, watch = time.monotonic(), Watch(out)
        run = Run.start(self.films, out, self.home, *options, env=env)
        tries = 0
        for fault in sorted(faults, key=lambda f: f.moment):
            if run.over():
                run = Run.start(self.films, out, self.home, *options, env=env)
            run.begin()
            self._wait_for(fault.moment, watch, run.over)
            self._do(fault, run, out, started)
        status = run.wait()
        while status != 0 and tries < TRIES:
            tries += 1
            run = Run.start(self.films, out, self.home, *options, env=env)
            status = run.wait()
        ended = time.monotonic()
        watch.stop()
        if status != 0:
            print("".join(run.said[-30:]), file=sys.stderr)
        for fault in faults:
            fault.works_again(watch, ended)
        identical = status == 0 and manifest_bytes(out) == self.manifest
        for timer in self._timers:
            timer.join()
        self._timers.clear()
        self.cluster.stop()
        self.server.stop()
        shutil.rmtree(out, ignore_errors=True)
        return status == 0, identical, ended - started

    def disturb_served(self, number: int, faults: list[Fault]) -> tuple[bool, bool, float]:
        """The same with a run that was started from the UI."""
        out = self.folder / f"run{number}"
        settings = {name.replace("-", "_"): value for name, value in SETTINGS.items()}
        places = {"source": str(self.films), "out": str(out)}
        run = ServedRun(self.folder / f"served{number}", settings | places)
        started, watch = time.monotonic(), Watch(out)
        try:
            for fault in sorted(faults, key=lambda f: f.moment):
                run.begin()
                self._wait_for(fault.moment, watch, run.over)
                before = fault.happens(out, started, over=run.over())
                kind = FAULTS[fault.kind]
                assert isinstance(kind, ServedKind)
                fault.ended_s = kind.do(run)
                fault.compare(before, out)
            whole = run.finish()
        finally:
            run.stop()
        ended = time.monotonic()
        watch.stop()
        for fault in faults:
            fault.works_again(watch, ended)
        identical = whole and manifest_bytes(out) == self.manifest
        shutil.rmtree(out, ignore_errors=True)
        return whole, identical, ended - started

    def _wait_for(self, moment: float, watch: Watch, over: Callable[[], bool]) -> None:
        """Wait until a run is as far as the undisturbed one was at a moment, or has ended."""
        at = self.begun + moment * (self.ended - self.begun)
        since, count = max((t, n) for t, n in self.profile if t <= at)
        stalled = time.monotonic() + STALLED_S
        while watch.count < count and not over():
            if time.monotonic() > stalled:
                break
            time.sleep(0.05)
        left = time.monotonic() + (at - max(since, self.begun))
        while time.monotonic() < left and not over():
            time.sleep(0.05)

    def _do(self, fault: Fault, run: Run, out: Path, started: float) -> None:
        kind = FAULTS[fault.kind]
        assert isinstance(kind, Kind)
        random.seed(fault.number)
        before = fault.happens(out, started, over=run.over())
        undo = kind.do(run, self)
        if kind.ends:
            run.wait()
            fault.ended_s = time.monotonic() - fault.at
        undo()
        fault.compare(before, out)


def rounds(given: argparse.Namespace, chaos: Chaos) -> Iterator[list[str]]:
    """Kinds of the faults of each run: the groups in turn, so many in all."""
    wanted = given.only or list(FAULTS)
    groups = [[k for k in group if k in wanted and chaos.can(k)] for group in GROUPS]
    groups = [group for group in groups if group]
    left = given.faults
    for group in itertools.cycle(groups):
        for first in range(0, len(group), given.per_run):
            kinds = group[first : first + given.per_run][:left]
            left -= len(kinds)
            yield kinds
            if not left:
                return


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--per-run", type=int, default=5, help="faults of one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), metavar="KIND")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with (
        tempfile.TemporaryDirectory(prefix="mammosift-chaos-") as folder,
        _folder(folder) as path,
        contextlib.ExitStack() as undone,
    ):
        chaos = Chaos(path, given.films, undone)
        print(f"{given.films} films, seed {given.seed}; undisturbed: {chaos.seconds:.0f} s")
        for kind in given.only or FAULTS:
            if not chaos.can(kind):
                print(f"left out: {kind} (this machine does not let us)")
        print(
            "| | run | fault | after | command ended, s | working again, s | made twice |\n"
            "| --- | ---: | --- | --- | ---: | ---: | ---: |",
            flush=True,
        )
        moments = iter(np.random.default_rng(given.seed).uniform(0, 0.97, given.faults))
        recovered = identical = done = 0
        for number, of_round in enumerate(rounds(given, chaos), start=1):
            of_run = [
                Fault(done + i, kind, float(next(moments)))
                for i, kind in enumerate(of_round, start=1)
            ]
            done += len(of_run)
            served = of_round[0] in SERVED
            disturb = chaos.disturb_served if served else chaos.disturb
            whole, same, seconds = disturb(number, of_run)
            recovered += whole * len(of_run)
            identical += same * len(of_run)
            for f in sorted(of_run, key=lambda f: f.at):
                ended = "-" if f.ended_s is None else f"{f.ended_s:.0f}"
                print(f"| {f.number} | {number} | {f.kind} | {f.said} | {ended} | "
                      f"{f.working_s:.0f} | {f.made_twice} |")  # fmt: skip
            end = "ended well" if whole else "DID NOT END WELL"
            print(f"| | {number} | *{end}, manifest {'identical' if same else 'DIFFERENT'}* | "
                  f"{seconds:.0f} s | | | |", flush=True)  # fmt: skip
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
    """Every shard that is marked complete, and when its mark was written."""
    found = {}
    for folder, folders, files in os.walk(out):  # what goes away meanwhile is no error to it
        folders[:] = [name for name in folders if ".partial" not in name]
        if COMPLETE in files:
            mark = Path(folder) / COMPLETE
            folders.clear()
            with contextlib.suppress(FileNotFoundError):
                found[str(mark.relative_to(out))] = mark.stat().st_mtime_ns
    return found


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
    return port


def _ip(*command: str) -> bool:
    try:
        return subprocess.run(["ip", *command], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


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
