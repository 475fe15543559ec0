"""Photographs: JPEG, PNG and TIFF in colour, upright, and the one reader of photographs and films.

Nothing of a file's Exif data is kept but the orientation, which is applied. Values are taken as
sRGB: a colour profile in the file is passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from storage import discovery
from storage import films as film_readers
from storage.errors import CorruptFilm, FilmError, UnreadableFilm, UnsupportedFilm
from storage.films import formats, jpeg, png, tiff
from storage.films.pictures import PictureHeader
from storage.records import Mammogram

Kind: TypeAlias = Literal["photographs", "films"]
Pixels: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

READ = ("jpeg", "png", "tiff")
_REMEDY = "Save the picture as JPEG, PNG or TIFF: grey or RGB, 8 or 16 bits, one picture a file."
_AGAIN = "Fetch the file again from where it came."
_ORIENTATION = 274
_MAX_ENTRIES = 1024
_MAX_SEGMENTS = 4096


def describe(
    path: Path,
    source: str,
    *,
    kind: Kind,
    max_film_megapixels: float,
    known: Mammogram | None = None,
) -> Mammogram:
    """Hash a file and read its header; a file that cannot be used becomes a row that says why.

    Parameters
    ----------
    path : Path
        The file.
    source : str
        Its path relative to the source root.
    kind : {'photographs', 'films'}
        Films are read by `storage.discovery.describe`. Of a photograph the row has the size as it
        is seen (after the orientation), the depth and no view.
    max_film_megapixels : float
        Bound on rows x columns, in millions.
    known : Mammogram or None
        Row of an earlier run: its hash is taken over where size and time of change agree.

    Returns
    -------
    Mammogram
        Never raises for a bad file.
    """
    if kind == "films":
        return discovery.describe(
            path, source, max_film_megapixels=max_film_megapixels, known=known
        )
    row = Mammogram(mammogram_id=None, patient_key=None, source=source)
    try:
        with _film_errors_only(source):
            row = _hashed(row, path, known)
            return replace(
                _with_header(row, path, max_film_megapixels), patient_key=row.mammogram_id
            )
    except FilmError as error:
        return replace(
            row,
            patient_key=row.mammogram_id,
            excluded_reason=error.reason,
            excluded_rule=error.rule,
            excluded_remedy=error.remedy,
        )


def read(root: Path, film: Mammogram, *, kind: Kind, max_film_megapixels: float) -> Pixels:
    """Pixels of a photograph or a film.

    Parameters
    ----------
    root : Path
        Folder that sources are relative to.
    film : Mammogram
        Its row of `describe`.
    kind : {'photographs', 'films'}
    max_film_megapixels : float
        Bound on rows x columns, in millions.

    Returns
    -------
    uint8 or uint16, (rows, columns) or (rows, columns, 3)
        Grey or RGB, upright, full scale 255 or 65535. A film's grey values are those of
        `storage.films.read_pixels`.

    Raises
    ------
    FilmError
        One of its kinds; `UnreadableFilm` also where the file was altered since it was described.
    """
    path = discovery.film_path(root, film.source)
    _check_unchanged(path, film)
    if kind == "films":
        return film_readers.read_pixels(path, film, max_film_megapixels=max_film_megapixels)
    with _film_errors_only(film.source):
        pixels = _decoded(path, film.source, max_film_megapixels)
        if pixels.shape[:2] != (film.rows, film.columns):
            raise CorruptFilm(
                film.source,
                f"The pixels are {pixels.shape[0]} x {pixels.shape[1]}, the header says"
                f" {film.rows} x {film.columns}.",
                _AGAIN,
            )
    return pixels


# -- headers ---------------------------------------------------------------------------------------


def _hashed(row: Mammogram, path: Path, known: Mammogram | None) -> Mammogram:
    if not path.is_file():
        path.stat()  # tells of what is missing or forbidden
        raise UnreadableFilm(row.source, "It is no regular file.", "Move it elsewhere.")
    status = path.stat()
    same = known is not None and (known.file_size_bytes, known.modified_ns) == (
        status.st_size,
        status.st_mtime_ns,
    )
    digest = known.source_sha256 if known is not None and same else None
    if digest is None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    return replace(
        row,
        mammogram_id=f"m{digest[:20]}",
        source_sha256=digest,
        file_size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
    )


def _with_header(row: Mammogram, path: Path, max_film_megapixels: float) -> Mammogram:
    file_format, header = _header(path, row.source, max_film_megapixels)
    rows, columns = header.rows, header.columns
    if orientation(path, file_format) >= 5:
        rows, columns = columns, rows
    return replace(
        row, file_format=file_format, rows=rows, columns=columns, bits_stored=header.bits
    )


def _header(path: Path, source: str, max_film_megapixels: float) -> tuple[str, PictureHeader]:
    """Format and header of a file that is a photograph we read."""
    with path.open("rb") as file:
        head = file.read(formats.HEAD_BYTES)
    if not head:
        raise UnreadableFilm(source, "The file is empty.", _AGAIN)
    file_format = formats.recognise(head)
    if file_format is None:
        raise UnsupportedFilm(source, formats.unknown(path, head, source).rule, _REMEDY)
    if file_format not in READ:
        raise UnsupportedFilm(
            source, f"The file is {file_format}, a film.", "Run again with --kind films."
        )
    reader: Any = {"jpeg": jpeg, "png": png, "tiff": tiff}[file_format]
    try:
        header: PictureHeader = reader.read_header(
            path, source=source, max_film_megapixels=max_film_megapixels
        )
    except UnsupportedFilm as error:
        raise UnsupportedFilm(source, _of_pictures(error.rule), _REMEDY) from None
    if header.bits not in (8, 16) or (isinstance(header, jpeg.JpegHeader) and header.lossless):
        raise UnsupportedFilm(
            source, f"The {file_format.upper()} is lossless or of {header.bits} bits.", _REMEDY
        )
    return file_format, header


def _of_pictures(rule: str) -> str:
    """Say what four components mostly are."""
    return rule.replace("has 4 components.", "has 4 components: CMYK, for printing.").replace(
        "has 4 channels of photometric interpretation 5", "is CMYK, for printing"
    )


def _check_unchanged(path: Path, film: Mammogram) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise film_readers.unreadable(film.source, error) from error
    if (status.st_size, status.st_mtime_ns) != (film.file_size_bytes, film.modified_ns):
        raise UnreadableFilm(
            film.source,
            "The file was altered while the run was going on.",
            "Run again when nothing writes into the folder any more.",
        )


# -- pixels ----------------------------------------------------------------------------------------


def _decoded(path: Path, source: str, max_film_megapixels: float) -> Pixels:
    import imagecodecs

    file_format, header = _header(path, source, max_film_megapixels)
    data = path.read_bytes()
    decode = {
        "jpeg": imagecodecs.jpeg_decode,
        "png": imagecodecs.png_decode,
        "tiff": imagecodecs.tiff_decode,
    }[file_format]
    try:
        pixels: npt.NDArray[Any] = decode(data)
    except (ValueError, RuntimeError, IndexError):
        raise CorruptFilm(source, "The compressed pixels are damaged or too few.", _AGAIN) from None
    if pixels.ndim == 3 and pixels.shape[:2] != (header.rows, header.columns):  # planar TIFF
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = _opaque(pixels, getattr(header, "alpha", False), source)
    if getattr(header, "white_is_zero", False):
        pixels = np.invert(pixels)
    return np.ascontiguousarray(upright(pixels, orientation(path, file_format)))


def _opaque(pixels: npt.NDArray[Any], alpha: bool, source: str) -> npt.NDArray[Any]:
    """Grey or RGB of what was decoded; alpha is dropped where it says nothing."""
    if pixels.ndim == 2:
        return pixels
    if alpha and pixels.shape[2] in (2, 4):
        if int(pixels[..., -1].min()) != int(np.iinfo(pixels.dtype).max):
            raise UnsupportedFilm(
                source,
                "The picture is partly transparent: what lies behind is not known.",
                "Save it without alpha, on the ground that you want.",
            )
        pixels = pixels[..., :-1]
    if pixels.shape[2] == 1:
        return pixels[..., 0]
    if pixels.shape[2] != 3:
        raise UnsupportedFilm(source, f"The picture has {pixels.shape[2]} channels.", _REMEDY)
    return pixels


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn a picture as its Exif orientation asks (1 to 8; JEITA CP-3451, tag 0x0112)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


# -- orientation -----------------------------------------------------------------------------------


def orientation(path: Path, file_format: str) -> int:
    """Exif orientation of a JPEG, PNG or TIFF, 1 to 8; 1 where none is stated."""
    with path.open("rb") as file:
        at = {"jpeg": _exif_of_jpeg, "png": _exif_of_png}.get(file_format, lambda _: 0)(file)
        return 1 if at is None else _orientation_at(file, at)


def _exif_of_jpeg(file: BinaryIO) -> int | None:
    """Where a JPEG's Exif block begins."""
    file.seek(2)
    for _ in range(_MAX_SEGMENTS):
        byte = file.read(1)
        while byte == b"\xff":
            byte = file.read(1)
        if not byte or byte in (b"\xda", b"\xd9"):
            return None
        length = int.from_bytes(file.read(2), "big")
        if byte == b"\xe1" and length >= 8 and file.read(6) == b"Exif\0\0":
            return file.tell()
        if byte == b"\xe1" and length >= 8:
            length -= 6
        file.seek(max(0, length - 2), 1)
        if file.read(1) != b"\xff":
            return None
    return None


