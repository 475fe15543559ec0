"""What the evidence says of a cluster, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from storage.workspace import Workspace
from tasks.words import number, share_text

CLEAR_SHARE = 0.5
"""From this share of the tiles on, one scanner is named."""


def read_evidence(workspace: Workspace, record: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Rows of the evidence by cluster label; none for a run of an older version."""
    key = record["shards"].get("evidence")
    if key is None:
        return {}
    rows = workspace.shard("evidence", key).table("evidence.parquet").to_pylist()
    return {row["cluster_label"]: row for row in rows}


def cluster_title(label: int, evidence: Mapping[int, Mapping[str, Any]]) -> str:
    """Heading of a cluster: ``Cluster 7: annotations (94 % flagged)``."""
    if label not in evidence:
        return f"Cluster {label}"
    row = evidence[label]
    return f"Cluster {label}: {row['name']} ({share_text(row['flagged_share'])} flagged)"


def cluster_says(row: Mapping[str, Any] | None) -> str:
    """Films, patients, content, scanner and planted tiles of a cluster, as one sentence."""
    if row is None:
        return ""
    films, patients = (
        f"{number(row[name])} {name.removesuffix('s') if row[name] == 1 else name}"
        for name in ("films", "patients")
    )
    said = [
        f"{films} of {patients}",
        f"{share_text(row['breast_fraction'])} breast",
        f"{share_text(row['foreign_fraction'])} foreign content",
    ]
    if row["scanner"] is not None and row["scanner_share"] >= CLEAR_SHARE:
        said.append(f"{share_text(row['scanner_share'])} of scanner {row['scanner']}")
    if row["planted_share"] is not None:
        said.append(
            f"{share_text(row['planted_share'])} of the tiles with drawn-on annotations fall here, "
            f"{row['planted_lift']:.1f} times its share of the tiles"
        )
    return f" {', '.join(said)}."
