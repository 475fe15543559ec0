"""Shards of clusters: one Parquet file an embedding shard, and what the clusterer chose by."""

from __future__ import annotations

KIND = "clusters"
SUMMARY = "clusterer.json"
"""Settings, number of clusters and noise, the radius used."""
DISTANCES = "k_distances.json"
"""Of DBSCAN whose radius was not given: the sorted distances that it was chosen from."""
TREE = "tree.json"
"""Of HDBSCAN: the largest clusters of its tree, as columns (`models.cluster_tree.ClusterTree`)."""
