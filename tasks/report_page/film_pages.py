"""A page a film, ``report/films/<mammogram_id>.html``: its tiles drawn on it, each with its fate.

One film's tiles are in memory at a time, at most some 32 MiB of their pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from storage.tile_shards import read_films, read_index, read_pixels
from storage.workspace import Workspace
from tasks.kernels.thumbnails import FILM_HEIGHT_PX, lifted_8bit, shrink, stretched_8bit
from tasks.report_page.counts import fate_counts
from tasks.report_page.page import Count, render_film
from tasks.report_page.pictures import FilmPicture, data_uri, drawn_on, jpeg, shrunk_tile
from tasks.report_page.survey import manifest_parts, part_batches, split_of_part
from tasks.report_page.tiles import (
    BLACK,
    KEEP,
    STYLES,
    TILE_COLUMNS,
    Tile,
    fate_order,
    fate_title,
    shortened,
    tiles_of,
)
from tasks.words import share_text

FOLDER = "report/films"
PICTURE_HEIGHT_PX = 1080
"""Of the film: about a screen's. The small picture in the shard has 480; what is sharper than that
comes from the tiles."""
LISTED_TILES = 1000
"""Of a film; those that are not kept come first, and the manifest has the rest."""
PICTURED_TILES = 120
"""Of those listed, with a picture of their own."""

_SAID = ("lesion_fraction", "annotation_score", "nearest_exemplar", "duplicate_of")
_LISTED_FIRST = ("review", "misinformative", "other", "keep", "black")


@dataclass(frozen=True)
class FilmLink:
    """Where a film's page is, and what became of its tiles."""

    film_id: str
    source: str
    counts: dict[str, int]
    """Tiles by decision: keep, drop, review."""

    @property
    def tiles(self) -> int:
        """All that were cut."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class Listed:
    """A tile in the table below the film."""

    number: int
    tile: Tile
    says: str
    """What its decision rests on."""
    picture: str | None = field(repr=False)


@dataclass(frozen=True)
class Lesion:
    """A circle on the film's picture, in its pixels."""

    x: float
    y: float
    radius: float
    title: str


@dataclass(frozen=True)
class FilmPage:
    """All that a film's page says."""

    run_id: str
    version: str
    source: str
    facts: str
    alt: str
    picture: FilmPicture
    lesions: tuple[Lesion, ...]
    counts: tuple[Count, ...]
    styles: tuple[tuple[str, int], ...]
    """Marks that occur, and how many tiles bear each."""
    reasons: tuple[tuple[str, str], ...]
    """Title of a fate and what it means, of those that occur."""
    numbers: Mapping[str, int]
    """Of the tiles listed, by tile_id: the same in table and picture."""
    rows: tuple[Listed, ...]
    unlisted: int
    before: FilmLink | None
    after: FilmLink | None


def write_film_pages(
    workspace: Workspace,
    record: Mapping[str, Any],
    films: Mapping[str, Mapping[str, Any]],
    film_ids: Sequence[str],
) -> tuple[FilmLink, ...]:
    """Write the pages of some films; gives where they are, in the order of ``film_ids``.

    Parameters
    ----------
    workspace : Workspace
        Of the run.
    record : mapping
        Of the run.
    films : mapping of str to mapping
        Rows of the table of films by mammogram_id.
    film_ids : sequence of str
        Whose pages; one without a stored tile gets none.
    """
    counted = _counted(workspace, set(film_ids) & set(films))
    links = tuple(
        FilmLink(i, str(films[i]["source"]), counted[i]) for i in film_ids if i in counted
    )
    place = {link.film_id: n for n, link in enumerate(links)}
    thumbnails = _Thumbnails(workspace)
    for split, film_id, table in _films_of(workspace, set(place)):
        n = place[film_id]
        page = _film_page(
            workspace,
            record,
            films[film_id],
            table,
            thumbnails,
            split=split,
            before=links[n - 1] if n else None,
            after=links[n + 1] if n + 1 < len(links) else None,
        )
        workspace.write_bytes(f"{FOLDER}/{film_id}.html", render_film(page).encode())
    return links


