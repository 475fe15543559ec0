from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from storage import collections, discovery
from storage.records import Mammogram
from storage.tile_shards import (
    KIND,
    PIXELS,
    read_figures,
    read_films,
    read_index,
    read_pixels,
    read_planted,
)
from storage.workspace import Workspace
from tasks import films
from tasks.kernels.scoring import is_beyond_doubt
from tasks.kernels.tile_figures import NAMES, tile_figures
from tasks.tiles import TileSettings, cut_shard, stored_tiles, tile_id

SETTINGS = TileSettings(
    tile_size_px=64,
    tile_size_mm=None,
    stride_px=None,
    edge="shift",
    black_samples_per_film=1,
    max_film_megapixels=10.0,
)


def shard_of(
    folder: Path, films_csv: Path | None = None
) -> tuple[list[Mammogram], films.FilmShard]:
    root, batches = films.find(str(folder))
    found = [
        film
        for batch in batches
        for film in films.describe_batch(batch, max_film_megapixels=10.0, known={})
    ]
    found, _ = collections.join(found, root, films_csv=films_csv, lesions_csv=None)
    (shard,) = films.form_shards(found, root, films_per_shard=100)
    return found, shard


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "w")


def test_rows_and_pixels_of_a_shard_belong_together(
    film_folder: Path, workspace: Workspace
) -> None:
    _, shard = shard_of(film_folder)
    ref = cut_shard(workspace.uri, str(film_folder), shard, SETTINGS)
    index = read_index(workspace, ref.key).to_pandas()
    stored = index.dropna(subset=["pixels_index"])
    np.testing.assert_array_equal(stored.pixels_index, np.arange(len(stored)))
    pixels = np.concatenate(
        list(read_pixels(workspace, ref.key, stored.pixels_index.to_numpy(np.int64)))
    )
    means = pixels.reshape(len(stored), -1).mean(axis=1) / 65535
    np.testing.assert_allclose(means, stored["mean"], atol=2e-3)
    assert ref.counts["tiles"] == len(index) == 12 * 48
    assert ref.counts["stored"] == len(stored)
    assert index.tile_id.is_unique


def pixels_of(workspace: Workspace, key: str, n: int, *, planted: bool = False) -> np.ndarray:
    return np.concatenate(list(read_pixels(workspace, key, np.arange(n), planted=planted)))


def test_figures_are_those_of_the_pixels_and_left_out_where_tissue_is_beyond_doubt(
    film_folder: Path, workspace: Workspace
) -> None:
    _, shard = shard_of(film_folder)
    ref = cut_shard(workspace.uri, str(film_folder), shard, SETTINGS)
    stored = read_index(workspace, ref.key).to_pandas().dropna(subset=["pixels_index"])
    figures = read_figures(workspace, ref.key)
    assert figures.shape == (len(stored), len(NAMES))
    clear = is_beyond_doubt(stored["breast_fraction"], stored["foreign_fraction"])
    assert 0 < clear.sum() < len(stored)
    assert np.isnan(figures[clear]).all()
    pixels = pixels_of(workspace, ref.key, len(stored))
    np.testing.assert_array_equal(figures[~clear], tile_figures(pixels[~clear]))


