"""Planted copies of films, through the real stages that cut and decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from storage.records import Mammogram
from storage.tile_shards import read_index, read_pixels
from storage.workspace import ShardRef, Workspace
from tasks import films as films_stage
from tasks.decisions import DecisionSettings, manifest_rows
from tasks.duplicates import (
    NEIGHBOURS,
    DuplicateSettings,
    _near,
    count_duplicates,
    find_duplicates,
)
from tasks.tiles import TileSettings, cut_shard

CUTTING = TileSettings(
    tile_size_px=64,
    tile_size_mm=None,
    stride_px=None,
    edge="shift",
    black_samples_per_film=0,
    max_film_megapixels=10.0,
)
SETTINGS = DuplicateSettings(misinformative_threshold=0.5)
ROWS, COLUMNS = 296, 200
"""No multiple of the tile size: the last tiles of each row and column overlap their neighbours."""


def film(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(np.float32)
    inside = (x / (0.8 * COLUMNS)) ** 2 + ((y - ROWS / 2) / (0.45 * ROWS)) ** 2
    texture = cv2.GaussianBlur(rng.standard_normal((ROWS, COLUMNS)).astype(np.float32), (0, 0), 4)
    picture = 2500 + np.sqrt(np.clip(1 - inside, 0, 1)) * (26_000 + 90_000 * texture)
    picture += 60 * rng.standard_normal((ROWS, COLUMNS))
    return np.clip(picture, 0, 65535).astype(np.uint16)


def grain(picture: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(99).normal(0, 150, picture.shape)
    return np.clip(picture + noise, 0, 65535).astype(np.uint16)


def plain() -> np.ndarray:
    """A breast without any texture, with the grain that it was scanned with."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(np.float32)
    inside = (x / (0.8 * COLUMNS)) ** 2 + ((y - ROWS / 2) / (0.45 * ROWS)) ** 2
    return np.where(inside < 1, 30_000, 2500).astype(np.uint16)


def write_films(folder: Path) -> Path:
    folder.mkdir()
    one, other = film(1), film(2)
    for name, picture in {
        "one": one,
        "one in 8 bits": (one >> 8).astype(np.uint8),
        "one with grain": grain(one),
        "other": other,
        "other mirrored": other[:, ::-1],
        "plain": grain(plain()),
        "plain again": plain(),
    }.items():
        cv2.imwrite(str(folder / f"{name}.png"), picture)
    return folder


class Searched:
    """Films cut, embedded by figures that a mirrored tile shares, and searched."""

    def __init__(self, folder: Path, out: Path, *, films_per_shard: int, stride: int) -> None:
        self.workspace = Workspace.create(out)
        root, batches = films_stage.find(str(folder))
        described = [
            film
            for batch in batches
            for film in films_stage.describe_batch(batch, max_film_megapixels=10.0, known={})
        ]
        self.films, _ = films_stage.join(described, root, films_csv=None, lesions_csv=None)
        shards = films_stage.form_shards(self.films, root, films_per_shard=films_per_shard)
        cutting = replace(CUTTING, stride_px=stride)
        keys = [cut_shard(self.workspace.uri, str(root), s, cutting).key for s in shards]
        self.parts = [(key, self._embed(key)) for key in keys]

    def _embed(self, key: str) -> str:
        index = read_index(self.workspace, key).to_pandas()
        index = index[~index["is_black"]]
        rows = index["pixels_index"].to_numpy(np.int64)
        blocks = [np.empty((0, 6), np.float32)]
        for tiles in read_pixels(self.workspace, key, rows):
            profile = tiles.reshape(len(tiles), 4, 16, 64).mean(axis=(2, 3)) / 65535
            level = tiles.mean(axis=(1, 2)) / 65535, tiles.std(axis=(1, 2)) / 65535
            blocks.append(np.column_stack([profile, *level]).astype(np.float32))
        with self.workspace.write_shard("embeddings", f"e{key}") as shard:
            array = shard.array("embeddings.zarr", (6,), "float32", {})
            array.append(np.concatenate(blocks))
            array.close()
            ids = pa.array(index["tile_id"].to_numpy(object), pa.string())
            shard.write_table("embeddings.parquet", pa.table({"tile_id": ids}))
        return f"e{key}"

    def search(
        self, parts: list[tuple[str, str]] | None = None, labelled: Sequence[str] = ()
    ) -> ShardRef:
        return find_duplicates(self.workspace.uri, parts or self.parts, SETTINGS, labelled)

    def pairs(self, ref: ShardRef) -> pd.DataFrame:
        shard = self.workspace.shard("duplicates", ref.key)
        tables = [shard.table(f"{key}.parquet") for key, _ in self.parts]
        return pa.concat_tables(tables).to_pandas().sort_values("tile_id", ignore_index=True)

    def index(self) -> pd.DataFrame:
        found = pd.concat(read_index(self.workspace, key).to_pandas() for key, _ in self.parts)
        name = {f.mammogram_id: Path(f.source).stem for f in self.films}
        return found.assign(film=found["mammogram_id"].map(name)).set_index("tile_id")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_films(tmp_path_factory.mktemp("planted") / "films")


