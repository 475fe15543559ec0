"""One run at a time in a workspace, and a run that has died does not hold it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage import lease
from storage.errors import WorkspaceError, WorkspaceInUse
from storage.workspace import Workspace


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLE_S", "ASK_AGAIN_S", "RENEW_S"):
        monkeypatch.setattr(lease, name, 0.05)


@pytest.fixture
def on_disk(tmp_path: Path) -> Workspace:
    """Where other processes see it, and only one can create a file."""
    return Workspace.create(tmp_path / "w")


@pytest.fixture(params=["local", "memory"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    where = tmp_path / "w" if request.param == "local" else f"memory://{tmp_path.name}/w"
    return Workspace.create(where)


def of_another_machine(workspace: Workspace, *, age_s: float) -> None:
    renewed = datetime.now(UTC) - timedelta(seconds=age_s)
    other = {"run_id": "theirs", "host": "elsewhere", "pid": 1, "process_started": 0.0}
    other |= {"token": "t", "started": renewed.isoformat(), "renewed": renewed.isoformat()}
    workspace.write_json(lease.FILE, other)


def test_a_second_run_is_refused_with_the_name_of_the_holder(workspace: Workspace) -> None:
    with lease.hold(workspace, "first"):
        with (
            pytest.raises(WorkspaceInUse, match=f"run first on .*process {os.getpid()}"),
            lease.hold(workspace, "second"),
        ):
            pass
        assert lease.read(workspace)["run_id"] == "first"
    assert lease.read(workspace) == {}
    assert not workspace.fs.glob(f"{workspace.root}/*.partial")


def test_a_run_that_waits_begins_when_the_other_has_ended(workspace: Workspace) -> None:
    told: list[str] = []
    began = threading.Event()

    def second() -> None:
        with lease.hold(workspace, "second", wait_s=30, waiting=told.append):
            began.set()

    with lease.hold(workspace, "first"):
        waits = threading.Thread(target=second)
        waits.start()
        time.sleep(0.3)
        assert not began.is_set()
    waits.join(30)
    assert began.is_set()
    assert len(told) == 1
    assert "run first" in told[0]


def test_the_lease_of_a_process_that_was_killed_is_taken_over(on_disk: Workspace) -> None:
    program = (
        "import sys, time\n"
        "from storage import lease\n"
        "from storage.workspace import Workspace\n"
        "with lease.hold(Workspace.open(sys.argv[1]), 'killed'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, on_disk.uri], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(WorkspaceInUse, match="run killed"), lease.hold(on_disk, "mine"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with lease.hold(on_disk, "mine"):
        assert lease.read(on_disk)["run_id"] == "mine"


@pytest.mark.parametrize(("age_s", "free"), [(30.0, False), (lease.STALE_S + 60, True)])
def test_a_lease_of_another_machine_ends_when_it_is_not_renewed(
    workspace: Workspace, age_s: float, free: bool
) -> None:
    of_another_machine(workspace, age_s=age_s)
    if not free:
        with pytest.raises(WorkspaceInUse, match="elsewhere"), lease.hold(workspace, "mine"):
            pass
        return
    with lease.hold(workspace, "mine"):
        assert lease.read(workspace)["run_id"] == "mine"


def test_what_the_holder_notes_can_be_read_and_is_renewed(workspace: Workspace) -> None:
    with lease.hold(workspace, "mine") as held:
        held.note(stage="tiles", done=3, total=7)
        deadline = time.monotonic() + 10
        while lease.read(workspace).get("stage") != "tiles":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert lease.read(workspace)["done"] == 3
        assert lease.age_s(lease.read(workspace)) < 10
        held.check()


def test_a_holder_that_slept_while_another_took_over_notices_and_leaves_the_lease(
    workspace: Workspace,
) -> None:
    with lease.hold(workspace, "mine") as held:
        of_another_machine(workspace, age_s=0)
        deadline = time.monotonic() + 10
        while held._thread.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(WorkspaceError, match=r"another run \(theirs\) took"):
            held.check()
    assert lease.read(workspace)["run_id"] == "theirs"


def test_a_file_that_is_no_lease_is_not_taken_for_free(workspace: Workspace) -> None:
    workspace.write_bytes(lease.FILE, b"{half")
    found = lease.read(workspace)
    assert found
    assert lease.is_stale(found), "no machine renews it"


def test_of_many_that_come_at_once_one_holds_it(on_disk: Workspace) -> None:
    inside: list[int] = []
    most: list[int] = []
    refused: list[int] = []

    def come(i: int) -> None:
        try:
            with lease.hold(on_disk, f"run{i}"):
                inside.append(i)
                most.append(len(inside))
                time.sleep(0.1)
                inside.remove(i)
        except WorkspaceInUse:
            refused.append(i)

    of_another_machine(on_disk, age_s=lease.STALE_S + 60)
    runs = [threading.Thread(target=come, args=(i,)) for i in range(8)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert most
    assert max(most) == 1
    assert len(most) + len(refused) == 8