def test_planted_tiles_show_what_their_films_show_but_for_what_was_planted(
    film_folder: Path, workspace: Workspace
) -> None:
    _, shard = shard_of(film_folder)
    ref = cut_shard(workspace.uri, str(film_folder), shard, SETTINGS)
    rows = read_planted(workspace, ref.key).to_pandas()
    assert ref.counts["planted"] == len(rows) > 20
    np.testing.assert_array_equal(rows["pixels_index"], np.arange(len(rows)))
    assert rows["mammogram_id"].nunique() == 2, "an eighth of twelve films"
    pixels = pixels_of(workspace, ref.key, len(rows), planted=True)
    figures = read_figures(workspace, ref.key, planted=True)
    np.testing.assert_array_equal(figures, tile_figures(pixels))

    index = read_index(workspace, ref.key).to_pandas().set_index("tile_id")
    before = index.loc[rows["tile_id"]].reset_index()
    for name in ("mammogram_id", "x", "y", "width", "height"):
        assert before[name].tolist() == rows[name].tolist()
    for name in ("breast_fraction", "foreign_fraction"):
        np.testing.assert_array_equal(before[name], rows[f"{name}_before"])
    on = (rows["planted_fraction"] > 0).to_numpy()
    assert rows["planted_fraction"].between(0, 1).all()
    assert (rows["planted_fraction"][on] >= 0.01).all()
    assert rows["kind"].notna().tolist() == on.tolist()
    assert (rows["breast_fraction_before"][~on] >= 0.05).all()
    stored = before["pixels_index"].notna().to_numpy()
    assert stored[~on].all()
    old = pixels_of(workspace, ref.key, ref.counts["stored"])
    old = old[before["pixels_index"][stored].to_numpy(np.int64)]
    same = (pixels[stored] == old).all(axis=(1, 2))
    assert same.tolist() == (~on[stored]).tolist()


def test_without_films_tiles_keep_their_grey_levels_and_nothing_is_known_of_a_map(
    film_folder: Path, workspace: Workspace
) -> None:
    _, shard = shard_of(film_folder)
    settings = TileSettings(**(vars(SETTINGS) | {"context": "tile"}))
    ref = cut_shard(workspace.uri, str(film_folder), shard, settings)
    index = read_index(workspace, ref.key).to_pandas()
    assert len(index) == 12 * 48
    for name in ("breast_fraction", "foreign_fraction", "context_score"):
        assert index[name].isna().all()
    assert index["is_black"].any()
    assert read_planted(workspace, ref.key).num_rows == ref.counts["planted"] == 0
    stored = index.dropna(subset=["pixels_index"])
    pixels = pixels_of(workspace, ref.key, len(stored))
    np.testing.assert_array_equal(read_figures(workspace, ref.key), tile_figures(pixels))
    source = {f.mammogram_id: f.source for f in shard.films}
    tile = stored.iloc[0]
    film = cv2.imread(str(film_folder / source[tile.mammogram_id]), cv2.IMREAD_UNCHANGED)
    box = film[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
    np.testing.assert_array_equal(pixels[0], box)


@pytest.mark.parametrize("size", [16, 64, 70])
def test_a_folder_of_tiles_has_a_row_a_picture(
    workspace: Workspace, tmp_path: Path, size: int
) -> None:
    folder = tmp_path / "tiles"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, level in enumerate((0, 255)):
        cv2.imwrite(str(folder / f"{level}.png"), np.full((size, size), level, np.uint8))
        noise = rng.integers(0, 255, (size, size), np.uint8)
        cv2.imwrite(str(folder / f"noise{i}.png"), noise)
    _, shard = shard_of(folder)
    settings = TileSettings(**(vars(SETTINGS) | {"context": "tile", "tile_size_px": size}))
    ref = cut_shard(workspace.uri, str(folder), shard, settings)
    assert (ref.counts["films"], ref.counts["tiles"], ref.counts["black"]) == (4, 4, 1)
    assert np.isfinite(read_figures(workspace, ref.key)).all()


def test_cutting_again_makes_nothing(film_folder: Path, workspace: Workspace) -> None:
    _, shard = shard_of(film_folder)
    first = cut_shard(workspace.uri, str(film_folder), shard, SETTINGS)
    again = cut_shard(workspace.uri, str(film_folder), shard, SETTINGS)
    assert not first.reused
    assert again.reused
    assert again.counts == first.counts


def test_a_setting_that_changes_tiles_changes_the_key(
    film_folder: Path, workspace: Workspace
) -> None:
    _, shard = shard_of(film_folder)
    other = TileSettings(**(vars(SETTINGS) | {"edge": "drop"}))
    first = cut_shard(workspace.uri, str(film_folder), shard, SETTINGS)
    assert cut_shard(workspace.uri, str(film_folder), shard, other).key != first.key


def test_a_coloured_photograph_is_a_row_with_a_reason(
    film_folder: Path, workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "mole.png"), rng.integers(0, 255, (200, 200, 3), np.uint8))
    film = cv2.imread(str(film_folder / "case0" / "R film.png"), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(folder / "film.png"), film)
    found, shard = shard_of(folder)
    assert [f.excluded_reason for f in found] == [None, None]
    ref = cut_shard(workspace.uri, str(folder), shard, SETTINGS)
    assert (ref.counts["films"], ref.counts["excluded"]) == (1, 1)
    rows = {r["mammogram_id"]: r for r in read_films(workspace, ref.key).to_pylist()}
    mole = next(f for f in found if f.source == "mole.png")
    assert rows[mole.mammogram_id]["excluded_reason"] == "unsupported"
    assert rows[mole.mammogram_id]["excluded_remedy"]


