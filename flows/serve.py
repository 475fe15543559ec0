"""Prefect server, worker and deployments on one machine, in one command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

POOL = "mammosift"
DEPLOYMENT = "films"
STARTUP_TIMEOUT_S = 180


def serve_all(*, host: str, port: int) -> int:
    """Start the server on SQLite, register the deployment, start a process worker; wait.

    Parameters
    ----------
    host, port : str, int
        Where the server and its UI listen.

    Returns
    -------
    int
        Exit status: 0 after Ctrl-C or SIGTERM, 1 if the server or the worker ended by itself.
    """
    url = f"http://{host}:{port}"
    os.environ |= {
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
    }
    signal.signal(signal.SIGTERM, _interrupt)
    children: list[subprocess.Popen[bytes]] = []
    try:
        children.append(_prefect("server", "start", "--host", host, "--port", str(port)))
        _wait_until_healthy(url, children[0])
        register()
        children.append(_prefect("worker", "start", "--pool", POOL, "--type", "process"))
        print(f"\nmammosift is served at {url} (Deployments, curate, Run). Ctrl-C stops it.\n")
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
    except KeyboardInterrupt:
        return 0
    finally:
        for child in reversed(children):
            _end(child)
    print("mammosift: the server or the worker ended by itself; see its messages above.")
    return 1


def register() -> None:
    """Create the work pool and the deployment on the server that ``PREFECT_API_URL`` names."""
    import anyio
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from flows.curate import curate

    async def create_pool() -> None:
        async with get_client() as client:
            pool = WorkPoolCreate(name=POOL, type="process", description="Runs on this machine.")
            await client.create_work_pool(pool, overwrite=True)

    anyio.run(create_pool)
    from prefect.types.entrypoint import EntrypointType

    deployment = curate.to_deployment(
        name=DEPLOYMENT,
        description="Films in, curated manifest out. A second run in a workspace goes on where "
        "the first one stopped.",
        tags=["mammosift"],
        work_pool_name=POOL,
        concurrency_limit=1,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.apply()  # type: ignore[union-attr]


def _prefect(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "prefect", *arguments])


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    import httpx

    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(
                "the Prefect server ended at once; is the port taken? Choose another: --port"
            )
        try:
            if httpx.get(f"{url}/api/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"the Prefect server did not answer within {STARTUP_TIMEOUT_S} s")


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
