"""Stage: show a finished run to a person, and take down what they decide."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from storage import lease, verdicts
from storage.errors import TableError, WorkspaceError
from storage.manifest import recover
from storage.workspace import Workspace
from tasks.report_page.centres import central_tiles
from tasks.report_page.pictures import tile_pictures
from tasks.report_page.survey import NOISE, Survey, look_up, manifest_parts, part_batches
from tasks.report_page.tiles import MISINFORMATIVE, Tile, fate_title
from tasks.review_page.contact import Contact, contacts
from tasks.review_page.page import ReviewedCluster, ReviewPage, ReviewSheet, render

PAGE = "review/index.html"
TEMPLATE = "review/decisions.csv"
SHOWN = "review/shown.json"
KIND = "clusters"
SHOWN_CLUSTERS = 60
"""Clusters with pictures, the largest share of flagged tiles first; the table lists all."""
TILES_PER_CLUSTER = 12
NAMED = 8
"""Of the entries that do not exist, so many are named."""
TEMPLATE_COLUMNS = (
    "tile_id",
    "cluster",
    "clustering",
    "size",
    "share_flagged",
    "verdict",
    "reviewed_by",
    "note",
)


# -- the run that is reviewed ----------------------------------------------------------------


def published(workspace: Workspace) -> dict[str, Any]:
    """Record of the run whose manifest lies in the workspace.

    Raises
    ------
    WorkspaceError
        No run has published one, or it did not get as far as its record.
    """
    held = lease.read(workspace)
    if not held or lease.is_stale(held):
        recover(workspace)  # a run at work does so itself
    parts = manifest_parts(workspace) if workspace.exists("manifest") else []
    ids = [batch["run_id"][0].as_py() for p in parts[:1] for batch in _first_rows(workspace, p)]
    if not ids:
        raise WorkspaceError(
            f"{workspace.uri} holds no manifest to review. Make one: mammosift run --out"
        )
    name = f"runs/{ids[0]}.json"
    record = workspace.read_json(name) if workspace.exists(name) else {}
    if not {"shards", "settings", "tiles", "films"} <= record.keys():
        raise WorkspaceError(
            f"{workspace.uri}: the run {ids[0]} published its manifest and ended before its record "
            "was whole. Start it again with the same command: what is finished is not done twice."
        )
    return record


def _first_rows(workspace: Workspace, path: str) -> list[pa.Table]:
    return [next(part_batches(workspace, path, ["run_id"]))]


# -- verdicts --------------------------------------------------------------------------------


def record(
    workspace: Workspace, given: verdicts.Frame, *, name: str, now: datetime, present: str
) -> int:
    """Take verdicts down in the workspace: those on clusters as verdicts on their tiles.

    Parameters
    ----------
    workspace : Workspace
        Where they will lie in ``review/verdicts.parquet``, merged with what is there.
    given : DataFrame
        As ``storage.verdicts.read_verdicts`` gives them.
    name : str
        What to call their source in an error: the table's path.
    now : datetime
        When verdicts without a time were given.
    present : str
        Key of the workspace's present clustering.

    Returns
    -------
    int
        Tiles that have a verdict now.

    Raises
    ------
    TableError
        A row names a clustering that the workspace does not hold, or a cluster that is not in it.
    """
    of_cluster = given["cluster"].notna()
    resolved = [given[~of_cluster]]
    for clustering, rows in given[of_cluster].groupby("clustering", sort=True):
        resolved.append(_tiles_of_clusters(workspace, str(clustering), rows, name, present))
    new = pd.concat([r for r in resolved if len(r)]) if len(given) else given
    return len(verdicts.remember(workspace, new, now=now))


def _tiles_of_clusters(
    workspace: Workspace, clustering: str, rows: verdicts.Frame, name: str, present: str
) -> verdicts.Frame:
    """Verdicts on the tiles of the clusters that the rows name, all of one clustering."""
    shard = workspace.shard(KIND, clustering) if re.fullmatch("[0-9a-z]+", clustering) else None
    if shard is None or not shard.is_complete():
        raise TableError(
            f"{name}, line {rows['line'].iloc[0]}, column clustering: {clustering!r} is not in "
            f"{workspace.uri}, whose clustering is {present!r}; the same label means other tiles "
            "there. Give these verdicts by tile_id (review/verdicts.parquet of the workspace where "
            "they were made has them so), or review this workspace anew."
        )
    labels = pa.array(rows["cluster"].astype("int32").unique(), pa.int32())
    parts = sorted(f for f in shard.record()["files"] if f.endswith(".parquet"))
    found: list[pa.Table] = []
    for part in parts:
        table = shard.table(part, columns=["tile_id", "cluster_label"])
        found.append(table.filter(pc.is_in(table["cluster_label"], labels)))
    members = pa.concat_tables(found).to_pandas() if found else pd.DataFrame()
    there = set(members["cluster_label"]) if len(members) else set()
    for line, label in zip(rows["line"], rows["cluster"], strict=True):
        if label not in there:
            raise TableError(
                f"{name}, line {line}, column cluster: the clustering {clustering!r} has no "
                f"cluster {label}. review/index.html and review/decisions.csv name those there are."
            )
    members["cluster"] = members["cluster_label"].astype("Int32")
    joined = rows.drop(columns="tile_id").merge(members[["tile_id", "cluster"]], on="cluster")
    joined["from_cluster"], joined["from_clustering"] = joined["cluster"], joined["clustering"]
    joined["cluster"], joined["clustering"] = pd.NA, ""
    return joined.astype({"cluster": "Int32"})[rows.columns]


# -- what a person is shown ------------------------------------------------------------------


@dataclass(frozen=True)
class ShownCluster:
    """A cluster, or the noise (label -1)."""

    label: int
    size: int
    flagged: int
    """Tiles that score at least the threshold."""

    @property
    def name(self) -> str:
        """What it is called in pages and forms."""
        return "noise" if self.label == NOISE else str(self.label)

    @property
    def share_flagged(self) -> float:
        """In [0, 1]."""
        return self.flagged / max(1, self.size)


@dataclass(frozen=True)
class Shown:
    """What a person can decide about."""

    run_id: str
    clustering: str
    threshold: float
    clusters: tuple[ShownCluster, ...]
    """The largest share of flagged tiles first, the noise last."""

    @property
    def labels(self) -> set[int]:
        """Of the clusters, the noise among them."""
        return {cluster.label for cluster in self.clusters}


def show(workspace: Workspace, run: dict[str, Any]) -> tuple[Shown, list[Contact]]:
    """Write ``review/index.html`` and the template ``review/decisions.csv``.

    Parameters
    ----------
    workspace : Workspace
        Of the run.
    run : dict
        Its record, as ``published`` gives it.

    Returns
    -------
    Shown
        Clusters, for the form.
    list of Contact
        Contact sheets: the clusters, the tiles nearest to the threshold, those in review.
    """
    threshold = run["settings"]["misinformative_threshold"]
    survey = Survey(threshold).read(workspace)
    clusters = [
        ShownCluster(label, size, survey.cluster_flagged[label])
        for label, size in survey.cluster_sizes.items()
    ]
    clusters.sort(key=lambda c: (c.label == NOISE, -c.share_flagged, -c.size, c.label))
    shown = Shown(run["run_id"], run["shards"]["clusters"], threshold, tuple(clusters))
    with_pictures = clusters[:SHOWN_CLUSTERS]
    central = central_tiles(
        workspace, run["shards"], [c.label for c in with_pictures], TILES_PER_CLUSTER
    )
    tiles, _ = look_up(workspace, {i for names in central.values() for i in names}, set())
    sheets = _sheets(survey, threshold)
    pages = [
        ReviewedCluster(
            label=c.label,
            name=c.name,
            size=c.size,
            share_flagged=c.share_flagged,
            sheet=ReviewSheet(
                f"cluster-{c.name}",
                "Noise: in no cluster" if c.label == NOISE else f"Cluster {c.name}",
                "drawn at random" if c.label == NOISE else "the most central tiles",
                tuple(tiles[i] for i in central[c.label] if i in tiles),
            ),
        )
        for c in with_pictures
    ]
    every = [t for sheet in (*sheets, *(c.sheet for c in pages)) for t in sheet.tiles]
    pictures = tile_pictures(workspace, every)
    page = ReviewPage(
        run_id=run["run_id"],
        workspace=workspace.uri,
        clustering=shown.clustering,
        threshold=threshold,
        by_fate={fate_title(fate): n for fate, n in run["tiles"]["by_fate"].items()},
        clusters=tuple(pages),
        left_out=len(clusters) - len(pages),
        sheets=tuple(sheets),
        pictures=pictures,
    )
    workspace.write_bytes(PAGE, render(page).encode())
    _write_template(workspace, shown)
    workspace.write_json(SHOWN, asdict(shown))
    return shown, contacts(page)


def shown_before(workspace: Workspace, run: dict[str, Any]) -> Shown | None:
    """What ``show`` had shown of this run, if it had."""
    if not (workspace.exists(SHOWN) and workspace.exists(PAGE)):
        return None
    value = workspace.read_json(SHOWN)
    if value.get("run_id") != run["run_id"]:
        return None
    clusters = tuple(ShownCluster(**c) for c in value.pop("clusters"))
    return Shown(**value, clusters=clusters)


def _sheets(survey: Survey, threshold: float) -> list[ReviewSheet]:
    wanted = [
        (
            "near_threshold",
            "near-threshold-dropped",
            "Just above the threshold: dropped",
            f"The lowest scores that were still dropped (threshold {threshold:g}). Tissue here "
            "means that the threshold is too low.",
        ),
        (
            "near_misses",
            "near-threshold-kept",
            "Just below the threshold: kept",
            "The nearest misses. Lettering here means that the threshold is too high.",
        ),
        *(
            (
                fate,
                "in-" + fate.replace("/", "-").replace("_", "-"),
                fate_title(fate),
                "They wait for a person.",
            )
            for fate in sorted(survey.by_fate)
            if fate.startswith("review/")
        ),
        (
            MISINFORMATIVE,
            "dropped-misinformative",
            "Dropped as misinformative: highest scores",
            "What the run is surest of.",
        ),
    ]
    out = []
    for name, key, title, text in wanted:
        chosen = survey.sheets.get(name)
        found: list[Tile] = [] if chosen is None else chosen.tiles()
        if found:
            out.append(ReviewSheet(key, title, text, tuple(found)))
    return out


def _write_template(workspace: Workspace, shown: Shown) -> None:
    """Write the empty table, unless somebody has filled in the one that is there."""
    if workspace.exists(TEMPLATE) and _is_filled_in(workspace.read_bytes(TEMPLATE)):
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TEMPLATE_COLUMNS)
    for c in shown.clusters:
        share = f"{c.share_flagged:.3f}"
        writer.writerow(["", c.label, shown.clustering, c.size, share, "", "", ""])
    workspace.write_bytes(TEMPLATE, text.getvalue().encode())


def _is_filled_in(data: bytes) -> bool:
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error):
        return True  # somebody's own, whatever it is
    return any((row.get("verdict") or "").strip() for row in rows)


# -- what a person enters in a form ----------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A form as it was filled in: labels and names apart by commas, blanks or lines."""

    drop_clusters: str = ""
    keep_clusters: str = ""
    review_clusters: str = ""
    drop_tiles: str = ""
    keep_tiles: str = ""
    review_tiles: str = ""
    misinformative_threshold: float = 0.5
    reviewer: str = ""
    note: str = ""

    def said(self, kind: str) -> dict[str, list[str]]:
        """Words of the fields about ``clusters`` or ``tiles``, by verdict, each once."""
        words = {
            verdict: re.findall(r"[^\s,;]+", getattr(self, f"{verdict}_{kind}"))
            for verdict in ("drop", "keep", "review")
        }
        return {verdict: list(dict.fromkeys(found)) for verdict, found in words.items() if found}


