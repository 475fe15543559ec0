"""Stage: decide on every tile, give it its part, write the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from models.tile_scorer import (
    TileScorer,
    Trees,
    log_odds,
    tissue_log_odds,
)
from storage import collections, scorer_shards, verdicts
from storage.manifest import SPLITS, ManifestWriter
from storage.records import Mammogram
from storage.schemas import MANIFEST, SCHEMA_VERSION
from storage.tile_shards import PIXELS, read_figures, read_index, read_planted
from storage.workspace import Workspace
from tasks.kernels.decisions import (
    KEEP,
    LESION_GUARD,
    MISINFORMATIVE,
    NO_PIXELS,
    Decisions,
    decide,
    with_verdicts,
)
from tasks.kernels.measured_precision import measured, tally
from tasks.kernels.scoring import (
    BREAST_SHARE_EVEN_FOREIGN,
    fused_score,
    probability,
    scaled_figures,
)
from tasks.kernels.splitting import split_of
from tasks.kernels.thresholds import FEWEST, threshold_for_precision, threshold_for_recall

FILM_COLUMNS = (
    "patient_key",
    "source",
    "source_sha256",
    "pixel_spacing_mm",
    "laterality",
    "view",
    "scanner",
    "label",
)

JUDGED = ("by_rule", "verdict", "judged_singly")
"""Fate without any verdict; the verdict, or None; whether it was given on the tile itself."""


EXTRA = ("guarded", "without_guard")
"""Columns beside the manifest's, for the counts: touches a lesion, and its fate if it did not."""


@dataclass(frozen=True)
class DecisionSettings:
    """The settings that decisions depend on."""

    misinformative_threshold: float
    tissue_for_review: float
    near_duplicates: Literal["off", "list", "drop"] = "list"
    thresholds: tuple[tuple[str, float], ...] = ()
    """By scanner, where a recall or a precision is wanted; others go by the first."""

    def threshold_of(self, scanners: pd.Series) -> npt.NDArray[np.float64]:
        """Threshold of each tile by its scanner."""
        own = scanners.map(dict(self.thresholds))
        return np.asarray(own.fillna(self.misinformative_threshold), np.float64)


@dataclass(frozen=True)
class SplitSettings:
    """The settings that the split depends on."""

    seed: int
    validation_fraction: float
    test_fraction: float


