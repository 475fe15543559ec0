"""A map of the embeddings: a sample of the tiles on a plane, by cluster and by decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.manifest import read_manifest
from storage.workspace import ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint
from tasks.kernels import drawing
from tasks.report_page.pictures import Chart, chart
from tasks.report_page.tiles import draws

KIND, POINTS = "maps", "points.parquet"
EMBEDDINGS = "embeddings"
MAPPED_TILES = 2000
"""More take t-SNE longer (some 3 s for these, 18 s for 5,000) and lie on top of each other."""
FEWEST_TILES = 3
NOISE, OTHER = "noise", "other"
DECISIONS = ("keep", "review", "drop")
CODE = ("models.planes", "models.scaling", "tasks.report_page.mapped")

Block = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TileMap:
    """Maps of the same tiles, coloured differently."""

    tiles: int
    of: int
    pictures: tuple[Chart, ...]


def tile_map(
    workspace: Workspace, record: Mapping[str, Any], named: Sequence[int]
) -> TileMap | None:
    """Map a sample of a run's tiles, the same for the same embeddings and seed.

    Where the tiles lie is kept in the workspace (``maps/``): a report that is written again after a
    review draws it anew without computing it.

    Parameters
    ----------
    workspace : Workspace
        Whose manifest is published.
    record : mapping
        Of the run.
    named : sequence of int
        Clusters that get a colour; the others share one.

    Returns
    -------
    TileMap or None
        None where there are too few embeddings for a map.
    """
    shards, seed = record["shards"], int(record["settings"]["seed"])
    keys = sorted(shards[EMBEDDINGS])
    total = sum(workspace.shard(EMBEDDINGS, key).array("embeddings.zarr").shape[0] for key in keys)
    if total < FEWEST_TILES:
        return None
    key = content_key(KIND, keys, seed, MAPPED_TILES, source_fingerprint(*CODE))
    workspace.made(KIND, key, lambda writer: _write(writer, keys, seed))
    points = workspace.shard(KIND, key).table(POINTS)
    known = read_manifest(
        workspace,
        columns=["tile_id", "decision", "cluster_label"],
        filters=pc.is_in(pc.field("tile_id"), value_set=points["tile_id"].combine_chunks()),
    ).to_pandas()
    known = known.set_index("tile_id").reindex(points["tile_id"].to_pylist())
    plane = np.stack([points["x"].to_numpy(), points["y"].to_numpy()], axis=1)
    decision = known["decision"].to_numpy(object)
    labels = known["cluster_label"].fillna(-1).to_numpy(np.int64)
    by_decision = {d: np.flatnonzero(decision == d) for d in DECISIONS if (decision == d).any()}
    return TileMap(
        len(plane),
        total,
        (
            _picture(plane, _by_cluster(labels, named), "cluster"),
            _picture(plane, by_decision, "decision"),
        ),
    )


def _by_cluster(
    labels: npt.NDArray[np.int64], named: Sequence[int]
) -> dict[str, npt.NDArray[np.int64]]:
    """Rows by cluster, the noise and the clusters without a name first."""
    faint = {
        NOISE: np.flatnonzero(labels < 0),
        OTHER: np.flatnonzero((labels >= 0) & ~np.isin(labels, list(named))),
    }
    own = {str(label): np.flatnonzero(labels == label) for label in named}
    return {name: rows for name, rows in faint.items() if len(rows)} | own


def _picture(
    plane: npt.NDArray[np.float64], groups: Mapping[str, npt.NDArray[np.int64]], what: str
) -> Chart:
    def drawn(dark: bool) -> drawing.Picture:
        return drawing.scatter(
            plane,
            groups,
            across="t-SNE axis 1 (no unit)",
            up="t-SNE axis 2 (no unit)",
            legend=what,
            faint=(NOISE, OTHER),
            dark=dark,
        )

    counts = ", ".join(f"{name} {len(rows):,}" for name, rows in groups.items())
    alt = f"{len(plane):,} tiles as points, those that look alike near each other, by {what}: "
    return chart(f"By {what}", alt + counts, drawn)


def _write(writer: ShardWriter, keys: Sequence[str], seed: int) -> None:
    from models.planes import tsne
    from models.scaling import fit_scaler

    workspace = writer.workspace
    names, rows = _sample(workspace, keys)
    scaler = fit_scaler(block for key in keys for block in _blocks(workspace, key))
    plane = tsne(scaler.transform(rows), seed=seed)
    columns = {"tile_id": pa.array(names, pa.string()), "x": plane[:, 0], "y": plane[:, 1]}
    writer.write_table(POINTS, pa.table(columns))
    writer.rows = len(names)
    writer.counts = {"tiles": len(names)}


def _sample(workspace: Workspace, keys: Sequence[str]) -> tuple[list[str], Block]:
    """Tiles drawn by their names, in that order, whatever shards they lie in; their embeddings."""
    drawn: list[tuple[int, str, int, int]] = []
    for shard, key in enumerate(keys):
        table = workspace.shard(EMBEDDINGS, key).table("embeddings.parquet", columns=["tile_id"])
        names = table["tile_id"].to_numpy()
        numbers = draws(names)
        least = np.argsort(numbers, kind="stable")[:MAPPED_TILES]
        drawn += [(int(numbers[i]), str(names[i]), shard, int(i)) for i in least.tolist()]
        drawn = sorted(drawn)[:MAPPED_TILES]
    places = np.array([d[2:] for d in drawn])
    found: list[Block | None] = [None] * len(drawn)
    for shard in np.unique(places[:, 0]).tolist():
        here = np.flatnonzero(places[:, 0] == shard)
        here = here[np.argsort(places[here, 1])]
        array: Any = workspace.shard(EMBEDDINGS, keys[shard]).array("embeddings.zarr")
        for at, row in zip(here.tolist(), array.oindex[places[here, 1]], strict=True):
            found[at] = row
    return [d[1] for d in drawn], np.stack([row for row in found if row is not None])


def _blocks(workspace: Workspace, key: str) -> Iterator[Block]:
    array: Any = workspace.shard(EMBEDDINGS, key).array("embeddings.zarr")
    for start in range(0, array.shape[0], 64 * 1024):
        yield np.asarray(array[start : start + 64 * 1024])
