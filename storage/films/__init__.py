"""Film readers: a path in, one header row or one array of grey values out.

The format is told by content. Grey values come as the file stores them, in display sense: bright is
dense. Nothing personal leaves a reader, neither in a row nor in an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from storage.errors import CorruptFilm, FilmError, NotAFilm, UnreadableFilm
from storage.films import ddsm, dicom, formats, jpeg, names, pgm, png, tiff
from storage.films.pictures import Grey, PictureHeader, check_shape
from storage.records import Mammogram

__all__ = ["read_header", "read_pixels"]


class _PictureReader(Protocol):
    """What the modules png, tiff, pgm and jpeg have in common."""

    @property
    def read_header(self) -> Callable[..., PictureHeader]: ...

    @property
    def pixels(self) -> Callable[..., Grey]: ...


_PICTURES: dict[str, _PictureReader] = {"png": png, "tiff": tiff, "pgm": pgm, "jpeg": jpeg}


def read_header(
    path: Path,
    *,
    source: str,
    max_film_megapixels: float,
    films_only: bool = True,
    any_modality: bool = False,
) -> Mammogram:
    """Read what a film's header, its name and the DDSM files beside it say.

    No pixel is decoded. ``mammogram_id`` and the file's hash are left to discovery.

    Parameters
    ----------
    path : Path
        The file.
    source : str
        Its path relative to the source root, for the row and for errors.
    max_film_megapixels : float
        Bound on rows x columns, in millions.
    films_only : bool
        Refuse crops and masks; False gives their rows, with ``role`` telling.
    any_modality : bool
        Accept DICOM of any modality, and of any part of the body, where False takes radiographs
        (MG, CR, DX, DR, RG, OT) of the breast or of a part that is not named.

    Raises
    ------
    FilmError
        One of its kinds, with what is wrong and what to do about it.
    """
    with _film_errors_only(source):
        film = _read_header(path, source, max_film_megapixels, any_modality)
    if films_only and film.role != "film":
        raise not_a_film(film)
    return film


def _read_header(
    path: Path, source: str, max_film_megapixels: float, any_modality: bool
) -> Mammogram:
    head = _head(path, source)
    file_format = formats.recognise(head)
    if file_format == "dicom":
        return dicom.read_header(
            path, source=source, max_film_megapixels=max_film_megapixels, any_modality=any_modality
        )
    if file_format is None:
        raise formats.unknown(path, head, source)
    picture = _PICTURES[file_format].read_header(
        path, source=source, max_film_megapixels=max_film_megapixels
    )
    if isinstance(picture, jpeg.JpegHeader) and picture.lossless:
        file_format = "ddsm-ljpeg"
    told = names.hints(path.name)
    film = Mammogram(
        mammogram_id=None,
        patient_key=None,
        source=source,
        file_format=file_format,
        rows=picture.rows,
        columns=picture.columns,
        bits_stored=picture.bits,
        laterality=told.laterality,
        view=told.view,
    )
    return ddsm.with_sidecars(film, path)


def not_a_film(film: Mammogram) -> NotAFilm:
    """Error for a crop or a mask."""
    what = {"crop": "a cropped region", "mask": "a lesion mask"}[film.role]
    return NotAFilm(
        film.source,
        f"The picture is {what} of a film, not a film.",
        "Nothing to do: a mask is joined to its film, a crop is left out.",
    )


def read_pixels(
    path: Path, film: Mammogram, *, max_film_megapixels: float, apply_voi: bool = False
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Read a film's grey values as stored, in display sense: bright is dense.

    DICOM: see :func:`storage.films.dicom.read_pixels` for rescaling and signs; MONOCHROME1 and
    TIFF's WhiteIsZero are inverted. DDSM's lossless JPEG keeps the digitiser's grey level GL, which
    has this sense already: it falls as optical density rises. Equal colour channels become one.

    Parameters
    ----------
    path : Path
        The file.
    film : Mammogram
        Its row of :func:`read_header`.
    max_film_megapixels : float
        Bound on rows x columns, in millions.
    apply_voi : bool
        Apply a DICOM file's VOI LUT or window, as a viewer does. Off by default: it clips.

    Returns
    -------
    ndarray of uint8 or uint16, shape (rows, columns)

    Raises
    ------
    FilmError
        One of its kinds; where the pixels disagree with the row, :class:`CorruptFilm`.
    """
    with _film_errors_only(film.source):
        head = _head(path, film.source)
        if formats.recognise(head) == "dicom":
            pixels = dicom.read_pixels(
                path,
                source=film.source,
                max_film_megapixels=max_film_megapixels,
                apply_voi=apply_voi,
            )
        else:
            pixels = _picture_pixels(path, head, film.source, max_film_megapixels)
        check_shape(pixels, film.rows or 0, film.columns or 0, source=film.source)
    return pixels


def _picture_pixels(
    path: Path, head: bytes, source: str, max_film_megapixels: float
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    file_format = formats.recognise(head)
    if file_format is None:
        raise formats.unknown(path, head, source)
    reader = _PICTURES[file_format]
    header = reader.read_header(path, source=source, max_film_megapixels=max_film_megapixels)
    return reader.pixels(path.read_bytes(), header, source=source)


def _head(path: Path, source: str) -> bytes:
    with path.open("rb") as file:
        head = file.read(formats.HEAD_BYTES)
    if not head:
        raise UnreadableFilm(source, "The file is empty.", "Fetch it again from where it came.")
    return head


@contextmanager
def _film_errors_only(source: str) -> Iterator[None]:
    """Turn every other error into a film's; its text may hold personal data and is left out."""
    try:
        yield
    except FilmError:
        raise
    except OSError as error:
        if error.errno is None:  # a decoder's, not the system's
            raise _undecodable(source, error) from None
        raise unreadable(source, error) from None
    except Exception as error:
        raise _undecodable(source, error) from None
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime":  # a panic of the RLE decoder, which is in Rust
            raise
        raise _undecodable(source, error) from None


def _undecodable(source: str, error: BaseException) -> CorruptFilm:
    return CorruptFilm(
        source,
        f"The file cannot be decoded ({type(error).__name__}).",
        "Fetch the file again; if it opens elsewhere, convert it to 16-bit PNG or TIFF.",
    )


def unreadable(source: str, error: OSError) -> UnreadableFilm:
    """Error for a file that the system does not give out."""
    said = error.strerror or type(error).__name__
    return UnreadableFilm(
        source,
        f"The file cannot be opened: {said[:1].lower()}{said[1:]}.",
        "Check that it exists and that this user may read it.",
    )