@dataclass(frozen=True)
class PartCounts:
    """How many tiles of one shard fell where."""

    tile_key: str
    by_decision: dict[str, int]
    """``keep``, ``drop/black``, ``review/mixed``, ...: decision and reason."""
    by_split: dict[str, int]
    """Kept tiles only."""
    by_review: dict[str, int] = field(default_factory=dict)
    """Tiles that a person has judged, as ``by_decision``."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """Verdicts by what the rules had decided: see ``tasks.kernels.measured_precision.tally``."""
    planted: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """What became of the planted tiles: see ``planted_counts``."""
    without_guard: dict[str, int] = field(default_factory=dict)
    """Tiles that touch a lesion, by what the rules would have made of them."""


def split_films(films: list[Mammogram], settings: SplitSettings) -> dict[str, str]:
    """Part of each film used, by mammogram_id; all films of a patient in one part."""
    return {
        str(film.mammogram_id): split_of(str(film.patient_key), **vars(settings))
        for film in films
        if film.excluded_reason is None
    }


def decide_shard(
    workspace_uri: str,
    tile_key: str,
    cluster_part: tuple[str, str],
    films: Mapping[str, Mammogram],
    split_of_film: Mapping[str, str],
    settings: DecisionSettings,
    *,
    run_id: str,
    staging: str,
    scorer: str | None = None,
    duplicates: str | None = None,
) -> PartCounts:
    """Write the manifest rows of one tile shard.

    Parameters
    ----------
    workspace_uri, tile_key : str
        Workspace and tile shard.
    cluster_part : (str, str)
        Key of the clustering, and of the embedding shard in it.
    films : mapping of str to Mammogram
        The shard's films by mammogram_id.
    split_of_film : mapping of str to str
        Part of each.
    settings : DecisionSettings
        Thresholds.
    run_id, staging : str
        Of the run, and the folder where the manifest is put together.
    scorer : str, optional
        Key of the tile scorer; without it the film's map decides alone.
    duplicates : str, optional
        Key of the search for near-duplicates.

    Returns
    -------
    PartCounts
        Of the tiles of this shard.
    """
    workspace = Workspace.open(workspace_uri)
    judge = Judge.read(workspace, scorer)
    tiles = judge.scored(read_index(workspace, tile_key).to_pandas(), tile_key)
    key, part = cluster_part
    labels = workspace.shard("clusters", key).table(f"{part}.parquet").to_pandas()
    said = verdicts.recorded(workspace, tiles["tile_id"].tolist())
    copies = None
    if duplicates is not None:
        copies = workspace.shard("duplicates", duplicates).table(f"{tile_key}.parquet").to_pandas()
    rows = manifest_rows(tiles, labels, films, settings, said, copies)
    stored = rows["pixels_index"].notna()
    rows["pixels_uri"] = pd.Series(f"tiles/{tile_key}/{PIXELS}", rows.index).where(stored, None)
    rows["run_id"] = run_id
    rows["schema_version"] = SCHEMA_VERSION
    split = rows["mammogram_id"].map(split_of_film)
    writer = ManifestWriter(workspace, staging)
    written = []
    for name in SPLITS:
        part_rows = rows[split == name]
        table = pa.Table.from_pandas(part_rows, schema=MANIFEST, preserve_index=False)
        writer.write_part(tile_key, name, table)
        written.append(part_rows[["decision", "reason", *JUDGED]].assign(split=name))
    planted = judge.scored(read_planted(workspace, tile_key).to_pandas(), tile_key, planted=True)
    counts = _counts(tile_key, pd.concat(written))
    return replace(
        counts,
        planted=planted_counts(planted, films, settings),
        without_guard=_count(rows.loc[rows["guarded"], "without_guard"]),
    )


@dataclass(frozen=True)
class Judge:
    """Scores tiles: by the film's map, and by the tile scorer where there is one."""

    workspace: Workspace
    stored: scorer_shards.StoredScorer | None = None
    trees: TileScorer | None = None

    @classmethod
    def read(cls, workspace: Workspace, key: str | None) -> Judge:
        """Read the scorer of a run."""
        if key is None:
            return cls(workspace)
        stored = scorer_shards.read(workspace, key)
        trees = TileScorer(tuple(Trees(**t) for t in stored.trees), stored.figures)
        return cls(workspace, stored, trees)

    def scored(self, tiles: pd.DataFrame, tile_key: str, *, planted: bool = False) -> pd.DataFrame:
        """Tiles with ``score``, ``annotation_score``, ``tissue_share`` and ``nearest_exemplar``.

        ``tissue_share`` is the share of breast by the film's map; where there is none, the tile
        scorer's probability that there is tissue.
        """
        n = len(tiles)
        columns = ("context_score", "breast_fraction", "foreign_fraction")
        context, breast, foreign = (tiles[c].to_numpy(np.float32) for c in columns)
        tiles = by_film_alone(tiles)
        if self.stored is None or self.trees is None or not n:
            return tiles
        figures = read_figures(self.workspace, tile_key, planted=planted)
        places = tiles["pixels_index"].fillna(-1).to_numpy(np.int64)
        looked_at = places >= 0
        looked_at[looked_at] = ~np.isnan(figures[places[looked_at], 0])
        own = figures[places[looked_at]]
        folds = self.stored.facts["fold_of_film"]
        fold = tiles.loc[looked_at, "mammogram_id"].map(folds).fillna(-1).to_numpy(np.int64)
        said = self.trees.log_probabilities(own, fold)
        odds, tissue = np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
        odds[looked_at], tissue[looked_at] = log_odds(said), tissue_log_odds(said)
        score = fused_score(context, breast, foreign, odds, weight=self.stored.facts["weight"])
        alone = np.isnan(breast)
        tiles["score"] = score
        tiles["annotation_score"] = probability(odds)
        tiles["tissue_share"] = np.where(alone, probability(tissue), breast)
        if len(self.stored.exemplar_names):
            tiles.loc[looked_at, "nearest_exemplar"] = self._nearest(own)
        return tiles

    def _nearest(self, figures: npt.NDArray[np.float32]) -> npt.NDArray[np.object_]:
        """Name of the positive exemplar that each tile looks most like."""
        if self.stored is None:
            return np.full(len(figures), None, object)
        names = np.array(self.stored.exemplar_names, object)
        scale = self.stored.centre, self.stored.spread
        known = scaled_figures(self.stored.exemplar_figures, *scale)
        own = scaled_figures(figures, *scale)
        squares = (own**2).sum(axis=1)[:, None] - 2 * own @ known.T + (known**2).sum(axis=1)
        return np.asarray(names[squares.argmin(axis=1)])


