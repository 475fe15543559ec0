"""A Prefect server as a process of ours: waited for, and ended."""

from __future__ import annotations

import contextlib
import subprocess
import time

from storage.errors import MammosiftError

LOOK_S = 0.1


def wait_until_healthy(server: subprocess.Popen[bytes], api_url: str, within_s: float) -> None:
    """Wait until a server answers.

    Raises
    ------
    MammosiftError
        It has ended, or does not answer in time.
    """
    import httpx

    by = time.monotonic() + within_s
    while time.monotonic() < by:
        if server.poll() is not None:
            raise MammosiftError("the Prefect server ended at once; its messages above say why.")
        with contextlib.suppress(httpx.TransportError):
            answered = httpx.get(f"{api_url}/health", timeout=2).status_code == 200
            if answered and server.poll() is None:  # and not another one at this port
                return
        time.sleep(LOOK_S)
    raise MammosiftError(f"the Prefect server did not answer within {within_s:g} s.")


def end(process: subprocess.Popen[bytes], within_s: float) -> None:
    """Let a process end by itself; kill it where it does not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
