"""Stage: cut the films of a shard into tiles, measure them, screen out the black ones."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage import collections, discovery, films, quarantine
from storage.errors import FilmError, UnreadableFilm
from storage.records import FilmShard, Mammogram
from storage.schemas import TILES
from storage.tile_shards import (
    FIGURES,
    FILMS,
    FILMS_SCHEMA,
    INDEX,
    KIND,
    PIXELS,
    PLANTED,
    PLANTED_FIGURES,
    PLANTED_INDEX,
    PLANTED_PIXELS,
    SCALE,
    Tiles,
)
from storage.workspace import ArrayWriter, ShardRef, ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint
from tasks.kernels import (
    context,
    film_tiles,
    intensity,
    planting,
    scoring,
    thumbnails,
    tile_figures,
    tiling,
)


@dataclass(frozen=True)
class TileSettings:
    """The settings that this stage depends on."""

    tile_size_px: int
    tile_size_mm: float | None
    stride_px: int | None
    edge: Literal["shift", "drop", "pad"]
    black_samples_per_film: int
    max_film_megapixels: float
    context: Literal["film", "tile"] = "film"


PLANTED_FILMS = 1 / 8
"""Share of a shard's films that annotations are drawn on, one at least: with eight a film, a run of
100 films has some hundred planted tiles, which tells a recall of 0.95 to 0.02."""
PLANTED_TISSUE = 24
"""Tiles with tissue of each planted film that are looked at again: planting must not lose them."""
LEAST_PLANTED = 0.01
"""Share of a tile that is planted on, for it to count as annotated."""


def key_of(
    shard: FilmShard, settings: TileSettings, quarantined: frozenset[str] = frozenset()
) -> str:
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
    return content_key(KIND, content, vars(settings), sorted(quarantined), code)


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
    quarantined = quarantine.members(workspace, shard.films)

    def write(writer: ShardWriter) -> None:
        _write(writer, Path(root), shard, settings, quarantined)

    return workspace.made(
        KIND,
        key_of(shard, settings, quarantined),
        write,
        reusable=lambda ref: ref.counts["unreadable"] == 0,
    )


def try_film(root: str, film: Mammogram, settings: TileSettings) -> None:
    """Cut a film and write nothing, to see whether this process survives it."""
    out = _Arrays(*(_Nowhere() for _ in range(4)))
    with contextlib.suppress(FilmError):  # an exclusion like any other
        _cut_film(film, Path(root), settings, out, plant=settings.context == "film")


class _Nowhere:
    """Takes rows like an ``ArrayWriter`` and keeps none."""

    rows = rows_appended = 0

    def append(self, rows: npt.NDArray[Any]) -> None:
        self.rows += len(rows)

    def close(self) -> None:
        pass


def _write(
    writer: ShardWriter,
    root: Path,
    shard: FilmShard,
    settings: TileSettings,
    quarantined: frozenset[str],
) -> None:
    size = settings.tile_size_px
    width = len(tile_figures.NAMES)
    out = _Arrays(
        *(writer.array(name, (size, size), "uint16", {"scale": SCALE}) for name in PICTURES),
        *(writer.array(name, (width,), "float32", {}) for name in LOOKS),
    )
    tables, planted = [TILES.empty_table()], [PLANTED.empty_table()]
    rows: list[dict[str, object]] = []
    chosen = _planted_films(shard) if settings.context == "film" else frozenset()
    for film in shard.films:
        row: dict[str, object] = {"mammogram_id": film.mammogram_id, "tiles": 0}
        try:
            if film.source_sha256 in quarantined:
                raise quarantine.refusal(film)
            with_planting = film.mammogram_id in chosen
            table, more, pictures = _cut_film(film, root, settings, out, plant=with_planting)
            row |= pictures | {"tiles": table.num_rows}
            tables.append(table)
            planted.append(more)
        except FilmError as e:
            row |= {
                "excluded_reason": e.reason,
                "excluded_rule": e.rule,
                "excluded_remedy": e.remedy,
            }
        rows.append(row)
    out.close()
    index = pa.concat_tables(tables)
    writer.write_table(INDEX, index)
    writer.write_table(PLANTED_INDEX, pa.concat_tables(planted))
    writer.write_table(FILMS, pa.Table.from_pylist(rows, schema=FILMS_SCHEMA))
    reasons = [row["excluded_reason"] for row in rows if row.get("excluded_reason")]
    writer.rows = index.num_rows
    writer.counts = {
        "films": len(shard.films) - len(reasons),
        "excluded": len(reasons),
        "unreadable": reasons.count(UnreadableFilm.reason),
        "tiles": index.num_rows,
        "black": int(np.count_nonzero(index["is_black"])),
        "stored": out.pixels.rows,
        "planted": out.planted.rows,
    }


@dataclass(frozen=True)
class _Arrays:
    """Where the arrays of a shard go."""

    pixels: ArrayWriter | _Nowhere
    planted: ArrayWriter | _Nowhere
    figures: ArrayWriter | _Nowhere
    planted_figures: ArrayWriter | _Nowhere

    def close(self) -> None:
        for array in vars(self).values():
            array.close()


PICTURES, LOOKS = (PIXELS, PLANTED_PIXELS), (FIGURES, PLANTED_FIGURES)


def _planted_films(shard: FilmShard) -> frozenset[str]:
    """Films of the shard that are planted: those first by a hash of their content."""
    names = [str(f.mammogram_id) for f in shard.films]
    names.sort(key=lambda name: hashlib.sha256(f"plant {name}".encode()).digest())
    return frozenset(names[: max(1, round(PLANTED_FILMS * len(names)))])


def _cut_film(
    film: Mammogram, root: Path, settings: TileSettings, out: _Arrays, *, plant: bool
) -> tuple[pa.Table, pa.Table, dict[str, bytes]]:
    """Rows of one film's tiles, of planted ones, and its pictures; pixels go to ``out``."""
    path = discovery.film_path(root, film.source)
    _check_unchanged(path, film)
    grey = films.read_pixels(path, film, max_film_megapixels=settings.max_film_megapixels)
    scanner, bits = film.calibrated_scanner, film.bits_stored
    by_film = settings.context == "film"
    if by_film:
        scaled = seen = intensity.normalise(grey, scanner=scanner, bits_stored=bits)
    else:  # tiles are on a scale of their source; each by itself would be stretched differently
        scaled = seen = intensity.full_range(grey, bits_stored=bits)
    if by_film and scanner is not None:  # the skin line lies beyond the densities that are kept
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
    lesions = collections.lesion_mask(film, root)
    ground = context.film_context(seen)
    if by_film:
        columns = film_tiles.screen_film(
            scaled, boxes, lesion_mask=lesions, context=ground, context_film=seen
        )
    else:
        columns = film_tiles.screen_tiles(scaled, boxes, lesion_mask=lesions)
    stored = stored_tiles(
        columns["is_black"], columns["p99"], samples=settings.black_samples_per_film
    )
    stored |= columns["lesion_fraction"] > 0  # a person must be able to look at these
    if collections.has_unlocated_lesion(film):
        stored |= ~(columns["breast_fraction"] <= 0)
    first = out.pixels.rows_appended
    fill = context.background_value(scaled, ground) if by_film else 0

    def cut(plane: npt.NDArray[np.uint16], which: npt.NDArray[np.int32]) -> Tiles:
        return tiling.cut_tiles(
            plane, which, output_size_px=size, tile_size_px=box, background_level=fill
        )

    tiles = cut(scaled, boxes[stored])
    out.pixels.append(tiles)
    clear = scoring.is_beyond_doubt(columns["breast_fraction"], columns["foreign_fraction"])
    figures = np.full((len(tiles), len(tile_figures.NAMES)), np.nan, np.float32)
    figures[~clear[stored]] = tile_figures.tile_figures(tiles[~clear[stored]])
    out.figures.append(figures)
    planted = PLANTED.empty_table()
    if plant:
        planted = _plant(film, (scaled, seen), ground, boxes, columns, out, cut)
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
    return (
        table,
        planted,
        {
            "thumbnail_png": thumbnails.film_png(scaled),
            "context_png": thumbnails.context_png(ground),
        },
    )


