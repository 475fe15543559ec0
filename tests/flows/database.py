"""A PostgreSQL of one's own on loopback, made by initdb and run by a user without rights."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
"""Debian's; the last one is the newest."""
USER = "postgres" if os.geteuid() == 0 else None
"""PostgreSQL refuses to run as root."""
PASSWORD = "made-up-database-password"  # noqa: S105
START_S = 60


@contextmanager
def postgres() -> Iterator[str]:
    """Start it with an empty database ``prefect``; gives its URL for Prefect."""
    folder = Path(tempfile.mkdtemp(prefix="mammosift-postgres-"))
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if USER is not None:
        for path in (folder, secret):
            shutil.chown(path, USER)
    programs, data = PROGRAMS[-1].parent, folder / "data"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    _run(
        *(programs / "initdb", "--pgdata", data, "--username", "prefect", "--no-sync"),
        *("--auth", "scram-sha-256", "--pwfile", secret, "--encoding", "UTF8"),
    )
    options = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": folder,
        "fsync": "off",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *(f"--{k}={v}" for k, v in options.items())],
            stdout=log,
            stderr=log,
            user=USER,
            cwd=folder,
        )
    try:
        deadline = time.monotonic() + START_S
        while ask(port, "select 1", database="postgres") != "1":
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        ask(port, "create database prefect", database="postgres")
        yield f"postgresql+asyncpg://prefect:{PASSWORD}@127.0.0.1:{port}/prefect"
    finally:
        server.send_signal(signal.SIGINT)  # without waiting for those who are connected
        server.wait(60)
        shutil.rmtree(folder)


def ask(port: int | str, query: str, *, database: str = "prefect") -> str:
    """Answer of the database in plain text; empty where it is not up yet."""
    command = ["psql", "--host=127.0.0.1", f"--port={port}", "--username=prefect", "-At"]
    done = subprocess.run(
        [*command, f"--dbname={database}", "--command", query],
        env=os.environ | {"PGPASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _run(*command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        user=USER,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
