"""Stage: altered copies of the kept training tiles of some labels, written beside the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage import augmented
from storage.augmented import KIND, PIXELS, ROWS, SCHEMA
from storage.errors import ShardError
from storage.tile_shards import SCALE, read_pixels
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint

TRAIN = "train"
BATCH_BYTES = 4 * 2**20
"""Of tiles that are changed at a time: their copies take several times as much meanwhile."""
CODE = (
    "models.augmentation",
    "storage.tile_shards",
    "tasks.operations",
    "tasks.tile_augmentations",
)
COLUMNS = [
    "tile_id",
    "mammogram_id",
    "patient_key",
    "label",
    "decision",
    "pixels_uri",
    "pixels_index",
]


@dataclass(frozen=True)
class TileCopySettings:
    """What copies depend on, beside their tiles."""

    labels: tuple[str, ...]
    copies: int
    operations: tuple[tuple[str, float], ...]
    """Names of `tasks.picture_settings.OPERATION_OPTIONS` with the strength given."""
    seed: int


def augment_tiles(workspace_uri: str, tile_key: str, settings: TileCopySettings) -> ShardRef:
    """Write the copies of a shard's tiles, unless they are there.

    Copied are kept tiles of the training part with one of the labels, as the manifest has them. A
    copy depends on its tile, its number, the settings and the seed alone.

    Parameters
    ----------
    workspace_uri : str
        Of a workspace whose manifest is published.
    tile_key : str
        Tile shard.
    settings : TileCopySettings

    Returns
    -------
    ShardRef
        Of kind ``augmented``; rows are copies.
    """
    workspace = Workspace.open(workspace_uri)
    chosen = _chosen(workspace, tile_key, settings.labels)
    key = content_key(
        KIND,
        tile_key,
        chosen.select(["tile_id", "label", "patient_key"]).to_pydict(),
        asdict(settings),
        source_fingerprint(*CODE),
    )
    return workspace.made(KIND, key, lambda writer: _write(writer, key, tile_key, chosen, settings))


def publish(workspace_uri: str, keys: Sequence[str], run_id: str) -> None:
    """Write the table of all copies of a run."""
    augmented.publish(Workspace.open(workspace_uri), keys, run_id)


def _chosen(workspace: Workspace, tile_key: str, labels: Sequence[str]) -> pa.Table:
    """Rows of the manifest that are copied, by ``pixels_index``."""
    part = f"manifest/split={TRAIN}/{tile_key}.parquet"
    if not workspace.exists(part):
        return pa.table({name: pa.array([], pa.string()) for name in COLUMNS})
    table = workspace.read_table(part, columns=COLUMNS)
    wanted = pc.and_(
        pc.equal(table["decision"], "keep"), pc.is_in(table["label"], pa.array(labels))
    )
    return table.filter(wanted).sort_by("pixels_index")


def _write(
    writer: ShardWriter, key: str, tile_key: str, chosen: pa.Table, settings: TileCopySettings
) -> None:
    rows: list[dict[str, Any]] = []
    if len(chosen):
        source = f"tiles/{tile_key}/"
        if not all(
            str(uri).startswith(source) for uri in chosen["pixels_uri"].unique().to_pylist()
        ):
            raise ShardError(f"the manifest's part {tile_key} names pixels of another shard.")
        writer.workspace.shard("tiles", tile_key).check()
        size = writer.workspace.shard("tiles", tile_key).array("pixels.zarr").shape[1]
        array = writer.array(PIXELS, (size, size), "uint16", {"scale": SCALE})
        for made, pixels in _copies(writer.workspace, tile_key, chosen, settings):
            for row in made:
                rows.append(
                    row | {"pixels_uri": f"{KIND}/{key}/{PIXELS}", "pixels_index": len(rows)}
                )
            array.append(pixels)
        array.close()
    writer.write_table(ROWS, pa.Table.from_pylist(rows, schema=SCHEMA))
    writer.rows = len(rows)
    writer.counts = {"tiles": len(chosen), "copies": len(rows)}


def _copies(
    workspace: Workspace, tile_key: str, chosen: pa.Table, settings: TileCopySettings
) -> Iterator[tuple[list[dict[str, Any]], npt.NDArray[np.uint16]]]:
    """Rows and pixels, a few MiB at a time."""
    start = 0
    for block in read_pixels(workspace, tile_key, chosen["pixels_index"].to_numpy()):
        step = max(1, BATCH_BYTES // block[0].nbytes)
        for first in range(0, len(block), step):
            tiles = block[first : first + step]
            known = chosen.slice(start + first, len(tiles)).to_pylist()
            for number in range(settings.copies):
                yield _copy(tiles, known, number, settings)
        start += len(block)


def _copy(
    tiles: npt.NDArray[np.uint16],
    known: list[dict[str, Any]],
    number: int,
    settings: TileCopySettings,
) -> tuple[list[dict[str, Any]], npt.NDArray[np.uint16]]:
    import torch

    from models import augmentation
    from models.devices import threads
    from tasks.operations import operation_of

    probability = 0.5 if len(settings.operations) > 1 else 1.0
    chain = augmentation.Augmentation(
        tuple(operation_of(n, value, probability=probability) for n, value in settings.operations)
    )
    seeds = augmentation.view_seeds(settings.seed, [row["tile_id"] for row in known], number)
    choices = augmentation.with_one_at_least(chain.draw(seeds), seeds, channels=1)
    with threads(1):  # a worker a core
        batch = torch.from_numpy(tiles.astype(np.float32) / np.float32(65535))[:, None]
        changed = augmentation.apply(batch, choices)[:, 0].numpy()
    pixels = np.rint(changed * np.float32(65535)).astype(np.uint16)
    rows = [
        {
            "tile_id": f"{row['tile_id']}+{number + 1}",
            "source_tile_id": row["tile_id"],
            "mammogram_id": row["mammogram_id"],
            "patient_key": row["patient_key"],
            "label": row["label"],
            "split": TRAIN,
            "operations": json.dumps(augmentation.lineage(choices, i, channels=1)),
            "seed": settings.seed,
            "view_seed": int(seeds[i]),
        }
        for i, row in enumerate(known)
    ]
    return rows, pixels
