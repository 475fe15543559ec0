"""The audit on planted sets, through the real stages that cut, decide and publish."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from storage.manifest import ManifestWriter
from storage.records import Mammogram
from storage.schemas import MANIFEST, SCHEMA_VERSION
from storage.tile_shards import read_index
from storage.workspace import Workspace
from tasks import films as films_stage
from tasks.decisions import DecisionSettings, manifest_rows
from tasks.kernels.splitting import split_of
from tasks.shortcuts import audit_shortcuts, choose_target, sampled
from tasks.tiles import TileSettings, cut_shard

PATIENTS = 30
CUTTING = TileSettings(
    tile_size_px=64,
    tile_size_mm=None,
    stride_px=None,
    edge="shift",
    black_samples_per_film=0,
    max_film_megapixels=10.0,
)
DECIDING = DecisionSettings(misinformative_threshold=0.5, tissue_for_review=0.2)

Decide = Callable[[pd.DataFrame], pd.DataFrame]


def film(rng: np.random.Generator, *, marked: bool) -> np.ndarray:
    """A breast of any size and density on dark grey; a plate in the far corner."""
    rows, columns = 512, 384
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    picture = rng.uniform(1500, 3500) + 120 * rng.standard_normal((rows, columns))
    wide, high, centre = rng.uniform(0.4, 0.6), rng.uniform(0.3, 0.4), rng.uniform(0.45, 0.55)
    inside = (x / (wide * columns)) ** 2 + ((y - centre * rows) / (high * rows)) ** 2
    texture = cv2.GaussianBlur(rng.standard_normal((rows, columns)).astype(np.float32), (0, 0), 4)
    picture += np.sqrt(np.clip(1 - inside, 0, 1)) * (rng.uniform(2e4, 3e4) + 6e4 * texture)
    if marked:
        plate = np.zeros((rows, columns), np.uint8)
        at = (columns - 128 + int(rng.integers(0, 8)), 48 + int(rng.integers(0, 8)))
        cv2.putText(plate, "RMLO", at, cv2.FONT_HERSHEY_SIMPLEX, 1.2, 255, 5)
        picture[plate > 0] = 52_000
    picture = np.clip(picture, 0, 65535).astype(np.uint16)
    return picture if rng.random() < 0.5 else picture[:, ::-1]


def planted_films(folder: Path) -> Path:
    """Two films a patient; those of every other patient are marked, and only they malignant."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    table = ["source,patient,label,scanner"]
    for i in range(2 * PATIENTS):
        marked = i // 2 % 2 == 1
        cv2.imwrite(str(folder / f"{i:03}.png"), film(rng, marked=marked))
        scanner = ("one", "two")[int(rng.integers(2))]
        label = "malignant" if marked else "benign"
        table.append(f"{i:03}.png,patient-{i // 2},{label},{scanner}")
    (folder / "films.csv").write_text("\n".join(table) + "\n")
    return folder


