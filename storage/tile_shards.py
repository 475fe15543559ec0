"""How the files of a tile shard are called: what the stages after the cutting rely on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.workspace import Workspace
from storage.zarr_rows import rows_of

KIND = "tiles"
INDEX = "index/tiles.parquet"
FILMS = "index/films.parquet"
PIXELS = "pixels.zarr"
FIGURES = "figures.zarr"
"""What each stored tile looks like (``tasks.kernels.tile_figures``), float32, in the order of
``pixels.zarr``; NaN for tiles that are tissue beyond doubt by the film's map."""
PLANTED_INDEX = "index/planted.parquet"
PLANTED_PIXELS = "planted.zarr"
PLANTED_FIGURES = "planted_figures.zarr"
"""Tiles of a sample of the films with annotations drawn on them: what a run's recall is measured
by, as the pixels and figures of the other tiles."""
SCALE = "uint16 0..65535 is 0..1 of the normalised intensity, bright is dense"

BYTES_PER_READ = 32 * 2**20
Tiles: TypeAlias = npt.NDArray[np.uint16]

FILMS_SCHEMA = pa.schema(
    [
        pa.field("mammogram_id", pa.string(), nullable=False),
        pa.field("tiles", pa.int32(), nullable=False),
        pa.field("thumbnail_png", pa.binary()),
        pa.field("context_png", pa.binary()),
        pa.field("excluded_reason", pa.string()),
        pa.field("excluded_rule", pa.string()),
        pa.field("excluded_remedy", pa.string()),
    ]
)
"""One row a film of the shard: its picture for the report, and the map of it in the same size (0
background, 1 breast, 2 foreign content; ``tasks.kernels.context``); or why it could not be cut."""


PLANTED = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("mammogram_id", pa.string(), nullable=False),
        pa.field("x", pa.int32(), nullable=False),
        pa.field("y", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("kind", pa.string()),
        pa.field("planted_fraction", pa.float32(), nullable=False),
        pa.field("breast_fraction_before", pa.float32()),
        pa.field("foreign_fraction_before", pa.float32()),
        pa.field("breast_fraction", pa.float32()),
        pa.field("foreign_fraction", pa.float32()),
        pa.field("context_score", pa.float32()),
        pa.field("is_black", pa.bool_(), nullable=False),
        pa.field("pixels_index", pa.int64(), nullable=False),
    ]
)
"""One row a tile of a planted film: those that were planted on, and of the others some with tissue
(``planted_fraction`` 0). ``*_before``: what the film's map said before anything was planted."""


def read_index(workspace: Workspace, key: str, columns: list[str] | None = None) -> pa.Table:
    """Rows of a tile shard, schema ``storage.schemas.TILES``."""
    return workspace.shard(KIND, key).table(INDEX, columns=columns)


def read_films(workspace: Workspace, key: str) -> pa.Table:
    """Films of a tile shard, schema ``FILMS_SCHEMA``."""
    return workspace.shard(KIND, key).table(FILMS)


def read_planted(workspace: Workspace, key: str) -> pa.Table:
    """Planted tiles of a shard, schema ``PLANTED``; none in shards of earlier versions."""
    shard = workspace.shard(KIND, key)
    if PLANTED_INDEX not in shard.record()["files"]:
        return PLANTED.empty_table()
    return shard.table(PLANTED_INDEX)


def read_figures(
    workspace: Workspace, key: str, *, planted: bool = False
) -> npt.NDArray[np.float32]:
    """Figures of a shard's stored tiles, (n, figures) float32, by ``pixels_index``."""
    name = PLANTED_FIGURES if planted else FIGURES
    return np.asarray(workspace.shard(KIND, key).array(name)[:], np.float32)


def read_pixels(
    workspace: Workspace, key: str, rows: npt.NDArray[np.int64], *, planted: bool = False
) -> Iterator[Tiles]:
    """Pixels of a shard's tiles, in the order of ``rows``, some 32 MiB at a time.

    Parameters
    ----------
    workspace : Workspace
        Where the shard lies.
    key : str
        Of the shard.
    rows : (n,) int64
        Rows of its pixel array, ascending.
    planted : bool
        Of the planted tiles instead.

    Yields
    ------
    (n, size, size) uint16
    """
    array = rows_of(workspace.shard(KIND, key).array(PLANTED_PIXELS if planted else PIXELS))
    tiles_per_read = max(1, BYTES_PER_READ // (2 * array.shape[1] * array.shape[2]))
    start = 0
    while start < len(rows):
        stop = int(np.searchsorted(rows, rows[start] + tiles_per_read, side="left"))
        first = int(rows[start])
        block = np.asarray(array[first : int(rows[stop - 1]) + 1])
        yield block[rows[start:stop] - first]
        start = stop