@pytest.fixture(scope="module")
def searched(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return Searched(folder, tmp_path_factory.mktemp("out") / "w", films_per_shard=2, stride=64)


def test_copies_in_other_bits_or_with_grain_are_found_and_nothing_else(searched: Searched) -> None:
    pairs, index = searched.pairs(searched.search()), searched.index()
    copies, outline = {"one", "one in 8 bits", "one with grain"}, {"plain", "plain again"}
    for _, pair in pairs.iterrows():
        a, b = index.loc[pair["tile_id"]], index.loc[pair["duplicate_of"]]
        assert {a["film"], b["film"]} <= copies or {a["film"], b["film"]} == outline
        assert a["film"] != b["film"]
        assert (a["x"], a["y"]) == (b["x"], b["y"])
    textured = index[index["film"].isin(copies) & (index["breast_fraction"] > 0.9)]
    groups = textured.groupby(["x", "y"]).size()
    assert len(groups) >= 5
    assert (groups == 3).all()
    found = textured[textured.index.isin(pairs["tile_id"])].groupby(["x", "y"]).size()
    assert found.reindex(groups.index).tolist() == [2] * len(groups)  # one of three stays


def test_the_lowest_tile_id_stays_of_tiles_that_weigh_the_same(searched: Searched) -> None:
    pairs, index = searched.pairs(searched.search()), searched.index()
    clear = pairs[(index.loc[pairs["tile_id"], "context_score"] < 0.5).to_numpy()]
    assert len(clear)
    assert (clear["duplicate_of"] < clear["tile_id"]).all()
    assert not set(pairs["duplicate_of"]) & set(pairs["tile_id"])


def test_tiles_of_a_film_with_a_label_stay(searched: Searched) -> None:
    index = searched.index()
    for name in ("one", "one in 8 bits", "one with grain"):
        labelled = [str(f.mammogram_id) for f in searched.films if Path(f.source).stem == name]
        pairs = searched.pairs(searched.search(labelled=labelled))
        a, b = (index.loc[pairs[column]] for column in ("tile_id", "duplicate_of"))
        own = (a["film"] == name).to_numpy()
        flagged = (b["context_score"] < 0.5).to_numpy() & (a["context_score"] >= 0.5).to_numpy()
        assert (b["film"] == name).any()
        assert flagged[own].all()


def test_flat_tiles_are_not_listed_though_they_are_equal(searched: Searched) -> None:
    pairs, index = searched.pairs(searched.search()), searched.index()
    inside = index[index["film"].str.startswith("plain") & (index["breast_fraction"] > 0.999)]
    flat = inside[inside["std"] < 0.006]
    assert len(flat) >= 4
    assert not set(flat.index) & set(pairs["tile_id"])


def test_overlapping_tiles_of_a_film_are_no_duplicates(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    cv2.imwrite(str(tmp_path / "films" / "one.png"), film(1))
    close = Searched(tmp_path / "films", tmp_path / "w", films_per_shard=9, stride=4)
    index = close.index()
    near = [index.loc[index["x"].eq(x) & index["y"].eq(100), "std"].item() for x in (40, 44)]
    assert min(near) > 0.01  # so it is not for lack of structure
    assert close.search().counts["duplicates"] == 0


def test_neither_order_nor_shards_change_what_is_found(
    searched: Searched, folder: Path, tmp_path: Path
) -> None:
    ref = searched.search()
    first = searched.workspace.shard("duplicates", ref.key).record()
    searched.workspace.fs.rm(searched.workspace.path("duplicates"), recursive=True)
    again = searched.search(searched.parts[::-1])
    assert not again.reused
    second = searched.workspace.shard("duplicates", again.key).record()
    assert second["files"] == first["files"]
    assert searched.search().reused
    together = Searched(folder, tmp_path / "w", films_per_shard=99, stride=64)
    assert len(together.parts) < len(searched.parts)
    found = together.pairs(together.search())
    pd.testing.assert_frame_equal(found, searched.pairs(ref), check_exact=True)


def test_counts_say_whose_the_other_tile_is(searched: Searched) -> None:
    ref = searched.search()
    names = {str(f.mammogram_id): Path(f.source).stem for f in searched.films}
    patients = {i: name.split(" ")[0] for i, name in names.items()}
    parts = {i: "test" if name == "one" else "train" for i, name in names.items()}
    counts = count_duplicates(
        searched.workspace.uri, ref.key, [key for key, _ in searched.parts], patients, parts
    )
    pairs, index = searched.pairs(ref), searched.index()
    a, b = (index.loc[pairs[name], "film"].to_numpy() for name in ("tile_id", "duplicate_of"))
    assert counts == {
        "compared": ref.counts["compared"],
        "duplicates": len(pairs),
        "groups": pairs["duplicate_of"].nunique(),
        "between_films": len(pairs),
        "between_patients": 0,
        "between_parts": int(((a == "one") != (b == "one")).sum()),
    }


def test_near_rows_are_those_of_a_slow_search_and_piles_of_equal_ones_are_whole() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 6)).astype(np.float32)
    rows[40:90] = rows[7]
    first, second = _near(rows)
    found = {(min(p), max(p)) for p in zip(first.tolist(), second.tolist(), strict=True)}
    assert {(7, i) for i in range(40, 90)} <= found
    distinct = [i for i in range(300) if not 40 <= i < 90]
    distance = np.linalg.norm(rows[:, None].astype(float) - rows[None], axis=2)
    slow = set()
    for i in distinct:
        near = sorted(distinct, key=lambda j: distance[i, j])[1 : NEIGHBOURS + 1]
        slow |= {(min(i, j), max(i, j)) for j in near if distance[i, j] <= 0.25 * np.sqrt(12)}
    assert found == slow | {(7, i) for i in range(40, 90)}


