"""A public collection into a folder, as ``mammosift fetch`` does, from the form of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow

from flows import artifacts, temporary_server
from tasks import fetches
from tasks.fetch_settings import FetchSettings


def _run_name() -> str:
    from prefect.runtime import flow_run

    settings: Any = flow_run.parameters["settings"]
    name = settings["collection"] if isinstance(settings, dict) else settings.collection
    return f"fetch {name} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(name="fetch", flow_run_name=_run_name, validate_parameters=True)
def fetch(settings: FetchSettings) -> dict[str, Any]:
    """Fetch films of a public collection; what is there and whole is not fetched again.

    Every file is compared with the bucket's checksum. A transfer that broke off goes on.
    """
    temporary_server.end_with_this_process()
    chosen = fetches.choose(**settings.only("films", "view", "label", "cases", "with_findings"))
    with artifacts.arriving(chosen.films, chosen.bytes) as told:
        done = fetches.fetch(
            chosen, Path(settings.out), **settings.only("endpoint", "parallel"), told=told
        )
    artifacts.fetched(chosen.films, chosen.patients, dict(done), settings.out)
    return {"films": chosen.films, "patients": chosen.patients, "files": dict(done)}
