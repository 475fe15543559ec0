"""Stage: cut the films of a shard into tiles, measure them, screen out the black ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage import collections, discovery, films
from storage.errors import FilmError, UnreadableFilm
from storage.records import FilmShard, Mammogram
from storage.schemas import TILES
from storage.tile_shards import FILMS, FILMS_SCHEMA, INDEX, KIND, PIXELS, SCALE
from storage.workspace import ArrayWriter, ShardRef, ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint
from tasks.kernels import context, film_tiles, intensity, thumbnails, tiling


@dataclass(frozen=True)
class TileSettings:
    """The settings that this stage depends on."""

    tile_size_px: int
    tile_size_mm: float | None
    stride_px: int | None
    edge: Literal["shift", "drop", "pad"]
    black_samples_per_film: int
    max_film_megapixels: float


def key_of(shard: FilmShard, settings: TileSettings) -> str:
    """Key of a tile shard: the films' content, what changes their tiles, settings and code."""
    content = [
        (f.source_sha256, f.calibrated_scanner, f.bits_stored, f.pixel_spacing_mm, lesions)
        for f, lesions in zip(shard.films, shard.lesion_digests, strict=True)
    ]
    code = source_fingerprint(
        "tasks.tiles",
        "tasks.kernels",
        "storage.films",
        "storage.collections",
        "storage.workspace",
        "storage.tile_shards",
    )
    return content_key(KIND, content, vars(settings), code)


def cut_shard(workspace_uri: str, root: str, shard: FilmShard, settings: TileSettings) -> ShardRef:
    """Write the tiles of a shard of films, unless they are there.

    A film that turns out to be corrupt is a row with its reason in ``index/films.parquet``. A shard
    with films that could not be opened this time is made again by the next run.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    root : str
        Folder that the films' sources are relative to.
    shard : FilmShard
        Films to cut.
    settings : TileSettings
        How.

    Returns
    -------
    ShardRef
        Rows are tiles cut; counts: tiles, black, stored, films, excluded, unreadable.
    """
    workspace = Workspace.open(workspace_uri)

    def write(writer: ShardWriter) -> None:
        _write(writer, Path(root), shard, settings)

    return workspace.made(
        KIND,
        key_of(shard, settings),
        write,
        reusable=lambda ref: ref.counts["unreadable"] == 0,
    )


def _write(writer: ShardWriter, root: Path, shard: FilmShard, settings: TileSettings) -> None:
    size = settings.tile_size_px
    pixels = writer.array(PIXELS, (size, size), "uint16", {"scale": SCALE})
    tables = [TILES.empty_table()]
    rows: list[dict[str, object]] = []
    for film in shard.films:
        row: dict[str, object] = {"mammogram_id": film.mammogram_id, "tiles": 0}
        try:
            table, pictures = _cut_film(film, root, settings, pixels)
            row |= pictures | {"tiles": table.num_rows}
            tables.append(table)
        except FilmError as e:
            row |= {
                "excluded_reason": e.reason,
                "excluded_rule": e.rule,
                "excluded_remedy": e.remedy,
            }
        rows.append(row)
    pixels.close()
    index = pa.concat_tables(tables)
    writer.write_table(INDEX, index)
    writer.write_table(FILMS, pa.Table.from_pylist(rows, schema=FILMS_SCHEMA))
    reasons = [row["excluded_reason"] for row in rows if row.get("excluded_reason")]
    writer.rows = index.num_rows
    writer.counts = {
        "films": len(shard.films) - len(reasons),
        "excluded": len(reasons),
        "unreadable": reasons.count(UnreadableFilm.reason),
        "tiles": index.num_rows,
        "black": int(np.count_nonzero(index["is_black"])),
        "stored": pixels.rows,
    }


