"""TIFF 6.0 and BigTIFF, one page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from storage.errors import CorruptFilm, UnsupportedFilm
from storage.films.bounds import check_size, ends_early
from storage.films.pictures import Grey, PictureHeader, grey

_BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8, 17: 8, 18: 8}
_MAX_PAGES = 64
_MAX_ENTRIES = 4096
_SUBFILE, _WIDTH, _LENGTH, _BITS, _PHOTOMETRIC = 254, 256, 257, 258, 262
_STRIPS, _SAMPLES, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 277, 279, 324, 325
_EXTRA, _SAMPLE_FORMAT = 338, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = 0, 1, 2, 3


@dataclass(frozen=True)
class TiffHeader(PictureHeader):
    """Size, depth and kind of a TIFF."""

    white_is_zero: bool
    alpha: bool


def read_header(path: Path, *, source: str, max_film_megapixels: float) -> TiffHeader:
    """Read the first page's tags, and check that its strips or tiles lie inside the file.

    Pages after the first are allowed where they say that they are reduced copies.

    Raises
    ------
    OversizedFilm, CorruptFilm
        Where it asks for too many pixels; where a directory, strip or tile lies outside the file.
    UnsupportedFilm
        For several pages, other depths than 8 and 16 bits, floating point and signed samples, or
        colour models other than grey, RGB and palette.
    """
    with path.open("rb") as file:
        pages = _Directories(file, source).pages()
        tags = pages[0]
        rows, columns = (tags.get(tag, [0])[0] for tag in (_LENGTH, _WIDTH))
        check_size(rows, columns, source=source, max_film_megapixels=max_film_megapixels)
        file.seek(0, 2)
        _check_extents(tags, file.tell(), source)
    if any(not page.get(_SUBFILE, [0])[0] & 1 for page in pages[1:]):
        raise UnsupportedFilm(
            source, f"The TIFF has {len(pages)} pages.", "Save each film as a file of its own."
        )
    depths = set(tags.get(_BITS, [1]))
    kind = tags.get(_PHOTOMETRIC, [-1])[0]
    samples = tags.get(_SAMPLES, [1])[0]
    wanted = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1}.get(kind, 0)
    alpha = samples == wanted + 1 and len(tags.get(_EXTRA, [])) == 1
    formats = set(tags.get(_SAMPLE_FORMAT, [1]))
    if len(depths) != 1 or not depths <= {8, 16} or formats != {1}:
        raise UnsupportedFilm(
            source,
            f"The TIFF's samples have {sorted(depths)} bits and sample format {sorted(formats)}.",
            "Save the film as grey with unsigned 8 or 16 bits.",
        )
    if samples != wanted + alpha or kind == _PALETTE:
        raise UnsupportedFilm(
            source,
            f"The TIFF has {samples} channels of photometric interpretation {kind}.",
            "Save the film as grey.",
        )
    return TiffHeader(rows, columns, depths.pop(), kind == _WHITE_IS_ZERO, alpha)


class _Directories:
    """Tags of a TIFF's pages."""

    def __init__(self, file: BinaryIO, source: str) -> None:
        self.file, self.source = file, source
        file.seek(0, 2)
        self.file_bytes = file.tell()
        file.seek(0)
        magic = file.read(4)
        self.order: str = "little" if magic[:2] == b"II" else "big"
        self.big = 43 in (magic[2], magic[3])

    def pages(self) -> list[dict[int, list[int]]]:
        """Integer tags of each page."""
        self.file.seek(8 if self.big else 4)
        pages: list[dict[int, list[int]]] = []
        seen = set()
        while (at := self._number(8 if self.big else 4)) != 0:
            if at in seen or at >= self.file_bytes or len(pages) >= _MAX_PAGES:
                raise ends_early(self.source, "a directory of tags lies outside of it")
            seen.add(at)
            self.file.seek(at)
            pages.append(self._page())
        if not pages:
            raise ends_early(self.source, "it has no directory of tags")
        return pages

    def _page(self) -> dict[int, list[int]]:
        word = 8 if self.big else 4
        n_entries = self._number(8 if self.big else 2)
        if n_entries > _MAX_ENTRIES:
            raise ends_early(self.source, "its directory of tags makes no sense")
        entries = []
        for _ in range(n_entries):
            tag, kind, count = self._number(2), self._number(2), self._number(word)
            entries.append((tag, kind, count, self._bytes(word)))
        after = self.file.tell()
        page = {tag: self._values(kind, count, inline) for tag, kind, count, inline in entries}
        self.file.seek(after)
        return page

    def _values(self, kind: int, count: int, inline: bytes) -> list[int]:
        size = _BYTES_OF_TYPE.get(kind, 0)
        if size == 0 or size * count > self.file_bytes:
            return []
        if size * count > len(inline):
            self.file.seek(self._from(inline))
            inline = self._bytes(size * count)
        dtype = np.dtype(f"{'<' if self.order == 'little' else '>'}u{size}")
        values: list[int] = np.frombuffer(inline, dtype, count).tolist()
        return values

    def _number(self, n_bytes: int) -> int:
        return self._from(self._bytes(n_bytes))

    def _from(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "little" else "big")

    def _bytes(self, n_bytes: int) -> bytes:
        data = self.file.read(n_bytes)
        if len(data) < n_bytes:
            raise ends_early(self.source, "its directory of tags is not whole")
        return data


def _check_extents(tags: dict[int, list[int]], file_bytes: int, source: str) -> None:
    offsets = tags.get(_STRIPS) or tags.get(_TILES) or []
    lengths = tags.get(_STRIP_BYTES) or tags.get(_TILE_BYTES) or []
    if not offsets or len(offsets) != len(lengths):
        raise CorruptFilm(
            source,
            "The TIFF does not say where its pixels lie.",
            "Fetch the file again from where it came.",
        )
    ends = (at + length for at, length in zip(offsets, lengths, strict=True))
    if max(ends) > file_bytes:
        raise ends_early(source, "pixels lie beyond its end")


def pixels(data: bytes, header: TiffHeader, *, source: str) -> Grey:
    """Grey values of a TIFF; WhiteIsZero is inverted, so that bright is dense.

    Returns
    -------
    ndarray, shape (rows, columns)
        uint8 or uint16.

    Raises
    ------
    CorruptFilm
        Where the decoder refuses the pixels.
    """
    import imagecodecs

    try:
        decoded = imagecodecs.tiff_decode(data)
    except (imagecodecs.TiffError, IndexError):
        raise CorruptFilm(
            source,
            "The compressed pixels are damaged or too few.",
            "Fetch the file again from where it came.",
        ) from None
    if decoded.ndim == 3 and decoded.shape[:2] != (header.rows, header.columns):  # planar
        decoded = np.moveaxis(decoded, 0, -1)
    values = grey(decoded, alpha=header.alpha, source=source)
    return np.invert(values) if header.white_is_zero else values
