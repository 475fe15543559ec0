"""The table of exemplars: tiles by name, by box and by picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from storage.errors import TableError
from storage.exemplars import Exemplar, read_exemplars


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "markers" / "mlo.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.array([[0, 51], [102, 255]], np.uint8))
    return path


def table(folder: Path, text: str) -> str:
    path = folder / "known.csv"
    path.write_text(text)
    return str(path)


def test_a_line_is_a_tile_a_box_or_a_picture_and_says_its_kind(
    tmp_path: Path, picture: Path
) -> None:
    path = table(
        tmp_path,
        "tile_id,source,x,y,width,height,image,kind,remark\n"
        "m1-x0-y0-w64-h64,,,,,,,,plate\n"
        ",a/film.png,1,2,30,40,,informative,\n"
        "\n"
        ",,,,,,markers/mlo.png, misinformative ,\n",
    )
    assert read_exemplars(path) == [
        Exemplar(2, tile_id="m1-x0-y0-w64-h64"),
        Exemplar(3, source="a/film.png", box=(1, 2, 30, 40), positive=False),
        Exemplar(5, image=str(picture)),
    ]


def test_of_several_columns_the_tile_goes_before_the_picture_and_it_before_the_box(
    tmp_path: Path, picture: Path
) -> None:
    path = table(
        tmp_path,
        "tile_id,source,x,y,width,height,image\n"
        "t,a.png,0,0,1,1,markers/mlo.png\n"
        ",a.png,0,0,1,1,markers/mlo.png\n",
    )
    first, second = read_exemplars(path)
    assert (first.tile_id, first.image) == ("t", None)
    assert (second.image, second.box) == (str(picture), None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("source,x,y,width\n", r"line 1: no column tile_id or image, .* \(missing: height\)"),
        ("image\nno.png\n", r"line 2, column image: 'no\.png' is no file"),
        ("image\n../known.csv/x.png\n", r"line 2, column image"),
        ("tile_id,kind\nt,bad\n", r"line 2, column kind: 'bad' is neither"),
        ("tile_id,kind\n,informative\n", r"line 2, column tile_id: it is empty"),
        ("source,x,y,width,height\na,0,0,1,0\n", r"line 2, column height: '0' is no whole"),
        ("source,x,y,width,height\na,-1,0,1,1\n", r"line 2, column x: '-1'"),
        ("source,x,y,width,height\n,0,0,1,1\n", r"line 2, column source: it is empty"),
        ("tile_id\n", "has no lines"),
    ],
)
def test_what_is_wrong_is_told_by_line_and_column(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(TableError, match=said):
        read_exemplars(table(tmp_path, text))


def test_the_pixels_of_a_picture_lie_in_the_range_of_their_type(picture: Path) -> None:
    pixels = Exemplar(2, image=str(picture)).picture()
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, [[0, 0.2], [0.4, 1]], atol=1e-6)


def test_a_file_that_is_no_picture_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "no.png"
    path.write_text("no picture")
    with pytest.raises(TableError, match=r"line 7 of the exemplars: no\.png cannot be used"):
        Exemplar(7, image=str(path)).picture()


def test_a_picture_of_other_bytes_is_another_exemplar(picture: Path) -> None:
    exemplar = Exemplar(2, image=str(picture))
    before = exemplar.content()
    moved = picture.with_name("other.png")
    moved.write_bytes(picture.read_bytes())
    assert Exemplar(9, image=str(moved)).content() == before
    cv2.imwrite(str(picture), np.zeros((2, 2), np.uint8))
    assert exemplar.content() != before
    assert Exemplar(2, tile_id="t").content() != Exemplar(2, tile_id="t", positive=False).content()


def test_a_box_means_the_tile_that_it_shares_most_with() -> None:
    tiles = pd.DataFrame(
        {
            "tile_id": ["left", "right", "elsewhere"],
            "source": ["a.png", "a.png", "b.png"],
            "x": [0, 64, 64],
            "y": [0, 0, 0],
            "width": 64,
            "height": 64,
        }
    )
    row, overlap = Exemplar(2, source="a.png", box=(60, 10, 20, 5)).best_of(tiles)
    assert row is not None
    assert (row["tile_id"], overlap) == ("right", 16 * 5)
    row, overlap = Exemplar(2, source="a.png", box=(54, 0, 20, 5)).best_of(tiles)
    assert row is not None
    assert row["tile_id"] == "left", "of equal ones the first by name"
    assert Exemplar(2, source="a.png", box=(200, 0, 9, 9)).best_of(tiles) == (None, 0.0)
    assert Exemplar(2, source="c.png", box=(0, 0, 9, 9)).best_of(tiles) == (None, 0.0)
    row, overlap = Exemplar(2, tile_id="elsewhere").best_of(tiles)
    assert row is not None
    assert (row["source"], overlap) == ("b.png", np.inf)
