"""Prefect server, worker and deployments on one machine, in one command.

python -m flows.serve     registers pool, deployments and automation with a standing server
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType
from typing import Any

from flows import watch
from flows.server_process import end, wait_until_healthy
from storage.errors import InputError

POOL = "mammosift"
FILMS, ENCODER, EMBEDDINGS = "films", "encoder", "embeddings"
REVIEW, COLLECTION, EXPERIMENT = "review", "collection", "experiment"
STARTUP_TIMEOUT_S, STOP_S = 180, 15
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve_all(*, host: str, port: int) -> int:
    """Start the server on SQLite, register the deployments, start a process worker; wait.

    Parameters
    ----------
    host, port : str, int
        Where the server and its UI listen.

    Returns
    -------
    int
        Exit status: 0 after Ctrl-C or SIGTERM, 1 if the server or the worker ended by itself.

    Raises
    ------
    InputError
        The port is taken, or the host is not loopback and no password is set.
    """
    password = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if host not in LOOPBACK and not password:
        raise InputError(
            f"--host {host} would let everyone on the network start runs. Set "
            "PREFECT_SERVER_API_AUTH_STRING to user:password first, or stay on 127.0.0.1."
        )
    if password:  # the worker and its runs are clients, too
        os.environ["PREFECT_API_AUTH_STRING"] = password
    url = f"http://{host}:{port}"
    _refuse_if_taken(host, port)
    os.environ |= {
        "PREFECT_API_URL": f"{url}/api",
        # a page of another site, open in the same browser, must not be able to start runs
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": url,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(watch.BEAT_S),
    }
    for stop in (signal.SIGTERM, signal.SIGINT):  # SIGINT too: a shell's background job ignores it
        signal.signal(stop, _interrupt)
    children: list[subprocess.Popen[bytes]] = []
    try:
        children.append(_prefect("server", "start", "--host", host, "--port", str(port)))
        wait_until_healthy(children[0], f"{url}/api", STARTUP_TIMEOUT_S)
        register()
        watch.register()
        children.append(_prefect("worker", "start", "--pool", POOL, "--type", "process"))
        print(f"\nmammosift is served at {url} (Deployments, films, Run). Ctrl-C stops it.\n")
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
    except KeyboardInterrupt:
        return 0
    finally:
        for child in reversed(children):
            end(child, STOP_S)
    print("mammosift: the server or the worker ended by itself; see its messages above.")
    return 1


def register() -> None:
    """Create the work pool and the deployments on the server that ``PREFECT_API_URL`` names."""
    import anyio
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from flows import cluster, curate, fetch, reproduce, review, train

    async def create_pool() -> None:
        async with get_client() as client:
            pool = WorkPoolCreate(
                name=POOL,
                type="process",
                description="Runs on this machine.",
                base_job_template=await _job_template(),
            )
            await client.create_work_pool(pool, overwrite=True)

    anyio.run(create_pool)
    from prefect.types.entrypoint import EntrypointType

    served: tuple[tuple[Any, str, str, int | None], ...] = (
        (
            curate.curate,
            FILMS,
            "Films in, curated manifest out. A second run in a workspace goes on where the first "
            "one stopped.",
            1,
        ),
        (
            train.train,
            ENCODER,
            "Cuts the films and trains the encoder; a curation with the same films and settings in "
            "this workspace goes on from there.",
            1,
        ),
        (
            cluster.cluster,
            EMBEDDINGS,
            "Exact clusters of any embeddings: .npy, Zarr or Parquet in, labels out.",
            1,
        ),
        (
            review.review,
            REVIEW,
            "Shows the clusters of a finished run, waits for a person's verdicts (Resume), and "
            "publishes the manifest with them.",
            None,  # a run that waits for a person blocks no other
        ),
        (
            fetch.fetch,
            COLLECTION,
            "Films of a public collection into a folder, compared with the bucket's checksums.",
            1,
        ),
        (
            reproduce.reproduce,
            EXPERIMENT,
            "A published experiment on your data, its figures beside the paper's.",
            None,
        ),
    )
    for flow, name, description, at_once in served:
        flow.to_deployment(
            name=name,
            description=description,
            tags=["mammosift"],
            work_pool_name=POOL,
            concurrency_limit=at_once,
            entrypoint_type=EntrypointType.MODULE_PATH,
        ).apply()


async def _job_template() -> dict[str, Any]:
    """The process worker's own template, less what would let a run's form name a command."""
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    for name in ("command", "env", "working_dir"):
        template["variables"]["properties"].pop(name, None)
        template["job_configuration"].pop(name, None)
    return template


def _refuse_if_taken(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as e:
            raise InputError(
                f"cannot listen on {host}:{port} ({e.strerror}). Choose another port: --port"
            ) from e


def _prefect(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "prefect", *arguments])


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    register()
    watch.register()
