from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from storage.manifest import read_manifest
from storage.schemas import MANIFEST, SCHEMA_VERSION
from storage.workspace import Workspace
from tasks.settings import CurationSettings
from tasks.tile_dataset import TileDataset

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def curated(
    prefect_server: str,
    film_folder: Path,
    small: dict[str, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Workspace, dict[str, Any]]:
    """A workspace that a run over the made-up films has filled, and the run's record."""
    from flows.curate import curate

    out = tmp_path_factory.mktemp("curated") / "w"
    settings = CurationSettings(source=str(film_folder), out=str(out), **small)
    return Workspace.open(out) if out.exists() else Workspace(out), curate(settings)


@pytest.fixture(scope="module")
def manifest(curated: tuple[Workspace, dict[str, Any]]) -> pd.DataFrame:
    return read_manifest(curated[0]).to_pandas()


def test_the_manifest_has_the_columns_of_the_contract(
    curated: tuple[Workspace, dict[str, Any]],
) -> None:
    parts = sorted(Path(curated[0].path("manifest")).rglob("*.parquet"))
    assert parts
    for part in parts:
        schema = pq.read_schema(part)
        assert schema.equals(MANIFEST)
        assert schema.metadata[b"schema_version"] == SCHEMA_VERSION.encode()
        assert part.parent.name in ("split=train", "split=validation", "split=test")


def test_every_tile_cut_is_in_the_manifest_once(
    curated: tuple[Workspace, dict[str, Any]], manifest: pd.DataFrame
) -> None:
    tiles_of_a_film = 8 * 6
    assert len(manifest) == 12 * tiles_of_a_film == curated[1]["tiles"]["cut"]
    assert manifest.tile_id.is_unique
    assert manifest.decision.isin(["keep", "drop", "review"]).all()
    assert manifest.reason[manifest.decision != "keep"].notna().all()


def test_the_counts_of_the_record_are_those_of_the_manifest(
    curated: tuple[Workspace, dict[str, Any]], manifest: pd.DataFrame
) -> None:
    record = curated[1]
    assert record["tiles"]["by_decision"] == manifest.decision.value_counts().sort_index().to_dict()
    kept = manifest[manifest.decision == "keep"]
    assert record["tiles"]["kept_by_split"] == kept.split.value_counts().sort_index().to_dict()
    assert record["films"] == {"found": 12, "used": 12, "excluded": {}}
    written = json.loads(curated[0].read_bytes(f"runs/{record['run_id']}.json"))
    assert written["tiles"] == record["tiles"]


def test_the_record_says_why_shortcuts_of_few_films_were_not_measured(
    curated: tuple[Workspace, dict[str, Any]],
) -> None:
    assert curated[1]["shortcuts"] == {
        "measured": False,
        "reason": "“normal” against the others: 12 films, fewer than 20.",
        "films": 12,
        "patients": 6,
        "labelled": 12,
    }
    assert curated[1]["stages"]["shortcuts"]["seconds"] > 0


def test_a_patient_is_in_one_part_only(manifest: pd.DataFrame) -> None:
    parts = manifest[["patient_key", "split"]].drop_duplicates()
    assert parts.patient_key.is_unique
    assert manifest.patient_key.nunique() == 6
    assert not manifest.patient_key.str.contains("patient-").any()


def test_the_pixels_that_the_manifest_names_are_the_films(
    curated: tuple[Workspace, dict[str, Any]], manifest: pd.DataFrame, film_folder: Path
) -> None:
    import cv2
    import numpy as np
    import zarr

    kept = manifest[manifest.decision == "keep"].groupby("source").head(1)
    assert len(kept)
    for tile in kept.itertuples():
        array = zarr.open_array(Path(curated[0].root) / tile.pixels_uri, mode="r")
        stored = array[int(tile.pixels_index)].astype(float)
        film = cv2.imread(str(film_folder / tile.source), cv2.IMREAD_UNCHANGED)
        box = film[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width].astype(float)
        assert np.corrcoef(stored.ravel(), box.ravel())[0, 1] > 0.9999


def test_lettering_is_dropped_and_tissue_kept(manifest: pd.DataFrame) -> None:
    on_right = ~manifest.source.str.contains("L film")
    lettering = manifest[on_right & (manifest.x >= 256) & (manifest.x < 384) & (manifest.y < 64)]
    assert (lettering.decision != "keep").all()
    tissue = manifest[on_right & (manifest.x < 128) & manifest.y.between(192, 256)]
    assert (tissue.decision == "keep").all()


def test_no_tile_that_touches_the_lesion_is_dropped(manifest: pd.DataFrame) -> None:
    touching = manifest[manifest.lesion_fraction > 0]
    assert set(touching.source) == {"case1/R film.png"}
    assert (touching.decision != "drop").all()


def test_the_record_says_what_became_of_planted_annotations_and_of_lesions(
    curated: tuple[Workspace, dict[str, Any]], manifest: pd.DataFrame
) -> None:
    record = curated[1]
    assert record["thresholds"] == {"all": 0.5, "by_scanner": {}}
    found, n = record["planted"]["all"]["all"]
    assert 0 < found <= n
    assert sum(count for _, count in record["planted"]["kind"].values()) == n
    touching = manifest[manifest.lesion_fraction > 0]
    assert sum(record["lesions"].values()) == len(touching)
    guarded = touching.reason == "lesion_guard"
    assert record["lesions"].get("keep", 0) == (~guarded).sum()


def test_a_second_run_makes_nothing_and_publishes_the_same(
    curated: tuple[Workspace, dict[str, Any]], film_folder: Path, small: dict[str, int]
) -> None:
    from flows.curate import curate

    workspace, first = curated
    before = read_manifest(workspace).drop_columns(["run_id"])
    again = curate(CurationSettings(source=str(film_folder), out=workspace.uri, **small))
    assert read_manifest(workspace).drop_columns(["run_id"]).equals(before)
    for stage in ("tiles", "scorer", "encoder", "embeddings", "clusters"):
        assert again["stages"][stage]["made"] == 0
        assert again["stages"][stage]["reused"] == first["stages"][stage]["made"]


def test_copies_of_a_label_are_written_beside_the_same_manifest(
    curated: tuple[Workspace, dict[str, Any]],
    film_folder: Path,
    small: dict[str, int],
    tmp_path: Path,
) -> None:
    from flows.curate import curate

    shutil.copytree(curated[0].root, tmp_path / "w")
    settings = CurationSettings(
        source=str(film_folder),
        out=str(tmp_path / "w"),
        augment_copies=2,
        augment_labels="normal",
        **small,  # type: ignore[arg-type]
    )
    record = curate(settings)
    manifest = read_manifest(tmp_path / "w").to_pandas()
    kept = manifest[(manifest.split == "train") & (manifest.decision == "keep")]
    n = int((kept.label == "normal").sum())
    assert record["augmented"] == {"tiles": n, "copies": 2 * n}
    assert n
    assert "augmented" in record["stages"]
    assert len(TileDataset(tmp_path / "w", split="train", augmented=True)) == len(kept) + 2 * n
    without = curate(settings.model_copy(update={"augment_copies": 0}))
    assert "augmented" not in without
    assert not (tmp_path / "w/augmented/copies.parquet").exists()


def test_other_order_and_other_folder_give_the_same_tiles(
    prefect_server: str,
    curated: tuple[Workspace, dict[str, Any]],
    manifest: pd.DataFrame,
    film_folder: Path,
    small: dict[str, int],
    tmp_path: Path,
) -> None:
    from flows.curate import curate

    films = sorted(film_folder.rglob("*.png"), reverse=True)
    table = (film_folder / "films.csv").read_text()
    for i, film in enumerate(films):
        shutil.copy(film, tmp_path / f"{i:02d}.png")
        table = table.replace(film.relative_to(film_folder).as_posix(), f"{i:02d}.png")
    (tmp_path / "films.csv").write_text(table)  # who shares a patient is what the scorer goes by
    settings = CurationSettings(source=str(tmp_path / "*.png"), out=str(tmp_path / "w"), **small)
    curate(settings)
    moved = read_manifest(Workspace.open(tmp_path / "w")).to_pandas()
    assert set(moved.tile_id) == set(manifest.tile_id)
    columns = ["x", "y", "mean", "entropy", "misinformative_score"]
    pd.testing.assert_frame_equal(
        moved.set_index("tile_id")[columns].sort_index(),
        manifest.set_index("tile_id")[columns].sort_index(),
    )


def test_a_lost_chunk_is_made_again_and_not_read_as_zeros(
    curated: tuple[Workspace, dict[str, Any]], film_folder: Path, small: dict[str, int]
) -> None:
    from flows.curate import curate

    workspace = curated[0]
    chunk = next(Path(workspace.path("tiles")).glob("*/pixels.zarr/c/0/0/0"))
    whole = chunk.read_bytes()
    chunk.unlink()
    again = curate(CurationSettings(source=str(film_folder), out=workspace.uri, **small))
    assert again["stages"]["tiles"]["made"] == 1
    assert chunk.read_bytes() == whole


def test_the_readme_shows_how_to_read_the_manifest(
    curated: tuple[Workspace, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (snippet,) = [each for each in found if "import mammosift" not in each]
    (tmp_path / "curated").symlink_to(curated[0].root)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(snippet, names)  # noqa: S102 (our own text)
    assert names["pixels"].shape == (64, 64)
    assert names["pixels"].max() > 0


def test_what_is_known_of_lesions_tells_none_from_unknown(manifest: pd.DataFrame) -> None:
    for source, tiles in manifest.groupby("source"):
        if source == "case1/R film.png":
            assert tiles.lesion_fraction.notna().all()
        elif (tiles.label == "normal").all():
            assert (tiles.lesion_fraction == 0).all()
        else:
            assert tiles.lesion_fraction.isna().all()
    touching = manifest[manifest.lesion_fraction > 0]
    assert touching.pixels_index.notna().all(), "a person must be able to look at these"


def test_the_example_trains_from_the_manifest_alone(
    curated: tuple[Workspace, dict[str, Any]],
) -> None:
    example = ROOT / "examples" / "train_from_manifest.py"
    done = subprocess.run(
        [sys.executable, example, curated[0].root, "--epochs", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "epoch 2: loss" in done.stdout
    assert not {"flows", "tasks", "models", "storage"} & set(example.read_text().split())


def test_a_standing_dask_cluster_gives_the_same_manifest(
    curated: tuple[Workspace, dict[str, Any]],
    film_folder: Path,
    small: dict[str, int],
    tmp_path: Path,
) -> None:
    from distributed import LocalCluster

    from flows.curate import curate

    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as standing:
        settings = CurationSettings(
            source=str(film_folder),
            out=str(tmp_path / "w"),
            dask_address=standing.scheduler_address,
            **small,
        )
        curate(settings)
    other = read_manifest(Workspace.open(tmp_path / "w"))
    assert other.drop_columns(["run_id"]).equals(read_manifest(curated[0]).drop_columns(["run_id"]))


def test_without_a_usable_film_the_run_says_why(
    prefect_server: str, tmp_path: Path, small: dict[str, int]
) -> None:
    from flows.curate import curate
    from storage.errors import MammosiftError

    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.dcm").write_text("no film")
    settings = CurationSettings(source=str(tmp_path / "films"), out=str(tmp_path / "w"), **small)
    with pytest.raises(MammosiftError, match=r"no film in .* can be used: 1 files found"):
        curate(settings)


@pytest.mark.slow
def test_a_folder_of_small_tiles_is_curated_without_films(
    prefect_server: str, film_folder: Path, small: dict[str, int], tmp_path: Path
) -> None:
    import cv2

    from flows.curate import curate

    folder = tmp_path / "tiles"
    folder.mkdir()
    for i, path in enumerate(sorted(film_folder.rglob("*.png"))):
        film = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for y in range(0, 512, 64):
            for x in range(0, 384, 64):
                cv2.imwrite(str(folder / f"{i}-{y}-{x}.png"), film[y : y + 64, x : x + 64])
    settings = small | {"films_per_shard": 200}
    record = curate(
        CurationSettings(source=str(folder), out=str(tmp_path / "w"), context="tile", **settings)
    )
    tiles = read_manifest(Workspace.open(tmp_path / "w")).to_pandas()
    assert len(tiles) == record["tiles"]["cut"] == 12 * 8 * 6
    assert set(record["tiles"]["by_decision"]) >= {"keep", "drop"}
    looked_at = tiles.reason.ne("black")
    assert tiles.misinformative_score[looked_at].between(0, 1).all()
    assert tiles.misinformative_score[~looked_at].isna().all()
    assert record["planted"] == {"all": {}, "kind": {}, "scanner": {}, "tissue": {}, "view": {}}
    name = tiles.source.str.removesuffix(".png").str.split("-", expand=True).astype(int)
    right = name[0] % 2 == 1  # the breast of these lies at the left, the letters at the upper right
    letters = right & (name[1] == 0) & name[2].between(256, 320)
    tissue = right & name[1].between(192, 256) & (name[2] < 128)
    assert (tiles.decision[tissue] == "keep").mean() > 0.9
    assert (tiles.decision[letters] != "keep").mean() > 0.9
