from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.cluster import cluster
from tasks.cluster_settings import ClusterFileSettings


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_the_flow_gives_the_labels_of_the_command_and_shows_its_figures(
    prefect_artifacts: str, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client

    centres = np.repeat([[0.0, 0.0], [9.0, 9.0], [0.0, 9.0]], 40, axis=0)
    rows = (centres + np.random.default_rng(0).normal(0, 0.3, (120, 2))).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    out = tmp_path / "labels.parquet"
    figures = cluster(
        ClusterFileSettings(
            embeddings=str(tmp_path / "rows.npy"), out=str(out), method="dbscan", eps=1.5
        )
    )
    assert (figures["rows"], figures["clusters"], figures["noise"]) == (120, 3, 0)
    labels = pq.read_table(out)["cluster_label"].to_numpy()
    assert [len(set(labels[i : i + 40])) for i in (0, 40, 80)] == [1, 1, 1]
    with get_client(sync_client=True) as client:
        (artifact,) = [a for a in client.read_artifacts() if a.key == "clusters"]
    assert "| clusters | 3 |" in str(artifact.data)
