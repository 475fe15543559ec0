"""Stage: tiles that show nearly the same, over all films: a film scanned twice, or exported again.

Nearest neighbours among the embeddings are the candidates; the pixels of both tiles decide.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from storage.schemas import DUPLICATES
from storage.tile_shards import read_index, read_pixels
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint
from tasks.kernels import thumbnails
from tasks.kernels.duplicates import (
    LEAST_STRUCTURE,
    SIDE_PX,
    alike,
    boxes_overlap,
    leaders,
    levels_alike,
)

KIND = "duplicates"
EMBEDDINGS = "embeddings"
NEIGHBOURS = 16
"""Candidates of a tile: more than the eight tiles of its own film that overlap it at half a
stride, so that these cannot crowd out a copy."""
RADIUS_SHARE = 0.25
"""Of the distance sqrt(2 dim) that two tiles drawn at random have in the mean square. The radius
only saves reading pixels; these decide."""
PAIRS_AT_ONCE = 4096

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DuplicateSettings:
    """The settings that the search depends on."""

    misinformative_threshold: float
    """A tile that is not flagged stays before one that is."""


def duplicates_key(
    parts: Sequence[tuple[str, str]], settings: DuplicateSettings, labelled: Sequence[str]
) -> str:
    """Key of a search."""
    code = source_fingerprint(
        "models.pairs",
        "models.scaling",
        "tasks.duplicates",
        "tasks.kernels.duplicates",
        "tasks.kernels.thumbnails",
    )
    return content_key(KIND, sorted(parts), asdict(settings), sorted(labelled), code)


def find_duplicates(
    workspace_uri: str,
    parts: Sequence[tuple[str, str]],
    settings: DuplicateSettings,
    labelled: Sequence[str] = (),
) -> ShardRef:
    """Find the tiles that nearly equal another one, unless that is done.

    Of a group the tile stays that is not flagged as misinformative, touches an annotated lesion,
    is of a film with a label, and has the lowest tile_id, in this order of weight. Overlapping
    tiles of one film are no duplicates of each other, and tiles with hardly any structure are none
    of anything.

    In memory: all embeddings (four times while neighbours are searched), some 200 bytes a tile of
    figures, and one read of pixels. Shrunk candidates lie in a temporary file, 2 KiB each.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    parts : sequence of (str, str)
        Tile shards, each with the embedding shard of it; their order changes nothing.
    settings : DuplicateSettings
        See there.
    labelled : sequence of str
        Films that have a label, by mammogram_id.

    Returns
    -------
    ShardRef
        Of kind ``duplicates``: one Parquet file a tile shard, named after it, schema
        ``storage.schemas.DUPLICATES``, with a row for each duplicate. Counts: tiles (not black),
        compared (with structure), candidates (pairs whose pixels were read), duplicates, groups.
    """
    workspace = Workspace.open(workspace_uri)
    return workspace.made(
        KIND,
        duplicates_key(parts, settings, labelled),
        lambda writer: _write(writer, sorted(parts), settings, set(labelled)),
    )


def _write(
    writer: ShardWriter,
    parts: list[tuple[str, str]],
    settings: DuplicateSettings,
    labelled: set[str],
) -> None:
    workspace = writer.workspace
    tiles = _tiles(workspace, parts, settings.misinformative_threshold, labelled)
    rows = _embeddings(workspace, parts)
    n_tiles = len(tiles)
    tiles = tiles[tiles["std"] >= LEAST_STRUCTURE]
    # who would rather stay comes first; of equal embeddings the first are found as neighbours
    tiles = tiles.sort_values(["is_flagged", "is_elsewhere", "is_unlabelled", "tile_id"])
    rows = rows[tiles.index.to_numpy()]
    tiles = tiles.reset_index(drop=True)
    first, second = _candidates(tiles, rows)
    del rows
    likeness = _verified(workspace, [key for key, _ in parts], tiles, first, second)
    same = likeness > 0
    first, second, likeness = first[same], second[same], likeness[same]
    by = leaders(first, second, len(tiles))
    found = np.flatnonzero(by >= 0)
    names = tiles["tile_id"].to_numpy(object)
    table = pd.DataFrame(
        {
            "shard": tiles["shard"].to_numpy()[found],
            "tile_id": names[found],
            "duplicate_of": names[first[by[found]]],
            "likeness": likeness[by[found]],
        }
    ).sort_values("tile_id")
    for i, (key, _) in enumerate(parts):
        part = table[table["shard"] == i].drop(columns="shard")
        writer.write_table(
            f"{key}.parquet", pa.Table.from_pandas(part, schema=DUPLICATES, preserve_index=False)
        )
    writer.rows = len(table)
    writer.counts = {
        "tiles": n_tiles,
        "compared": len(tiles),
        "candidates": len(same),
        "duplicates": len(table),
        "groups": int(table["duplicate_of"].nunique()),
    }


def _tiles(
    workspace: Workspace,
    parts: Sequence[tuple[str, str]],
    threshold: float,
    labelled: set[str],
) -> pd.DataFrame:
    """Tiles that have an embedding, in the order of the embeddings."""
    columns = ["tile_id", "mammogram_id", "x", "y", "width", "height", "lesion_fraction"]
    columns += ["mean", "std", "context_score", "pixels_index"]
    out = []
    for i, (tile_key, embedding_key) in enumerate(parts):
        workspace.shard(EMBEDDINGS, embedding_key).check()
        ids = workspace.shard(EMBEDDINGS, embedding_key).table(
            "embeddings.parquet", columns=["tile_id"]
        )
        index = read_index(workspace, tile_key, columns).to_pandas().set_index("tile_id")
        frame = index.loc[ids["tile_id"].to_pylist()].reset_index()
        frame = frame.assign(
            shard=i,
            is_flagged=frame["context_score"] >= threshold,
            is_elsewhere=~(frame["lesion_fraction"].fillna(0) > 0),
            is_unlabelled=~frame["mammogram_id"].isin(labelled),
        )
        out.append(frame.drop(columns=["context_score", "lesion_fraction"]))
    tiles: pd.DataFrame = pd.concat(out, ignore_index=True)
    tiles["mammogram_id"] = pd.factorize(tiles["mammogram_id"])[0]
    return tiles


def _embeddings(workspace: Workspace, parts: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
    """Standardised embeddings, (n, dim)."""
    from models.scaling import fit_scaler

    arrays = [workspace.shard(EMBEDDINGS, key).array("embeddings.zarr") for _, key in parts]
    scaler = fit_scaler(np.asarray(array[:]) for array in arrays)
    out = np.empty((sum(a.shape[0] for a in arrays), arrays[0].shape[1]), np.float32)
    start = 0
    for array in arrays:
        stop = start + array.shape[0]
        out[start:stop] = scaler.transform(np.asarray(array[:]))
        start = stop
    return out


def _candidates(tiles: pd.DataFrame, rows: npt.NDArray[np.float32]) -> tuple[Numbers, Numbers]:
    """Pairs that lie near each other, agree in their levels and do not overlap on one film."""
    if len(rows) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    first, second = _near(rows)
    low, high = np.minimum(first, second), np.maximum(first, second)
    low, high = np.divmod(np.unique(low * len(rows) + high), len(rows))
    wanted = levels_alike(tiles["mean"].to_numpy(), tiles["std"].to_numpy(), low, high)
    low, high = low[wanted], high[wanted]
    film = tiles["mammogram_id"].to_numpy()
    boxes = tiles[["x", "y", "width", "height"]].to_numpy(np.int64)
    apart = (film[low] != film[high]) | ~boxes_overlap(boxes, low, high)
    return low[apart], high[apart]


def _near(rows: npt.NDArray[np.float32]) -> tuple[Numbers, Numbers]:
    """Pairs of rows within the radius: with the nearest ones, and with the first of equal ones.

    So a pile of equal rows, which may be higher than the number of neighbours, is found whole.
    """
    from models.pairs.nearest import nearest_rows
    from models.workers import ThreadWorkers

    plain = rows + np.float32(0)  # -0.0 becomes 0.0, so that equal rows have equal bytes
    keys = plain.view(np.dtype((np.void, plain.itemsize * plain.shape[1]))).ravel()
    _, distinct, copy_of = np.unique(keys, return_index=True, return_inverse=True)
    del plain, keys
    again = np.flatnonzero(distinct[copy_of] != np.arange(len(rows)))
    # itself is one of its nearest
    order, _, _, found = nearest_rows(rows[distinct], NEIGHBOURS + 1, ThreadWorkers())
    order = distinct[order]
    limit = (RADIUS_SHARE**2) * 2 * rows.shape[1]
    position, rank = np.nonzero(found.squares <= limit)
    first, second = order[position], order[found.places[position, rank]]
    different = first != second
    return (
        np.concatenate([first[different], distinct[copy_of][again]]),
        np.concatenate([second[different], again]),
    )


def _verified(
    workspace: Workspace,
    tile_keys: Sequence[str],
    tiles: pd.DataFrame,
    first: Numbers,
    second: Numbers,
) -> npt.NDArray[np.float32]:
    """Likeness of pairs by their pixels, which are read shard by shard: (n,)."""
    wanted = np.unique(np.concatenate([first, second]))
    out = np.zeros(len(first), np.float32)
    if not len(wanted):
        return out
    with tempfile.TemporaryFile() as file:
        shape = (len(wanted), SIDE_PX, SIDE_PX)
        small = np.memmap(file, np.uint16, mode="w+", shape=shape)
        shard = tiles["shard"].to_numpy()[wanted]
        pixels = tiles["pixels_index"].to_numpy(np.int64)[wanted]
        for i, key in enumerate(tile_keys):
            places = np.flatnonzero(shard == i)
            places = places[np.argsort(pixels[places])]
            done = 0
            for block in read_pixels(workspace, key, pixels[places]):
                for place, tile in zip(places[done : done + len(block)], block, strict=True):
                    small[place] = thumbnails.shrink(tile, SIDE_PX, SIDE_PX)
                done += len(block)
        a, b = np.searchsorted(wanted, first), np.searchsorted(wanted, second)
        for start in range(0, len(first), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            out[part] = alike(small[a[part]], small[b[part]])
        del small
    return out


def count_duplicates(
    workspace_uri: str,
    key: str,
    tile_keys: Sequence[str],
    patient_of_film: Mapping[str, str],
    split_of_film: Mapping[str, str],
) -> dict[str, int]:
    """Count the duplicates of a search, and those whose other tile lies elsewhere.

    Parameters
    ----------
    workspace_uri, key : str
        Workspace and search.
    tile_keys : sequence of str
        Tile shards that were searched.
    patient_of_film, split_of_film : mapping of str to str
        Patient and part of each film, by mammogram_id.

    Returns
    -------
    dict of str to int
        compared, duplicates, groups; between_films, between_patients, between_parts: duplicates
        whose other tile is of another film, patient, part of the split.
    """
    shard = Workspace.open(workspace_uri).shard(KIND, key)
    counts = {n: shard.record()["counts"][n] for n in ("compared", "duplicates", "groups")}
    counts |= dict.fromkeys(("between_films", "between_patients", "between_parts"), 0)
    for tile_key in tile_keys:
        pairs = shard.table(f"{tile_key}.parquet", columns=["tile_id", "duplicate_of"]).to_pandas()
        a, b = (pairs[name].map(_film) for name in ("tile_id", "duplicate_of"))
        counts["between_films"] += int((a != b).sum())
        for name, of in (("patients", patient_of_film), ("parts", split_of_film)):
            counts[f"between_{name}"] += int((a.map(dict(of)) != b.map(dict(of))).sum())
    return counts


def _film(tile_id: str) -> str:
    return tile_id.partition("-")[0]
