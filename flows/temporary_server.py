"""Prefect's temporary server: started early, and never outliving the process that started it.

Prefect would start it when the flow begins; a command does so before it imports the flow, as both
take seconds. However the process ends, the server must too: a watcher holds the reading end of a
pipe; when the writing end is gone, so is the process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from flows.server_process import end, wait_until_healthy

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

SPEAKS_OF_SERVERS = ("PREFECT_API_URL", "PREFECT_PROFILE", "EPHEMERAL")
"""In names of settings: whether a server is known, or may be started."""
STARTUP_TIMEOUT = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
LOOK_S = 1.0
STARTUP_S, STOP_S = 120, 5
AS_PREFECT_DOES = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}

_settings = contextlib.ExitStack()
"""Never left: Prefect sends its last logs as the process ends."""
_watchers: dict[int, subprocess.Popen[bytes]] = {}
"""By server; kept, so that the pipes stay open as long as this process lives."""


def start() -> Callable[[], None]:
    """Start a server, where no standing one is configured, and go on without waiting for it.

    Prefect's settings say whether one is; to import them takes long, so that a server is started
    before they are read where environment and profile name none.

    Returns
    -------
    callable
        Waits until it answers; from then on it is Prefect's server, to the end of this process.
        Where Prefect knows a server, or may not start one, none is used, and one that was started
        in vain is ended.
    """
    known = "prefect.settings" in sys.modules
    if not (_is_wanted() if known else _is_probably_wanted()):
        return lambda: None
    if known:
        from prefect.settings import get_current_settings

        given = get_current_settings().to_environment_variables(exclude_unset=True)
    else:
        given = {}  # the server reads the same profile and the same environment
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app",
         f"--port={port}", "--log-level=error", "--lifespan=on"],
        env=os.environ | AS_PREFECT_DOES | given,
    )  # fmt: skip
    end_with_this_process()
    atexit.register(
        end, process, STOP_S
    )  # runs after what Prefect registers later: it sends its logs
    return partial(_use, process, f"http://127.0.0.1:{port}/api")


def _is_wanted() -> bool:
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    return settings.api.url is None and bool(settings.server.ephemeral.enabled)


def _is_probably_wanted() -> bool:
    """Whether nothing in the environment, nor a profile, speaks of servers; what else may, is rare.

    Prefect's own profile lets it start one; where there are others, its settings are read.
    """
    names = {name.upper() for name in os.environ} - {STARTUP_TIMEOUT}
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    plain = not any(part in name for name in names for part in SPEAKS_OF_SERVERS)
    return (plain and not (home / "profiles.toml").exists()) or _is_wanted()


def _use(process: subprocess.Popen[bytes], url: str) -> None:
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_UI_URL,
        temporary_settings,
    )

    if not _is_wanted():
        end(process, STOP_S)
        return
    wait_until_healthy(process, url, STARTUP_S)
    here: dict[Any, Any] = {PREFECT_API_URL: url, PREFECT_UI_URL: ""}
    # nobody listens to heartbeats there, and a flow waits for their thread to wake up when it ends
    here[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
    _settings.enter_context(temporary_settings(here))


def end_with_this_process() -> None:
    """Watch over each temporary server that this process has started (Linux only)."""
    for child in psutil.Process().children():
        try:
            if child.pid in _watchers or not _is_server(child):
                continue
            started = _start_time(child.pid)
        except (psutil.Error, OSError):
            continue  # it ended meanwhile, or there is no /proc
        _watchers[child.pid] = subprocess.Popen(
            [sys.executable, "-S", "-c", _WATCH, str(child.pid), started],
            stdin=subprocess.PIPE,
            start_new_session=True,
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
        while True:
            with contextlib.suppress(psutil.Error, OSError):
                for child in psutil.Process().children():
                    if child.pid not in seen and _is_server(child):
                        seen[child.pid] = child
            if any(_is_dead(server) for server in seen.values()):
                lost()
                return
            if over.wait(LOOK_S):
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
    """Let the watchers end: a process that ends by itself ends its server, too."""
    while _watchers:
        _, watcher = _watchers.popitem()
        if watcher.stdin is not None:
            watcher.stdin.close()
        watcher.wait()


def _start_time(pid: int) -> str:
    """Start of a process in clock ticks since boot: with the pid it names one process only."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:  # noqa: PTH123
        return f.read().rsplit(")", 1)[1].split()[19]
