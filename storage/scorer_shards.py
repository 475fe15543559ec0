"""How the files of a scorer are called, written and read: arrays as safetensors, facts as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from storage.errors import ShardError
from storage.workspace import ShardWriter, Workspace

KIND = "scorers"
TREES = "trees.safetensors"
FACTS = "scorer.json"
FORMAT_VERSION = 1
TREE_ARRAYS = ("feature", "threshold", "left", "right", "value", "roots", "baseline")


@dataclass(frozen=True)
class StoredScorer:
    """What a scorer's shard holds."""

    trees: tuple[dict[str, npt.NDArray[Any]], ...]
    """Arrays of each fold, by their names."""
    figures: tuple[str, ...]
    facts: dict[str, Any]
    exemplar_names: tuple[str, ...]
    exemplar_figures: npt.NDArray[np.float32]
    """Of the positive exemplars, (n, figures)."""
    centre: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]
    """Mean and standard deviation of the figures of the tiles learned from."""


def write(
    writer: ShardWriter,
    *,
    trees: Sequence[Mapping[str, npt.NDArray[Any]]],
    figures: Sequence[str],
    facts: Mapping[str, Any],
    exemplar_names: Sequence[str],
    exemplar_figures: npt.NDArray[np.float32],
    centre: npt.NDArray[np.float32],
    spread: npt.NDArray[np.float32],
) -> None:
    """Write a scorer into its shard; equal scorers give equal bytes."""
    tensors = {
        f"fold{i}.{name}": np.ascontiguousarray(tree[name])
        for i, tree in enumerate(trees)
        for name in TREE_ARRAYS
    }
    tensors |= {
        "exemplars": np.ascontiguousarray(exemplar_figures, np.float32),
        "centre": np.ascontiguousarray(centre, np.float32),
        "spread": np.ascontiguousarray(spread, np.float32),
    }
    writer.write_bytes(TREES, save(dict(sorted(tensors.items()))))
    record = {
        "format_version": FORMAT_VERSION,
        "folds": len(trees),
        "figures": list(figures),
        "exemplars": list(exemplar_names),
        **facts,
    }
    writer.write_bytes(FACTS, (json.dumps(record, indent=2) + "\n").encode())


def read(workspace: Workspace, key: str) -> StoredScorer:
    """Read a scorer.

    Raises
    ------
    ShardError
        It is damaged, or of another format.
    """
    shard = workspace.shard(KIND, key)
    shard.check()
    facts = json.loads(shard.read_bytes(FACTS))
    if facts.get("format_version") != FORMAT_VERSION:
        raise ShardError(
            f"scorers/{key} has format {facts.get('format_version')}, this mammosift reads "
            f"{FORMAT_VERSION}. Remove that folder and run again."
        )
    tensors = load(shard.read_bytes(TREES))
    trees = tuple(
        {name: tensors[f"fold{i}.{name}"] for name in TREE_ARRAYS} for i in range(facts["folds"])
    )
    for tree in trees:
        _check_tree(tree, key, len(facts["figures"]))
    return StoredScorer(
        trees=trees,
        figures=tuple(facts["figures"]),
        facts=facts,
        exemplar_names=tuple(facts.get("exemplars", ())),
        exemplar_figures=tensors["exemplars"],
        centre=tensors["centre"],
        spread=tensors["spread"],
    )


def _check_tree(tree: Mapping[str, npt.NDArray[Any]], key: str, figures: int) -> None:
    """Refuse trees that would lead out of their arrays, or round in a circle."""
    nodes = len(tree["feature"])
    inner = tree["feature"] >= 0
    own = np.arange(nodes)[inner]
    sound = all(len(tree[n]) == nodes for n in ("threshold", "left", "right", "value"))
    sound = sound and bool((tree["feature"] < figures).all())
    for side in ("left", "right"):
        child = tree[side][inner] if sound else np.array([0])
        sound = sound and bool(((child > own) & (child < nodes)).all())
    roots, classes = tree["roots"], len(tree["baseline"])
    sound = sound and bool(((roots >= 0) & (roots < nodes)).all())
    sound = sound and classes > 0 and len(roots) % classes == 0
    sound = sound and not np.isnan(tree["threshold"]).any()
    if not (sound and all(np.isfinite(tree[n]).all() for n in ("value", "baseline"))):
        raise ShardError(f"scorers/{key}/{TREES} is damaged. Remove that folder and run again.")
