"""Stage: standardise the embeddings of all shards, cluster them, write labels shard by shard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.cluster_shards import DISTANCES, KIND, SUMMARY, TREE
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint

EMBEDDINGS = "embeddings"
MOST_DRAWN = 2_000
"""Clusters of the tree, the largest first."""


@dataclass(frozen=True)
class ClusterSettings:
    """The settings that clustering depends on."""

    cluster_method: Literal["hdbscan", "dbscan", "kmeans"]
    n_clusters: int
    eps: float | None
    min_samples: int
    min_cluster_size: int
    seed: int

    def parameters(self) -> dict[str, object]:
        """Arguments of the clusterer chosen."""
        if self.cluster_method == "kmeans":
            return {"n_clusters": self.n_clusters, "random_state": self.seed}
        if self.cluster_method == "dbscan":
            return {"eps": self.eps, "min_samples": self.min_samples}
        return {"min_cluster_size": self.min_cluster_size, "min_samples": self.min_samples}


def cluster_key(embedding_keys: Sequence[str], settings: ClusterSettings) -> str:
    """Key of a clustering."""
    code = source_fingerprint(
        "models.clustering",
        "models.dbscan",
        "models.hdbscan",
        "models.cluster_tree",
        "models.kmeans",
        "models.kmeans_starts",
        "models.lloyd",
        "models.knee",
        "models.neighbours",
        "models.pairs",
        "models.scaling",
        "tasks.clusters",
    )
    return content_key(KIND, sorted(embedding_keys), asdict(settings), code)


def cluster(
    workspace_uri: str, embedding_keys: Sequence[str], settings: ClusterSettings
) -> ShardRef:
    """Cluster all embeddings, unless that is done.

    Writes one Parquet file an embedding shard, named after it: tile_id, cluster_label (-1 is
    noise), membership, outlier_score.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    embedding_keys : sequence of str
        Shards to cluster together.
    settings : ClusterSettings
        Which clusterer and its parameters.

    Returns
    -------
    ShardRef
        Of kind ``clusters``; counts: tiles, clusters, noise.
    """
    workspace = Workspace.open(workspace_uri)
    keys = sorted(embedding_keys)
    return workspace.made(
        KIND, cluster_key(keys, settings), lambda writer: _write(writer, keys, settings)
    )


def _write(writer: ShardWriter, keys: list[str], settings: ClusterSettings) -> None:
    from models import clustering

    workspace = writer.workspace
    scaled = standardised(workspace, keys)
    estimator = clustering.make_clusterer(settings.cluster_method, **settings.parameters())
    result = clustering.fit_cluster(estimator, np.concatenate([scaled[k] for k in keys]))
    start = 0
    for k in keys:
        stop = start + len(scaled[k])
        ids = workspace.shard(EMBEDDINGS, k).table("embeddings.parquet", columns=["tile_id"])
        table = pa.table(
            {
                "tile_id": ids["tile_id"],
                "cluster_label": pa.array(result.labels[start:stop], pa.int32()),
                "membership": pa.array(result.membership[start:stop], pa.float32()),
                "outlier_score": pa.array(result.outlier_score[start:stop], pa.float32()),
            }
        )
        writer.write_table(f"{k}.parquet", table)
        start = stop
    n_clusters = int(result.labels.max(initial=-1)) + 1
    noise = int(np.count_nonzero(result.labels < 0))
    summary = {"settings": asdict(settings), "clusters": n_clusters, "noise": noise}
    if isinstance(eps := getattr(estimator, "eps_", None), float):
        summary["eps_used"] = eps
    _write_figures(writer, estimator)
    writer.write_bytes(SUMMARY, json.dumps(summary, indent=2).encode())
    writer.rows = start
    writer.counts = {"tiles": start, "clusters": n_clusters, "noise": noise}


def _write_figures(writer: ShardWriter, estimator: Any) -> None:
    """Write what a clusterer chose by: DBSCAN's sorted distances, HDBSCAN's tree of clusters."""
    distances = getattr(estimator, "k_distances_", None)
    if distances is not None:
        writer.write_bytes(DISTANCES, json.dumps(distances.tolist()).encode())
    condensed = getattr(estimator, "condensed_tree_", None)
    if condensed is not None:
        from models.cluster_tree import cluster_tree

        tree = cluster_tree(condensed, estimator.labels_)
        # a parent is larger than its children and comes before them: what is left is a tree
        kept = np.sort(np.argsort(-tree.size, kind="stable")[:MOST_DRAWN])
        number = np.full(len(tree.parent) + 1, -1)
        number[kept] = np.arange(len(kept))
        found = {
            "parent": number[tree.parent[kept]].tolist(),
            "size": tree.size[kept].tolist(),
            "far": [v if np.isfinite(v) else None for v in tree.far[kept].tolist()],
            "near": [v if np.isfinite(v) else None for v in tree.near[kept].tolist()],
            "label": tree.label[kept].tolist(),
        }
        writer.write_bytes(TREE, json.dumps(found).encode())


def standardised(
    workspace: Workspace, embedding_keys: Sequence[str]
) -> dict[str, npt.NDArray[np.float32]]:
    """Embeddings of each shard with mean 0 and standard deviation 1 over all of them.

    The scaler is fitted shard by shard; the result holds all embeddings, (n, dim) float32, which is
    what the in-memory clusterers need.
    """
    from models import scaling

    shards = {k: _read(workspace, k) for k in embedding_keys}
    scaler = scaling.fit_scaler(shards.values())
    return {k: scaler.transform(values) for k, values in shards.items()}


def _read(workspace: Workspace, key: str) -> npt.NDArray[np.float32]:
    workspace.shard(EMBEDDINGS, key).check()
    return np.asarray(workspace.shard(EMBEDDINGS, key).array("embeddings.zarr")[:])
