"""PNG (W3C, third edition)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from storage.errors import CorruptFilm, UnsupportedFilm
from storage.films.bounds import check_size, ends_early
from storage.films.pictures import Grey, PictureHeader, grey

_TAIL_BYTES = 4096
_MAX_CHUNKS_BEFORE_PIXELS = 4096
_END = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass(frozen=True)
class PngHeader(PictureHeader):
    """Size, depth and kind of a PNG."""

    alpha: bool


def read_header(path: Path, *, source: str, max_film_megapixels: float) -> PngHeader:
    """Read size and depth, and look for the end chunk.

    Raises
    ------
    OversizedFilm, CorruptFilm
        Where it asks for too many pixels; where the file ends early.
    UnsupportedFilm
        For fewer than 8 bits a sample, or an animation.
    """
    with path.open("rb") as file:
        file.seek(8)
        first = file.read(25)
        if len(first) < 25 or first[4:8] != b"IHDR":
            raise ends_early(source, "its first chunk is not whole")
        columns, rows = (int.from_bytes(first[at : at + 4], "big") for at in (8, 12))
        check_size(rows, columns, source=source, max_film_megapixels=max_film_megapixels)
        depth, colour_type = first[16], first[17]
        transparent = colour_type in (4, 6)
        for _ in range(_MAX_CHUNKS_BEFORE_PIXELS):
            length, name = int.from_bytes(file.read(4), "big"), file.read(4)
            if name in (b"IDAT", b""):
                break
            if name == b"acTL":
                raise UnsupportedFilm(
                    source, "The PNG is an animation.", "Save the film as a single picture."
                )
            transparent = transparent or name == b"tRNS"
            file.seek(length + 4, 1)
        if not _has_end_chunk(file):
            raise ends_early(source, "it has no end chunk")
    if depth not in (8, 16) or colour_type not in (0, 2, 3, 4, 6):
        raise UnsupportedFilm(
            source,
            f"The PNG has {depth} bits a sample and colour type {colour_type}.",
            "Save the film as grey with 8 or 16 bits.",
        )
    return PngHeader(rows, columns, depth, transparent)


def _has_end_chunk(file: BinaryIO) -> bool:
    """Whether IEND is there: mostly at the very end, but some programs append to the file."""
    file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
    if _END in file.read():
        return True
    file.seek(8)
    while len(head := file.read(8)) == 8:
        if head[4:] == b"IEND":
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def pixels(data: bytes, header: PngHeader, *, source: str) -> Grey:
    """Grey values of a PNG; the decoder checks every chunk's sum.

    A palette is looked up; equal channels become one.

    Returns
    -------
    ndarray, shape (rows, columns)
        uint8 or uint16.

    Raises
    ------
    CorruptFilm
        Where the compressed stream is damaged or too short.
    """
    import imagecodecs

    try:
        decoded = imagecodecs.png_decode(data)
    except imagecodecs.PngError:
        raise CorruptFilm(
            source,
            "The compressed pixels are damaged or too few.",
            "Fetch the file again from where it came.",
        ) from None
    alpha = header.alpha and decoded.ndim == 3 and decoded.shape[2] in (2, 4)
    return grey(decoded, alpha=alpha, source=source)