def _cut_film(
    film: Mammogram, root: Path, settings: TileSettings, pixels: ArrayWriter
) -> tuple[pa.Table, dict[str, bytes]]:
    """Tiles of one film: their rows and the film's pictures; pixels stored into ``pixels``."""
    path = discovery.film_path(root, film.source)
    _check_unchanged(path, film)
    grey = films.read_pixels(path, film, max_film_megapixels=settings.max_film_megapixels)
    scanner, bits = film.calibrated_scanner, film.bits_stored
    scaled = seen = intensity.normalise(grey, scanner=scanner, bits_stored=bits)
    if scanner is not None:  # much of the skin line lies beyond the densities that are kept
        seen = intensity.normalise_for_context(grey, scanner=scanner, bits_stored=bits)
    del grey

    size = settings.tile_size_px
    box = size
    if settings.tile_size_mm is not None:
        if film.pixel_spacing_mm is None:
            raise ValueError(f"{film.source}: tile_size_mm needs a pixel spacing")
        box = tiling.tile_size_px_from_mm(settings.tile_size_mm, film.pixel_spacing_mm)
    stride = box if settings.stride_px is None else max(1, round(settings.stride_px * box / size))
    boxes = tiling.tile_boxes(*scaled.shape, tile_size_px=box, stride_px=stride, edge=settings.edge)
    ground = context.film_context(seen)
    columns = film_tiles.screen_film(
        scaled,
        boxes,
        lesion_mask=collections.lesion_mask(film, root),
        context=ground,
        context_film=seen,
    )
    stored = stored_tiles(
        columns["is_black"], columns["p99"], samples=settings.black_samples_per_film
    )
    stored |= columns["lesion_fraction"] > 0  # a person must be able to look at these
    if collections.has_unlocated_lesion(film):
        stored |= columns["breast_fraction"] > 0
    first = pixels.rows_appended
    pixels.append(
        tiling.cut_tiles(
            scaled,
            boxes[stored],
            output_size_px=size,
            tile_size_px=box,
            background_level=context.background_value(scaled, ground),
        )
    )
    index = np.full(len(boxes), -1, dtype=np.int64)
    index[stored] = first + np.arange(np.count_nonzero(stored))

    arrays: dict[str, pa.Array] = {
        "tile_id": pa.array([tile_id(film, box) for box in boxes.tolist()]),
        "mammogram_id": pa.array([film.mammogram_id] * len(boxes)),
        **{n: pa.array(boxes[:, i]) for i, n in enumerate(("x", "y", "width", "height"))},
        "pixels_index": pa.array(index, mask=~stored),
    }
    for name, values in columns.items():
        arrays[name] = pa.array(values, from_pandas=True)  # NaN: not known
    table = pa.Table.from_arrays(
        [arrays[n].cast(TILES.field(n).type) for n in TILES.names], schema=TILES
    )
    return table, {
        "thumbnail_png": thumbnails.film_png(scaled),
        "context_png": thumbnails.context_png(ground),
    }


def tile_id(film: Mammogram, box: list[int]) -> str:
    """Name of a tile: its film's content and its box, so that any run gives it the same name."""
    x, y, width, height = box
    return f"{film.mammogram_id}-x{x}-y{y}-w{width}-h{height}"


def stored_tiles(
    is_black: npt.NDArray[np.bool_], p99: npt.NDArray[np.float32], *, samples: int
) -> npt.NDArray[np.bool_]:
    """Which tiles' pixels are kept: all but the black ones, and the brightest few of those."""
    stored = ~is_black
    if samples:
        black = np.flatnonzero(is_black)
        brightest = black[np.argsort(-p99[black], kind="stable")[:samples]]
        stored[brightest] = True
    return stored


def _check_unchanged(path: Path, film: Mammogram) -> None:
    try:
        stat = path.stat()
    except OSError as e:
        raise UnreadableFilm(
            film.source,
            f"the file could not be opened any more ({type(e).__name__}).",
            "Check that the folder is still mounted, then run again.",
        ) from e
    if (stat.st_size, stat.st_mtime_ns) != (film.file_size_bytes, film.modified_ns):
        raise UnreadableFilm(
            film.source,
            "the file was altered while the run was going on.",
            "Run again when nothing writes into the folder any more.",
        )
