"""Tiles of the manifest that the user's exemplars mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.exemplars import Exemplar, read_exemplars
from tasks.report_page.tiles import TILE_COLUMNS, Tile, tiles_of

__all__ = ["Exemplar", "Match", "match", "read_exemplars"]


@dataclass(frozen=True)
class Match:
    """A tile that an exemplar may mean, and how much of the exemplar lies in it."""

    tile: Tile
    overlap_px: float
    """Area in source pixels that both share; infinite for a tile that was named."""

    def better(self, other: Match) -> bool:
        """Whether this one fits better: more overlap, then the smaller tile, then its name."""
        return self._rank() < other._rank()

    def _rank(self) -> tuple[float, int, str]:
        return -self.overlap_px, self.tile.box[2] * self.tile.box[3], self.tile.tile_id


def match(exemplar: Exemplar, batch: pa.Table) -> Match | None:
    """Tile of a batch of the manifest that fits best, if any fits at all."""
    if exemplar.tile_id is not None:
        rows = batch.filter(pc.equal(batch["tile_id"], exemplar.tile_id))
        if not rows.num_rows:
            return None
        return Match(tiles_of(rows.select(TILE_COLUMNS).to_pandas())[0], float("inf"))
    rows = batch.filter(pc.equal(batch["source"].cast(pa.string()), exemplar.source))
    if not rows.num_rows or exemplar.box is None:
        return None
    frame = rows.select(TILE_COLUMNS).to_pandas()
    sides = []
    for start, length, first, size in zip(
        ("x", "y"), ("width", "height"), exemplar.box[:2], exemplar.box[2:], strict=True
    ):
        low = np.maximum(frame[start].to_numpy(np.float64), first)
        high = np.minimum((frame[start] + frame[length]).to_numpy(np.float64), first + size)
        sides.append(np.clip(high - low, 0, None))
    overlap = sides[0] * sides[1]  # (n,)
    best = overlap.max()
    if best <= 0:
        return None
    found = [Match(tile, best) for tile in tiles_of(frame[overlap == best])]
    return min(found, key=Match._rank)