def _exif_of_png(file: BinaryIO) -> int | None:
    """Where a PNG's eXIf chunk begins."""
    file.seek(8)
    for _ in range(_MAX_SEGMENTS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return None
        if head[4:] == b"eXIf":
            return file.tell()
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return None


def _orientation_at(file: BinaryIO, base: int) -> int:
    """Orientation of the first directory of a TIFF structure that begins at ``base``."""
    file.seek(base)
    magic = file.read(8)
    order: Literal["little", "big"] = "little" if magic[:2] == b"II" else "big"
    if magic[:2] not in (b"II", b"MM") or int.from_bytes(magic[2:4], order) != 42:
        return 1
    file.seek(base + int.from_bytes(magic[4:8], order))
    for _ in range(min(int.from_bytes(file.read(2), order), _MAX_ENTRIES)):
        entry = file.read(12)
        if len(entry) == 12 and int.from_bytes(entry[:2], order) == _ORIENTATION:
            value = int.from_bytes(entry[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1


@contextmanager
def _film_errors_only(source: str) -> Iterator[None]:
    """Turn every other error into a film's; its text may hold personal data and is left out."""
    try:
        yield
    except FilmError:
        raise
    except OSError as error:
        raise film_readers.unreadable(source, error) from None
    except Exception as error:
        raise CorruptFilm(
            source,
            f"The file cannot be decoded ({type(error).__name__}).",
            "Fetch the file again; if it opens elsewhere, save it anew.",
        ) from None
