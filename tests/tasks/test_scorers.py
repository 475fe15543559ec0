"""The tile scorer of a run: learned from planted annotations, and what it then says of tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from models.tile_scorer import FOLDS
from storage import collections, scorer_shards
from storage.errors import MammosiftError
from storage.records import FilmShard, Mammogram
from storage.tile_shards import read_index, read_planted
from storage.workspace import ShardRef, Workspace
from tasks import decisions, films, scorers
from tasks.decisions import (
    DecisionSettings,
    Judge,
    by_film_alone,
    calibrated,
    manifest_rows,
    planted_counts,
)
from tasks.kernels.tile_figures import NAMES
from tasks.scorers import ScorerSettings, fold_films, train_scorer
from tasks.tiles import TileSettings, cut_shard

CUTTING = TileSettings(
    tile_size_px=64,
    tile_size_mm=None,
    stride_px=None,
    edge="shift",
    black_samples_per_film=1,
    max_film_megapixels=10.0,
)
SMALL = {
    "CHAINS": 2,
    "SORTING": (0.8,),
}
DECIDING = DecisionSettings(misinformative_threshold=0.5, tissue_for_review=0.05)


@dataclass(frozen=True)
class Cut:
    """The made-up films, cut."""

    workspace: Workspace
    films: list[Mammogram]
    keys: list[str]

    def learn(self, **changes: object) -> ShardRef:
        settings = {"context": "film", "exemplars": None, "seed": 0, "planted_tiles": 240} | changes
        return train_scorer(
            self.workspace.uri,
            self.keys,
            fold_films(self.films),
            {str(f.mammogram_id): f.source for f in self.films},
            len({f.patient_key for f in self.films}),
            ScorerSettings(**settings),  # type: ignore[arg-type]
        )

    def tiles(self) -> pd.DataFrame:
        return pd.concat(
            [read_index(self.workspace, k).to_pandas().assign(key=k) for k in self.keys]
        )

    def scored(self, scorer: str) -> pd.DataFrame:
        judge = Judge.read(self.workspace, scorer)
        return pd.concat(
            [judge.scored(read_index(self.workspace, k).to_pandas(), k) for k in self.keys],
            ignore_index=True,
        )

    def by_id(self) -> dict[str, Mammogram]:
        return {str(f.mammogram_id): f for f in self.films}


def cut(folder: Path, out: Path, **changes: object) -> Cut:
    root, batches = films.find(str(folder))
    found = [
        film
        for batch in batches
        for film in films.describe_batch(batch, max_film_megapixels=10.0, known={})
    ]
    found, _ = collections.join(found, root, films_csv=None, lesions_csv=None)
    workspace = Workspace.create(out)
    shards: list[FilmShard] = films.form_shards(found, root, films_per_shard=6)
    settings = replace(CUTTING, **changes)  # type: ignore[arg-type]
    refs = [cut_shard(workspace.uri, str(root), s, settings) for s in shards]
    return Cut(workspace, found, [r.key for r in refs])


@pytest.fixture(scope="module", autouse=True)
def few_tiles() -> Iterator[None]:
    """Learning from fewer tiles takes a second and not ten."""
    with pytest.MonkeyPatch.context() as patch:
        for name, n in SMALL.items():
            patch.setattr(scorers, name, n)
        yield


@pytest.fixture(scope="module")
def made_up(film_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Cut:
    return cut(film_folder, tmp_path_factory.mktemp("scorer") / "w")


@pytest.fixture(scope="module")
def learned(made_up: Cut) -> ShardRef:
    return made_up.learn()


def lettering(tiles: pd.DataFrame, known: dict[str, Mammogram]) -> pd.Series:
    """Tiles over the letters of the made-up films."""
    left = tiles["mammogram_id"].map({i: "L film" in f.source for i, f in known.items()})
    x = np.where(left, 384 - tiles["x"] - tiles["width"], tiles["x"])
    return pd.Series((x >= 256) & (tiles["y"] < 64), tiles.index) & ~tiles["is_black"]


def test_letters_have_high_log_odds_and_tissue_low_ones(made_up: Cut, learned: ShardRef) -> None:
    tiles = made_up.scored(learned.key)
    marked = lettering(tiles, made_up.by_id())
    tissue = (tiles["breast_fraction"] > 0.1) & (tiles["foreign_fraction"] == 0)
    looked_at = tiles["annotation_score"].notna()
    assert (marked & looked_at).sum() >= 12
    assert (tissue & looked_at).sum() >= 12
    assert tiles["annotation_score"][marked & looked_at].median() > 0.9
    assert tiles["annotation_score"][tissue & looked_at].median() < 0.1


def test_only_tiles_with_pixels_are_looked_at_and_all_have_a_score(
    made_up: Cut, learned: ShardRef
) -> None:
    tiles = made_up.scored(learned.key)
    assert tiles["score"].between(0, 1).all()
    assert tiles["annotation_score"][tiles["pixels_index"].isna()].isna().all()
    np.testing.assert_array_equal(tiles["tissue_share"], tiles["breast_fraction"])
    not_looked_at = tiles["annotation_score"].isna() & tiles["pixels_index"].notna()
    assert not_looked_at.any()
    assert (tiles["breast_fraction"][not_looked_at] > 0.4).all()
    alone = by_film_alone(tiles[not_looked_at])["score"]
    np.testing.assert_allclose(tiles["score"][not_looked_at], alone, atol=0.01)


def test_without_films_letters_and_tissue_are_told_apart_too(
    film_folder: Path, tmp_path: Path
) -> None:
    alone = cut(film_folder, tmp_path / "w", context="tile")
    ref = alone.learn(context="tile")
    stored = scorer_shards.read(alone.workspace, ref.key)
    assert stored.facts["weight"] == 1
    tiles = alone.scored(ref.key)
    looked_at = tiles["pixels_index"].notna()
    np.testing.assert_array_equal(tiles["score"][looked_at], tiles["annotation_score"][looked_at])
    left = tiles["mammogram_id"].map({i: "L film" in f.source for i, f in alone.by_id().items()})
    x = np.where(left, 384 - tiles["x"] - tiles["width"], tiles["x"])
    tissue = looked_at & (x < 128) & tiles["y"].between(192, 256)
    marked = lettering(tiles, alone.by_id())
    assert tiles["score"][marked & looked_at].median() > 0.5
    assert tiles["score"][tissue].median() < 0.1
    assert tiles["tissue_share"][tissue].median() > 0.9


def test_the_shard_says_what_it_was_learned_from(made_up: Cut, learned: ShardRef) -> None:
    stored = scorer_shards.read(made_up.workspace, learned.key)
    assert stored.figures == NAMES
    assert len(stored.trees) == FOLDS
    assert stored.facts["patients"] == 6
    assert 0 < stored.facts["weight"] < 0.5
    assert stored.facts["fold_of_film"] == dict(sorted(fold_films(made_up.films).items()))
    assert learned.counts["learned_from"] == learned.rows > 600
    assert 0 < learned.counts["planted_on_ground"] <= 300
    assert 0.8 < learned.counts["held_out_found"] / learned.counts["held_out"] <= 1
    sheet = made_up.workspace.shard("scorers", learned.key).read_bytes("planted.png")
    assert cv2.imdecode(np.frombuffer(sheet, np.uint8), 0).std() > 0


def test_learning_again_makes_nothing_and_elsewhere_the_same_bytes(
    film_folder: Path, made_up: Cut, learned: ShardRef, tmp_path: Path
) -> None:
    again = made_up.learn()
    assert again.reused
    assert again.key == learned.key
    elsewhere = cut(film_folder, tmp_path / "w")
    other = elsewhere.learn()
    assert other.key == learned.key
    assert not other.reused
    for name in (scorer_shards.TREES, scorer_shards.FACTS, "planted.png"):
        one, two = (
            c.workspace.shard("scorers", learned.key).read_bytes(name) for c in (made_up, elsewhere)
        )
        assert one == two


def test_seed_and_table_of_exemplars_change_the_key(made_up: Cut, tmp_path: Path) -> None:
    def key(exemplars: str | None = None, *, seed: int = 0, renamed: bool = False) -> str:
        known = scorers.read_exemplars(exemplars) if exemplars else []
        sources = {str(f.mammogram_id): f.source for f in made_up.films}
        if renamed:
            sources = {i: f"moved/{s}" for i, s in sources.items()}
        settings = ScorerSettings("film", exemplars, seed, 100)
        folds = fold_films(made_up.films)
        return scorers.scorer_key(made_up.keys, folds, sources, 6, settings, known)

    def table(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    box = "source,x,y,width,height\n"
    tables = [
        table("a.csv", box + "case0/R film.png,0,0,64,64\n"),
        table("b.csv", box + "case0/R film.png,0,64,64,64\n"),
        table("c.csv", "tile_id,kind\nt,\n"),
        table("d.csv", "tile_id,kind\nt,informative\n"),
    ]
    keys = [key(), key(seed=1), *map(key, tables)]
    assert len(set(keys)) == len(keys)
    same = table("e.csv", "tile_id,remark\nt,another file that says the same\n")
    assert key(same) == keys[4]
    assert key(tables[0], renamed=True) != keys[2], "another film may be meant by the box now"
    assert key(renamed=True) == keys[0], "without boxes the names of the films say nothing"


def test_exemplars_name_what_is_dropped_as_misinformative_and_nothing_else(
    made_up: Cut, tmp_path: Path
) -> None:
    tiles = made_up.tiles()
    marked = tiles[lettering(tiles, made_up.by_id())].iloc[0]
    cv2.imwrite(str(tmp_path / "stripe.png"), np.kron(np.eye(2, dtype=np.uint8) * 255, EIGHT))
    path = tmp_path / "known.csv"
    path.write_text(
        "tile_id,source,x,y,width,height,image,kind\n"
        f"{marked['tile_id']},,,,,,,\n"
        ",case2/R film.png,260,10,60,50,,\n"
        ",case0/R film.png,0,200,64,64,,informative\n"
        ",nowhere.png,0,0,9,9,,\n"
        ",,,,,,stripe.png,misinformative\n"
    )
    ref = made_up.learn(exemplars=str(path))
    stored = scorer_shards.read(made_up.workspace, ref.key)
    assert stored.facts["exemplars_not_found"] == ["nowhere.png, x 0, y 0, 9 x 9 px"]
    assert len(stored.facts["exemplars_given"]) == 5
    assert len(stored.exemplar_names) == 3, "positive ones that were found"
    assert stored.exemplar_names[0] == marked["tile_id"]
    assert stored.exemplar_names[2] == "stripe.png"

    rows = manifest(made_up.scored(ref.key), made_up.by_id())
    flagged = (rows["decision"] == "drop") & (rows["reason"] == "misinformative")
    assert flagged.sum() > 12
    assert rows["nearest_exemplar"][flagged].isin(stored.exemplar_names).all()
    assert rows["nearest_exemplar"][~flagged].isna().all()
    itself = rows[rows["tile_id"] == marked["tile_id"]].iloc[0]
    assert itself["nearest_exemplar"] == marked["tile_id"]


EIGHT = np.ones((8, 8), np.uint8)


def manifest(
    scored: pd.DataFrame, known: dict[str, Mammogram], settings: DecisionSettings = DECIDING
) -> pd.DataFrame:
    labels = pd.DataFrame(
        {
            "tile_id": scored["tile_id"],
            "cluster_label": 0,
            "membership": 1.0,
            "outlier_score": np.float32(0),
        }
    )
    return manifest_rows(scored, labels, known, settings)


def test_a_lesion_on_a_film_labelled_normal_goes_to_a_person(
    made_up: Cut, learned: ShardRef
) -> None:
    scored = made_up.scored(learned.key)
    touching = scored["lesion_fraction"] > 0
    assert touching.any()
    known = made_up.by_id()
    before = manifest(scored, known)
    (film,) = set(scored["mammogram_id"][touching])
    rows = manifest(scored, known | {film: replace(known[film], label="normal")})
    names = set(scored["tile_id"][touching])
    here = rows["tile_id"].isin(names)
    assert (rows["decision"][here] == "review").all()
    assert (rows["reason"][here] == "lesion_guard").all()
    assert (before["decision"][here] == "keep").any(), "called malignant, it is no contradiction"
    assert rows["decision"][~here].equals(before["decision"][~here])
    assert rows["guarded"].sum() == len(names)
    assert (rows["without_guard"] == before["without_guard"]).all()


def test_planted_annotations_of_the_made_up_films_are_found_and_tissue_is_kept(
    made_up: Cut, learned: ShardRef
) -> None:
    found = planted_of(made_up, learned)
    counts = planted_counts(found, made_up.by_id(), DECIDING)
    hits, n = counts["all"]["all"]
    assert n >= 10
    assert hits / n > 0.8
    lost, tissue = counts["tissue"]["unknown"]
    assert tissue >= 20
    assert lost / tissue < 0.1
    for name in ("kind", "scanner", "view"):
        assert [sum(c) for c in zip(*counts[name].values(), strict=True)] == [hits, n]


def planted_of(made_up: Cut, scorer: ShardRef) -> pd.DataFrame:
    judge = Judge.read(made_up.workspace, scorer.key)
    return pd.concat(
        [
            judge.scored(read_planted(made_up.workspace, k).to_pandas(), k, planted=True)
            for k in made_up.keys
        ]
    )


@pytest.mark.parametrize("recall", [0.5, 0.9, 1.0])
def test_a_wanted_recall_is_reached_on_the_planted_tiles(
    made_up: Cut, learned: ShardRef, recall: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "FEWEST", 10)
    scanners = dict.fromkeys(made_up.by_id(), "unknown")
    settings = calibrated(
        made_up.workspace.uri,
        made_up.keys,
        scanners,
        DECIDING,
        scorer=learned.key,
        recall=recall,
        precision=None,
    )
    assert settings.tissue_for_review == DECIDING.tissue_for_review
    assert dict(settings.thresholds) == {"unknown": settings.misinformative_threshold}
    counts = planted_counts(planted_of(made_up, learned), made_up.by_id(), settings)
    hits, n = counts["all"]["all"]
    assert hits / n >= recall
    if recall == 0.5:
        assert settings.misinformative_threshold > 0.5


def test_a_wanted_precision_asks_for_no_less_than_a_lower_one(
    made_up: Cut, learned: ShardRef
) -> None:
    thresholds = [
        calibrated(
            made_up.workspace.uri,
            made_up.keys,
            {},
            DECIDING,
            scorer=learned.key,
            recall=None,
            precision=precision,
        )
        for precision in (0.5, 0.9, 0.99)
    ]
    values = [t.misinformative_threshold for t in thresholds]
    assert values == sorted(values)
    assert all(t.thresholds == () for t in thresholds), "of no known scanner"


def test_planted_tiles_are_counted_by_kind_scanner_and_view() -> None:
    tiles = pd.DataFrame(
        {
            "mammogram_id": ["a", "a", "b", "b", "b", "a"],
            "kind": ["plate", "line", "plate", "line", None, None],
            "planted_fraction": [0.3, 0.02, 0.5, 0.2, 0.0, 0.0],
            "breast_fraction_before": [0.0, 0.04, 0.0, 0.3, 0.9, 0.9],
            "is_black": [False, True, False, False, False, False],
            "score": np.float32([0.9, 0.0, 0.2, 0.9, 0.1, 0.7]),
            "tissue_share": np.float32([0.0, 0.0, 0.0, 0.3, 0.9, 0.9]),
        }
    )
    known = {
        "a": Mammogram("a", None, "a.png", scanner="dba", view="CC"),
        "b": Mammogram("b", None, "b.png"),
    }
    # found: the plate of a, and its line as black; not the plate of b. The line of b lies on tissue
    assert planted_counts(tiles, known, DECIDING) == {
        "all": {"all": [2, 3]},
        "kind": {"line": [1, 1], "plate": [1, 2]},
        "scanner": {"dba": [2, 2], "unknown": [0, 1]},
        "view": {"CC": [2, 2], "unknown": [0, 1]},
        "tissue": {"dba": [1, 1], "unknown": [0, 1]},
    }
    lower = replace(DECIDING, thresholds=(("unknown", 0.2),))
    assert planted_counts(tiles, known, lower)["all"] == {"all": [3, 3]}
    assert planted_counts(tiles[:0], known, DECIDING)["all"] == {}


def test_films_of_a_patient_share_a_fold_whatever_their_order() -> None:
    many = [Mammogram(f"m{i}", f"p{i // 2}", f"{i}.png") for i in range(20)]
    folds = fold_films(many)
    assert folds == fold_films(many[::-1])
    assert set(folds.values()) == set(range(FOLDS))
    assert all(folds[f"m{i}"] == folds[f"m{i + 1}"] for i in range(0, 20, 2))
    two_patients = fold_films(many[:4])
    assert set(two_patients.values()) == set(range(FOLDS)), "films are dealt out"
    assert set(fold_films(many[:2]).values()) == {-1}
    left_out = replace(many[0], excluded_reason="corrupt")
    assert "m0" not in fold_films([left_out, *many[1:]])


def test_without_a_tile_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.full((128, 128), 900, np.uint16))
    black = cut(folder, tmp_path / "w", black_samples_per_film=0)
    with pytest.raises(MammosiftError, match="no tile is left to learn from"):
        black.learn()


def test_ground_of_one_patient_alone_is_made_up_for(
    made_up: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough real tiles in all, but none outside the fold of their patient."""
    monkeypatch.setattr(scorers, "FEW_TISSUE", 1)
    monkeypatch.setattr(scorers, "FEW_GROUND", 1)
    one = str(made_up.films[0].patient_key)
    ids = {str(f.mammogram_id) for f in made_up.films if f.patient_key == one}
    kinds = scorers._Learning._kinds

    def of_one(self: scorers._Learning, index: pd.DataFrame) -> np.ndarray:
        found = kinds(self, index)
        found[(found == "ground") & ~index["mammogram_id"].isin(ids).to_numpy()] = "other"
        return found

    monkeypatch.setattr(scorers._Learning, "_kinds", of_one)
    ref = made_up.learn(seed=9)
    assert ref.counts["ground"] > 0
    assert ref.counts["made_up"] > 0
