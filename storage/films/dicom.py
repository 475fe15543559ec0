"""DICOM: one grey frame, in any transfer syntax.

The header is read up to the pixel data; from there on this module reads the bytes itself, so that
their length is known before anything is decoded. Uncompressed and RLE frames are decoded here, the
others by pydicom's plugins.
"""

from __future__ import annotations

import io
import logging
import math
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from storage.errors import CorruptFilm, OversizedFilm, UnsupportedFilm
from storage.films import codestreams, names
from storage.films.bounds import check_size, ends_early
from storage.films.pictures import Grey
from storage.records import Mammogram, Role

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

RADIOGRAPHS = frozenset({"", "MG", "CR", "DX", "DR", "RG", "OT"})
"""Modalities that a mammogram may have; OT and none at all occur with digitised film."""

_RLE = "1.2.840.10008.1.2.5"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MAX_HEADER_BYTES = 1 << 26
_MAX_META_BYTES = 1 << 20
_USED_WITH_PIXELS = ("PixelRepresentation", "HighBit", "RescaleSlope", "RescaleIntercept")
_PLUGINS = ("pylibjpeg", "pyjpegls")
"""Of pydicom. One decodes a frame, and no other is asked when it refuses."""
_END_OF_CODESTREAM = b"\xff\xd9"
"""EOI of JPEG and JPEG-LS, EOC of JPEG 2000."""

_SPACING_RANGE_MM = (0.005, 2.0)
_SQUARE_TOLERANCE = 0.01

_VIEW_CODES = {
    "R-10242": "CC", "399162004": "CC",
    "R-10226": "MLO", "399368009": "MLO",
    "R-10224": "ML", "399260004": "ML",
    "R-10228": "LM", "399352003": "LM",
    "R-1024A": "XCCL", "399192008": "XCCL",
    "R-1024B": "XCCM", "399101009": "XCCM",
    "R-10230": "LMO", "399099002": "LMO",
    "R-10244": "FB", "399196006": "FB",
    "R-102D0": "SIO", "399188001": "SIO",
    "R-40AAA": "ISO", "441555000": "ISO",
}  # fmt: skip
"""CID 4014 View for Mammography, in SNOMED RT and SNOMED CT (PS3.16)."""

_reading = threading.Lock()
"""pydicom's warnings are silenced while it reads; Python's filters are the process's."""


@dataclass(frozen=True)
class _Picture:
    """A data set up to its pixels, and where and how these lie."""

    dataset: Dataset
    file: BinaryIO
    syntax: str | None
    little_endian: bool
    vr: str
    """Of the pixel data: OB, OW; empty where the file does not say."""
    pixels_at: int
    pixels_length: int
    """-1 where there are no pixel data."""

    @property
    def encapsulated(self) -> bool:
        """Whether the frame lies in items: compressed."""
        return self.pixels_length == _UNDEFINED_LENGTH


def read_header(
    path: Path, *, source: str, max_film_megapixels: float, any_modality: bool = False
) -> Mammogram:
    """Read the row of a DICOM film.

    Pixel spacing: Nominal Scanned Pixel Spacing (0018,2010), else Imager Pixel Spacing (0018,1164),
    else Pixel Spacing (0028,0030): the first two are measured on the film or detector, as all other
    films' are, while the last may be calibrated to a plane inside the breast. Pixels whose sides
    differ by more than 1 % exclude the film; values outside 0.005 to 2 mm are taken as unknown.

    Laterality: Image Laterality (0020,0062), else Laterality (0020,0060), else the frame anatomy's
    or the PatientID's (CBIS-DDSM). View: View Position (0018,5101), else the View Code Sequence,
    else Patient Orientation and PatientID (CBIS-DDSM).

    The role is told by the CBIS-DDSM PatientID (a picture of a finding ends in its number) and the
    Series Description; which of a finding's two pictures is the mask is told by its depth, 8 bits,
    because some descriptions are swapped.

    Parameters
    ----------
    path : Path
        The file.
    source : str
        For the row and for errors.
    max_film_megapixels : float
        Bound on rows x columns, in millions.
    any_modality : bool
        Accept other modalities and parts of the body than a mammogram's.

    Raises
    ------
    UnsupportedFilm
        No picture, colour, several frames, other than 8 or 16 bits allocated, another modality.
    CorruptFilm, OversizedFilm
        See the text.
    """
    with _opened(path, source, max_film_megapixels) as picture, _quiet():
        dataset = picture.dataset
        if not any_modality:
            _check_modality(dataset, source)
        cbis = names.cbis(_text(dataset, "PatientID"))
        patient = names.patient_key(_text(dataset, "PatientID"))
        role = _role(dataset, cbis)
        finding = cbis and cbis.kind and cbis.abnormality and f"{cbis.kind}-{cbis.abnormality}"
        told = names.hints(path.name)
        return Mammogram(
            mammogram_id=None,
            patient_key=patient,
            source=source,
            file_format="dicom",
            rows=int(dataset.Rows),
            columns=int(dataset.Columns),
            bits_stored=_bits_stored(dataset),
            pixel_spacing_mm=_spacing(dataset, source),
            laterality=_laterality(dataset) or (cbis.laterality if cbis else told.laterality),
            view=_view(dataset) or (cbis.view if cbis else told.view),
            scanner=_scanner(dataset),
            role=role,
            finding=finding or None,
        )


