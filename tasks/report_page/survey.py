"""One reading of the manifest, part by part: what is counted, and which tiles are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.manifest import SPLITS
from storage.workspace import Workspace
from tasks.report_page.exemplars import Exemplar, Match, match
from tasks.report_page.selection import HighestTiles, ShownFilms
from tasks.report_page.tiles import (
    BLACK,
    KEEP,
    MISINFORMATIVE,
    TILE_COLUMNS,
    Tile,
    fate_name,
    tiles_of,
)

BATCH_ROWS = 64 * 1024
NOISE = -1
"""Label of the tiles in no cluster."""
SHEET_TILES = 24
OUTLIERS = 12
SHOWN_FILMS = 24
FLAGGED_FILMS = 16
SUBSTITUTE_EXEMPLARS = 3

_COLUMNS = [*TILE_COLUMNS, "patient_key", "scanner", "label", "p99"]
_FEW_VALUES = ["decision", "reason", "scanner", "label", "mammogram_id", "source", "pixels_uri"]

Tally = Counter[tuple[str | None, ...]]


@dataclass
class Survey:
    """What one reading of the manifest gathers.

    Parameters
    ----------
    threshold : float
        Of the misinformative score, as the run had it.
    exemplars : sequence of Exemplar
        To find among the tiles.
    film_pages : int
        How many films get a page of their own.
    """

    threshold: float
    exemplars: Sequence[Exemplar] = ()
    film_pages: int = 0
    tiles: int = 0
    by_fate: Counter[str] = field(default_factory=Counter)
    by_split: dict[str, Counter[str]] = field(
        default_factory=lambda: {s: Counter() for s in SPLITS}
    )
    by_scanner: dict[str | None, Counter[str]] = field(default_factory=dict)
    by_label: dict[str | None, Counter[str]] = field(default_factory=dict)
    patients: dict[str, set[str]] = field(default_factory=lambda: {s: set() for s in SPLITS})
    cluster_sizes: Counter[int] = field(default_factory=Counter)
    cluster_flagged: Counter[int] = field(default_factory=Counter)
    sheets: dict[str, HighestTiles] = field(default_factory=dict)
    matches: dict[int, Match] = field(default_factory=dict)
    """By the exemplar's place in the table."""
    films: ShownFilms = field(
        default_factory=lambda: ShownFilms(SHOWN_FILMS, flagged=FLAGGED_FILMS)
    )
    own_pages: ShownFilms = field(init=False)

    def __post_init__(self) -> None:
        self.own_pages = ShownFilms(
            self.film_pages, flagged=self.film_pages * FLAGGED_FILMS // SHOWN_FILMS
        )

    def read(self, workspace: Workspace) -> Survey:
        """Go through the manifest of a workspace once."""
        for path in manifest_parts(workspace):
            split = split_of_part(path)
            films: list[pd.DataFrame] = []
            for batch in part_batches(workspace, path, _COLUMNS):
                self._add(split, batch)
                films.append(_films_of(batch, self.threshold))
            if films:  # a film lies in one part: it is complete when the part has been read
                whole = pd.concat(films).groupby(["mammogram_id"], as_index=False).sum()
                self.films.add(whole)
                self.own_pages.add(whole)
        return self

    def _add(self, split: str, batch: pa.Table) -> None:
        self.tiles += batch.num_rows
        self._count(split, batch)
        self._choose(batch)
        for i, exemplar in enumerate(self.exemplars):
            found = match(exemplar, batch)
            if found is not None and (i not in self.matches or found.better(self.matches[i])):
                self.matches[i] = found

    def _count(self, split: str, batch: pa.Table) -> None:
        groups = batch.group_by(["decision", "reason", "scanner", "label"]).aggregate(
            [([], "count_all")]
        )
        for row in groups.to_pylist():
            fate, n = fate_name(row["decision"], row["reason"]), row["count_all"]
            self.by_fate[fate] += n
            self.by_split[split][fate] += n
            self.by_scanner.setdefault(row["scanner"], Counter())[fate] += n
            self.by_label.setdefault(row["label"], Counter())[fate] += n
        self.patients[split].update(pc.unique(batch["patient_key"]).to_pylist())
        flagged = pc.fill_null(
            pc.greater_equal(batch["misinformative_score"], self.threshold), False
        )
        clusters = pa.table({"label": batch["cluster_label"], "flagged": flagged.cast(pa.int64())})
        for row in (
            clusters.group_by("label")
            .aggregate([([], "count_all"), ("flagged", "sum")])
            .to_pylist()
        ):
            if row["label"] is not None:
                self.cluster_sizes[row["label"]] += row["count_all"]
                self.cluster_flagged[row["label"]] += row["flagged_sum"]

    def _choose(self, batch: pa.Table) -> None:
        fates = _fates(batch)
        score = _floats(batch["misinformative_score"])
        scored = ~np.isnan(score)
        stored = np.asarray(pc.is_valid(batch["pixels_index"]))
        outlier = _floats(batch["outlier_score"])

        def add(name: str, where: npt.NDArray[np.bool_], values: npt.NDArray[np.floating]) -> None:
            size = {"outliers": OUTLIERS, "exemplars": SUBSTITUTE_EXEMPLARS}.get(name, SHEET_TILES)
            per_film = 1 if name == "exemplars" else 2
            sheet = self.sheets.setdefault(name, HighestTiles(size, per_film=per_film))
            sheet.add(batch, where & stored, values)

        for fate in np.unique(fates):
            here = fates == fate
            if fate == KEEP:
                add("near_misses", here & (score >= self.threshold / 2), score)
            elif fate == BLACK:
                add(BLACK, here, _floats(batch["p99"]))
            elif fate == MISINFORMATIVE:
                add(MISINFORMATIVE, here & scored, score)
                add("sample", here & scored, _draw(batch["tile_id"]))
                add("near_threshold", here & (score <= (1 + self.threshold) / 2), -score)
            else:
                add(str(fate), here, np.where(scored, score, -1.0))
        add("outliers", ~np.isnan(outlier), outlier)
        add("exemplars", (fates == MISINFORMATIVE) & scored, score)
        add("highest", scored, score)


