"""An S3 of one's own on loopback: moto's server, as a process, with a bucket ``films``."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "made-up-key-id",
    "AWS_SECRET_ACCESS_KEY": "made-up-secret-key",
    "AWS_DEFAULT_REGION": "us-east-1",
}
START_S = 60


@contextmanager
def s3_store() -> Iterator[dict[str, str]]:
    """Start it; gives the environment by which clients find it and sign for it."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while not _answers(url):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        httpx.put(f"{url}/films", headers={"Host": f"127.0.0.1:{port}"}).raise_for_status()
        yield CREDENTIALS | {"AWS_ENDPOINT_URL": url, "no_proxy": "127.0.0.1"}
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code < 500
    except httpx.TransportError:
        return False
