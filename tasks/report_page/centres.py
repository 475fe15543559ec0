"""Which tiles stand for a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from storage.workspace import Workspace
from tasks.report_page.selection import HighestTiles


def central_tiles(
    workspace: Workspace, shards: Mapping[str, Any], labels: Sequence[int], size: int
) -> dict[int, list[str]]:
    """Most central tiles of each cluster by membership, read embedding shard by embedding shard.

    Parameters
    ----------
    workspace : Workspace
        Of the run.
    shards : mapping
        Of the run's record.
    labels : sequence of int
        Clusters wanted.
    size : int
        Tiles of each.

    Returns
    -------
    dict of int to list of str
        Names of tiles by label, the most central one first.
    """
    columns = ["tile_id", "mammogram_id"]
    best = {label: HighestTiles(size, columns=columns) for label in labels}
    for key in sorted(shards["embeddings"]):
        table = workspace.shard("clusters", shards["clusters"]).table(
            f"{key}.parquet", columns=["tile_id", "cluster_label", "membership"]
        )
        film = pc.list_element(pc.split_pattern(table["tile_id"], "-", max_splits=1), 0)
        table = table.append_column("mammogram_id", film)
        label_of, membership = (table[name].to_numpy() for name in ("cluster_label", "membership"))
        for label in labels:
            best[label].add(table, label_of == label, membership)
    return {label: [row["tile_id"] for row in found.rows()] for label, found in best.items()}