def by_film_alone(tiles: pd.DataFrame) -> pd.DataFrame:
    """Tiles scored by the film's map, with the columns that `Judge.scored` gives."""
    return tiles.assign(
        score=tiles["context_score"].astype(np.float32),
        annotation_score=np.float32(np.nan),
        tissue_share=tiles["breast_fraction"].astype(np.float32),
        nearest_exemplar=pd.Series([None] * len(tiles), tiles.index, dtype=object),
    )


def calibrated(
    workspace_uri: str,
    tile_keys: Sequence[str],
    films: Mapping[str, str],
    settings: DecisionSettings,
    *,
    scorer: str | None,
    recall: float | None,
    precision: float | None,
) -> DecisionSettings:
    """Settings with the thresholds that give a recall or a precision on the planted tiles.

    Black tiles are left out: no threshold acts on them. A planted tile that is dropped as black
    counts as found in `planted_counts`, so the recall that a run reports is no lower than that.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    tile_keys : sequence of str
        Tile shards of the run.
    films : mapping of str to str
        Scanner of each film by mammogram_id.
    settings : DecisionSettings
        As they were.
    scorer : str or None
        Key of the tile scorer.
    recall, precision : float or None
        One of them is wanted.

    Returns
    -------
    DecisionSettings
        As they were where no planted tile is there.
    """
    workspace = Workspace.open(workspace_uri)
    judge = Judge.read(workspace, scorer)
    found = [
        judge.scored(read_planted(workspace, key).to_pandas(), key, planted=True)
        for key in tile_keys
    ]
    tiles = pd.concat(found)
    tiles = tiles.assign(scanner=tiles["mammogram_id"].map(films))
    annotated = (tiles["planted_fraction"] > 0) & ~tiles["is_black"]
    annotated &= tiles["breast_fraction_before"] < BREAST_SHARE_EVEN_FOREIGN
    positive, negative = tiles[annotated], tiles[tiles["planted_fraction"] == 0]
    if not len(positive):
        return settings
    index = pd.concat(
        [read_index(workspace, k, ["is_black", "context_score"]).to_pandas() for k in tile_keys]
    )
    flagged = int((~index["is_black"] & (index["context_score"] >= 0.5)).sum())
    ratio = (int((~index["is_black"]).sum()) - flagged) / max(flagged, 1)

    def threshold(scanner: str | None) -> float:
        own = [
            part["score"].to_numpy(np.float64)
            for part in (
                (positive, negative)
                if scanner is None
                else (positive[positive["scanner"] == scanner], negative)
            )
        ]
        if recall is not None:
            return threshold_for_recall(own[0], recall)
        return threshold_for_precision(
            own[0], own[1], precision or 1.0, negatives_per_positive=ratio
        )

    many = positive["scanner"].value_counts()
    by_scanner = {str(s): threshold(str(s)) for s in sorted(many[many >= FEWEST].index)}
    return replace(
        settings,
        misinformative_threshold=threshold(None),
        thresholds=tuple(by_scanner.items()),
    )


def planted_counts(
    planted: pd.DataFrame, films: Mapping[str, Mammogram], settings: DecisionSettings
) -> dict[str, dict[str, list[int]]]:
    """How many planted annotations were found, and how much tissue was lost by planting.

    A planted tile counts as misinformative where at least 1 % of it was planted on and the film's
    map showed less than 5 % of breast before: it is found where it is not kept, as black or by its
    score.

    Parameters
    ----------
    planted : DataFrame
        Scored rows of ``storage.tile_shards.PLANTED``.
    films : mapping of str to Mammogram
        Of the shard.
    settings : DecisionSettings
        Thresholds.

    Returns
    -------
    dict of str to dict of str to [found, all]
        ``all``, ``kind``, ``scanner`` and ``view``: annotations by each; ``tissue``: tissue lost
        of tissue looked at again, by scanner.
    """
    out: dict[str, dict[str, list[int]]] = {
        n: {} for n in ("all", "kind", "scanner", "view", "tissue")
    }
    if not len(planted):
        return out
    by_film = planted["mammogram_id"]
    scanner = by_film.map({i: f.scanner or "unknown" for i, f in films.items()})
    view = by_film.map({i: f.view or "unknown" for i, f in films.items()})
    kept = (
        decide(
            is_black=planted["is_black"].to_numpy(bool),
            score=planted["score"].to_numpy(np.float32),
            breast_fraction=planted["tissue_share"].to_numpy(np.float32),
            touches_lesion=np.zeros(len(planted), bool),
            threshold=settings.threshold_of(scanner),
            tissue_for_review=settings.tissue_for_review,
        ).decision
        == KEEP
    )
    share = planted["planted_fraction"].to_numpy()
    breast = planted["breast_fraction_before"].to_numpy()
    annotated = (share > 0) & (breast < BREAST_SHARE_EVEN_FOREIGN)
    for name, values, where, hit in (
        ("all", pd.Series("all", planted.index), annotated, ~kept),
        ("kind", planted["kind"], annotated, ~kept),
        ("scanner", scanner, annotated, ~kept),
        ("view", view, annotated, ~kept),
        ("tissue", scanner, share == 0, ~kept),
    ):
        for value, group in pd.Series(hit[where]).groupby(values.to_numpy()[where]):
            out[name][str(value)] = [int(group.sum()), len(group)]
    return out


