"""PGM of Netpbm: binary (P5) and plain (P2), up to 65535 grey levels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.errors import CorruptFilm
from storage.films.bounds import check_size, ends_early
from storage.films.pictures import Grey, PictureHeader

_HEADER_BYTES = 65536
_COMMENT_OR_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])"
_NUMBERS = re.compile(rb"(P[25])" + (_COMMENT_OR_SPACE + rb"+(\d{1,9})") * 3 + rb"(?:#[^\n\r]*)?\s")


@dataclass(frozen=True)
class PgmHeader(PictureHeader):
    """Size and range of a PGM, and where its samples begin."""

    highest: int
    plain: bool
    samples_at: int


def read_header(path: Path, *, source: str, max_film_megapixels: float) -> PgmHeader:
    """Read size and range, and check that the file is long enough for them.

    Raises
    ------
    OversizedFilm, CorruptFilm
        Where it asks for too many pixels; where the file is too short for it.
    """
    with path.open("rb") as file:
        found = _NUMBERS.match(file.read(_HEADER_BYTES))
        if found is None:
            raise ends_early(source, "its header lacks width, height or maximum")
        columns, rows, highest = (int(found[n]) for n in (2, 3, 4))
        check_size(rows, columns, source=source, max_film_megapixels=max_film_megapixels)
        if not 1 <= highest <= 65535:
            raise CorruptFilm(
                source, f"The maximum is {highest}.", "A PGM's maximum lies in 1 to 65535."
            )
        header = PgmHeader(
            rows, columns, highest.bit_length(), highest, found[1] == b"P2", found.end()
        )
        file.seek(0, 2)
        bytes_a_sample = 2 if header.plain or highest > 255 else 1
        least = rows * columns * bytes_a_sample - (1 if header.plain else 0)
        if file.tell() - header.samples_at < least:
            raise ends_early(source, "it is shorter than its header asks for")
    return header


def pixels(data: bytes, header: PgmHeader, *, source: str) -> Grey:
    """Grey values of a PGM.

    Returns
    -------
    ndarray, shape (rows, columns)
        uint8 for a maximum of up to 255, else uint16.

    Raises
    ------
    CorruptFilm
        Where samples are missing or exceed the maximum.
    """
    n_samples = header.rows * header.columns
    wide = header.highest > 255
    if header.plain:
        text = re.sub(rb"#[^\n\r]*", b"", data[header.samples_at :])
        words = text.split(maxsplit=n_samples)[:n_samples]
        if len(words) < n_samples or not all(word.isdigit() and len(word) < 10 for word in words):
            raise ends_early(source, "it holds fewer numbers than its header asks for")
        values = np.array(words, dtype="S9").astype(np.int64)
    else:
        stored = np.frombuffer(data, ">u2" if wide else "u1", n_samples, header.samples_at)
        values = stored.astype(np.uint16 if wide else np.uint8)
    if header.highest not in (255, 65535) and int(values.max(initial=0)) > header.highest:
        raise CorruptFilm(
            source,
            f"A sample exceeds the maximum of {header.highest}.",
            "Fetch the file again from where it came.",
        )
    grey = values.reshape(header.rows, header.columns)
    return grey.astype(np.uint16, copy=False) if wide else grey.astype(np.uint8, copy=False)
