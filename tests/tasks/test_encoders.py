"""Where training reads its tiles: from memory while they are few, else from their shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.tile_source import ArrayTiles, StoredTiles
from storage.workspace import Workspace
from tasks import encoders


def test_a_large_sample_is_streamed_and_gives_the_same_tiles(
    tmp_path: Path, publish: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = publish(tmp_path / "w")
    chosen = [("shard0", np.array([0, 3, 4, 30])), ("shard2", np.array([1, 2]))]
    held = encoders._source(workspace, chosen, 32)
    monkeypatch.setattr(encoders, "IN_MEMORY_BYTES", 5 * 2 * 32**2)
    streamed = encoders._source(workspace, chosen, 32)
    assert isinstance(held, ArrayTiles)
    assert isinstance(streamed, StoredTiles)
    assert len(streamed) == len(held) == 6
    order = np.array([5, 0, 3, 2, 2])
    np.testing.assert_array_equal(streamed.read(order), held.read(order))
