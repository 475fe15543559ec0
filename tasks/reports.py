"""Stage: what a person looks at, ``report/index.html`` and a page a film in ``report/films/``.

Each page is one file that works offline; those of films link to each other and back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from storage.tile_shards import read_films
from storage.workspace import Workspace
from tasks.kernels import scoring, screening
from tasks.kernels.drawing import COLOURS
from tasks.report_page import tiles as fates
from tasks.report_page.cautions import cautions_of, scanner_shortcut
from tasks.report_page.centres import central_tiles
from tasks.report_page.chosen import choice_picture
from tasks.report_page.closeness import neighbours
from tasks.report_page.counts import (
    changed_settings,
    fate_counts,
    film_counts,
    group,
    groups,
    snippet,
)
from tasks.report_page.duplicates import duplicates_of, least_alike
from tasks.report_page.evidence import cluster_says, cluster_title, read_evidence
from tasks.report_page.exemplars import Exemplar, read_exemplars
from tasks.report_page.film_pages import remove_others, write_film_pages
from tasks.report_page.films import FilmSurvey
from tasks.report_page.mapped import tile_map
from tasks.report_page.measured import measured_of
from tasks.report_page.page import Cluster, Page, Sheet, ShownExemplar, ShownFilm, render
from tasks.report_page.pictures import Curve, data_uri, film_picture, loss_curve, tile_pictures
from tasks.report_page.shortcuts import audit_of
from tasks.report_page.survey import NOISE, Survey, look_up
from tasks.report_page.tiles import Tile, fate_order, fate_title, shortened
from tasks.settings import CurationSettings

REPORT = "report/index.html"
SHOWN_CLUSTERS = 12
TILES_PER_CLUSTER = 12
SHOWN_EXEMPLARS = 20
NEIGHBOURS = 10
LISTED_TILES = 30
"""Of a film: those not kept, in the table below its picture."""

__all__ = ["read_exemplars", "write_report"]


def write_report(workspace_uri: str, run_id: str, *, exemplars: str | None = None) -> str:
    """Write the report of a run whose manifest is published, and the pages of its films.

    The manifest, the clusters and the embeddings are read part by part; what is shown of them is
    chosen by scores and by hashes of the tiles' names, so the same run gives the same page.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    run_id : str
        Whose record ``runs/<run_id>.json`` is there.
    exemplars : str, optional
        Table of tiles known to be misinformative (see ``read_exemplars``).

    Returns
    -------
    str
        Full path or URI of the page.

    Raises
    ------
    TableError
        The table of exemplars cannot be used.
    """
    workspace = Workspace.open(workspace_uri)
    record = workspace.read_json("runs", f"{run_id}.json")
    wanted = read_exemplars(exemplars) if exemplars is not None else []
    page, film_ids = gather(workspace, record, wanted)
    links = write_film_pages(workspace, record, page.films.rows, film_ids)
    workspace.write_bytes(REPORT, render(replace(page, film_pages=links)).encode())
    remove_others(workspace, links)
    return f"{workspace.uri}/{REPORT}"


def gather(
    workspace: Workspace, record: dict[str, Any], wanted: Sequence[Exemplar]
) -> tuple[Page, list[str]]:
    """Read all that the page of a run says, and which films get a page of their own."""
    shards, settings = record["shards"], record["settings"]
    own_pages = settings.get("film_pages", CurationSettings.model_fields["film_pages"].default)
    survey = Survey(
        settings["misinformative_threshold"], wanted[:SHOWN_EXEMPLARS], film_pages=own_pages
    ).read(workspace)
    film_ids = survey.films.film_ids()
    own = list(dict.fromkeys([*film_ids, *survey.own_pages.film_ids()]))[:own_pages]
    films = FilmSurvey(frozenset((*film_ids, *own))).read(workspace)
    central = central_tiles(workspace, shards, _shown_labels(survey), TILES_PER_CLUSTER)
    queries, substitutes = _queries(survey, wanted)
    near = neighbours(
        workspace, shards["embeddings"], [tile.tile_id for tile in queries], k=NEIGHBOURS
    )
    names = {name for found in near.values() for name, _ in found}
    names |= {name for members in central.values() for name in members}
    near_pairs = least_alike(workspace, record)
    names |= {name for pair in near_pairs for name in (pair.tile_id, pair.duplicate_of)}
    tiles, tiles_of_film = look_up(workspace, names, set(film_ids))

    sheets = _sheets(survey, settings["misinformative_threshold"])
    clusters = _clusters(survey, central, tiles, read_evidence(workspace, record))
    copies = duplicates_of(record, near_pairs, tiles)
    outliers = Sheet(
        "Highest outlier scores",
        "Tiles that lie farthest from any dense part of the embeddings, whatever their cluster.",
        tuple(_chosen(survey, "outliers")),
    )
    exemplars = _exemplars(survey, wanted, queries, near, tiles)
    shown: list[Tile] = [t for e in exemplars if e.tile is not None for t in [e.tile]]
    for sheet in (*sheets, outliers, *(c.sheet for c in clusters), *(e.near for e in exemplars)):
        shown += sheet.tiles if sheet is not None else ()
    shown += [tile for _, *both in copies.pairs for tile in both]
    encoder, curve, reconstructions = _encoder(workspace, shards["encoder"])
    shortcut, audit = scanner_shortcut(films.labels_by_scanner), audit_of(record)
    coloured = sorted(label for label in _shown_labels(survey)[: len(COLOURS)] if label != NOISE)
    kinds = tuple(sorted(record["tiles"]["by_fate"], key=fate_order))
    page = Page(
        record=record,
        workspace=workspace.uri,
        snippet=snippet(workspace.uri),
        seconds=sum(s["seconds"] for name, s in record["stages"].items() if name != "report"),
        settings=changed_settings(settings),
        tile_counts=fate_counts(record["tiles"]["by_fate"]),
        fates=kinds,
        film_counts=film_counts(record["films"]),
        stages=tuple((n, s) for n, s in record["stages"].items() if n != "report"),
        splits=tuple(
            group(name, survey.by_split[name], kinds, len(survey.patients[name]))
            for name in survey.by_split
        ),
        scanners=groups(survey.by_scanner, kinds),
        labels=groups(survey.by_label, kinds),
        films=films,
        shortcut=shortcut,
        audit=audit,
        cautions=cautions_of(record, survey, films, shortcut, audit, encoder),
        shown_films=_shown_films(workspace, films, tiles_of_film, film_ids),
        sheets=sheets,
        clusters=clusters,
        cluster_count=sum(label != NOISE for label in survey.cluster_sizes),
        noise=survey.cluster_sizes[NOISE],
        map=tile_map(workspace, record, coloured),
        chosen=choice_picture(workspace, record, coloured),
        outliers=outliers,
        duplicates=copies,
        encoder=encoder,
        curve=curve,
        reconstructions=reconstructions,
        measured=measured_of(workspace, record),
        exemplars=exemplars,
        exemplars_given=len(wanted),
        substitutes=substitutes,
        rules={
            "contrast": screening.VISIBLE_CONTRAST,
            "black_content": screening.BLACK_MAX_CONTENT,
            "black_breast": screening.BLACK_MAX_BREAST,
            "even": scoring.BREAST_SHARE_EVEN,
            "clear_foreign": scoring.CLEAR_FOREIGN,
        },
        pictures=tile_pictures(workspace, shown),
        film_pages=(),
    )
    return page, own


# -- tiles that are shown --------------------------------------------------------------------


def _chosen(survey: Survey, name: str) -> list[Tile]:
    sheet = survey.sheets.get(name)
    return [] if sheet is None else sheet.tiles()


def _sheets(survey: Survey, threshold: float) -> tuple[Sheet, ...]:
    others = sorted(set(survey.by_fate) - {fates.KEEP, fates.BLACK, fates.MISINFORMATIVE})
    texts = {
        fates.MISINFORMATIVE: (
            "Dropped as misinformative: highest scores",
            "What the run is surest of: at most two tiles a film, as long as there are others.",
        ),
        "sample": (
            "Dropped as misinformative: a random sample",
            "Drawn without regard to the score. The share of these that ought to have been dropped "
            "is the precision of the run, to a tenth or so.",
        ),
        "near_threshold": (
            "Dropped as misinformative: nearest to the threshold",
            f"The lowest scores that were still dropped (threshold {threshold:g}), up to half of "
            "the way to 1. Tissue here means that the threshold is too low.",
        ),
        "near_misses": (
            "Kept: highest scores below the threshold",
            "The nearest misses, down to half of the threshold. Lettering here means that the "
            "threshold is too high.",
        ),
        fates.BLACK: (
            "Dropped as black: nearest to being kept",
            "The brightest of the black tiles whose pixels were stored, each stretched to its own "
            "range of intensity. Tissue here would be a fault of the black screen.",
        ),
        "review/mixed": (
            "In review: mixed",
            "They score as misinformative, but hold breast too: a person decides.",
        ),
        "review/lesion_guard": (
            "In review: lesion guard",
            "These would have been dropped, but touch an annotated lesion, or could.",
        ),
    }
    order = [
        "sample",
        fates.MISINFORMATIVE,
        "near_threshold",
        *[f for f in others if f.startswith("review")],
        "near_misses",
        *[f for f in others if not f.startswith("review")],
        fates.BLACK,
    ]
    return tuple(
        Sheet(
            *texts.get(name, (fate_title(name), "The highest scores of them.")),
            tuple(_chosen(survey, name)),
        )
        for name in order
    )


def _shown_labels(survey: Survey) -> list[int]:
    """Largest clusters, then the noise."""
    clusters = [label for label in survey.cluster_sizes if label != NOISE]
    largest = sorted(clusters, key=lambda label: (-survey.cluster_sizes[label], label))
    noise = [NOISE] if survey.cluster_sizes[NOISE] else []
    return largest[:SHOWN_CLUSTERS] + noise


def _clusters(
    survey: Survey,
    central: Mapping[int, Sequence[str]],
    tiles: Mapping[str, Tile],
    evidence: Mapping[int, Mapping[str, Any]],
) -> tuple[Cluster, ...]:
    total = max(1, sum(survey.cluster_sizes.values()))
    out = []
    for label, names in central.items():
        size = survey.cluster_sizes[label]
        title = "Noise: in no cluster" if label == NOISE else cluster_title(label, evidence)
        text = "drawn at random." if label == NOISE else "the most central tiles."
        members = tuple(tiles[name] for name in names if name in tiles)
        flagged = survey.cluster_flagged[label] / max(1, size)
        says = cluster_says(evidence.get(label))
        out.append(Cluster(title, size, size / total, flagged, Sheet(title, text, members), says))
    return tuple(out)


# -- films with their tiles ------------------------------------------------------------------


def _shown_films(
    workspace: Workspace,
    films: FilmSurvey,
    tiles: Mapping[str, Sequence[Tile]],
    film_ids: Sequence[str],
) -> tuple[ShownFilm, ...]:
    thumbnails = _thumbnails(workspace, tiles)
    return tuple(
        _shown_film(films.rows[i], tiles[i], thumbnails[i])
        for i in film_ids
        if i in films.rows and i in thumbnails
    )


def _thumbnails(workspace: Workspace, tiles: Mapping[str, Sequence[Tile]]) -> dict[str, bytes]:
    """Small picture of each film, from the tile shard that its tiles lie in."""
    shard_of = {
        i: next(t.pixels_uri.split("/")[1] for t in members if t.pixels_uri is not None)
        for i, members in tiles.items()
        if any(t.pixels_uri is not None for t in members)
    }
    out: dict[str, bytes] = {}
    for key in sorted(set(shard_of.values())):
        for row in read_films(workspace, key).select(["mammogram_id", "thumbnail_png"]).to_pylist():
            if shard_of.get(row["mammogram_id"]) == key and row["thumbnail_png"] is not None:
                out[row["mammogram_id"]] = row["thumbnail_png"]
    return out


def _shown_film(row: Mapping[str, Any], tiles: Sequence[Tile], thumbnail: bytes) -> ShownFilm:
    by_fate: dict[str, int] = {}
    for tile in tiles:
        by_fate[tile.fate] = by_fate.get(tile.fate, 0) + 1
    counts = fate_counts(by_fate)
    said = [row["laterality"], row["view"], row["label"], row["scanner"]]
    size = f"{row['columns']} x {row['rows']} px"
    if row["pixel_spacing_mm"] is not None:
        size += f", {row['pixel_spacing_mm']:.4g} mm"
    fate_words = ", ".join(f"{c.n} {c.title[0].lower()}{c.title[1:]}" for c in counts)
    listed = sorted(
        (t for t in tiles if t.fate not in (fates.KEEP, fates.BLACK)),
        key=lambda t: (fate_order(t.fate), -(t.score or 0.0), t.tile_id),
    )
    return ShownFilm(
        film_id=row["mammogram_id"],
        title=row["source"],
        facts=" · ".join([*(v for v in said if v), size]),
        alt=f"Film {shortened(row['source'])} with its tiles drawn on it: {fate_words}",
        picture=film_picture(thumbnail, tiles, rows=row["rows"], columns=row["columns"]),
        counts=counts,
        listed=tuple(listed[:LISTED_TILES]),
        unlisted=max(0, len(listed) - LISTED_TILES),
    )


# -- encoder ---------------------------------------------------------------------------------


def _encoder(workspace: Workspace, key: str) -> tuple[dict[str, Any], Curve | None, str | None]:
    shard = workspace.shard("encoders", key)
    counts = shard.record()["counts"]
    history = shard.table("history.parquet").to_pydict()
    losses = history.get("training_loss", []), history.get("validation_loss", [])
    best = counts.get("best_epoch")
    facts = {
        "counts": counts,
        "note": json.loads(shard.read_bytes("training.json")).get("note"),
        "best_loss": next(
            (v for e, v in zip(history.get("epoch", []), losses[1], strict=True) if e == best), None
        ),
    }
    return (
        facts,
        loss_curve(*losses, best_epoch=best),
        data_uri(shard.read_bytes("reconstructions.png"), "png"),
    )


# -- exemplars -------------------------------------------------------------------------------


def _queries(survey: Survey, wanted: Sequence[Exemplar]) -> tuple[list[Tile], str]:
    """Tiles whose neighbours are shown, and what they are where no exemplars were given."""
    if wanted:
        return [survey.matches[i].tile for i in sorted(survey.matches)], ""
    if flagged := _chosen(survey, "exemplars"):
        return flagged, "the highest-scored tiles that were dropped as misinformative"
    return _chosen(survey, "highest")[:3], (
        "the highest-scored tiles, as none was dropped as misinformative"
    )


def _exemplars(
    survey: Survey,
    wanted: Sequence[Exemplar],
    queries: Sequence[Tile],
    near: Mapping[str, Sequence[tuple[str, float]]],
    tiles: Mapping[str, Tile],
) -> tuple[ShownExemplar, ...]:
    if not wanted:
        return tuple(_shown_exemplar(t.describe(), t, near, tiles) for t in queries)
    out = []
    for i, exemplar in enumerate(survey.exemplars):
        title = f"Line {exemplar.line}: {exemplar.describe()}"
        if i in survey.matches:
            out.append(_shown_exemplar(title, survey.matches[i].tile, near, tiles))
        else:
            problem = (
                "No tile of the manifest fits. Is the film in this run, is it written as in the "
                "column source, and does the box lie inside of it?"
            )
            out.append(ShownExemplar(title, None, None, problem))
    return tuple(out)


def _shown_exemplar(
    title: str,
    tile: Tile,
    near: Mapping[str, Sequence[tuple[str, float]]],
    tiles: Mapping[str, Tile],
) -> ShownExemplar:
    found = [(tiles[name], d) for name, d in near.get(tile.tile_id, ()) if name in tiles]
    if not found:
        problem = (
            "It was screened out as black, so it has no embedding."
            if tile.fate == fates.BLACK
            else "It has no neighbours: there is no other embedding, or none of its own."
        )
        return ShownExemplar(title, tile, None, problem)
    sheet = Sheet(
        title, "", tuple(t for t, _ in found), notes=tuple(f"at {d:.2f}" for _, d in found)
    )
    return ShownExemplar(title, tile, sheet)