def manifest_parts(workspace: Workspace) -> list[str]:
    """Files of the manifest, in the order of their names."""
    found = workspace.fs.find(workspace.path("manifest"))
    return sorted(str(p) for p in found if str(p).endswith(".parquet"))


def split_of_part(path: str) -> str:
    """Split that a file of the manifest belongs to, from its folder."""
    for part in path.split("/"):
        if part.startswith("split="):
            return part.removeprefix("split=")
    raise ValueError(f"{path} lies in no folder split=...: it is no part of a manifest")


def part_batches(workspace: Workspace, path: str, columns: list[str]) -> Iterator[pa.Table]:
    """Rows of one file of the manifest, ``BATCH_ROWS`` at a time."""
    with workspace.fs.open(path, "rb") as f:
        few = [name for name in columns if name in _FEW_VALUES]
        for batch in pq.ParquetFile(f, read_dictionary=few).iter_batches(
            batch_size=BATCH_ROWS, columns=columns
        ):
            yield pa.Table.from_batches([batch])


def look_up(
    workspace: Workspace, tile_ids: set[str], film_ids: set[str]
) -> tuple[dict[str, Tile], dict[str, list[Tile]]]:
    """Tiles by their names, and all tiles of some films, by the film's mammogram_id."""
    tiles: dict[str, Tile] = {}
    films: dict[str, list[Tile]] = {i: [] for i in film_ids}
    names = pa.array(sorted(tile_ids), pa.string())
    ids = pa.array(sorted(film_ids), pa.string())
    for path in manifest_parts(workspace):
        for batch in part_batches(workspace, path, list(TILE_COLUMNS)):
            film = batch["mammogram_id"].cast(pa.string())
            named = pc.is_in(batch["tile_id"], names)
            wanted = batch.filter(pc.or_(named, pc.is_in(film, ids)))
            if not wanted.num_rows:
                continue
            for tile in tiles_of(wanted.to_pandas()):
                if tile.tile_id in tile_ids:
                    tiles[tile.tile_id] = tile
                if tile.mammogram_id in films:
                    films[tile.mammogram_id].append(tile)
    for members in films.values():
        members.sort(key=lambda tile: (tile.box[1], tile.box[0], tile.tile_id))
    return tiles, films


def _films_of(batch: pa.Table, threshold: float) -> pd.DataFrame:
    decision = batch["decision"].cast(pa.string())
    score = batch["misinformative_score"]
    flagged = pc.or_(
        pc.fill_null(pc.greater_equal(score, threshold), False), pc.equal(decision, "review")
    )
    counts = pa.table(
        {
            "mammogram_id": batch["mammogram_id"].cast(pa.string()),
            "flagged": flagged.cast(pa.int64()),
            "stored": pc.is_valid(batch["pixels_index"]).cast(pa.int64()),
        }
    )
    grouped = counts.group_by("mammogram_id").aggregate(
        [([], "count_all"), ("flagged", "sum"), ("stored", "sum")]
    )
    films: pd.DataFrame = grouped.to_pandas()
    return films.rename(
        columns={"count_all": "tiles", "flagged_sum": "flagged", "stored_sum": "stored"}
    )


def _fates(batch: pa.Table) -> npt.NDArray[np.str_]:
    decision = batch["decision"].cast(pa.string())
    reason = batch["reason"].cast(pa.string())
    joined = pc.if_else(
        pc.is_null(reason), decision, pc.binary_join_element_wise(decision, reason, "/")
    )
    return np.asarray(joined.to_numpy()).astype(str)


def _draw(names: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A number in [0, 1) of each name, which has nothing to do with anything else."""
    hashed = pd.util.hash_array(np.asarray(names.to_numpy(), object), hash_key="sample of a run.")
    return np.asarray(hashed / 2.0**64, np.float64)


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Values with NaN for null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
