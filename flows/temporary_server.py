"""Prefect's temporary server must not outlive the process that started it, however that one ends.

Prefect stops the server when the process exits by itself; after SIGKILL it would run on for ever.
A watcher holds the reading end of a pipe; when the writing end is gone, so is the process.
"""

from __future__ import annotations

import atexit
import subprocess
import sys

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

_watchers: list[subprocess.Popen[bytes]] = []
"""Kept, so that the pipes stay open as long as this process lives."""


def end_with_this_process() -> None:
    """Watch over each temporary server that this process has started (Linux only)."""
    for child in psutil.Process().children():
        try:
            if not any("prefect.server" in part for part in child.cmdline()):
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
