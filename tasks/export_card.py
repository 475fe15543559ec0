"""What an export says of itself: the dataset card (README.md) and Croissant metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.exports.parquet import FOLDER
from storage.licences import NOT_STATED, Licence
from tasks.kernels.measured_precision import Share, wilson

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))

LIMITS = (
    "`label` is the film's. Most tiles of a malignant film show no lesion; `lesion_fraction` "
    "speaks of the tile itself (null: nobody knows).",
    "Films were digitised from film; what is learned need not hold for digital mammography.",
    "The scanner, the collection and marks on the film can predict the label without the breast; "
    "the report of the run measures it. Compare results by scanner and collection.",
    "Tiles of one film, and of one patient, are alike: evaluate per patient, not per tile.",
    "Grey values are not comparable between collections unless their scale is: raw DDSM films are "
    "on a scale of optical density, others are stretched film by film.",
    "Research data: nothing here is a medical device or decides about a patient.",
)


@dataclass(frozen=True)
class Part:
    """Counts of one part of the split."""

    split: str
    tiles: int
    films: int
    patients: int
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Told:
    """All that the card and the metadata say."""

    title: str
    record: Mapping[str, Any]
    run_id: str
    tiles: str
    size_px: int
    parts: Sequence[Part]
    classes: tuple[str, ...]
    licences: Sequence[Licence]
    tiles_of: Mapping[Licence, int]
    films_of: Mapping[Licence, int]
    columns: tuple[str, ...]

    @property
    def n(self) -> int:
        """Tiles of all parts."""
        return sum(part.tiles for part in self.parts)

    @property
    def finished(self) -> str:
        """Day on which the run ended; of an unknown run, the first day there is."""
        return str(self.record.get("finished", "1970-01-01"))[:10]

    @property
    def description(self) -> str:
        """One sentence."""
        names = ", ".join(each.collection for each in self.licences)
        return (
            f"{self.n:,} tiles of {self.size_px} x {self.size_px} pixels (16 bit grey) of "
            f"digitised mammography films ({names}), curated by mammosift and split by patient."
        )

    @property
    def licence_text(self) -> str:
        """All licences in one line."""
        return "; ".join(f"{each.collection}: {each.licence}" for each in self.licences)


def card(told: Told, export_format: str, files: Sequence[Path]) -> str:
    """Dataset card: YAML for Hugging Face, then what a person should know.

    Parameters
    ----------
    told : Told
    export_format : str
    files : sequence of Path
        That hold the tiles.
    """
    front = _front_matter(told) if export_format == "huggingface" else ""
    sections = [
        f"# {told.title}\n\n{told.description}\n",
        _how_to_read(told, export_format, files),
        _licences(told),
        _counts(told),
        _exclusions(told),
        _measured(told),
        "## Known limits\n\n" + "".join(f"- {limit}\n" for limit in LIMITS),
        _provenance(told),
    ]
    return front + "\n".join(sections)


def _front_matter(told: Told) -> str:
    """YAML that is JSON value by value, which YAML includes: nothing to escape."""
    size = next((name for bound, name in SIZES if told.n < bound), "n>1M")
    splits = [part.split for part in told.parts]
    only = told.licences[0].identifier if len(told.licences) == 1 else None
    facts: dict[str, Any] = {"license": only or "other"}
    if only is None:
        facts |= {"license_name": "see-below", "license_details": told.licence_text}
    facts |= {
        "pretty_name": told.title,
        "size_categories": [size],
        "task_categories": ["image-classification"],
        "tags": ["mammography", "medical", "radiology", "mammosift"],
        "source_datasets": ["original"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"{FOLDER}/{s}-*.parquet"} for s in splits],
            }
        ],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.items()]
    return "\n".join(["---", *lines, "---", "", ""])


def _how_to_read(told: Told, export_format: str, files: Sequence[Path]) -> str:
    first = files[0].as_posix() if files else ""
    snippet = {
        "huggingface": "import datasets\n\ntiles = datasets.load_dataset('FOLDER')\n"
        f"picture = tiles['{told.parts[0].split}'][0]['image']  # 16-bit grey",
        "webdataset": "import cv2, numpy as np, webdataset as wds\n\n"
        f"tiles = wds.WebDataset('FOLDER/{first}', shardshuffle=False).decode()\n"
        "# decode('pil') would make 8 bits of the 16\n"
        "pictures = (cv2.imdecode(np.frombuffer(t['png'], 'u1'), cv2.IMREAD_UNCHANGED) "
        "for t in tiles)",
        "croissant": "import mlcroissant as mlc\n\n"
        "tiles = mlc.Dataset('FOLDER/croissant.json').records('tiles')",
        "csv": "import cv2, pandas as pd\n\ntiles = pd.read_csv('FOLDER/tiles.csv')\n"
        "picture = cv2.imread(f'FOLDER/{tiles.file[0]}', cv2.IMREAD_UNCHANGED)  # 16-bit grey",
    }[export_format]
    classes = ", ".join(f"{n} {name}" for n, name in enumerate(told.classes)) or "none"
    more = (
        f"\nOf each tile: `png` (16-bit grey), `json` (its columns), `cls` ({classes}; -1 where "
        "the label is unknown). Tiles of a film lie together: shuffle shards, and tiles in a "
        "buffer.\n"
        if export_format == "webdataset"
        else ""
    )
    return f"```python\n{snippet}\n```\n{more}\nPixels: 0 to 65535 is 0 to 1, bright is dense.\n"


def _licences(told: Told) -> str:
    lines = [
        "## Sources and licences\n",
        "The columns `collection` and `licence` say it tile by tile.\n",
        "| collection | films | tiles | licence | cite |",
        "| --- | ---: | ---: | --- | --- |",
    ]
    for each in told.licences:
        terms = f"{each.licence} ({each.url})" if each.url else each.licence
        lines.append(
            f"| {_cell(each.collection)} | {told.films_of[each]:,} | {told.tiles_of[each]:,} | "
            f"{_cell(terms)} | {_cell(each.citation)} |"
        )
    if any(each.licence == NOT_STATED for each in told.licences):
        lines.append(
            "\n*Not stated* means that nobody told: ask the owner of the films before you pass "
            "their tiles on."
        )
    return "\n".join(lines) + "\n"


def _counts(told: Told) -> str:
    labels = sorted({label for part in told.parts for label in part.labels})
    head = ["split", "patients", "films", "tiles", *(f"{label} tiles" for label in labels)]
    lines = [
        "## Counts\n",
        "Split by patient: no patient is in two parts.\n",
        "| " + " | ".join(map(_cell, head)) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
    ]
    for part in told.parts:
        counts = [part.patients, part.films, part.tiles, *(part.labels.get(x, 0) for x in labels)]
        lines.append(f"| {part.split} | " + " | ".join(f"{n:,}" for n in counts) + " |")
    return "\n".join(lines) + "\n"


def _exclusions(told: Told) -> str:
    films, tiles = (told.record.get(name) or {} for name in ("films", "tiles"))
    lines = ["## What was left out\n"]
    taken = {
        "keep": "Here are the tiles that the curation kept.",
        "keep-and-review": "Here are the tiles that were kept, and those that wait for a person "
        "(`decision` review).",
        "stored": "Here are all tiles whose pixels are stored, the dropped ones too: choose by "
        "`decision` and `reason`.",
    }[told.tiles]
    lines.append(taken)
    if tiles:
        fates = ", ".join(
            f"{fate.replace('/', ': ')} {n:,}" for fate, n in tiles.get("by_fate", {}).items()
        )
        lines.append(f"\nOf {tiles.get('cut', 0):,} tiles cut: {fates}.")
    if films:
        excluded = films.get("excluded") or {}
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in excluded.items()) or "none"
        lines.append(f"Of {films.get('found', 0):,} files found, excluded: {reasons}.")
    if not tiles and not films:
        lines.append("The record of the run is not in the workspace: its counts are not known.")
    return "\n".join(lines) + "\n"


def _measured(told: Told) -> str:
    """Recall by planted annotations, precision by people's verdicts."""
    planted = told.record.get("planted") or {}
    hits, n = planted.get("all", {}).get("all") or (0, 0)
    lost = [sum(c) for c in zip(*(planted.get("tissue") or {}).values(), strict=True)] or [0, 0]
    flagged = _flagged(told.record)
    lines = [
        "## How good the curation was\n",
        "| measure | value | 95 % interval | how |",
        "| --- | --- | --- | --- |",
        _line("recall of misinformative tiles", wilson(hits, n), "annotations planted by the run"),
        _line(
            "precision of what was dropped as misinformative",
            Share(**flagged) if flagged else wilson(0, 0),
            "verdicts of people on single tiles",
        ),
        _line("untouched tissue that was flagged", wilson(*lost), "tiles of the planted films"),
    ]
    settings = told.record.get("settings") or {}
    threshold = settings.get("misinformative_threshold", "unknown")
    lines.append(f"\nThreshold of the misinformative score: {threshold}.")
    return "\n".join(lines) + "\n"


