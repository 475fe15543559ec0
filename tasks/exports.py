"""Exports: the published tiles in the formats of others, with their licences and their limits."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import ExportError, InputError, WorkspaceError
from storage.exports import ExportWriter
from storage.exports.csv_table import CsvWriter
from storage.exports.parquet import ParquetWriter
from storage.exports.webdataset import WebDatasetWriter
from storage.licences import Licence, read_licences
from storage.manifest import SPLITS, read_manifest
from storage.published_tiles import PublishedTiles
from storage.schemas import MANIFEST
from storage.workspace import Workspace, partial_name
from tasks.export_card import Part, Told, card, croissant
from tasks.export_settings import ExportSettings

DECISIONS = {"keep": ("keep",), "keep-and-review": ("keep", "review"), "stored": None}
PLACES = ("pixels_uri", "pixels_index")
"""Columns that say where pixels lie in the workspace: nothing to an export's reader."""

NAMING = ("source", "reviewed_by")
"""Columns that may name people: left out unless asked for."""

CARD, CROISSANT = "README.md", "croissant.json"
PNG_LEVEL = 3
PIECE = 256
"""Pictures that are packed at once."""


def export(settings: ExportSettings) -> dict[str, Any]:
    """Write an export; it appears under its name when it is whole.

    Returns
    -------
    dict
        ``tiles`` by split, ``licences`` (collection: licence), ``bytes``, ``folder``.

    Raises
    ------
    InputError
        No workspace, or a folder that is there already.
    ExportError
        A patient in two parts of the split, or nothing to export.
    """
    out = Path(settings.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already, and nothing is overwritten. Name a new folder.")
    try:
        workspace = Workspace.open(settings.workspace)
    except WorkspaceError as e:
        raise InputError(str(e)) from e
    licences = read_licences(settings.licences, settings.licence)
    found = PublishedTiles(workspace, decisions=DECISIONS[settings.tiles], columns=("*",))
    if not len(found):
        raise ExportError(
            f"{workspace.uri} has no tile to export with tiles={settings.tiles!r}. See its report."
        )
    refuse_mixed_patients(read_manifest(workspace, ["patient_key", "split"]))
    refuse_other_names(found.table)
    of_film = {pair: licences.of(*pair) for pair, _ in _films(found.table)}
    schema = _columns(with_source=settings.with_source)
    told = _told(settings, workspace, found, of_film, schema)
    with _aside(out) as folder:
        writer = _writer(settings, folder, told, schema)
        for row, png in _pictures(found):
            licence = of_film[row["source"], row["patient_key"]]
            row |= {"collection": licence.collection, "licence": licence.licence}
            writer.add(row["split"], {name: row[name] for name in schema.names}, png)
        files = writer.close()
        (folder / CARD).write_text(card(told, settings.format, files), "utf-8")
        if settings.format == "croissant":
            digests = {str(path): _sha256(folder / path) for path in files}
            (folder / CROISSANT).write_text(croissant(told, schema, digests), "utf-8")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "tiles": {part.split: part.tiles for part in told.parts},
        "licences": {each.collection: each.licence for each in told.licences},
        "bytes": size,
        "folder": str(out),
    }


def refuse_other_names(table: pa.Table) -> None:
    """Refuse names of tiles that would not do as names of files, or that stand there twice.

    Parameters
    ----------
    table : pyarrow.Table
        Columns tile_id and split.

    Raises
    ------
    ExportError
        Names one.
    """
    fit = pc.match_substring_regex(table["tile_id"], r"\A[A-Za-z0-9_-]{1,128}\z")
    wrong = table.filter(pc.invert(fit))["tile_id"].to_pylist()[:1]
    if not wrong and pc.count_distinct(table["tile_id"]).as_py() < table.num_rows:
        counts = pc.value_counts(table["tile_id"]).to_pylist()
        wrong = [each["values"] for each in counts if each["counts"] > 1][:1]
    wrong += [split for split in table["split"].unique().to_pylist() if split not in SPLITS]
    if wrong:
        raise ExportError(
            f"the manifest has {wrong[0]!r} as the name of a tile or a part: no run gives it, or "
            "none gives it twice. It was altered; run again to publish it."
        )


