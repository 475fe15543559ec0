"""What a workspace is at: who works in it, how far, and what the last run came to."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from storage import lease, quarantine
from storage.workspace import Workspace


def describe(uri: str) -> list[str]:
    """Lines for the terminal about a workspace.

    Parameters
    ----------
    uri : str
        Of the workspace.

    Returns
    -------
    list of str

    Raises
    ------
    WorkspaceError
        There is none.
    """
    workspace = Workspace.open(uri)
    lines = [f"workspace   {workspace.uri}", *_at_work(workspace)]
    runs = _records(workspace)
    if not runs:
        lines.append("last run    none has ended yet")
    if runs:
        lines += _ended(runs[-1])
    finished = [run for run in runs if "failed" not in run]
    if runs and "failed" in runs[-1] and finished:
        lines += ["", "before it", *_ended(finished[-1])]
    if workspace.exists(quarantine.FOLDER):
        held = workspace.fs.ls(workspace.path(quarantine.FOLDER), detail=False)
        lines.append(f"quarantine  {len(held)} films (folder {quarantine.FOLDER})")
    return lines


def _at_work(workspace: Workspace) -> list[str]:
    held = lease.read(workspace)
    if not held:
        return ["at work     nobody"]
    if lease.is_stale(held):
        return [
            f"at work     nobody: {lease.describe(held)}, has died. The same command goes on where "
            "it stopped."
        ]
    lines = [f"at work     {lease.describe(held)}"]
    if (stage := held.get("stage")) is not None:
        done, total = held.get("done"), held.get("total")
        counted = f", {done} of {total} done" if total else ""
        lines.append(f"stage       {stage}{counted}")
    return lines


def _records(workspace: Workspace) -> list[dict[str, Any]]:
    """Records of ended runs, the latest last."""
    if not workspace.exists("runs"):
        return []
    names = sorted(
        PurePosixPath(str(p)).name
        for p in workspace.fs.ls(workspace.path("runs"), detail=False)
        if str(p).endswith(".json")
    )
    return [workspace.read_json("runs", name) for name in names[-20:]]


def _ended(run: dict[str, Any]) -> list[str]:
    lines = [f"last run    {run['run_id']}, ended {run['finished']} after {run['seconds']:.0f} s"]
    if "failed" in run:
        return [*lines, f"failed      {run['failed']}"]
    if films := run.get("films") or run.get("images"):
        reasons = ", ".join(f"{n} {reason}" for reason, n in films.get("excluded", {}).items())
        lines.append(
            f"films       {films['used']:,} used{', excluded: ' + reasons if reasons else ''}"
        )
    if tiles := run.get("tiles"):
        fates = ", ".join(f"{n:,} {fate}" for fate, n in tiles["by_decision"].items())
        lines.append(f"tiles       {tiles['cut']:,} cut: {fates}")
    if "report" in run:
        lines.append(f"report      {run['report']}")
    return lines
