"""JPEG (ITU-T T.81), lossy and lossless."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from storage.errors import CorruptFilm, UnsupportedFilm
from storage.films import ljpeg
from storage.films.bounds import check_size, ends_early
from storage.films.pictures import Grey, PictureHeader, grey

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSY_HUFFMAN = frozenset({0xC0, 0xC1, 0xC2})
_LOSSLESS_HUFFMAN = 0xC3
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_MAX_SEGMENTS = 4096
_MAX_STRAY_BYTES = 1024
_TAIL_BYTES = 4096
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class JpegHeader(PictureHeader):
    """Frame and scan header of a JPEG."""

    components: int
    lossless: bool
    predictor: int
    """Of a lossless file, 1 to 7; else 0."""
    has_application_marker: bool
    """JFIF, Exif, Adobe or another APPn segment."""
    restart_interval: int
    """Samples between restarts; 0 for none."""
    code_table: bytes
    """Of the scan: how many codes there are of 1 to 16 bits, then their values."""
    samples_at: int
    """Where in the file the entropy-coded bytes begin."""
    has_end_marker: bool
    """A file without one was cut off; decoders give it out as whole."""


def read_header(path: Path, *, source: str, max_film_megapixels: float) -> JpegHeader:
    """Read the headers of a JPEG file and insist on its end marker.

    Raises
    ------
    OversizedFilm, CorruptFilm
        Where it asks for too many pixels; where no frame or scan begins, or the file is cut off.
    UnsupportedFilm
        For two or four components, arithmetic coding, hierarchical files, and a lossless file
        with a point transform.
    """
    header = scan(path, source=source)
    check_size(header.rows, header.columns, source=source, max_film_megapixels=max_film_megapixels)
    if not header.has_end_marker:
        raise ends_early(source, "it has no end-of-image marker")
    if header.components not in (1, 3):
        raise UnsupportedFilm(
            source, f"The JPEG has {header.components} components.", "Save the film as grey."
        )
    return header


def scan(path: Path, *, source: str) -> JpegHeader:
    """Read the headers of a JPEG file, which may be cut off after them."""
    with path.open("rb") as file:
        header = _read_markers(file, source)
        return replace(header, has_end_marker=_has_end_marker(file))


def _has_end_marker(file: BinaryIO) -> bool:
    """Whether FF D9 occurs after here: in samples FF is followed by 00, so it is the marker itself.

    It is mostly at the very end, but some programs append to the file.
    """
    begin_of_samples = file.tell()
    file.seek(max(begin_of_samples, file.seek(0, 2) - _TAIL_BYTES))
    if b"\xff\xd9" in file.read():
        return True
    file.seek(begin_of_samples)
    last = b""
    while block := file.read(_BLOCK_BYTES):
        if b"\xff\xd9" in last + block:
            return True
        last = block[-1:]
    return False


def _read_markers(file: BinaryIO, source: str) -> JpegHeader:
    file.seek(2)
    frame: tuple[int, bytes] | None = None
    tables: dict[int, bytes] = {}
    application, restart_interval = False, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _next_marker(file)
        if marker is None:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        body = file.read(max(0, int.from_bytes(file.read(2), "big") - 2))
        if marker in _START_OF_FRAME:
            frame = marker, body
        elif 0xE0 <= marker <= 0xEF:
            application = True
        elif marker == 0xDD:
            restart_interval = int.from_bytes(body[:2], "big")
        elif marker == 0xC4:
            tables |= _code_tables(body)
        elif marker == 0xDA:
            if frame is None or len(frame[1]) < 6 or len(body) < 4:
                break
            header = _described(frame, body, source)
            return replace(
                header,
                has_application_marker=application,
                restart_interval=restart_interval,
                code_table=tables.get(body[2] >> 4, b""),
                samples_at=file.tell(),
            )
    raise CorruptFilm(
        source, "No scan follows the JPEG headers.", "Fetch the file again from where it came."
    )


def _next_marker(file: BinaryIO) -> int | None:
    skipped = 0
    while (byte := file.read(1)) != b"\xff":  # stray bytes before a marker, which occur, but few
        skipped += 1
        if not byte or skipped > _MAX_STRAY_BYTES:
            return None
    while byte == b"\xff":
        byte = file.read(1)
    return byte[0] if byte else None


def _code_tables(body: bytes) -> dict[int, bytes]:
    """Tables of class 0 in a DHT segment, by their number."""
    tables = {}
    while len(body) >= 17:
        n_values = sum(body[1:17])
        if body[0] >> 4 == 0:
            tables[body[0] & 15] = body[1 : 17 + n_values]
        body = body[17 + n_values :]
    return tables


def _described(frame: tuple[int, bytes], scan_body: bytes, source: str) -> JpegHeader:
    marker, body = frame
    lossless = marker == _LOSSLESS_HUFFMAN
    if not lossless and marker not in _LOSSY_HUFFMAN:
        raise UnsupportedFilm(
            source,
            f"The JPEG is of process SOF{marker - 0xC0}, which is not read.",
            "Convert it to 16-bit PNG or TIFF without loss.",
        )
    predictor = scan_body[-3]
    point_transform = scan_body[-1] & 15
    if lossless and (point_transform or not 1 <= predictor <= 7 or body[5] != 1):
        raise UnsupportedFilm(
            source,
            "The lossless JPEG has a point transform, several components or an unknown predictor.",
            "Convert it to 16-bit PNG or TIFF without loss.",
        )
    return JpegHeader(
        rows=int.from_bytes(body[1:3], "big"),
        columns=int.from_bytes(body[3:5], "big"),
        bits=body[0],
        components=body[5],
        lossless=lossless,
        predictor=predictor if lossless else 0,
        has_application_marker=False,
        restart_interval=0,
        code_table=b"",
        samples_at=0,
        has_end_marker=False,
    )


def pixels(data: bytes, header: JpegHeader, *, source: str) -> Grey:
    """Grey values of a JPEG; those of a lossless one are :func:`storage.films.ljpeg.decode`'s.

    An Exif orientation is not followed: boxes are in the file's own rows and columns.

    Returns
    -------
    ndarray, shape (rows, columns)
        uint8, or uint16 for more than 8 bits a sample.
    """
    import imagecodecs

    if header.lossless:
        values, whole_rows = ljpeg.decode(data, header)
        if whole_rows < header.rows:
            raise ends_early(source, f"only {whole_rows} of its {header.rows} rows are whole")
        return values
    return grey(imagecodecs.jpeg_decode(data), alpha=False, source=source)