def test_a_film_that_vanished_is_tried_again_by_the_next_run(
    film_folder: Path, workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    film = (film_folder / "case0" / "R film.png").read_bytes()
    (folder / "a.png").write_bytes(film)
    _, shard = shard_of(folder)
    times = (folder / "a.png").stat()
    (folder / "a.png").unlink()
    ref = cut_shard(workspace.uri, str(folder), shard, SETTINGS)
    assert ref.counts["unreadable"] == 1
    (folder / "a.png").write_bytes(film)
    os.utime(folder / "a.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    ref = cut_shard(workspace.uri, str(folder), shard, SETTINGS)
    assert (ref.counts["unreadable"], ref.counts["films"]) == (0, 1)


def test_tiles_in_millimetres_have_the_same_size_on_every_scanner(
    film_folder: Path, workspace: Workspace, tmp_path: Path
) -> None:
    table = tmp_path / "films.csv"
    rows = ["source,pixel_spacing_mm"]
    rows += [
        f"{f.relative_to(film_folder).as_posix()},{0.1 if 'L film' in f.name else 0.2}"
        for f in film_folder.rglob("*.png")
    ]
    table.write_text("\n".join(rows) + "\n")
    found, shard = shard_of(film_folder, table)
    settings = TileSettings(**(vars(SETTINGS) | {"tile_size_mm": 12.8}))
    ref = cut_shard(workspace.uri, str(film_folder), shard, settings)
    index = read_index(workspace, ref.key).to_pandas()
    spacing = index.mammogram_id.map({f.mammogram_id: f.pixel_spacing_mm for f in found})
    np.testing.assert_allclose(index.width * spacing, 12.8)
    assert workspace.shard(KIND, ref.key).array(PIXELS).shape[1:] == (64, 64)


def test_a_tile_is_named_after_its_films_content_and_its_box() -> None:
    film = Mammogram("m0123", None, "any.png")
    assert tile_id(film, [1, 2, 3, 4]) == "m0123-x1-y2-w3-h4"


def test_of_the_black_tiles_the_brightest_are_stored() -> None:
    is_black = np.array([True, False, True, True])
    p99 = np.array([0.1, 0.9, 0.3, 0.2], np.float32)
    assert stored_tiles(is_black, p99, samples=1).tolist() == [False, True, True, False]
    assert stored_tiles(is_black, p99, samples=0).tolist() == [False, True, False, False]


def test_shards_do_not_depend_on_order_or_folder(film_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for i, film in enumerate(sorted(film_folder.rglob("*.png"), reverse=True)):
        (moved / f"{i}.png").write_bytes(film.read_bytes())
    ids = []
    for folder in (film_folder, moved):
        root, files = discovery.list_files(str(folder))
        found = [discovery.describe(p, s, max_film_megapixels=10.0) for p, s in files]
        shards = films.form_shards(found, root, films_per_shard=3)
        ids.append([(s.name, [f.mammogram_id for f in s.films]) for s in shards])
    assert ids[0] == ids[1]
    assert len(ids[0]) > 1