class Cut:
    """Films cut in shards; publishes manifests by the real rules, or by altered ones."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.workspace = Workspace.create(out)
        root, batches = films_stage.find(str(folder))
        described = [
            film
            for batch in batches
            for film in films_stage.describe_batch(batch, max_film_megapixels=10.0, known={})
        ]
        self.films, _ = films_stage.join(described, root, films_csv=None, lesions_csv=None)
        shards = films_stage.form_shards(self.films, root, films_per_shard=25)
        self.keys = [cut_shard(self.workspace.uri, str(root), s, CUTTING).key for s in shards]
        self.write_films(self.films)

    def write_films(self, films: Sequence[Mammogram]) -> None:
        films_stage.write(self.workspace, films)

    def publish(self, decide: Decide = lambda rows: rows) -> dict[str, Any]:
        """Publish a manifest; gives the audit of it."""
        by_id = {str(f.mammogram_id): f for f in self.films}
        writer = ManifestWriter(self.workspace, ".manifest.test.partial")
        for key in self.keys:
            tiles = read_index(self.workspace, key).to_pandas()
            labels = pd.DataFrame({"tile_id": tiles["tile_id"], "membership": 0.0})
            labels["cluster_label"], labels["outlier_score"] = 0, 0.0
            members = {i: by_id[i] for i in tiles["mammogram_id"].unique()}
            rows = decide(manifest_rows(tiles, labels, members, DECIDING))
            rows = rows.assign(pixels_uri=None, run_id="test", schema_version=SCHEMA_VERSION)
            split = rows["patient_key"].map(
                lambda p: split_of(p, seed=0, validation_fraction=0.2, test_fraction=0.2)
            )
            for name, part in rows.groupby(split):
                table = pa.Table.from_pandas(part, schema=MANIFEST, preserve_index=False)
                writer.write_part(key, str(name), table)
        writer.publish()
        return self.audit()

    def audit(self, seed: int = 0) -> dict[str, Any]:
        return audit_shortcuts(self.workspace.uri, self.keys, seed)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Cut:
    folder = tmp_path_factory.mktemp("planted")
    return Cut(planted_films(folder / "films"), folder / "w")


@pytest.fixture(scope="module")
def audited(planted: Cut) -> dict[str, Any]:
    return planted.publish()


def test_markers_give_the_label_away_before_curation_and_not_after(
    audited: dict[str, Any],
) -> None:
    assert audited["measured"]
    assert (audited["target"], audited["films"], audited["patients"]) == ("malignant", 60, 30)
    markers = audited["cues"]["markers"]
    assert markers["auc_before"] >= 0.9
    assert markers["interval_before"][0] >= 0.8
    assert markers["present_before"] >= 30
    low, high = markers["interval_after"]
    assert low <= 0.5 <= high
    assert 0.35 <= markers["auc_after"] <= 0.65


def test_the_background_beside_a_letter_does_not_give_it_away(audited: dict[str, Any]) -> None:
    for moment in ("before", "after"):
        low, high = audited["cues"]["background"][f"interval_{moment}"]
        assert low <= 0.5 <= high


def test_where_tiles_were_dropped_does_not_make_the_breast_predict(
    audited: dict[str, Any],
) -> None:
    low, high = audited["cues"]["breast"]["interval_after"]
    assert low <= 0.5 <= high


def test_a_scanner_drawn_at_random_says_nothing(audited: dict[str, Any]) -> None:
    scanner = audited["cues"]["scanner"]
    assert scanner["n_before"] == 60
    low, high = scanner["interval_before"]
    assert low <= 0.5 <= high


def test_a_marker_that_leaks_into_kept_tiles_is_seen(planted: Cut) -> None:
    found = planted.publish(lambda rows: rows.assign(decision="keep", reason=None))
    markers = found["cues"]["markers"]
    assert markers["auc_after"] == markers["auc_before"] >= 0.9


def test_a_tile_in_review_is_not_kept(planted: Cut) -> None:
    def reviewed(rows: pd.DataFrame) -> pd.DataFrame:
        lettering = rows["misinformative_score"] >= DECIDING.misinformative_threshold
        return rows.assign(decision=np.where(lettering, "review", "keep"), reason="mixed")

    markers = planted.publish(reviewed)["cues"]["markers"]
    low, high = markers["interval_after"]
    assert low <= 0.5 <= high


def test_films_without_a_kept_tile_count_before_curation_alone(planted: Cut) -> None:
    lost = {str(f.mammogram_id) for f in planted.films[:4]}

    def without(rows: pd.DataFrame) -> pd.DataFrame:
        decision = rows["decision"].where(~rows["mammogram_id"].isin(lost), "drop")
        return rows.assign(decision=decision)

    found = planted.publish(without)
    assert (found["films"], found["films_after"]) == (60, 56)
    for figures in found["cues"].values():
        assert (figures["n_before"], figures["n_after"]) == (60, 56)


def test_the_same_seed_gives_the_same_audit_whatever_the_order_of_the_shards(
    planted: Cut,
) -> None:
    first = planted.publish()
    planted.keys.reverse()
    assert json.dumps(planted.audit()) == json.dumps(first)
    other = planted.audit(seed=5)
    assert other["cues"]["breast"]["auc_before"] != first["cues"]["breast"]["auc_before"]


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (None, "no film used has a label."),
        ("benign", "all 60 labelled films are “benign”."),
    ],
)
def test_without_labels_to_tell_apart_nothing_is_measured(
    planted: Cut, label: str | None, reason: str
) -> None:
    planted.publish()
    table = pa.Table.to_pandas(planted.workspace.read_table(films_stage.TABLE))
    original = planted.workspace.read_bytes(films_stage.TABLE)
    try:
        altered = pa.Table.from_pandas(table.assign(label=label), preserve_index=False)
        planted.workspace.write_table(films_stage.TABLE, altered)
        found = planted.audit()
    finally:
        planted.workspace.write_bytes(films_stage.TABLE, original)
    assert found["measured"] is False
    assert found["reason"] == reason
    assert "cues" not in found


def labelled(**counts: int) -> pd.DataFrame:
    labels = [label for label, n in counts.items() for _ in range(n)]
    return pd.DataFrame({"label": labels, "patient_key": [f"p{i}" for i in range(len(labels))]})


@pytest.mark.parametrize(
    ("films", "target"),
    [
        (labelled(normal=30, malignant=30, benign=30), "normal"),
        (labelled(malignant=30, benign=30), "malignant"),
        (labelled(normal=3, malignant=30, benign=30), "malignant"),
        (labelled(benign=12, benign_without_callback=20), "benign_without_callback"),
        (labelled(normal=3, malignant=40), None),
        (labelled(normal=8, malignant=8), None),
    ],
)
def test_normal_is_told_from_the_others_or_else_malignant(
    films: pd.DataFrame, target: str | None
) -> None:
    found, reason = choose_target(films)
    assert found == target
    assert (reason == "") == (target is not None)


def test_of_many_films_a_sample_is_taken_that_no_order_changes() -> None:
    films = pd.DataFrame({"n": range(100)}, index=[f"m{i:03}" for i in range(100)])
    some = sampled(films, 1, most=30)
    assert len(some) == 30
    assert some.equals(sampled(films.iloc[::-1], 1, most=30))
    assert not some.index.equals(sampled(films, 2, most=30).index)
    assert sampled(films, 1).equals(films)