def read_pixels(
    path: Path, *, source: str, max_film_megapixels: float, apply_voi: bool = False
) -> Grey:
    """Decode the frame to unsigned grey values, bright is dense.

    In order (PS3.3 C.11, C.7.6.3.1.2):

    1. Bits above Bits Stored are cleared, or filled with the sign.
    2. Modality LUT Sequence, or rescale. A rescale by whole numbers whose possible range fits into
       16 bits is applied, moved up so that the lowest possible value is not negative. Any other
       rescale is left out, since it is linear: stored values keep its order and their precision
       (slopes below 0 reverse). Signed values are moved up by 2^(Bits Stored - 1). The shift comes
       from the header alone, so it is the same for every film of a series.
    3. With ``apply_voi``, the first VOI LUT or window; the result is rounded.
    4. MONOCHROME1 is inverted about the possible range, not about the film's own.

    Parameters
    ----------
    path : Path
        The file.
    source : str
        For errors.
    max_film_megapixels : float
        Bound on rows x columns, in millions.
    apply_voi : bool
        See above.

    Returns
    -------
    ndarray, shape (rows, columns)
        uint8 where the possible range fits, else uint16.

    Raises
    ------
    CorruptFilm
        Where the frame is cut off or the decoder refuses it.
    """
    with _opened(path, source, max_film_megapixels) as picture:
        stored = _stored(picture, source)
        return _displayed(picture.dataset, stored, apply_voi=apply_voi)


@dataclass(frozen=True)
class _Values:
    """Whole-numbered values and the range that the header allows them."""

    array: npt.NDArray[Any]
    lowest: int
    highest: int


# -- opening ---------------------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """No word from pydicom: its warnings and log lines quote the header."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    with _reading, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(path: Path, source: str, max_film_megapixels: float) -> Iterator[_Picture]:
    with path.open("rb") as file:
        with _quiet():
            picture = _read_to_pixels(file, source, max_film_megapixels)
            _check_picture(picture, source, max_film_megapixels)
            for keyword in _USED_WITH_PIXELS:  # converted, and complained of, at first use
                picture.dataset.get(keyword)
        yield picture


def _read_to_pixels(file: BinaryIO, source: str, max_film_megapixels: float) -> _Picture:
    from pydicom.filereader import dcmread, read_dataset

    syntax, data_at = _file_meta(file)
    if syntax == _DEFLATED:
        file.seek(data_at)
        file = _inflated(file, source, max_film_megapixels)
        dataset = read_dataset(file, False, True, stop_when=_is_pixel_data)
        implicit, little_endian = False, True
    else:
        file.seek(0)
        dataset = dcmread(file, force=True, stop_before_pixels=True)
        implicit, little_endian = (bool(flag) for flag in dataset.original_encoding)
    order: Literal["little", "big"] = "little" if little_endian else "big"
    vr, at, length = _pixel_element(file, implicit=implicit, order=order)
    return _Picture(dataset, file, syntax, little_endian, vr, at, length)


def _is_pixel_data(tag: int, vr: str | None, length: int) -> bool:
    return tag in (0x7FE00008, 0x7FE00009, 0x7FE00010)


