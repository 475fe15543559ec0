"""Clusters of any embeddings, as ``mammosift cluster`` finds them, from the form of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow

from flows import artifacts, temporary_server
from flows.dask_cluster import dask_client_if_asked
from tasks.cluster_file import cluster_file
from tasks.cluster_settings import ClusterFileSettings


def _run_name() -> str:
    from prefect.runtime import flow_run

    settings: Any = flow_run.parameters["settings"]
    rows = settings["embeddings"] if isinstance(settings, dict) else settings.embeddings
    return f"cluster {Path(rows).name or 'rows'} {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(name="cluster", flow_run_name=_run_name, validate_parameters=True)
def cluster(settings: ClusterFileSettings) -> dict[str, Any]:
    """Cluster any embeddings: DBSCAN, HDBSCAN, KMeans, or the nearest neighbours; exact."""
    temporary_server.end_with_this_process()
    with dask_client_if_asked(
        settings.dask_address, settings.workers, settings.dask_cluster
    ) as client:
        figures = cluster_file(settings, client)
    artifacts.clustered(figures, settings.out)
    return figures
