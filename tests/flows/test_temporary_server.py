"""When a command starts a server of its own, before Prefect's settings are read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

START = """
import psutil
from flows import temporary_server
use = temporary_server.start()
servers = [c for c in psutil.Process().children() if "prefect.server" in " ".join(c.cmdline())]
print(len(servers))
use()
from prefect.settings import PREFECT_API_URL
print(PREFECT_API_URL.value(), sum(c.is_running() for c in servers))
"""
PROFILES = (
    'active = "work"\n[profiles.work]\n{}\n[profiles.other]\nPREFECT_API_URL = "http://o/api"\n'
)


def lines_of_start(home: Path, **given: str) -> list[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"} | given
    command = [sys.executable, "-c", START]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=240, check=False, cwd=home
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-2:]


@pytest.mark.parametrize(
    ("profile", "given"),
    [
        (None, {"PREFECT_API_URL": "http://127.0.0.1:1/api"}),
        (None, {"prefect_api_url": "http://127.0.0.1:1/api"}),
        ('PREFECT_API_URL = "http://127.0.0.1:1/api"', {}),
    ],
    ids=["environment", "lower case", "profile"],
)
def test_where_a_server_is_known_none_is_started(
    profile: str | None, given: dict[str, str], tmp_path: Path
) -> None:
    if profile is not None:
        (tmp_path / "profiles.toml").write_text(PROFILES.format(profile))
    assert lines_of_start(tmp_path, **given) == ["0", "http://127.0.0.1:1/api 0"]


def test_where_none_may_be_started_none_is(tmp_path: Path) -> None:
    given = {"PREFECT_SERVER_EPHEMERAL_ENABLED": "false"}
    assert lines_of_start(tmp_path, **given) == ["0", "None 0"]


def test_one_that_was_started_in_vain_is_ended(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://127.0.0.1:1/api"\n')
    assert lines_of_start(tmp_path) == ["1", "http://127.0.0.1:1/api 0"]


def test_else_one_is_started_and_used(tmp_path: Path) -> None:
    started, used = lines_of_start(tmp_path)
    assert started == "1"
    assert used.startswith("http://127.0.0.1:")
    assert used.endswith("/api 1")