def _plant(
    film: Mammogram,
    planes: tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]],
    before: context.FilmContext,
    boxes: npt.NDArray[np.int32],
    columns: dict[str, npt.NDArray[Any]],
    out: _Arrays,
    cut: Callable[[npt.NDArray[np.uint16], npt.NDArray[np.int32]], Tiles],
) -> pa.Table:
    """Draw annotations on a film and look at its tiles again, as if the film had come like this."""
    rng = np.random.default_rng(
        int(hashlib.sha256(str(film.mammogram_id).encode()).hexdigest(), 16)
    )
    planted = planting.plant_film(
        planes if planes[0] is not planes[1] else planes[:1],
        before.mask == context.BREAST,
        before.factor,
        rng,
        ground=before.background_level,
        frame=before.frame,
    )
    share, kind = planting.planted_shares(planted, boxes)
    breast, foreign = columns["breast_fraction"], columns["foreign_fraction"]
    tissue = np.flatnonzero(
        (share == 0) & (breast >= scoring.BREAST_SHARE_EVEN_FOREIGN) & (foreign == 0)
    )
    chosen = np.concatenate(
        [
            np.flatnonzero(share >= LEAST_PLANTED),
            np.sort(rng.permutation(tissue)[:PLANTED_TISSUE]),
        ]
    )
    which = boxes[chosen]
    after = film_tiles.screen_film(planted.planes[0], which, context_film=planted.planes[-1])
    tiles = cut(planted.planes[0], which)
    first = out.planted.rows_appended
    out.planted.append(tiles)
    out.planted_figures.append(tile_figures.tile_figures(tiles))
    arrays = {
        "tile_id": [tile_id(film, box) for box in which.tolist()],
        "mammogram_id": [film.mammogram_id] * len(chosen),
        **{name: which[:, i] for i, name in enumerate(("x", "y", "width", "height"))},
        "kind": kind[chosen],
        "planted_fraction": share[chosen],
        "breast_fraction_before": breast[chosen],
        "foreign_fraction_before": foreign[chosen],
        **{n: after[n] for n in ("breast_fraction", "foreign_fraction", "context_score")},
        "is_black": after["is_black"],
        "pixels_index": first + np.arange(len(chosen)),
    }
    return pa.Table.from_pydict(arrays, schema=PLANTED)


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
