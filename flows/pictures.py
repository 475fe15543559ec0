"""What the flows over pictures share: finding them, and telling which were used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import artifacts
from flows.dask_cluster import on_worker
from flows.run_record import RunRecord
from storage import photographs
from storage.errors import MammosiftError
from storage.records import Mammogram
from tasks import films, measures
from tasks.picture_settings import PictureSettings


def run_name() -> str:
    """Name a flow run by its folder and time."""
    from prefect.runtime import flow_run

    settings: Any = flow_run.parameters["settings"]
    source = settings["source"] if isinstance(settings, dict) else settings.source
    return f"{Path(source).name or 'pictures'} {datetime.now(UTC):%Y-%m-%d %H:%M}"


def find_pictures(run: RunRecord, settings: PictureSettings) -> tuple[list[Mammogram], Path]:
    """Find and describe the pictures of a source; all of them, with the reason of each excluded."""
    workspace = run.workspace
    with run.stage("headers"):
        root, batches = films.find(settings.source)
        known = films.known_headers(workspace)
        of_batches = run.in_order(
            "headers",
            lambda batch: describe(batch, settings.kind, settings.max_film_megapixels, known),
            batches,
        )
        described = [film for batch in of_batches for film in batch]
        films.remember_headers(workspace, described)
        table = settings.films_csv
        found, warnings = films.join(described, root, films_csv=table, lesions_csv=None)
        films.write(workspace, found)
    run.found = sum(len(batch) for batch in batches)
    run.facts["inputs"] = {
        "root": str(root),
        "images_sha256": hashlib.sha256(
            "\n".join(sorted(f.source_sha256 or f.source for f in found)).encode()
        ).hexdigest(),
        "warnings": warnings,
    }
    artifacts.warn(warnings)
    if all(f.excluded_reason for f in found):
        raise MammosiftError(
            f"no picture in {settings.source} can be used: {len(found)} files found, excluded: "
            f"{films.count_exclusions(found) or 'none'}. See {workspace.path(films.TABLE)}."
        )
    return found, root


def with_late_exclusions(
    found: Sequence[Mammogram], late: dict[str, dict[str, str]]
) -> list[Mammogram]:
    """Pictures with those excluded whose pixels turned out to be unusable."""
    return [
        replace(f, **late[f.mammogram_id])  # type: ignore[arg-type]
        if f.excluded_reason is None and f.mammogram_id in late
        else f
        for f in found
    ]


def record_pictures(run: RunRecord, used: Sequence[Mammogram]) -> None:
    """Publish which pictures were used and why others were not.

    Raises
    ------
    MammosiftError
        Pictures were lost on the way.
    """
    films.write(run.workspace, used)
    excluded = films.count_exclusions(used)
    n_used = sum(f.excluded_reason is None for f in used)
    run.facts["images"] = {"found": run.found, "used": n_used, "excluded": excluded}
    artifacts.exclusions(used)
    if run.found != n_used + sum(excluded.values()):
        raise MammosiftError(
            f"the counts of run {run.run_id} do not add up: {run.found} pictures found, {n_used} "
            f"used, {sum(excluded.values())} excluded. Please report this with the run's log."
        )


def describe(
    files: Sequence[tuple[str, str]],
    kind: photographs.Kind,
    max_film_megapixels: float,
    known: dict[str, Mammogram],
) -> list[Mammogram]:
    """Read the headers of a batch of files, but for those of pictures that are known."""
    return on_worker(
        measures.describe_batch,
        files,
        kind=kind,
        max_film_megapixels=max_film_megapixels,
        known={source: known[source] for _, source in files if source in known},
    )
