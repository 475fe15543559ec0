"""DDSM's sidecars: .ics, .OVERLAY, and what they make of a film."""

from __future__ import annotations

import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from storage.collections import has_unlocated_lesion, lesion_mask
from storage.errors import CorruptFilm
from storage.films import ddsm, overlays, read_header
from storage.records import Lesion

METADATA = Path("data") / "ddsm-metadata"

ICS = """
ics_version 1.0
filename A-0018-1
DATE_OF_STUDY 17 8 1995
PATIENT_AGE 43
FILM_TYPE REGULAR
DENSITY 3
DIGITIZER {digitizer}
SEQUENCE
LEFT_CC LINES 20 PIXELS_PER_LINE 30 BITS_PER_PIXEL 12 RESOLUTION 43.5 {left_cc}
RIGHT_CC LINES 20 PIXELS_PER_LINE 30 BITS_PER_PIXEL 12 RESOLUTION 43.5 {right_cc}
"""
SQUARE = "TOTAL_OUTLINES 2\nBOUNDARY\n5 6 2 2 2 4 4 4 6 6 6 0 0 0 #\nCORE\n6 7 2 4 6 0 #\n"


def overlay(*pathologies: str, outline: str = SQUARE) -> str:
    text = f"TOTAL_ABNORMALITIES {len(pathologies)}\n"
    for number, pathology in enumerate(pathologies, 1):
        text += f"ABNORMALITY {number}\nLESION_TYPE MASS SHAPE ROUND MARGINS SPICULATED\n"
        text += f"ASSESSMENT 4\nSUBTLETY 3\nPATHOLOGY {pathology}\n{outline}"
    return text


def case(
    folder: Path,
    *,
    name: str = "A_0018_1.LEFT_CC.LJPEG",
    digitizer: str | None = "HOWTEK 43.5",
    left_cc: str = "NON_OVERLAY",
    right_cc: str = "NON_OVERLAY",
    overlay_text: str | None = None,
    rows: int = 20,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if digitizer:
        ics = ICS.format(digitizer=digitizer, left_cc=left_cc, right_cc=right_cc)
        (folder / f"{name.split('.')[0].replace('_', '-')}.ics").write_text(ics)
    if overlay_text is not None:
        (folder / ".".join([*name.split(".")[:2], "OVERLAY"])).write_text(overlay_text)
    pixels = np.full((rows, 30), 700, np.uint16)
    encode = imagecodecs.ljpeg_encode if name.endswith("LJPEG") else imagecodecs.png_encode
    (folder / name).write_bytes(encode(pixels))
    return folder / name


def header(path: Path, root: Path | None = None):
    source = path.relative_to(root).as_posix() if root else path.name
    return read_header(path, source=source, max_film_megapixels=200)


def test_the_case_file_gives_spacing_digitiser_and_density(tmp_path):
    film = header(case(tmp_path))
    assert film.patient_key == "ddsm:A_0018_1"
    assert (film.laterality, film.view) == ("L", "CC")
    assert (film.scanner, film.grey_scale) == ("howtek-mgh", "raw-howtek-mgh")
    assert (film.pixel_spacing_mm, film.bits_stored, film.breast_density) == (0.0435, 12, "3")


@pytest.mark.parametrize(
    ("name", "digitizer", "key"),
    [
        ("A_0002_1", "DBA 21", "dba"),
        ("A_1459_1", "HOWTEK 43.5", "howtek-mgh"),
        ("B_3606_1", "LUMISYS LASER_DENSOTOMETER", "lumisys"),
        ("C_0029_1", "LUMISYS", "lumisys"),
        ("D_4500_1", "HOWTEK 43.5", "howtek-ismd"),
        ("A_0002_1", None, None),  # two digitisers at that site
        ("B_3606_1", None, "lumisys"),
        ("D_4500_1", None, "howtek-ismd"),
        ("B_3606_1", "SOMETHING ELSE", None),
    ],
)
def test_the_digitiser_is_told_by_site_and_case_file(name, digitizer, key):
    assert ddsm.scanner_key(name, digitizer) == key


def test_a_picture_made_of_a_film_has_no_digitisers_grey_scale(tmp_path):
    film = header(case(tmp_path, name="B_3606_1.LEFT_CC.png", digitizer="LUMISYS LASER"))
    assert (film.scanner, film.grey_scale) == ("LUMISYS LASER", None)
    assert film.pixel_spacing_mm == 0.0435  # of the size that the case file states


def test_a_reduced_picture_has_neither_spacing_nor_a_place_for_its_lesion(tmp_path):
    path = case(
        tmp_path, name="A_0018_1.LEFT_CC.png", left_cc="OVERLAY",
        overlay_text=overlay("MALIGNANT"), rows=10,
    )  # fmt: skip
    film = header(path)
    assert film.pixel_spacing_mm is None
    assert film.label == "malignant"
    assert has_unlocated_lesion(film)


def test_a_film_of_another_size_than_its_case_file_states_is_corrupt(tmp_path):
    with pytest.raises(CorruptFilm, match=r"19 x 30, its \.ics file says 20 x 30"):
        header(case(tmp_path, rows=19))


# -- labels ----------------------------------------------------------------------------------------


def test_a_film_of_a_case_without_overlays_is_normal(tmp_path):
    assert header(case(tmp_path)).label == "normal"


def test_a_film_without_finding_in_a_case_with_one_is_not_normal(tmp_path):
    film = header(case(tmp_path, right_cc="OVERLAY"))
    assert film.label is None
    assert film.lesions == ()


def test_a_missing_overlay_leaves_a_lesion_of_unknown_place(tmp_path):
    film = header(case(tmp_path, left_cc="OVERLAY"))
    assert film.label is None
    assert has_unlocated_lesion(film)


@pytest.mark.parametrize(
    ("pathologies", "label"),
    [
        (("BENIGN", "MALIGNANT"), "malignant"),
        (("BENIGN_WITHOUT_CALLBACK", "BENIGN"), "benign"),
        (("BENIGN_WITHOUT_CALLBACK",), "benign_without_callback"),
        (("UNPROVEN",), None),
        (("UNPROVEN", "BENIGN"), None),  # the unproven one may be worse
        (("UNPROVEN", "MALIGNANT"), "malignant"),
    ],
)
def test_the_label_is_the_worst_pathology(tmp_path, pathologies, label):
    path = case(tmp_path, left_cc="OVERLAY", overlay_text=overlay(*pathologies))
    assert header(path).label == label


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("normals/normal_01/case0002", "normal"),
        ("normal", "normal"),
        ("cancers/cancer_03/case1", None),
        ("normal/benign_01", None),
        ("abnormal", None),
    ],
)
def test_without_a_case_file_the_folder_tells_a_normal_case(tmp_path, folder, label):
    path = case(tmp_path / folder, digitizer=None)
    assert header(path, tmp_path).label == label


