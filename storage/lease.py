"""One run at a time in a workspace: a lease that its holder renews, and that others can read.

The lease is a file. It says who holds it and how far that run has come, and it is written again
every few seconds. A holder that has died is recognised: on its own machine by its process, from
other machines by a lease that was not renewed for two minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from storage.errors import WorkspaceError, WorkspaceInUse
from storage.workspace import Workspace

FILE = "lease.json"
RENEW_S = 10.0
STALE_S = 120.0
"""Clocks of machines that share a workspace must agree to less than this."""
ASK_AGAIN_S = 2.0
SETTLE_S = 2.0
"""Of an object store without conditional writes the last writer wins: whoever writes waits this
long and looks again. On S3 a write says what it replaces, and only one of two succeeds."""
REFUSED = (409, 412)


class Lease:
    """A lease that is held; made by `hold`.

    Parameters
    ----------
    workspace : Workspace
        That it is for.
    holder : dict
        What others read of the holder.
    """

    def __init__(self, workspace: Workspace, holder: dict[str, Any]) -> None:
        self.workspace, self._holder = workspace, holder
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def note(self, **facts: Any) -> None:
        """Say how far the run is; others read it after the next renewal."""
        with self._lock:
            self._holder |= facts

    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises
        ------
        WorkspaceError
            This process stood still for so long that another run took the workspace over.
        """
        if self._lost is not None:
            raise WorkspaceError(
                f"another run ({self._lost}) took {self.workspace.uri} over, since this one gave "
                f"no sign of life for {STALE_S:.0f} s. Start it again when the other has ended."
            )

    def _start(self) -> None:
        self._thread.start()

    def _end(self) -> None:
        self._ended.set()
        self._thread.join()
        if read(self.workspace).get("token") == self._holder["token"]:
            with contextlib.suppress(FileNotFoundError):
                self.workspace.fs.rm(self.workspace.path(FILE))

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            with contextlib.suppress(OSError):  # a full or absent disk: the run itself will say so
                version = _version(self.workspace)
                found = read(self.workspace)
                if found and found.get("token") != self._holder["token"]:
                    self._lost = str(found.get("run_id"))
                    return
                with self._lock:
                    self._holder["renewed"] = _now()
                    content = dict(self._holder)
                if self.workspace.is_s3 and found:
                    _put(self.workspace, content, instead_of=version)
                else:
                    self.workspace.write_json(FILE, content)


@contextmanager
def hold(
    workspace: Workspace,
    run_id: str,
    *,
    wait_s: float = 0.0,
    waiting: Callable[[str], None] = lambda _: None,
) -> Iterator[Lease]:
    """Hold the lease of a workspace while the block runs.

    Parameters
    ----------
    workspace : Workspace
        To be alone in.
    run_id : str
        Of the run that is to hold it.
    wait_s : float
        How long to wait for another run, in seconds.
    waiting : callable
        Is told once who holds the workspace, before waiting begins.

    Yields
    ------
    Lease

    Raises
    ------
    WorkspaceInUse
        Another run holds it, and did not end in time.
    """
    me = psutil.Process()
    lease = Lease(
        workspace,
        {
            "run_id": run_id,
            "host": socket.gethostname(),
            "pid": me.pid,
            "process_started": me.create_time(),
            "token": uuid.uuid4().hex,
            "started": _now(),
            "renewed": _now(),
        },
    )
    deadline, told = time.monotonic() + wait_s, False
    while (other := _take(workspace, lease._holder)) is not None:
        if time.monotonic() >= deadline:
            raise WorkspaceInUse(f"{workspace.uri} is in use: {describe(other)}. {REMEDY}")
        if not told:
            waiting(describe(other))
            told = True
        time.sleep(min(ASK_AGAIN_S, max(0.0, deadline - time.monotonic())))
    lease._start()
    try:
        yield lease
    finally:
        lease._end()


REMEDY = (
    "Wait for it, or let this run wait (wait_for_workspace_min). A run that has died is seen to "
    f"have: on this machine at once, on another one after {STALE_S:.0f} s."
)


