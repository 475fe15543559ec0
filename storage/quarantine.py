"""Films that ended every worker process that cut them: ``quarantine/<sha256>.json``.

A later run leaves them out without trying again. Removing a file gives its film another chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from storage.errors import QuarantinedFilm
from storage.records import Mammogram
from storage.workspace import Workspace

FOLDER = "quarantine"


def put(workspace: Workspace, film: Mammogram) -> None:
    """Put a film into quarantine."""
    workspace.write_json(
        f"{FOLDER}/{film.source_sha256}.json",
        {"source": film.source, "source_sha256": film.source_sha256},
    )


def members(workspace: Workspace, films: Sequence[Mammogram]) -> frozenset[str]:
    """SHA-256 of those of some films that are in quarantine."""
    if not workspace.exists(FOLDER):
        return frozenset()
    found = workspace.fs.ls(workspace.path(FOLDER), detail=False)
    held = {PurePosixPath(str(path)).name.removesuffix(".json") for path in found}
    return frozenset(str(f.source_sha256) for f in films if f.source_sha256 in held)


def refusal(film: Mammogram) -> QuarantinedFilm:
    """Error of a film that is in quarantine."""
    return QuarantinedFilm(
        film.source,
        "Each worker process that cut it ended: it crashes a decoder, or needs more memory than "
        "there is.",
        f"Look at it in another program. To try it again remove {FOLDER}/{film.source_sha256}.json "
        "from the workspace.",
    )