def test_a_broken_overlay_leaves_a_lesion_of_unknown_place(tmp_path):
    path = case(
        tmp_path, left_cc="OVERLAY", overlay_text=overlay("BENIGN", outline="BOUNDARY\n5 5 9 9 #\n")
    )
    assert has_unlocated_lesion(header(path))


# -- outlines --------------------------------------------------------------------------------------


def test_chain_codes_run_clockwise_from_up():
    found = overlays.parse(overlay("BENIGN", outline="BOUNDARY\n10 10 0 1 2 3 4 5 6 7 #\n"))
    assert found[0].outlines[0].tolist() == [
        [10, 10], [10, 9], [11, 8], [12, 8], [13, 9], [13, 10], [12, 11], [11, 11], [10, 10]
    ]  # fmt: skip


def test_a_boundary_is_filled_with_its_edge_and_cores_add_nothing(tmp_path):
    path = case(tmp_path, left_cc="OVERLAY", overlay_text=overlay("BENIGN"))
    film = header(path)
    assert film.lesions == (
        Lesion("outline", "benign", source="A_0018_1.LEFT_CC.OVERLAY"),
    )  # fmt: skip
    mask = lesion_mask(film, tmp_path)
    expected = np.zeros((20, 30), bool)
    expected[6:10, 5:9] = True
    np.testing.assert_array_equal(mask, expected)


def test_an_outline_that_leaves_the_film_is_cut_off():
    found = overlays.parse(overlay("BENIGN", outline="BOUNDARY\n-2 -2 2 2 2 2 4 4 4 4 6 6 6 6 #\n"))
    mask = overlays.fill(found, rows=5, columns=5)
    assert mask.sum() == 9
    assert mask[:3, :3].all()


@pytest.mark.shared
def test_the_real_case_file_parses(shared):
    ics = ddsm.parse_ics((shared / METADATA / "A-1459-1.ics").read_text("latin-1"))
    assert (ics.digitizer, ics.breast_density, ics.is_normal) == ("HOWTEK 43.5", "4", False)
    assert ics.views["LEFT_CC"] == ddsm.IcsView(5236, 2521, 12, 0.0435, True)
    assert ics.views["RIGHT_MLO"] == ddsm.IcsView(5491, 2626, 12, 0.0435, False)
    assert list(ics.views) == ["LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO"]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("view", "start", "size"),
    [("LEFT_CC", [1855, 3765], (5236, 2521)), ("LEFT_MLO", [2079, 4180], (5386, 2521))],
)
def test_the_real_overlays_parse(shared, view, start, size):
    text = (shared / METADATA / f"A_1459_1.{view}.OVERLAY").read_text("latin-1")
    (finding,) = overlays.parse(text)
    assert finding.pathology == "benign"
    (outline,) = finding.outlines
    assert outline[0].tolist() == start
    assert np.abs(outline[-1] - outline[0]).max() <= 8  # a closed line, drawn in steps of eight
    assert outline.min() >= 0
    assert (outline.max(axis=0) < size[::-1]).all()
    mask = overlays.fill((finding,), rows=size[0], columns=size[1])
    rows, columns = np.nonzero(mask)
    assert [columns.min(), rows.min()] == outline.min(axis=0).tolist()
    assert [columns.max(), rows.max()] == outline.max(axis=0).tolist()
    x, y = outline.astype(float).T
    inside = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert inside < mask.sum() < inside + len(outline)  # Pick: the line itself is counted too
    assert 10 < np.sqrt(mask.sum()) * 0.0435 < 60  # a mass of a few centimetres at most


@pytest.mark.shared
def test_the_truncated_real_film_names_no_digitiser_without_its_case_file(shared, tmp_path):
    whole = tmp_path / "A_0002_1.RIGHT_CC.LJPEG"
    shutil.copy(shared / METADATA / whole.name, whole)
    with whole.open("ab") as file:
        file.write(b"\xff\xd9")
    film = header(whole)
    assert (film.rows, film.columns, film.scanner, film.grey_scale) == (4334, 1874, None, None)
