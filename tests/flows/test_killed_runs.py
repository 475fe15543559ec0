"""A run that is killed in any stage goes on where it stopped, and ends with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from storage.manifest import read_manifest
from storage.workspace import COMPLETE, Workspace, table_bytes

KILLED_AT = ("headers 1/", "tiles 1/", "encoder, epoch 1/", "embeddings 1/", "manifest 1/")


def start(source: Path, out: Path, small: dict[str, int]) -> subprocess.Popen[str]:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in small.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", f"--source={source}", f"--out={out}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def manifest_bytes(out: Path) -> bytes:
    table = read_manifest(Workspace.open(out))
    return table_bytes(table.drop_columns(["run_id"]))


def finished_shards(out: Path) -> dict[str, int]:
    """Every shard that is marked complete, and when its mark was written."""
    marks = [m for m in out.rglob(COMPLETE) if ".partial" not in str(m)]
    return {str(m.relative_to(out)): m.stat().st_mtime_ns for m in marks}


@pytest.mark.slow
def test_killed_in_each_stage_then_resumed_gives_the_same_manifest(
    prefect_server: str, film_folder: Path, small: dict[str, int], tmp_path: Path
) -> None:
    undisturbed = start(film_folder, tmp_path / "undisturbed", small)
    output, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, output

    out = tmp_path / "killed"
    finished: dict[str, int] = {}
    for mark in KILLED_AT:
        run = start(film_folder, out, small)
        seen = []
        assert run.stdout is not None
        for line in run.stdout:
            seen.append(line)
            if mark in line:
                break
        children = psutil.Process(run.pid).children(recursive=True)
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
        assert any(mark in line for line in seen), f"{mark!r} not seen in:\n{''.join(seen)}"
        _, alive = psutil.wait_procs(children, timeout=120)
        assert not alive, "a killed run leaves no process behind"
        assert finished.items() <= finished_shards(out).items(), "done shards stay as they are"
        finished = finished_shards(out)

    last = start(film_folder, out, small)
    output, _ = last.communicate(timeout=300)
    assert last.returncode == 0, output
    assert finished.items() <= finished_shards(out).items()
    assert manifest_bytes(out) == manifest_bytes(tmp_path / "undisturbed")
    assert not list(out.rglob("*.partial")), "what killed runs left is cleared away"


def start_alone(source: Path, tmp_path: Path, small: dict[str, int]) -> subprocess.Popen[str]:
    """A run with a temporary server of its own, once it cuts tiles."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in small.items()]
    env = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "flows.cli", "run"),
            *(f"--source={source}", f"--out={tmp_path / 'w'}", *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env | {"PYTHONUNBUFFERED": "1", "PREFECT_HOME": str(tmp_path / "prefect")},
        start_new_session=True,
    )
    assert run.stdout is not None
    for line in run.stdout:
        if "tiles 1/" in line:
            break
    return run


@pytest.mark.slow
def test_ctrl_c_ends_at_once_and_says_how_to_go_on(
    film_folder: Path, small: dict[str, int], tmp_path: Path
) -> None:
    run = start_alone(film_folder, tmp_path, small)
    children = psutil.Process(run.pid).children(recursive=True)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to everyone in the group
    output, _ = run.communicate(timeout=20)
    assert run.returncode == 130, output
    assert "The same command goes on where it stopped" in output
    assert not psutil.wait_procs(children, timeout=30)[1]


@pytest.mark.slow
def test_a_run_whose_own_prefect_server_dies_ends_at_once_and_says_so(
    film_folder: Path, small: dict[str, int], tmp_path: Path
) -> None:
    run = start_alone(film_folder, tmp_path, small)
    children = psutil.Process(run.pid).children(recursive=True)
    (server,) = [c for c in children if "prefect.server" in " ".join(c.cmdline())]
    server.kill()
    output, _ = run.communicate(timeout=30)
    assert run.returncode == 1, output
    assert "its Prefect server has ended" in output
    assert "The same command goes on where it stopped" in output
    assert not psutil.wait_procs(children, timeout=30)[1]


def test_a_temporary_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "from flows import temporary_server\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', "
        "'prefect.server'])\n"
        "time.sleep(0.5)\n"
        "temporary_server.end_with_this_process()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    server = psutil.Process(int(run.stdout.readline()))
    run.stdout.close()
    run.send_signal(signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 20
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server outlived its owner"
        time.sleep(0.1)