def manifest_rows(
    tiles: pd.DataFrame,
    labels: pd.DataFrame,
    films: Mapping[str, Mammogram],
    settings: DecisionSettings,
    said: verdicts.Frame | None = None,
    copies: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Rows of the manifest for the tiles of a shard, in order of film, y, x; no run, no pixels.

    ``said`` are the verdicts of people, as ``storage.verdicts.recorded`` gives them. Beside the
    manifest's columns stand those of ``JUDGED`` and ``EXTRA``, for the counts. Tiles that are not
    scored yet are scored by the film's map alone.
    """
    if "score" not in tiles:
        tiles = by_film_alone(tiles)
    rows = tiles.merge(labels.drop(columns="membership"), on="tile_id", how="left", sort=False)
    unlocated = {i: collections.has_unlocated_lesion(film) for i, film in films.items()}
    hidden = rows["mammogram_id"].map(unlocated).to_numpy(bool)
    breast = rows["tissue_share"].to_numpy(np.float32)
    touches = rows["lesion_fraction"].fillna(0).to_numpy() > 0
    is_black = rows["is_black"].to_numpy(bool)
    score = rows["score"].to_numpy(np.float32)
    touches_lesion = touches | (hidden & ~(breast < settings.tissue_for_review))
    called_normal = rows["mammogram_id"].map({i: f.label == "normal" for i, f in films.items()})
    copy_of = duplicate_of(rows["tile_id"], copies)
    decided = decide(
        is_black=is_black,
        score=score,
        breast_fraction=breast,
        touches_lesion=touches_lesion,
        called_normal=called_normal.to_numpy(bool),
        threshold=settings.threshold_of(
            rows["mammogram_id"].map({i: f.scanner or "unknown" for i, f in films.items()})
        ),
        tissue_for_review=settings.tissue_for_review,
        is_duplicate=copy_of.notna().to_numpy() if settings.near_duplicates == "drop" else None,
    )
    rows["guarded"], rows["without_guard"] = touches_lesion, decided.without_guard
    _judge(rows, decided, verdicts.recorded_nowhere() if said is None else said, touches_lesion)
    rows["lesion_fraction"] = known_lesion_fraction(rows, films, hidden)
    rows["misinformative_score"] = np.where(is_black, np.nan, score)
    rows.loc[is_black, "annotation_score"] = np.nan
    rows.loc[rows["reason"] != MISINFORMATIVE, "nearest_exemplar"] = None
    rows["duplicate_of"] = copy_of
    for name in FILM_COLUMNS:
        rows[name] = rows["mammogram_id"].map({i: getattr(f, name) for i, f in films.items()})
    rows["cluster_label"] = rows["cluster_label"].astype("Int32")
    rows["pixels_index"] = rows["pixels_index"].astype("Int64")
    rows = rows.sort_values(["source", "y", "x", "tile_id"], kind="stable", ignore_index=True)
    given = {"split", "pixels_uri", "run_id", "schema_version"}
    return rows[[*(name for name in MANIFEST.names if name not in given), *EXTRA, *JUDGED]]


def _judge(
    rows: pd.DataFrame,
    decided: Decisions,
    said: verdicts.Frame,
    touches_lesion: npt.NDArray[np.bool_],
) -> None:
    """Set the decisions, with what people said above what the rules decided."""
    judged = said.set_index("tile_id").reindex(rows["tile_id"])
    verdict = judged["verdict"].astype(object).where(judged["verdict"].notna(), None).to_numpy()
    stored = rows["pixels_index"].notna().to_numpy(bool)
    last = with_verdicts(decided, verdict, touches_lesion=touches_lesion, has_pixels=stored)
    rows["decision"], rows["reason"] = decided.decision, decided.reason
    rows["by_rule"], rows["verdict"] = _fates(rows), verdict
    rows["decision"], rows["reason"] = last.decision, last.reason
    rows["judged_singly"] = judged["from_cluster"].isna().to_numpy(bool)
    for name in ("reviewed_by", "reviewed_at"):
        rows[name] = judged[name].array


def duplicate_of(tile_ids: pd.Series, copies: pd.DataFrame | None) -> pd.Series:
    """Tile that each one nearly equals; None where there is none, or nobody searched."""
    found = (
        {} if copies is None else dict(zip(copies["tile_id"], copies["duplicate_of"], strict=True))
    )
    return pd.Series([found.get(i) for i in tile_ids], tile_ids.index, dtype=object)


def known_lesion_fraction(
    rows: pd.DataFrame, films: Mapping[str, Mammogram], hidden: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Share of each tile inside lesions; null where nobody knows, 0 where it is known to be none.

    A tile of a film labelled normal holds no lesion. A film with a lesion of unknown place says
    nothing of the tiles that its located lesions do not touch; nor does a film without annotations.
    """
    fraction = rows["lesion_fraction"].to_numpy(np.float32, copy=True)
    labels = {i: film.label for i, film in films.items()}
    normal = rows["mammogram_id"].map(labels).eq("normal").to_numpy(bool)
    fraction[normal & np.isnan(fraction)] = 0
    fraction[hidden & (fraction == 0)] = np.nan
    return fraction


def count_tiles(parts: list[PartCounts]) -> tuple[dict[str, int], dict[str, int]]:
    """Sums over shards: tiles by decision and reason, and kept tiles by part."""
    return _sum([part.by_decision for part in parts]), _sum([part.by_split for part in parts])


def count_verdicts(parts: list[PartCounts]) -> dict[str, Any]:
    """Sums over shards: judged tiles by their fate, and how often the rules had been right."""
    fates, said = (
        _sum([getattr(part, name) for part in parts]) for name in ("by_review", "verdicts")
    )
    return {
        "tiles": sum(said.values()),
        "by_fate": fates,
        "lesion_guarded": fates.get(f"review/{LESION_GUARD}", 0),
        "no_pixels": fates.get(f"review/{NO_PIXELS}", 0),
        "by_rule_and_verdict": said,
        "measured": {
            name: {how: asdict(share) for how, share in shares.items()}
            for name, shares in measured(said).items()
        },
    }


def count_planted(parts: list[PartCounts]) -> dict[str, dict[str, list[int]]]:
    """Sums over shards of ``PartCounts.planted``."""
    total: dict[str, dict[str, list[int]]] = {}
    for part in parts:
        for name, groups in part.planted.items():
            here = total.setdefault(name, {})
            for value, (found, n) in groups.items():
                before = here.get(value, [0, 0])
                here[value] = [before[0] + found, before[1] + n]
    return {name: dict(sorted(groups.items())) for name, groups in total.items()}


def count_guarded(parts: list[PartCounts]) -> dict[str, int]:
    """Sums over shards of ``PartCounts.without_guard``."""
    return _sum([part.without_guard for part in parts])


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items()))


def _counts(tile_key: str, written: pd.DataFrame) -> PartCounts:
    """Counts of the rows that were written, so that a lost one shows."""
    fate = _fates(written)
    kept = written["split"][written["decision"] == "keep"]
    judged = written["verdict"].notna()
    said = tally(*(written.loc[judged, name].to_numpy() for name in JUDGED))
    return PartCounts(tile_key, _count(fate), _count(kept), _count(fate[judged]), said)


def _fates(rows: pd.DataFrame) -> pd.Series:
    """Decision and reason in one word; also where all tiles of a shard are kept without remark."""
    pairs = zip(rows["decision"], rows["reason"], strict=True)
    fates = [d if pd.isna(r) else f"{d}/{r}" for d, r in pairs]
    return pd.Series(fates, rows.index, dtype=object)


def _count(values: pd.Series) -> dict[str, int]:
    return {str(name): int(n) for name, n in values.value_counts().sort_index().items()}