def remove_others(workspace: Workspace, links: Sequence[FilmLink]) -> None:
    """Remove the pages of films that the report no longer links to."""
    stay = {f"{link.film_id}.html" for link in links}
    if workspace.exists(FOLDER):
        for path in workspace.fs.find(workspace.path(FOLDER)):
            if str(path).rsplit("/", 1)[-1] not in stay:
                workspace.fs.rm_file(path)


# -- reading ---------------------------------------------------------------------------------


def _counted(workspace: Workspace, film_ids: set[str]) -> dict[str, dict[str, int]]:
    """Tiles by decision of the films that have any stored tile."""
    ids = pa.array(sorted(film_ids), pa.string())
    out: dict[str, dict[str, int]] = {i: {} for i in sorted(film_ids)}
    stored: set[str] = set()
    for path in manifest_parts(workspace):
        for batch in part_batches(workspace, path, ["mammogram_id", "decision", "pixels_index"]):
            own = batch.filter(pc.is_in(batch["mammogram_id"].cast(pa.string()), ids))
            groups = own.group_by(["mammogram_id", "decision"]).aggregate(
                [([], "count_all"), ("pixels_index", "count")]
            )
            for row in groups.to_pylist():
                counts = out[row["mammogram_id"]]
                counts[row["decision"]] = counts.get(row["decision"], 0) + row["count_all"]
                if row["pixels_index_count"]:
                    stored.add(row["mammogram_id"])
    return {i: counts for i, counts in out.items() if i in stored}


def _films_of(workspace: Workspace, film_ids: set[str]) -> Iterator[tuple[str, str, pa.Table]]:
    """Split, name and tiles of each film; a film lies in one part of the manifest."""
    ids = pa.array(sorted(film_ids), pa.string())
    columns = [*TILE_COLUMNS, *_SAID]
    for path in manifest_parts(workspace):
        found = []
        for batch in part_batches(workspace, path, columns):
            own = batch.filter(pc.is_in(batch["mammogram_id"].cast(pa.string()), ids))
            if own.num_rows:
                found.append(own)
        if not found:
            continue
        table = pa.concat_tables(found).unify_dictionaries()
        film = table["mammogram_id"].cast(pa.string())
        for name in sorted(pc.unique(film).to_pylist()):
            yield split_of_part(path), name, table.filter(pc.equal(film, name))


