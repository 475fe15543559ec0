"""What the clusterer chose by: the knee of distances, or the tree of clusters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from storage.cluster_shards import DISTANCES, KIND, SUMMARY, TREE
from storage.workspace import Shard, Workspace
from tasks.kernels import drawing
from tasks.report_page.pictures import Chart, chart


def choice_picture(
    workspace: Workspace, record: Mapping[str, Any], named: Sequence[int]
) -> Chart | None:
    """Draw what a run's clusters were chosen by.

    Parameters
    ----------
    workspace : Workspace
    record : mapping
        Of the run.
    named : sequence of int
        Clusters that get a colour.

    Returns
    -------
    Chart or None
        None for k-means, a radius that was given, and too few tiles for a tree.
    """
    shard = workspace.shard(KIND, record["shards"]["clusters"])
    if workspace.exists(shard.folder, DISTANCES):
        return _knee(shard)
    if workspace.exists(shard.folder, TREE):
        return _tree(shard, named)
    return None


def _knee(shard: Shard) -> Chart:
    distances = json.loads(shard.read_bytes(DISTANCES))
    how = json.loads(shard.read_bytes(SUMMARY))
    eps, nth = how["eps_used"], how["settings"]["min_samples"]
    points = [(float(i), d) for i, d in enumerate(distances)]
    options: dict[str, Any] = {
        "across": "tiles of a sample, the most crowded first",
        "up": f"distance to the {nth}th nearest, itself counted",
        "whole": True,
    }
    at = next((i for i, d in points if d >= eps), points[-1][0])
    alt = (
        f"Sorted distances of {len(points):,} tiles, from {distances[0]:.3g} to "
        f"{distances[-1]:.3g}; the radius {eps:.3g} is at number {at:,.0f}"
    )
    return chart(
        f"How the radius was chosen: the curve bends at {eps:.3g}",
        alt,
        lambda dark: drawing.curves(
            {"distance": points}, mark=(at, f"radius {eps:.3g}"), dark=dark, **options
        ),
    )


def _tree(shard: Shard, named: Sequence[int]) -> Chart | None:
    tree = json.loads(shard.read_bytes(TREE))
    if not tree["parent"]:
        return None
    chosen = sorted(
        (size, label) for size, label in zip(tree["size"], tree["label"], strict=True) if label >= 0
    )[::-1]
    largest = ", ".join(f"{label} ({size:,} tiles)" for size, label in chosen[:10])
    alt = (
        f"{len(tree['parent']):,} nested clusters of {tree['size'][0]:,} tiles as hanging bars; "
        f"{len(chosen):,} are chosen" + (f", the largest: {largest}" if chosen else "")
    )
    return chart(
        "The tree of clusters. A bar is a cluster, as wide as it has tiles, from the distance at "
        "which it parts from the rest down to that at which it falls apart. Chosen ones are "
        "coloured as in the map and numbered, the ten largest; black ones are chosen too, grey "
        "ones are parts or unions of them, or noise",
        alt,
        lambda dark: drawing.tree(
            **tree, named=named, across="tiles", up="mutual reachability distance", dark=dark
        ),
    )