def _file_meta(file: BinaryIO) -> tuple[str | None, int]:
    """Transfer syntax of the file meta information, and where the data set begins.

    (None, 0) where there is none; it is always in explicit little endian (PS3.10 7.1).
    """
    file.seek(128)
    head = file.read(16)
    if head[:12] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        return None, 0
    length = int.from_bytes(head[12:16], "little")
    group = file.read(min(length, _MAX_META_BYTES))
    at = group.find(b"\x02\x00\x10\x00UI")
    if at < 0:
        return None, 0
    n_bytes = int.from_bytes(group[at + 6 : at + 8], "little")
    uid = group[at + 8 : at + 8 + n_bytes].rstrip(b"\0 ").decode("ascii", "replace")
    return uid, 144 + length


def _inflated(file: BinaryIO, source: str, max_film_megapixels: float) -> BinaryIO:
    """Data set of a deflated file, no longer than a film of the allowed size can make it."""
    bound = int(max_film_megapixels * 1e6) * 2 + _MAX_HEADER_BYTES
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), bound)
    if inflater.unconsumed_tail:
        raise OversizedFilm(
            source,
            f"The deflated data set is longer than {bound} bytes.",
            "If the film is genuine, raise max_film_megapixels.",
        )
    if not inflater.eof:
        raise ends_early(source, "its deflated data set is not whole")
    return io.BytesIO(data)


def _pixel_element(
    file: BinaryIO, *, implicit: bool, order: Literal["little", "big"]
) -> tuple[str, int, int]:
    """VR, place and length of the Pixel Data that the file stands at; length -1 without them."""
    head = file.read(8)
    tag = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)
    if tag != (0x7FE0, 0x0010) or len(head) < 8:
        return "", file.tell(), -1
    if implicit or not head[4:6].isalpha():  # some explicit files have this element implicit
        return "", file.tell(), int.from_bytes(head[4:8], order)
    length = int.from_bytes(file.read(4), order)
    return head[4:6].decode("ascii", "replace"), file.tell(), length


# -- what is refused -------------------------------------------------------------------------------