def refuse_mixed_patients(manifest: pa.Table) -> None:
    """Refuse a manifest that has a patient in two parts.

    Parameters
    ----------
    manifest : pyarrow.Table
        Columns patient_key and split.

    Raises
    ------
    ExportError
        Names a patient and the parts.
    """
    pairs = manifest.group_by(["patient_key", "split"]).aggregate([])
    counts = Counter(pairs["patient_key"].to_pylist())
    mixed = sorted(patient for patient, n in counts.items() if n > 1)
    if mixed:
        own = pairs.filter(pc.equal(pairs["patient_key"], mixed[0]))
        parts = " and ".join(sorted(own["split"].to_pylist()))
        more = f" ({len(mixed) - 1} more patients too)" if len(mixed) > 1 else ""
        raise ExportError(
            f"patient {mixed[0]} is in {parts}{more}: a classifier would be tested on whom it was "
            "trained on. The manifest was altered; run again to publish it."
        )


def _films(table: pa.Table) -> list[tuple[tuple[str, str], int]]:
    """Source and patient of each film, and how many tiles it has."""
    counted = table.group_by(["source", "patient_key"]).aggregate([([], "count_all")])
    return [((row["source"], row["patient_key"]), row["count_all"]) for row in counted.to_pylist()]


def _columns(*, with_source: bool) -> pa.Schema:
    """Columns of an export: the manifest's, the split, and whose films they are."""
    left_out = {*PLACES, *(() if with_source else NAMING)}
    own = [field for field in MANIFEST if field.name not in left_out]
    return pa.schema(
        [*own, *(pa.field(n, pa.string()) for n in ("split", "collection", "licence"))]
    )


def _writer(settings: ExportSettings, folder: Path, told: Told, schema: pa.Schema) -> ExportWriter:
    if settings.format == "webdataset":
        return WebDatasetWriter(folder, told.classes, settings.tiles_per_file)
    if settings.format == "csv":
        return CsvWriter(folder, schema.names)
    return ParquetWriter(folder, schema, settings.tiles_per_file)


def _pictures(found: PublishedTiles) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Rows with their pictures as 16-bit PNG; one block of pixels is held at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for number, block in enumerate(found.blocks):
            pixels = found.read_block(number)
            for start in range(0, len(block), PIECE):
                rows = found.table.slice(block.first + start, min(PIECE, len(block) - start))
                packed = pool.map(_png, pixels[start : start + PIECE])
                yield from zip(rows.to_pylist(), packed, strict=True)


def _png(tile: Any) -> bytes:
    return bytes(imagecodecs.png_encode(tile, level=PNG_LEVEL))


def _told(
    settings: ExportSettings,
    workspace: Workspace,
    found: PublishedTiles,
    of_film: dict[tuple[str, str], Licence],
    schema: pa.Schema,
) -> Told:
    """What the card says, counted."""
    table = found.table
    run_ids = table["run_id"].unique().to_pylist()
    name = f"runs/{run_ids[0]}.json"
    record = workspace.read_json(name) if workspace.exists(name) else {}
    parts = []
    for split in SPLITS:
        own = table.filter(pc.equal(table["split"], split))
        if own.num_rows:
            counted = pc.value_counts(own["label"]).to_pylist()
            labels = {each["values"] or "unknown": each["counts"] for each in counted}
            parts.append(
                Part(
                    split,
                    own.num_rows,
                    pc.count_distinct(own["mammogram_id"]).as_py(),
                    pc.count_distinct(own["patient_key"]).as_py(),
                    dict(sorted(labels.items())),
                )
            )
    by_licence: Counter[Licence] = Counter()
    for pair, n in _films(table):
        by_licence[of_film[pair]] += n
    films = Counter(of_film.values())
    licences = sorted(by_licence, key=lambda each: each.collection)
    classes = sorted(table["label"].drop_null().unique().to_pylist())
    return Told(
        title=settings.title or Path(settings.out).name,
        record=record,
        run_id=run_ids[0],
        tiles=settings.tiles,
        size_px=found.size_px,
        parts=parts,
        classes=tuple(classes),
        licences=licences,
        tiles_of={each: by_licence[each] for each in licences},
        films_of={each: films[each] for each in licences},
        columns=tuple(schema.names),
    )


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A folder beside the final one, renamed when the block ends and removed when it fails."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / partial_name(out.name)
    folder.mkdir()
    try:
        yield folder
        folder.replace(out)  # onto nothing or an empty folder: anything else is refused
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
