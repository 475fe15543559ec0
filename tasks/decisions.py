"""Stage: decide on every tile, give it its part, write the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from storage import collections
from storage.manifest import SPLITS, ManifestWriter
from storage.records import Mammogram
from storage.schemas import MANIFEST, SCHEMA_VERSION
from storage.tile_shards import PIXELS, read_index
from storage.workspace import Workspace
from tasks.kernels.decisions import decide
from tasks.kernels.splitting import split_of

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


@dataclass(frozen=True)
class DecisionSettings:
    """The settings that decisions depend on."""

    misinformative_threshold: float
    tissue_for_review: float
    near_duplicates: Literal["off", "list", "drop"] = "list"


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
    duplicates : str, optional
        Key of the search for near-duplicates.

    Returns
    -------
    PartCounts
        Of the tiles of this shard.
    """
    workspace = Workspace.open(workspace_uri)
    tiles = read_index(workspace, tile_key).to_pandas()
    key, part = cluster_part
    labels = workspace.shard("clusters", key).table(f"{part}.parquet").to_pandas()
    copies = None
    if duplicates is not None:
        copies = workspace.shard("duplicates", duplicates).table(f"{tile_key}.parquet").to_pandas()
    rows = manifest_rows(tiles, labels, films, settings, copies)
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
        written.append(part_rows[["decision", "reason"]].assign(split=name))
    return _counts(tile_key, pd.concat(written))


def manifest_rows(
    tiles: pd.DataFrame,
    labels: pd.DataFrame,
    films: Mapping[str, Mammogram],
    settings: DecisionSettings,
    copies: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Rows of the manifest for the tiles of a shard, in order of film, y, x; no run, no pixels."""
    rows = tiles.merge(labels.drop(columns="membership"), on="tile_id", how="left", sort=False)
    unlocated = {i: collections.has_unlocated_lesion(film) for i, film in films.items()}
    hidden = rows["mammogram_id"].map(unlocated).to_numpy(bool)
    breast = rows["breast_fraction"].to_numpy(np.float32)
    touches = rows["lesion_fraction"].fillna(0).to_numpy() > 0
    is_black = rows["is_black"].to_numpy(bool)
    copy_of = duplicate_of(rows["tile_id"], copies)
    score = rows["context_score"].to_numpy(np.float32)
    decided = decide(
        is_black=is_black,
        score=score,
        breast_fraction=breast,
        touches_lesion=touches | (hidden & (breast >= settings.tissue_for_review)),
        threshold=settings.misinformative_threshold,
        tissue_for_review=settings.tissue_for_review,
        is_duplicate=copy_of.notna().to_numpy() if settings.near_duplicates == "drop" else None,
    )
    rows["decision"], rows["reason"] = decided.decision, decided.reason
    rows["lesion_fraction"] = known_lesion_fraction(rows, films, hidden)
    rows["misinformative_score"] = np.where(is_black, np.nan, score)
    for name in ("annotation_score", "nearest_exemplar"):
        rows[name] = None
    rows["duplicate_of"] = copy_of
    rows["reviewed_by"], rows["reviewed_at"] = None, pd.NaT
    for name in FILM_COLUMNS:
        rows[name] = rows["mammogram_id"].map({i: getattr(f, name) for i, f in films.items()})
    rows["cluster_label"] = rows["cluster_label"].astype("Int32")
    rows["pixels_index"] = rows["pixels_index"].astype("Int64")
    rows = rows.sort_values(["source", "y", "x", "tile_id"], kind="stable", ignore_index=True)
    given = {"split", "pixels_uri", "run_id", "schema_version"}
    return rows[[name for name in MANIFEST.names if name not in given]]


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
    totals: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for part in parts:
        for total, counts in zip(totals, (part.by_decision, part.by_split), strict=True):
            for name, n in counts.items():
                total[name] = total.get(name, 0) + n
    return dict(sorted(totals[0].items())), dict(sorted(totals[1].items()))


def _counts(tile_key: str, written: pd.DataFrame) -> PartCounts:
    """Counts of the rows that were written, so that a lost one shows."""
    fate = written["decision"].where(
        written["reason"].isna(), written["decision"] + "/" + written["reason"]
    )
    kept = written["split"][written["decision"] == "keep"]
    return PartCounts(tile_key, _count(fate), _count(kept))


def _count(values: pd.Series) -> dict[str, int]:
    return {str(name): int(n) for name, n in values.value_counts().sort_index().items()}