def _check_picture(picture: _Picture, source: str, max_film_megapixels: float) -> None:
    dataset = picture.dataset
    modality = _text(dataset, "Modality")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise UnsupportedFilm(
            source,
            f"The DICOM file holds no picture{f' (modality {modality})' if modality else ''}.",
            "Nothing to do, unless you expected a film: then fetch it again.",
        )
    samples = _int(dataset, "SamplesPerPixel", 1)
    photometric = _text(dataset, "PhotometricInterpretation")
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsupportedFilm(
            source,
            f"The picture is not grey: {samples} samples a pixel, photometric interpretation"
            f" {photometric or 'missing'}.",
            "Save the film as MONOCHROME2.",
        )
    frames = _int(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise UnsupportedFilm(
            source,
            f"The file holds {frames} frames.",
            "Save each film as a file of its own; tomosynthesis is not read.",
        )
    allocated = _int(dataset, "BitsAllocated", 0)
    if allocated not in (8, 16) or not 1 <= _bits_stored(dataset) <= allocated:
        raise UnsupportedFilm(
            source,
            f"The pixels have {allocated} bits allocated, {_bits_stored(dataset)} stored.",
            "Films have 8 or 16 bits allocated.",
        )
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    check_size(rows, columns, source=source, max_film_megapixels=max_film_megapixels)
    _check_length(picture, rows * columns * allocated // 8, source)


def _check_length(picture: _Picture, frame_bytes: int, source: str) -> None:
    if picture.pixels_length < 0:
        raise ends_early(source, "its header is there, its pixels are not")
    there = min(picture.file.seek(0, 2) - picture.pixels_at, picture.pixels_length)
    if picture.encapsulated:
        _check_syntax(picture, source)
        _fragments(picture, source)
    elif there < frame_bytes:
        raise ends_early(source, f"{frame_bytes} bytes of pixels are due, {there} are there")


def _check_syntax(picture: _Picture, source: str) -> None:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        available = get_decoder(UID(picture.syntax or "")).available_plugins
    except NotImplementedError:  # how pydicom says that it does not know the syntax
        available = ()
    if not any(name in available for name in _PLUGINS):
        raise UnsupportedFilm(
            source,
            f"The transfer syntax is {picture.syntax or 'not stated'}, which is not read.",
            "Convert the film to RLE, JPEG 2000 lossless or an uncompressed syntax.",
        )


def _check_modality(dataset: Dataset, source: str) -> None:
    modality = _text(dataset, "Modality")
    part = _text(dataset, "BodyPartExamined").upper()
    if modality not in RADIOGRAPHS:
        raise UnsupportedFilm(
            source, f"The modality is {modality}: no mammogram.", "Move other pictures elsewhere."
        )
    if part not in ("", "BREAST") and modality != "MG":
        raise UnsupportedFilm(
            source,
            f"The modality is {modality} and the body part is not the breast.",
            "Move other pictures elsewhere.",
        )


# -- the row ---------------------------------------------------------------------------------------


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def _int(dataset: Dataset, keyword: str, default: int) -> int:
    text = _text(dataset, keyword)
    return int(text) if text else default


def _bits_stored(dataset: Dataset) -> int:
    return _int(dataset, "BitsStored", _int(dataset, "BitsAllocated", 0))


def _role(dataset: Dataset, cbis: names.CbisId | None) -> Role:
    described = _text(dataset, "SeriesDescription").lower()
    eight_bits = _int(dataset, "BitsAllocated", 0) == 8
    of_finding = cbis is not None and cbis.abnormality is not None
    if "full mammogram" in described and not (of_finding and eight_bits):
        return "film"
    if of_finding or described in ("cropped images", "roi mask images"):
        return "mask" if eight_bits else "crop"
    return "film"


def _spacing(dataset: Dataset, source: str) -> float | None:
    for keyword in ("NominalScannedPixelSpacing", "ImagerPixelSpacing", "PixelSpacing"):
        sides = _floats(dataset.get(keyword))
        if len(sides) == 2 and all(
            _SPACING_RANGE_MM[0] <= s <= _SPACING_RANGE_MM[1] for s in sides
        ):
            if abs(sides[0] - sides[1]) > _SQUARE_TOLERANCE * max(sides):
                raise UnsupportedFilm(
                    source,
                    f"The pixels are not square: {sides[0]:g} x {sides[1]:g} mm.",
                    "Resample the film to square pixels.",
                )
            return round(sum(sides) / 2, 7)
    return None


def _floats(value: Any) -> list[float]:
    if value is None or isinstance(value, str):
        return []
    try:
        return [float(item) for item in value]
    except (TypeError, ValueError):
        return []


def _laterality(dataset: Dataset) -> str | None:
    for keyword in ("ImageLaterality", "Laterality"):
        if found := names.side(_text(dataset, keyword)):
            return found
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in dataset.get(groups) or []:
            for anatomy in group.get("FrameAnatomySequence") or []:
                if found := names.side(_text(anatomy, "FrameLaterality")):
                    return found
    return None


def _view(dataset: Dataset) -> str | None:
    if (position := _text(dataset, "ViewPosition").upper()) in names.VIEWS:
        return position
    for code in dataset.get("ViewCodeSequence") or []:
        if found := _VIEW_CODES.get(_text(code, "CodeValue")):
            return found
    orientation = _text(dataset, "PatientOrientation").upper()
    return orientation if orientation in ("CC", "MLO") else None


def _scanner(dataset: Dataset) -> str | None:
    """Maker and model of what made the picture; of digitised film, of the digitiser.

    Secondary Capture Device names a program, not a digitiser, where Conversion Type is another than
    digitised film (in CBIS-DDSM it says MATLAB).
    """
    prefix = "SecondaryCaptureDevice" if _text(dataset, "ConversionType") == "DF" else ""
    words = (
        _text(dataset, f"{prefix}Manufacturer"),
        _text(dataset, f"{prefix}ManufacturerModelName"),
    )
    name = " ".join(" ".join(words).split())[:64]
    return name.upper() or None


# -- the pixels ------------------------------------------------------------------------------------


def _fragments(picture: _Picture, source: str) -> list[tuple[int, int]]:
    """Place and length of the frame's fragments; the first item, a table of offsets, is left out.

    Items are always in little endian (PS3.5 A.4).
    """
    file = picture.file
    items = []
    file.seek(picture.pixels_at)
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise ends_early(source, "its pixels lack the end of the sequence")
        tag = head[:4]
        length = int.from_bytes(head[4:], "little")
        if tag == b"\xfe\xff\xdd\xe0":
            break
        if tag != b"\xfe\xff\x00\xe0" or length == _UNDEFINED_LENGTH:
            raise CorruptFilm(
                source,
                "The compressed pixels are not in items.",
                "Fetch the file again from where it came.",
            )
        items.append((file.tell(), length))
        file.seek(length, 1)
    if len(items) < 2:
        raise ends_early(source, "it holds no frame")
    return items[1:]


def _frame(picture: _Picture, source: str) -> bytes:
    """Bytes of the compressed frame: its fragments joined."""
    parts = []
    for at, length in _fragments(picture, source):
        picture.file.seek(at)
        parts.append(picture.file.read(length))
    frame = parts[0] if len(parts) == 1 else b"".join(parts)
    if picture.syntax != _RLE and not frame[-64:].rstrip(b"\0\xff").endswith(_END_OF_CODESTREAM):
        raise ends_early(source, "its compressed frame has no end marker")
    return frame


def _stored(picture: _Picture, source: str) -> _Values:
    """Stored values, signed or not, in native byte order; shape (rows, columns)."""
    dataset = picture.dataset
    rows, columns, bits = int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated)
    signed = _int(dataset, "PixelRepresentation", 0) == 1
    if not picture.encapsulated:
        values = _native(picture, rows * columns, bits)
    elif picture.syntax == _RLE:
        import rle.rle  # type: ignore[import-not-found]

        frame = _frame(picture, source)
        _check_segments(frame, bits // 8, source)
        frame = rle.rle.decode_frame(frame, rows * columns, bits, "<")
        values = np.frombuffer(frame, f"<u{bits // 8}")
    else:
        frame = _frame(picture, source)
        _check_codestream(frame, rows, columns, source)
        with _quiet():
            return _with_range(_decoded_by_plugin(picture, frame, signed=signed), dataset)
    native = values.astype(values.dtype.newbyteorder("="), copy=False).reshape(rows, columns)
    cleared = _without_unused_bits(native, dataset, signed=signed)
    return _Values(cleared, *_range(dataset, signed=signed))


def _native(picture: _Picture, n_pixels: int, bits: int) -> npt.NDArray[Any]:
    """Uncompressed pixels in the file's byte order; 8 bits in big-endian words are swapped."""
    order = "<" if picture.little_endian else ">"
    in_words = bits == 8 and order == ">" and picture.vr == "OW"
    data = np.empty(n_pixels * bits // 8 + (n_pixels % 2 if in_words else 0), np.uint8)
    picture.file.seek(picture.pixels_at)
    picture.file.readinto(data.data)  # type: ignore[attr-defined]
    if in_words:
        return data.view(np.uint16).byteswap().view(np.uint8)[:n_pixels]
    return data.view(f"{order}u{bits // 8}")


def _check_segments(frame: bytes, n_segments: int, source: str) -> None:
    """Refuse an RLE header (PS3.5 G.5) that does not fit its frame: the decoder panics on some."""
    words = np.frombuffer(frame[:64].ljust(64, b"\0"), "<u4")
    ends = [*words[1 : n_segments + 1].tolist(), len(frame)]
    if words[0] != n_segments or ends[0] != 64 or any(a >= b for a, b in pairwise(ends)):
        raise CorruptFilm(
            source,
            "The RLE frame's table of segments does not fit it.",
            "Fetch the file again from where it came.",
        )


def _check_codestream(frame: bytes, rows: int, columns: int, source: str) -> None:
    found = codestreams.size(frame)
    if found != (rows, columns):
        said = f"{found[0]} x {found[1]}" if found else "no size"
        raise CorruptFilm(
            source,
            f"The compressed frame states {said}, the header {rows} x {columns}.",
            "Fetch the file again from where it came.",
        )


def _without_unused_bits(
    values: npt.NDArray[Any], dataset: Dataset, *, signed: bool
) -> npt.NDArray[Any]:
    """Clear the bits beside Bits Stored, or fill them with the sign."""
    allocated, stored = int(dataset.BitsAllocated), _bits_stored(dataset)
    below = max(0, _int(dataset, "HighBit", stored - 1) + 1 - stored)
    if signed:
        wide = values.view(f"i{allocated // 8}")
        if stored == allocated:
            return wide
        above = allocated - stored - below
        filled: npt.NDArray[Any] = np.right_shift(np.left_shift(wide, above), above + below)
        return filled
    if stored == allocated:
        return values
    lowered = np.right_shift(values, below) if below else values
    cleared: npt.NDArray[Any] = np.bitwise_and(lowered, (1 << stored) - 1)
    return cleared


def _decoded_by_plugin(picture: _Picture, frame: bytes, *, signed: bool) -> npt.NDArray[Any]:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    dataset = picture.dataset
    syntax = UID(picture.syntax or "")
    options: dict[str, Any] = {
        "transfer_syntax_uid": syntax,
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "samples_per_pixel": 1,
        "photometric_interpretation": str(dataset.PhotometricInterpretation),
        "bits_allocated": int(dataset.BitsAllocated),
        "bits_stored": _bits_stored(dataset),
        "pixel_representation": int(signed),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }
    decoder = get_decoder(syntax)
    plugins = [name for name in _PLUGINS if name in decoder.available_plugins]
    values, _ = decoder.as_array(
        encapsulate([frame]), index=0, raw=True, decoding_plugin=plugins[0], **options
    )
    array: npt.NDArray[Any] = values
    return array


# -- from stored values to grey --------------------------------------------------------------------


def _displayed(dataset: Dataset, stored: _Values, *, apply_voi: bool) -> Grey:
    if apply_voi and ("VOILUTSequence" in dataset or "WindowWidth" in dataset):
        with _quiet():
            values = _windowed(dataset, stored)
    else:
        values = _modal(dataset, stored)
    if values.lowest < 0 or values.highest > 65535:
        moved = values.array.astype(np.int64) - values.lowest
        values = _Values(moved, 0, values.highest - values.lowest)
    array = values.array
    if _text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        array = values.highest + values.lowest - array.astype(np.int32)
    if values.highest <= 255:
        return array.astype(np.uint8, copy=False)
    return array.astype(np.uint16, copy=False)


def _range(dataset: Dataset, *, signed: bool) -> tuple[int, int]:
    """Lowest and highest value that Bits Stored allows."""
    bits = _bits_stored(dataset)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _with_range(array: npt.NDArray[Any], dataset: Dataset) -> _Values:
    """Values of a compressed frame, which may hold more bits than its header says."""
    signed = np.issubdtype(array.dtype, np.signedinteger)
    lowest, highest = _range(dataset, signed=signed)
    if int(array.min()) < lowest or int(array.max()) > highest:
        limits = np.iinfo(array.dtype)
        lowest, highest = int(limits.min), int(limits.max)
    return _Values(array, lowest, highest)


def _modal(dataset: Dataset, values: _Values) -> _Values:
    """Modality LUT or rescale, as told in :func:`read_pixels`."""
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels.processing import apply_modality_lut

        with _quiet():
            looked_up = apply_modality_lut(values.array, dataset)
        bits = int(dataset.ModalityLUTSequence[0].LUTDescriptor[2])
        return _Values(looked_up, 0, max((1 << bits) - 1, int(looked_up.max())))
    slope, intercept = _rescale(dataset)
    if (slope, intercept) == (1.0, 0.0):
        return values
    if slope.is_integer() and intercept.is_integer():
        ends = sorted(int(slope * end + intercept) for end in (values.lowest, values.highest))
        if ends[1] - ends[0] <= 65535:
            array = values.array.astype(np.int64) * int(slope) + int(intercept)
            return _Values(array, ends[0], ends[1])
    if slope < 0:
        reversed_ = values.lowest + values.highest - values.array.astype(np.int64)
        return _Values(reversed_, values.lowest, values.highest)
    return values


def _rescale(dataset: Dataset) -> tuple[float, float]:
    slope = float(_text(dataset, "RescaleSlope") or 1)
    intercept = float(_text(dataset, "RescaleIntercept") or 0)
    usable = math.isfinite(slope) and math.isfinite(intercept) and slope != 0
    return (slope, intercept) if usable else (1.0, 0.0)


def _windowed(dataset: Dataset, stored: _Values) -> _Values:
    """First VOI LUT or window of real-world values; 8 bits where Bits Stored is up to 8."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    shown = apply_voi_lut(apply_modality_lut(stored.array, dataset), dataset, index=0)
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return _Values(shown, 0, max((1 << bits) - 1, int(shown.max())))
    slope, intercept = _rescale(dataset)
    ends = sorted(slope * end + intercept for end in (stored.lowest, stored.highest))
    full_scale = 255 if _bits_stored(dataset) <= 8 else 65535
    scaled = np.clip((shown - ends[0]) / (ends[1] - ends[0]), 0, 1) * full_scale
    return _Values(np.rint(scaled).astype(np.int64), 0, full_scale)
