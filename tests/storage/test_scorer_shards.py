"""Scorers written and read back, and scorers that are damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage import scorer_shards
from storage.errors import ShardError
from storage.workspace import Workspace

FIGURES = ("steep", "flat", "bright")


def tree(**changes: Any) -> dict[str, np.ndarray]:
    """Two trees of three nodes each: a root and its two leaves."""
    arrays = {
        "feature": np.array([0, -1, -1, 2, -1, -1], np.int32),
        "threshold": np.array([0.5, 0, 0, 0.1, 0, 0]),
        "left": np.array([1, 0, 0, 4, 0, 0], np.int32),
        "right": np.array([2, 0, 0, 5, 0, 0], np.int32),
        "value": np.array([0, -1, 1, 0, 2, -2.0]),
        "roots": np.array([0, 3], np.int32),
        "baseline": np.array([0.1, 0.2]),
    }
    for name, value in changes.items():
        if isinstance(value, dict):
            arrays[name] = arrays[name].copy()
            for at, v in value.items():
                arrays[name][at] = v
        else:
            arrays[name] = np.asarray(value, arrays[name].dtype)
    return arrays


def stored(folder: Path, *trees: dict[str, np.ndarray], **facts: Any) -> Workspace:
    workspace = Workspace.create(folder)
    with workspace.write_shard(scorer_shards.KIND, "k") as writer:
        scorer_shards.write(
            writer,
            trees=trees,
            figures=FIGURES,
            facts={"weight": 0.25, "fold_of_film": {"m1": 2}} | facts,
            exemplar_names=["a.png"],
            exemplar_figures=np.ones((1, 3), np.float32),
            centre=np.arange(3, dtype=np.float32),
            spread=np.ones(3, np.float32),
        )
    return workspace


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written = tree(), tree(value={4: 7.0})
    back = scorer_shards.read(stored(tmp_path / "w", *written), "k")
    assert len(back.trees) == 2
    for one, other in zip(written, back.trees, strict=True):
        assert set(other) == set(scorer_shards.TREE_ARRAYS)
        for name, array in one.items():
            assert other[name].dtype == array.dtype
            np.testing.assert_array_equal(other[name], array)
    assert back.figures == FIGURES
    assert back.facts["weight"] == 0.25
    assert back.facts["fold_of_film"] == {"m1": 2}
    assert back.exemplar_names == ("a.png",)
    np.testing.assert_array_equal(back.exemplar_figures, np.ones((1, 3)))
    np.testing.assert_array_equal(back.centre, [0, 1, 2])
    np.testing.assert_array_equal(back.spread, [1, 1, 1])


def test_equal_scorers_have_equal_bytes(tmp_path: Path) -> None:
    one, other = (stored(tmp_path / name, tree()) for name in ("a", "b"))
    for name in (scorer_shards.TREES, scorer_shards.FACTS):
        parts = scorer_shards.KIND, "k", name
        assert one.read_bytes(*parts) == other.read_bytes(*parts)


@pytest.mark.parametrize(
    "damage",
    [
        {"left": {3: 3}},
        {"right": {3: 0}},
        {"left": {0: -1}},
        {"right": {3: 6}},
        {"feature": {0: 3}},
        {"roots": {1: 6}},
        {"roots": {0: -1}},
        {"left": [1, 0, 0, 4]},
        {"value": [0.0]},
        {"baseline": []},
        {"roots": [0, 3, 3]},
        {"threshold": {0: np.nan}},
        {"value": {1: np.inf}},
    ],
    ids=str,
)
def test_trees_that_lead_nowhere_are_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    workspace = stored(tmp_path / "w", tree(), tree(**damage))
    with pytest.raises(ShardError, match=r"scorers/k/trees\.safetensors is damaged\. Remove"):
        scorer_shards.read(workspace, "k")


def test_a_cut_file_and_another_format_are_refused(tmp_path: Path) -> None:
    workspace = stored(tmp_path / "w", tree())
    path = Path(workspace.path(scorer_shards.KIND, "k", scorer_shards.TREES))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match="missing or altered"):
        scorer_shards.read(workspace, "k")
    newer = stored(tmp_path / "newer", tree(), format_version=2)
    with pytest.raises(ShardError, match="has format 2, this mammosift reads 1"):
        scorer_shards.read(newer, "k")
