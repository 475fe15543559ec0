"""Sampling, fitting and measuring, on made-up pictures with known areas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans

from models.clustering import make_clusterer
from storage import area_shards
from storage.errors import MammosiftError
from storage.records import FilmShard, Mammogram
from storage.workspace import ShardRef, Workspace
from tasks import films, measures
from tasks.kernels import colours

SKINS = ((210, 170, 140), (150, 110, 90), (230, 200, 190))


def skin(number: int, *, spots: int = 1) -> np.ndarray:
    """A picture of 60 x 80 with dark spots of 10 x 20 on a skin of its own."""
    rng = np.random.default_rng(number)
    picture = np.full((60, 80, 3), SKINS[number % 3], np.float64)
    for i in range(spots):
        picture[10:20, 5 + 25 * i : 25 + 25 * i] *= 0.45
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


def write(folder: Path, name: str, picture: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / name), picture[..., ::-1])


@pytest.fixture
def skins(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for i in range(6):
        write(folder, f"{i}.png", skin(i, spots=1 + i % 2))
    return folder


class Measured:
    """The stages in turn, as the flow runs them."""

    def __init__(self, folder: Path, out: Path, **changed: Any) -> None:
        given = {
            "kind": "photographs", "balance": "median", "sample_fraction": 0.2,
            "max_sample_px": 100_000, "seed": 0, "colour_space": "rgb", "n_clusters": 2,
            "pixel_spacing_mm": None, "masks": False, "images_per_shard": 64,
        } | changed  # fmt: skip
        self.workspace = Workspace.create(out)
        root, batches = films.find(str(folder))
        described = [
            film
            for batch in batches
            for film in measures.describe_batch(
                batch, kind=given["kind"], max_film_megapixels=100, known={}
            )
        ]
        self.found, _ = films.join(described, root, films_csv=None, lesions_csv=None)
        self.shards = films.form_shards(self.found, root, films_per_shard=given["images_per_shard"])
        sampling = measures.SampleSettings(
            given["kind"], given["balance"], given["sample_fraction"], given["max_sample_px"],
            given["seed"], 100,
        )  # fmt: skip
        self.samples = [
            measures.sample_shard(str(out), str(root), s, sampling) for s in self.shards
        ]
        space = "grey" if given["kind"] == "films" else given["colour_space"]
        self.fitted = measures.fit_colours(
            str(out),
            [s.key for s in self.samples],
            measures.FitSettings(
                space, given["n_clusters"], given["max_sample_px"], 3, 4, given["seed"]
            ),
        )
        how = measures.AreaSettings(
            given["kind"], given["balance"], given["pixel_spacing_mm"], given["masks"], 100
        )
        self.areas: list[ShardRef] = [
            measures.measure_shard(str(out), str(root), s, self.fitted.key, how)
            for s in self.shards
        ]
        self.table: pd.DataFrame = measures.publish(
            self.workspace, [a.key for a in self.areas], self.found
        ).to_pandas()

    def dark(self) -> pd.DataFrame:
        return self.table[self.table.cluster == 0].set_index("source")


@pytest.mark.parametrize("space", ["rgb", "lab", "hsv"])
def test_the_dark_area_is_that_of_the_spots_on_every_skin(
    space: str, skins: Path, tmp_path: Path
) -> None:
    dark = Measured(skins, tmp_path / "out", colour_space=space).dark()
    for i in range(6):
        row = dark.loc[f"{i}.png"]
        assert row.pixel_count == pytest.approx(200 * (1 + i % 2), abs=6)
        assert row.largest_region_px == pytest.approx(200, abs=6)
        assert row.area_fraction == row.pixel_count / 4800
        assert row.cluster_name == "dark"


def test_without_balance_the_clusters_tell_the_skins_apart(skins: Path, tmp_path: Path) -> None:
    dark = Measured(skins, tmp_path / "out", balance="none").dark()
    assert dark.area_fraction.max() > 0.9


@pytest.mark.parametrize("space", ["rgb", "lab", "hsv"])
@pytest.mark.parametrize("k", [2, 5])
def test_the_estimator_gives_scikit_learns_labels_from_the_same_start(space: str, k: int) -> None:
    pixels = np.concatenate([skin(i).reshape(-1, 3)[::3] for i in range(6)])
    assert_same_as_scikit_learn(pixels, space, k)


@pytest.mark.shared
def test_the_estimator_gives_scikit_learns_labels_on_the_moles(shared: Path) -> None:
    files = sorted((shared / "data/moles").glob("*.jpg"))
    pictures = [cv2.imread(str(f))[..., ::-1].reshape(-1, 3)[::20] for f in files]
    for k in (2, 3, 8):
        assert_same_as_scikit_learn(np.concatenate(pictures), "rgb", k)


def assert_same_as_scikit_learn(pixels: np.ndarray, space: str, k: int) -> None:
    sample = colours.in_space(np.ascontiguousarray(pixels), space)
    start = sample[np.linspace(0, len(sample) - 1, k).astype(int)]
    # pixels are whole numbers: from whole centres many are equally near two, and rounding decides
    start = start + np.random.default_rng(k).random(start.shape) * sample.std() / 100
    theirs = KMeans(k, init=start, n_init=1, tol=0, algorithm="lloyd").fit(sample)
    ours: Any = make_clusterer("kmeans", n_clusters=k, init=start, tol=0.0).fit(sample)
    assert np.array_equal(ours.labels_, theirs.labels_)
    labels = colours.ColourLabeller(ours.cluster_centers_, space).label(pixels[None])
    assert np.array_equal(labels[0], theirs.labels_)


def test_clusters_are_numbered_from_dark_to_light(skins: Path, tmp_path: Path) -> None:
    for seed in range(3):
        measured = Measured(skins, tmp_path / f"out{seed}", seed=seed, n_clusters=4)
        fit = area_shards.read_fit(measured.workspace, measured.fitted.key)
        assert fit["lightness"] == sorted(fit["lightness"])
        light = measured.table.groupby("cluster").lightness.first()
        assert light.is_monotonic_increasing


def test_every_pixel_of_a_photograph_is_in_one_cluster(skins: Path, tmp_path: Path) -> None:
    table = Measured(skins, tmp_path / "out", n_clusters=5).table
    assert (table.groupby("source").pixel_count.sum() == 4800).all()
    assert (table.measured_px == 4800).all()
    assert table.groupby("source").area_fraction.sum().to_numpy() == pytest.approx(1)


def test_square_millimetres_follow_from_the_spacing(skins: Path, tmp_path: Path) -> None:
    (skins / "films.csv").write_text("source,pixel_spacing_mm\n0.png,0.5\n")
    dark = Measured(skins, tmp_path / "out", pixel_spacing_mm=0.1).dark()
    assert dark.loc["0.png"].area_mm2 == pytest.approx(dark.loc["0.png"].pixel_count * 0.25)
    assert dark.loc["1.png"].area_mm2 == pytest.approx(dark.loc["1.png"].pixel_count * 0.01)
    assert Measured(skins, tmp_path / "other").dark().loc["1.png":].area_mm2.isna().all()


def test_a_picture_added_changes_no_other_pictures_sample(skins: Path, tmp_path: Path) -> None:
    def samples(measured: Measured) -> dict[str, bytes]:
        tables = [
            measured.workspace.shard("samples", s.key).table("images.parquet")
            for s in measured.samples
        ]
        return {row["image_id"]: row["pixels"] for t in tables for row in t.to_pylist()}

    before = samples(Measured(skins, tmp_path / "before"))
    write(skins, "new.png", skin(77))
    after = samples(Measured(skins, tmp_path / "after", images_per_shard=2))
    assert len(after) == 7
    assert before.items() <= after.items()


def test_a_bounded_fit_takes_the_same_share_of_every_picture(skins: Path, tmp_path: Path) -> None:
    measured = Measured(skins, tmp_path / "out", sample_fraction=1.0, max_sample_px=6000)
    assert measured.fitted.rows == 6000
    assert measured.samples[0].counts["sampled"] == 6 * 4800


def test_shards_change_nothing(skins: Path, tmp_path: Path) -> None:
    one = Measured(skins, tmp_path / "one")
    many = Measured(skins, tmp_path / "many", images_per_shard=1)
    assert len(many.shards) > 1
    pd.testing.assert_frame_equal(one.table, many.table)


def test_finished_shards_are_used_again(skins: Path, tmp_path: Path) -> None:
    Measured(skins, tmp_path / "out")
    again = Measured(skins, tmp_path / "out")
    assert all(r.reused for r in [*again.samples, again.fitted, *again.areas])
    other = Measured(skins, tmp_path / "out", n_clusters=3)
    assert other.samples[0].reused
    assert not other.areas[0].reused


def test_masks_hold_the_cluster_of_every_pixel(skins: Path, tmp_path: Path) -> None:
    measured = Measured(skins, tmp_path / "out", masks=True)
    row = measured.dark().loc["3.png"]
    data = measured.workspace.shard("areas", measured.areas[0].key).read_bytes(
        f"masks/{row.image_id}.png"
    )
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (60, 80)
    assert np.count_nonzero(mask == 0) == row.pixel_count
    assert set(np.unique(mask)) == {0, 1}


def test_a_picture_that_turns_out_to_be_damaged_is_excluded_late(
    skins: Path, tmp_path: Path
) -> None:
    data = bytearray((skins / "2.png").read_bytes())
    data[300:340] = bytes(40)
    (skins / "2.png").write_bytes(bytes(data))
    measured = Measured(skins, tmp_path / "out")
    late = area_shards.exclusions(measured.workspace, measured.samples)
    assert [row["excluded_reason"] for row in late.values()] == ["corrupt"]
    assert measured.table.source.nunique() == 5


def test_16_bit_grey_and_colour_pictures_are_measured_together(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    colour = skin(0)
    write(folder, "colour.png", colour)
    wide = (colour.astype(np.uint16) * 257)[..., ::-1]
    wide[0, 0] += 1  # other bytes, or it would be a copy
    cv2.imwrite(str(folder / "wide.png"), wide)
    cv2.imwrite(str(folder / "grey.png"), cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY))
    dark = Measured(folder, tmp_path / "out").dark()
    assert dark.pixel_count.to_numpy() == pytest.approx(200, abs=6)


def test_films_are_measured_inside_the_breast(film_folder: Path, tmp_path: Path) -> None:
    measured = Measured(film_folder, tmp_path / "out", kind="films", n_clusters=3)
    names = measured.table.groupby("cluster").cluster_name.first().tolist()
    assert names == ["background", "fat", "dense"]
    assert measured.table.source.nunique() == 12
    share = measured.table.measured_px / measured.table.image_px
    assert share.between(0.15, 0.6).all()  # a half ellipse of 0.36, its skin line faint


def test_a_set_without_any_pixel_ends_in_words(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "out")
    sampling = measures.SampleSettings("photographs", "none", 0.1, 1000, 0, 100)
    gone = Mammogram("m0", "m0", "gone.png", source_sha256="0" * 64, rows=1, columns=1)
    shard = FilmShard("all", (gone,), ("",))
    ref = measures.sample_shard(workspace.uri, str(tmp_path), shard, sampling)
    assert ref.counts["unreadable"] == 1
    with pytest.raises(MammosiftError, match="no pixel can be measured"):
        measures.fit_colours(
            workspace.uri, [ref.key], measures.FitSettings("rgb", 2, 1000, 1, 3, 0)
        )


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("space", ["rgb", "lab"])
def test_the_dark_area_of_the_moles_is_stable_over_seeds_and_samples(
    space: str, shared: Path, tmp_path: Path
) -> None:
    shares = {}
    for seed, fraction in ((0, 0.05), (1, 0.05), (2, 0.05), (0, 1.0)):
        shares[seed, fraction] = (
            Measured(
                shared / "data/moles",
                tmp_path / f"{seed}-{fraction}",
                colour_space=space,
                seed=seed,
                sample_fraction=fraction,
                max_sample_px=10_000_000,
            )
            .dark()
            .area_fraction
        )
    together = pd.DataFrame(shares)
    assert len(together) == 20
    assert (together.max(axis=1) - together.min(axis=1)).max() <= 0.01
    assert together.max().max() < 0.2