def problems_of(entry: Entry, shown: Shown, workspace: Workspace) -> list[str]:
    """What is wrong with a form, each with what to do; empty where it can be applied."""
    out = []
    given = {kind: entry.said(kind) for kind in ("clusters", "tiles")}
    for kind, said in given.items():
        verdicts_on: dict[str, list[str]] = {}
        for verdict, words in said.items():
            for word in words:
                label = _label(word) if kind == "clusters" else None
                name = word if label is None else "noise" if label == NOISE else str(label)
                if verdict not in (known := verdicts_on.setdefault(name, [])):
                    known.append(verdict)
        for word, several in verdicts_on.items():
            if len(several) > 1:
                what = f"{kind[:-1]} {word}"
                out.append(f"{what}: both {' and '.join(several)}. Leave it in one field.")
    words = _once(given["clusters"])
    unknown = [word for word in words if _label(word) not in shown.labels]
    if unknown:
        names = [c.name for c in shown.clusters]
        out.append(f"no such cluster: {_some(unknown)}. There are: {_some(names, 40) or 'none'}.")
    tiles = _once(given["tiles"])
    if tiles and (lost := _not_in_manifest(workspace, tiles)):
        out.append(f"no such tile: {_some(lost)}. review/index.html and the manifest name them.")
    if not 0 <= entry.misinformative_threshold <= 1:
        out.append(
            f"threshold {entry.misinformative_threshold:g}: scores lie between 0 and 1. "
            f"The present one is {shown.threshold:g}."
        )
    if (words or tiles) and not entry.reviewer.strip():
        out.append("no reviewer: a verdict needs a name. Fill in who decides.")
    return out