def read(workspace: Workspace) -> dict[str, Any]:
    """What the lease says; empty where nobody holds one."""
    try:
        return workspace.read_json(FILE)
    except FileNotFoundError:
        return {}
    except (ValueError, WorkspaceError):
        return {"token": None}  # not ours, or half written by a file system that cannot rename


def is_stale(lease: dict[str, Any]) -> bool:
    """Whether the holder of a lease has died."""
    if lease.get("host") == socket.gethostname():
        try:
            process = psutil.Process(int(lease["pid"]))
            return bool(abs(process.create_time() - float(lease["process_started"])) > 1.0)
        except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
            return True
    return age_s(lease) > STALE_S


def age_s(lease: dict[str, Any]) -> float:
    """Seconds since the last renewal, by this machine's clock."""
    try:
        renewed = datetime.fromisoformat(str(lease["renewed"]))
        return (datetime.now(UTC) - renewed).total_seconds()
    except (KeyError, ValueError, TypeError):
        return float("inf")


def describe(lease: dict[str, Any]) -> str:
    """Holder of a lease in words."""
    if lease.get("run_id") is None:
        return f"a file {FILE} that no run of this version wrote"
    where = f"run {lease['run_id']} on {lease.get('host')}, process {lease.get('pid')}"
    return f"{where}, since {lease.get('started')}, last sign of life {age_s(lease):.0f} s ago"


def _take(workspace: Workspace, mine: dict[str, Any]) -> dict[str, Any] | None:
    """Take the lease; gives the holder where there is another one."""
    version = _version(workspace)
    found = read(workspace)
    if found and not is_stale(found):
        return found
    mine["renewed"] = _now()
    if workspace.is_s3:
        taken = _put(workspace, mine, instead_of=version if found else None)
        return None if taken else read(workspace) or {"token": None}
    if not workspace.is_local:
        workspace.write_json(FILE, mine)
        time.sleep(SETTLE_S)
        found = read(workspace)
        return None if found.get("token") == mine["token"] else found
    if found:
        _bury(workspace, found)
    return None if _create(workspace, mine) else read(workspace) or {"token": None}


def _version(workspace: Workspace) -> str | None:
    """On S3 the mark of the lease's present content, asked for before the content is read."""
    if not workspace.is_s3:
        return None
    try:
        return str(workspace.fs.info(workspace.path(FILE))["ETag"])
    except FileNotFoundError:
        return None


def _put(workspace: Workspace, holder: dict[str, Any], *, instead_of: str | None) -> bool:
    """Write the lease on S3 where it is still as it was (None: not there); gives whether it is."""
    condition = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": instead_of}
    data = json.dumps(holder, indent=2).encode()
    try:
        workspace.fs.pipe_file(workspace.path(FILE), data, **condition)
    except OSError as e:
        response = getattr(e.__cause__, "response", {})
        if response.get("ResponseMetadata", {}).get("HTTPStatusCode") not in REFUSED:
            raise
        return False
    return True


def _create(workspace: Workspace, mine: dict[str, Any]) -> bool:
    """Put the lease there with all its content, unless one is there."""
    aside = f"{FILE}.{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}.partial"
    workspace.write_json(aside, mine)
    path, target = Path(workspace.path(aside)), Path(workspace.path(FILE))
    try:
        target.hardlink_to(path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: then not all at once, but only one can create it
        try:
            with target.open("xb") as f:
                f.write(path.read_bytes())
        except FileExistsError:
            return False
    finally:
        path.unlink()
    return True


def _bury(workspace: Workspace, dead: dict[str, Any]) -> None:
    """Remove the lease of a run that has died, and no other one that came meanwhile."""
    grave = Path(workspace.path(f"{FILE}.{socket.gethostname()}~{os.getpid()}~dead.partial"))
    try:
        Path(workspace.path(FILE)).rename(grave)
    except FileNotFoundError:
        return
    if read(workspace) == {} and _token(grave) != dead.get("token"):
        with contextlib.suppress(FileExistsError):
            Path(workspace.path(FILE)).hardlink_to(grave)
    grave.unlink()


def _token(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8")).get("token")
    except (ValueError, AttributeError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
