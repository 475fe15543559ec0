from __future__ import annotations

from pathlib import Path

import numpy as np

from flows.doctor import examine
from storage.workspace import Workspace


def test_this_machine_is_sound_and_an_altered_shard_is_found(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path)
    with workspace.write_shard("tiles", "k") as writer:
        array = writer.array("pixels.zarr", (4, 4), "uint16", {})
        array.append(np.ones((3, 4, 4), np.uint16))
        array.close()
    checks = {c.name: c for c in examine(workspace.uri)}
    assert all(c.sound for c in checks.values()), [
        c.finding for c in checks.values() if not c.sound
    ]
    chunk = Path(workspace.path("tiles/k/pixels.zarr/c/0/0/0"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert not {c.name: c for c in examine(workspace.uri)}["workspace"].sound
