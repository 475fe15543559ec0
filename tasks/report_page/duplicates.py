"""Near-duplicates on the page: how many there are, and the least alike of them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from storage.workspace import Workspace
from tasks.report_page.tiles import Tile

SHOWN_PAIRS = 12
PAIRS_OF_FILMS = 2
"""Shown of the same two films, as long as there are others."""


@dataclass(frozen=True)
class NearPair:
    """A tile, the one that stays for it, and how alike they are."""

    tile_id: str
    duplicate_of: str
    likeness: float

    @property
    def films(self) -> tuple[str, str]:
        """Films of both."""
        return self.tile_id.partition("-")[0], self.duplicate_of.partition("-")[0]


@dataclass(frozen=True)
class NearDuplicates:
    """All that the section says; ``counts`` is None where they were not searched for."""

    mode: str
    counts: Mapping[str, int] | None = None
    pairs: tuple[tuple[NearPair, Tile, Tile], ...] = ()
    """With the tile that stays, then the other one."""


def least_alike(workspace: Workspace, record: Mapping[str, Any]) -> list[NearPair]:
    """Pairs that are shown, read shard by shard: the least alike, of different films if possible.

    Parameters
    ----------
    workspace : Workspace
        Where the search lies.
    record : mapping
        Of the run; one of an older version knows no search.
    """
    shards = record["shards"]
    if shards.get("duplicates") is None:
        return []
    found: list[NearPair] = []
    for key in sorted(shards["tiles"]):
        table = workspace.shard("duplicates", shards["duplicates"]).table(f"{key}.parquet")
        for pair in table.take(pc.sort_indices(table, [("likeness", "ascending")])).to_batches(
            4096
        ):
            found = _chosen([*found, *(NearPair(**row) for row in pair.to_pylist())])
    return found


def _chosen(pairs: list[NearPair]) -> list[NearPair]:
    order = sorted(pairs, key=lambda pair: (pair.likeness, pair.tile_id))
    seen: dict[tuple[str, str], int] = {}
    rank = []
    for pair in order:
        seen[pair.films] = seen.get(pair.films, 0) + 1
        rank.append(seen[pair.films] > PAIRS_OF_FILMS)
    first = np.argsort(rank, kind="stable")[:SHOWN_PAIRS]
    return [order[i] for i in first]


def duplicates_of(
    record: Mapping[str, Any], pairs: list[NearPair], tiles: Mapping[str, Tile]
) -> NearDuplicates:
    """What the section says of a run."""
    known = [p for p in pairs if p.tile_id in tiles and p.duplicate_of in tiles]
    return NearDuplicates(
        record["settings"].get("near_duplicates", "off"),
        record.get("near_duplicates"),
        tuple((p, tiles[p.duplicate_of], tiles[p.tile_id]) for p in known),
    )