class _Thumbnails:
    """Small pictures of films, one shard's in memory at a time."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._key = ""
        self._pictures: dict[str, bytes] = {}

    def of(self, key: str, film_id: str) -> bytes:
        """PNG of a film of a tile shard."""
        if key != self._key:
            rows = read_films(self._workspace, key).select(["mammogram_id", "thumbnail_png"])
            self._key = key
            self._pictures = {
                row["mammogram_id"]: row["thumbnail_png"]
                for row in rows.to_pylist()
                if row["thumbnail_png"] is not None
            }
        return self._pictures[film_id]


# -- one film --------------------------------------------------------------------------------


def _film_page(
    workspace: Workspace,
    record: Mapping[str, Any],
    film: Mapping[str, Any],
    table: pa.Table,
    thumbnails: _Thumbnails,
    *,
    split: str,
    before: FilmLink | None,
    after: FilmLink | None,
) -> FilmPage:
    frame = table.to_pandas()
    said = dict(zip(frame["tile_id"], frame[list(_SAID)].to_dict("records"), strict=True))
    tiles = sorted(tiles_of(frame), key=_listed_order)
    key = next(t.pixels_uri.split("/")[1] for t in tiles if t.pixels_uri is not None)
    shares = _shares(workspace, key, str(film["mammogram_id"]))
    listed = tiles[:LISTED_TILES]
    pictured = {t.tile_id for t in listed if t.pixels_uri is not None}
    if len(pictured) > PICTURED_TILES:
        pictured = set([t.tile_id for t in listed if t.tile_id in pictured][:PICTURED_TILES])
    grey, pictures = _pictures(
        workspace, tiles, thumbnails.of(key, str(film["mammogram_id"])), film, pictured
    )
    numbers = {tile.tile_id: n for n, tile in enumerate(listed, 1)}
    by_fate: dict[str, int] = {}
    by_style: dict[str, int] = {}
    for tile in tiles:
        by_fate[tile.fate] = by_fate.get(tile.fate, 0) + 1
        by_style[tile.style.name] = by_style.get(tile.style.name, 0) + 1
    counts = fate_counts(by_fate)
    fate_words = ", ".join(f"{c.n} {c.title[0].lower()}{c.title[1:]}" for c in counts)
    return FilmPage(
        run_id=str(record["run_id"]),
        version=str(record["versions"]["mammosift"]),
        source=str(film["source"]),
        facts=_facts(film, split),
        alt=f"The film with the boxes of its {len(tiles)} tiles drawn on it: {fate_words}. "
        "Every tile is a row of the table.",
        picture=drawn_on(
            grey, listed, rows=film["rows"], columns=film["columns"], titled=LISTED_TILES
        ),
        lesions=_lesions(film, grey.shape[0] / film["rows"]),
        counts=counts,
        styles=tuple((name, by_style[name]) for name in STYLES if name in by_style),
        reasons=tuple(
            (fate_title(fate), reason_text(fate, record["settings"]))
            for fate in sorted(by_fate, key=fate_order)
        ),
        numbers=numbers,
        rows=tuple(
            Listed(
                number=n,
                tile=tile,
                says=_says(said[tile.tile_id], shares.get(tile.tile_id)),
                picture=pictures.get(tile.tile_id),
            )
            for n, tile in enumerate(listed, 1)
        ),
        unlisted=len(tiles) - len(listed),
        before=before,
        after=after,
    )


def _listed_order(tile: Tile) -> tuple[int, tuple[int, str], float, str]:
    first = _LISTED_FIRST.index(tile.style.name)
    return first, fate_order(tile.fate), -(tile.score or 0.0), tile.tile_id


def _shares(
    workspace: Workspace, key: str, film_id: str
) -> dict[str, tuple[float | None, float | None]]:
    """Shares of breast and of what is foreign to it in the tiles of a film, by tile_id."""
    table = read_index(
        workspace, key, ["tile_id", "mammogram_id", "breast_fraction", "foreign_fraction"]
    )
    own = table.filter(pc.equal(table["mammogram_id"], film_id)).to_pydict()
    values = zip(own["breast_fraction"], own["foreign_fraction"], strict=True)
    return dict(zip(own["tile_id"], values, strict=True))


def _pictures(
    workspace: Workspace,
    tiles: Sequence[Tile],
    thumbnail_png: bytes,
    film: Mapping[str, Any],
    pictured: set[str],
) -> tuple[npt.NDArray[np.uint8], dict[str, str]]:
    """Film from its small picture and, sharper, from its stored tiles; pictures of some tiles."""
    rows, columns = int(film["rows"]), int(film["columns"])
    small = cv2.imdecode(np.frombuffer(thumbnail_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    if small is None:
        raise ValueError("the film's small picture is no PNG")
    height = min(rows, PICTURE_HEIGHT_PX)
    scale = height / rows
    width = max(1, round(columns * scale))
    sharper = rows > FILM_HEIGHT_PX
    grey = np.asarray(small, np.uint8)
    if sharper:
        grey = np.asarray(
            cv2.resize(grey, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8
        )
    pictures: dict[str, str] = {}
    for tile, pixels in _stored(workspace, tiles):
        if sharper:
            _lay(grey, tile, pixels, scale)
        if tile.tile_id in pictured:
            stretched = stretched_8bit if tile.fate == BLACK else lifted_8bit
            pictures[tile.tile_id] = data_uri(jpeg(stretched(shrunk_tile(pixels))), "jpeg")
    return grey, pictures


def _stored(
    workspace: Workspace, tiles: Sequence[Tile]
) -> Iterator[tuple[Tile, npt.NDArray[np.uint16]]]:
    by_key: dict[str, dict[int, Tile]] = {}
    for tile in tiles:
        if tile.pixels_uri is not None and tile.pixels_index is not None:
            by_key.setdefault(tile.pixels_uri.split("/")[1], {})[tile.pixels_index] = tile
    for key, members in sorted(by_key.items()):
        indices = sorted(members)
        left = iter(indices)
        for block in read_pixels(workspace, key, np.array(indices, np.int64)):
            for pixels in block:
                yield members[next(left)], pixels


def _lay(
    grey: npt.NDArray[np.uint8], tile: Tile, pixels: npt.NDArray[np.uint16], scale: float
) -> None:
    """Put a tile where it lies; what reaches beyond the film (an edge that was padded) is cut."""
    x, y, w, h = tile.box
    top, left, bottom, right = (round(v * scale) for v in (y, x, y + h, x + w))
    if bottom <= top or right <= left:
        return
    piece = lifted_8bit(shrink(pixels, bottom - top, right - left))
    target = grey[max(0, top) : bottom, max(0, left) : right]
    target[:] = piece[max(0, -top) :, max(0, -left) :][: target.shape[0], : target.shape[1]]


def _lesions(film: Mapping[str, Any], scale: float) -> tuple[Lesion, ...]:
    """Lesions of known place and size; masks and outlines are not drawn."""
    return tuple(
        Lesion(
            round(one["x_px"] * scale, 1),
            round(one["y_px"] * scale, 1),
            round(one["radius_px"] * scale, 1),
            f"Annotated: {one['pathology'] or 'pathology not known'}",
        )
        for one in film["lesions"] or ()
        if None not in (one["x_px"], one["y_px"], one["radius_px"])
    )


# -- words -----------------------------------------------------------------------------------


def _facts(film: Mapping[str, Any], split: str) -> str:
    size = f"{film['columns']} x {film['rows']} px"
    if film["pixel_spacing_mm"] is not None:
        size += f", {film['pixel_spacing_mm']:.4g} mm"
    known = [film[name] for name in ("laterality", "view", "label", "scanner")]
    return " · ".join([*(str(v) for v in known if v), size, f"part: {split}"])


def _says(row: Mapping[str, Any], shares: tuple[float | None, float | None] | None) -> str:
    """Figures of a tile in words; nothing of what is not known."""
    parts = []
    for name, value in zip(("breast", "foreign"), shares or (None, None), strict=True):
        if value is not None and not pd.isna(value):
            parts.append(f"{name} {share_text(float(value))}")
    if not pd.isna(row["lesion_fraction"]) and row["lesion_fraction"] > 0:
        parts.append(f"lesion {share_text(float(row['lesion_fraction']))}")
    if not pd.isna(row["annotation_score"]):
        parts.append(f"by its own look {row['annotation_score']:.3f}")
    if isinstance(row["nearest_exemplar"], str):
        parts.append(f"most like exemplar {shortened(row['nearest_exemplar'], 60)}")
    if isinstance(row["duplicate_of"], str):
        parts.append(f"nearly equals {row['duplicate_of']}")
    return ", ".join(parts)


def reason_text(fate: str, settings: Mapping[str, Any]) -> str:
    """What a decision and its reason mean, in a sentence."""
    decision, _, reason = fate.partition("/")
    at_least = f"a score of at least {settings['misinformative_threshold']:g}"
    if settings.get("wanted_recall") is not None or settings.get("wanted_precision") is not None:
        at_least = "a score of at least its scanner's threshold"
    texts = {
        KEEP: "Nothing was found against it: training jobs read it.",
        BLACK: "Hardly anything in it stands out from the ground of its film.",
        "drop/misinformative": "Foreign content (lettering, labels, stickers, the film's edge) and "
        f"hardly any breast: {at_least}.",
        "drop/near_duplicate": "Another tile shows nearly the same, and stays.",
        "review/mixed": f"Scores as misinformative ({at_least}) but holds at least "
        f"{share_text(settings['tissue_for_review'])} of breast: a person decides.",
        "review/lesion_guard": "It would have been dropped, or its film is called normal, and it "
        "touches an annotated lesion, or could: a person decides.",
        "review/no_pixels": "A person wants to keep it, but its pixels were not stored.",
    }
    if reason == "reviewer":
        return "A person said so (mammosift review)."
    return texts.get(fate, f"Reason: {reason.replace('_', ' ')}." if reason else decision)