# -- decisions -------------------------------------------------------------------------------

ONE = Mammogram(mammogram_id="m1", patient_key="p", source="1.png", source_sha256="0")


def decided(mode: str, **changes: object) -> tuple[str, str | None, str | None]:
    tile = dict.fromkeys(("dark_fraction", "mean", "std", "p01", "p99", "entropy"), 0.5)
    tile |= {"tile_id": "m1-b", "mammogram_id": "m1", "x": 0, "y": 0, "width": 9, "height": 9}
    tile |= {"is_black": False, "context_score": 0.1, "breast_fraction": 0.9}
    tile |= {"lesion_fraction": 0.0, "pixels_index": 0} | changes
    labels = pd.DataFrame(
        {"tile_id": ["m1-b"], "cluster_label": 0, "membership": 1.0, "outlier_score": 0.0}
    )
    copies = pd.DataFrame({"tile_id": ["m1-b"], "duplicate_of": ["m1-a"], "likeness": [1.0]})
    settings = DecisionSettings(0.5, 0.05, mode)  # type: ignore[arg-type]
    row = manifest_rows(pd.DataFrame([tile]), labels, {"m1": ONE}, settings, copies=copies).iloc[0]
    return row["decision"], row["reason"], row["duplicate_of"]


def test_listed_duplicates_are_kept_and_name_the_other_tile() -> None:
    assert decided("list") == ("keep", None, "m1-a")


def test_dropped_duplicates_have_their_reason() -> None:
    assert decided("drop") == ("drop", "near_duplicate", "m1-a")


def test_a_duplicate_that_touches_a_lesion_is_not_dropped() -> None:
    assert decided("drop", lesion_fraction=0.1) == ("review", "lesion_guard", "m1-a")


def test_what_is_flagged_otherwise_keeps_its_reason() -> None:
    mixed = decided("drop", context_score=0.9)
    assert mixed == ("review", "mixed", "m1-a")
    assert decided("drop", context_score=0.9, breast_fraction=0.0)[1] == "misinformative"


def test_callers_without_a_search_get_null() -> None:
    tiles = pd.DataFrame({"tile_id": ["a", "b"]})
    from tasks.decisions import duplicate_of

    assert duplicate_of(tiles["tile_id"], None).tolist() == [None, None]