def rows_of(entry: Entry, shown: Shown) -> verdicts.Frame:
    """Verdicts of a form without problems."""
    said = {"reviewed_by": entry.reviewer.strip(), "note": entry.note.strip()}
    rows: list[dict[str, Any]] = []
    for verdict, words in entry.said("clusters").items():
        for word in words:
            about = {"cluster": _label(word), "clustering": shown.clustering}
            rows.append({**about, "verdict": verdict, **said})
    for verdict, words in entry.said("tiles").items():
        rows += [{"tile_id": word, "verdict": verdict, **said} for word in words]
    return verdicts.verdicts_frame(rows)


def _label(word: str) -> int | None:
    word = word.lower().removeprefix("cluster").strip("# ")
    if word == "noise":
        return NOISE
    return int(word) if re.fullmatch(r"-1|\d{1,9}", word) else None


def _once(said: dict[str, list[str]]) -> list[str]:
    return list(dict.fromkeys(word for words in said.values() for word in words))


def _some(words: Sequence[str], most: int = NAMED) -> str:
    shown = ", ".join(word[:60] for word in words[:most])
    return shown if len(words) <= most else f"{shown} and {len(words) - most} more"


def _not_in_manifest(workspace: Workspace, names: Sequence[str]) -> list[str]:
    wanted, found = pa.array(names, pa.string()), set()
    for path in manifest_parts(workspace):
        for batch in part_batches(workspace, path, ["tile_id"]):
            ids = batch["tile_id"]
            found |= set(ids.filter(pc.is_in(ids, wanted)).to_pylist())
    return [name for name in names if name not in found]
