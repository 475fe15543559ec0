"""Prefect's temporary server must not outlive the process that started it, however that one ends.

Prefect stops the server when the process exits by itself; after SIGKILL it would run on for ever.
A watcher holds the reading end of a pipe; when the writing end is gone, so is the process.
"""

from __future__ import annotations

import atexit
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

_WATCH = """
import os, signal, sys
pid, started = int(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.stdin.buffer.read()
try:
    with open(f"/proc/{pid}/stat") as f:
        if f.read().rsplit(")", 1)[1].split()[19] == started:
            os.kill(pid, signal.SIGTERM)
except OSError:
    pass
"""

LOOK_S = 1.0

_watchers: list[subprocess.Popen[bytes]] = []
"""Kept, so that the pipes stay open as long as this process lives."""


def end_with_this_process() -> None:
    """Watch over each temporary server that this process has started (Linux only)."""
    for child in psutil.Process().children():
        try:
            if not _is_server(child):
                continue
            started = _start_time(child.pid)
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or there is no /proc
        _watchers.append(
            subprocess.Popen(
                [sys.executable, "-S", "-c", _WATCH, str(child.pid), started],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        )


@contextmanager
def needed(lost: Callable[[], None]) -> Iterator[None]:
    """Notice within seconds that a temporary server of this process has died.

    Prefect itself tries for minutes to reach it, and the run can no longer end well.

    Parameters
    ----------
    lost : callable
        Called once, from another thread, where a server that was seen is gone before the block is
        left.
    """
    over = threading.Event()

    def watch() -> None:
        seen: dict[int, psutil.Process] = {}
        while not over.wait(LOOK_S):
            with contextlib.suppress(psutil.Error, OSError):
                for child in psutil.Process().children():
                    if child.pid not in seen and _is_server(child):
                        seen[child.pid] = child
            if any(_is_dead(server) for server in seen.values()):
                lost()
                return

    thread = threading.Thread(target=watch, name="temporary-server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _is_server(process: psutil.Process) -> bool:
    try:
        return any("prefect.server" in part for part in process.cmdline())
    except psutil.Error:
        return False


def _is_dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@atexit.register
def _dismiss() -> None:
    """Let the watchers end; by now Prefect stops its server itself."""
    while _watchers:
        watcher = _watchers.pop()
        if watcher.stdin is not None:
            watcher.stdin.close()
        watcher.wait()


def _start_time(pid: int) -> str:
    """Start of a process in clock ticks since boot: with the pid it names one process only."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:  # noqa: PTH123
        return f.read().rsplit(")", 1)[1].split()[19]
