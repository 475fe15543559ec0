"""Which format a file is in, told by its first bytes and never by its name."""

from __future__ import annotations

from pathlib import Path

from storage.errors import UnsupportedFilm

HEAD_BYTES = 132
"""As many as :func:`recognise` looks at: DICOM's preamble and its four letters."""

READ = ("dicom", "ddsm-ljpeg", "png", "tiff", "pgm", "jpeg")
"""Formats with a reader."""

SUFFIXES = frozenset(
    {
        ".dcm", ".dicom", ".ima", ".ljpeg", ".ljpg", ".jpg", ".jpeg", ".jpe", ".jfif", ".png",
        ".apng", ".tif", ".tiff", ".pgm", ".pnm", ".ppm", ".pbm", ".jp2", ".j2k", ".jpx", ".jls",
        ".jxl", ".bmp", ".gif", ".webp", ".avif", ".heic",
    }
)  # fmt: skip
"""Names that promise a picture; a file of such a name that cannot be read is reported."""

_OTHERS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
)


def recognise(head: bytes) -> str | None:
    """Name the format of a file.

    Parameters
    ----------
    head : bytes
        The first :data:`HEAD_BYTES` bytes, or all of a shorter file.

    Returns
    -------
    str or None
        One of :data:`READ` (``jpeg`` stands for lossless JPEG as well: its frame header tells, see
        :func:`storage.films.jpeg.scan`); None for anything else.
    """
    if head[128:132] == b"DICM" or _begins_like_dicom_without_preamble(head):
        return "dicom"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:2] in (b"P5", b"P2") and head[2:3] in (b" ", b"\t", b"\n", b"\r", b"#"):
        return "pgm"
    if head.startswith(b"\xff\xd8\xff") and head[3:4] != b"\xf7":
        return "jpeg"
    return None


def _begins_like_dicom_without_preamble(head: bytes) -> bool:
    """Group 2 or 8 first, then a small element number: old files go without the preamble."""
    little = head[:2] in (b"\x02\x00", b"\x08\x00") and head[3:4] == b"\x00"
    big = head[:2] in (b"\x00\x02", b"\x00\x08") and head[2:3] == b"\x00"
    if not (little or big) or len(head) < 12:
        return False
    vr_or_length = head[4:8]
    explicit = vr_or_length[:2].isalpha() and vr_or_length[:2].isupper()
    implicit = little and int.from_bytes(vr_or_length, "little") <= 64
    return explicit or implicit


def unknown(path: Path, head: bytes, source: str) -> UnsupportedFilm:
    """Error for a file that no reader claims."""
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return UnsupportedFilm(
                source,
                f"The file is {name}, which is not read.",
                "Convert it to DICOM, or to 16-bit PNG or TIFF without loss.",
            )
    promise = f", although its name ends in {path.suffix}" if path.suffix else ""
    kind = "text" if _is_text(head) else "in no format known here"
    return UnsupportedFilm(
        source,
        f"The file is {kind}{promise}.",
        "Give films as DICOM, DDSM LJPEG, PNG, TIFF, PGM or JPEG; move other files elsewhere.",
    )


def _is_text(head: bytes) -> bool:
    return bool(head) and all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)