def _flagged(record: Mapping[str, Any]) -> dict[str, Any] | None:
    review = record.get("review") or {}
    singly = ((review.get("measured") or {}).get("flagged") or {}).get("singly")
    return dict(singly) if singly and singly.get("n") else None


def _line(name: str, share: Share, how: str) -> str:
    if share.share is None or share.low is None or share.high is None:
        return f"| {name} | not measured | | {how} |"
    interval = f"{share.low:.3f} to {share.high:.3f}"
    return f"| {name} | {share.share:.3f} ({share.hits:,} of {share.n:,}) | {interval} | {how} |"


def _provenance(told: Told) -> str:
    version = (told.record.get("versions") or {}).get("mammosift", "unknown")
    return (
        f"## Provenance\n\nRun {told.run_id}, finished {told.finished}, mammosift {version}. "
        f"Columns: {', '.join(f'`{name}`' for name in told.columns)}.\n"
    )


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


# -- Croissant -------------------------------------------------------------------------------------

_TYPES = {
    "string": "sc:Text",
    "int16": "cr:Int16",
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "float": "cr:Float32",
    "double": "cr:Float64",
    "bool": "sc:Boolean",
}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(told: Told, schema: pa.Schema, digests: Mapping[str, str]) -> str:
    """Croissant 1.0 metadata as JSON-LD.

    Parameters
    ----------
    told : Told
    schema : pyarrow.Schema
        Columns beside ``image``.
    digests : mapping of str to str
        SHA-256 of each Parquet file, by its path in the export.
    """
    files = [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "encodingFormat": "application/x-parquet",
            "sha256": digest,
        }
        for name, digest in sorted(digests.items())
    ]
    together = {
        "@type": "cr:FileSet",
        "@id": "tiles-parquet",
        "name": "tiles-parquet",
        "encodingFormat": "application/x-parquet",
        "includes": f"{FOLDER}/*.parquet",
    }
    cited = [each.citation for each in told.licences if each.citation]
    metadata: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": told.title,
        "description": f"{told.description} Licences: {told.licence_text}.",
        "license": [each.url or each.licence for each in told.licences],
        "url": "README.md",
        "creator": {"@type": "sc:Organization", "name": "see citeAs"},
        "datePublished": told.finished,
        "version": "1.0.0",
        "citeAs": "; ".join(cited) or "not stated",
        "distribution": [*files, together],
        "recordSet": [_splits(told), _tiles(schema)],
    }
    return json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"


def _splits(told: Told) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/split"},
        "field": [
            {"@type": "cr:Field", "@id": "splits/split", "name": "split", "dataType": "sc:Text"}
        ],
        "data": [{"splits/split": part.split} for part in told.parts],
    }


def _tiles(schema: pa.Schema) -> dict[str, Any]:
    def field(name: str, kind: str, extract: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {
            "@type": "cr:Field",
            "@id": f"tiles/{name}",
            "name": name,
            "dataType": kind,
            "source": {"fileSet": {"@id": "tiles-parquet"}, **extract},
            **more,
        }

    fields = [
        field(
            "image",
            "sc:ImageObject",
            {"extract": {"column": "image"}, "transform": {"jsonPath": "bytes"}},
        )
    ]
    for column in schema:
        kind = _TYPES.get(str(column.type), "sc:Date")
        more = {"references": {"field": {"@id": "splits/split"}}} if column.name == "split" else {}
        fields.append(field(column.name, kind, {"extract": {"column": column.name}}, **more))
    return {
        "@type": "cr:RecordSet",
        "@id": "tiles",
        "name": "tiles",
        "key": {"@id": "tiles/tile_id"},
        "field": fields,
    }
