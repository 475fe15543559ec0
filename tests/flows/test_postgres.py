"""A standing server on PostgreSQL, which lets in only those who know its password."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tasks.settings import CurationSettings
from tests.flows.database import PASSWORD, PROGRAMS, ask, postgres
from tests.flows.local_run import manifest_bytes

AUTH = "reader:made-up-server-password"
START_S, RUN_S = 180, 900

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.xdist_group("local-run"),
    pytest.mark.skipif(not PROGRAMS, reason="PostgreSQL is not installed (Debian: postgresql)"),
]


@dataclass(frozen=True)
class Standing:
    """A Prefect server with its database behind it."""

    url: str
    database_port: int
    log: Path
    env: dict[str, str]


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "server.log"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    with postgres() as database:
        with log.open("wb") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
                env=env | {"PREFECT_SERVER_DATABASE_CONNECTION_URL": database},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline = time.monotonic() + START_S
            while not _is_healthy(url):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            del env["PREFECT_SERVER_API_AUTH_STRING"]
            port_of_it = urlsplit(database).port
            assert port_of_it is not None
            env |= {"PREFECT_API_URL": f"{url}/api", "PREFECT_API_AUTH_STRING": AUTH}
            yield Standing(url, port_of_it, log, env)
        finally:
            server.terminate()
            server.wait(60)


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def test_a_run_behind_a_password_and_on_postgresql_publishes_the_manifest_of_a_local_run(
    standing: Standing, local_run: CurationSettings, tmp_path: Path
) -> None:
    user, _, password = AUTH.partition(":")
    flows = f"{standing.url}/api/flows/filter"
    assert httpx.post(flows, json={}, timeout=30).status_code == 401
    wrong = httpx.post(flows, json={}, auth=(user, "guessed"), timeout=30)
    assert wrong.status_code == 401
    assert httpx.post(flows, json={}, auth=(user, password), timeout=30).status_code == 200

    config = tmp_path / "run.toml"
    out = tmp_path / "on-postgres"
    given = local_run.model_dump(exclude_unset=True) | {"out": str(out)}
    config.write_text("".join(f"{name} = {value!r}\n" for name, value in given.items()))
    command = [sys.executable, "-m", "flows.cli", "run", "--config", str(config)]
    done = subprocess.run(
        command, env=standing.env, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert manifest_bytes(out) == manifest_bytes(local_run.out)
    assert ask(standing.database_port, "select state_type from flow_run") == "COMPLETED"
    assert int(ask(standing.database_port, "select count(*) from task_run")) > 10
    assert ask(standing.database_port, "select count(*) from artifact where key = 'run-summary'")

    said = done.stdout + done.stderr + standing.log.read_text()
    written = [f.read_bytes() for f in out.rglob("*") if f.is_file()]
    stored = ask(standing.database_port, "select data from artifact") + ask(
        standing.database_port, "select message from log"
    )
    for secret in (PASSWORD, password):
        assert secret not in said, "no secret is logged"
        assert secret not in stored, "no secret is in the artifacts or the log in the UI"
        assert not [f for f in written if secret.encode() in f], "no secret is in the workspace"
