"""Photographs: what is read, upright and in full depth, and what is excluded with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from storage import photographs
from storage.errors import CorruptFilm, UnreadableFilm
from storage.records import Mammogram

RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (40, 30, 3), np.uint8)
GREY = np.ascontiguousarray(RGB[..., 0])
RGB16 = RNG.integers(0, 65536, (40, 30, 3), np.uint16)


def saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def described(folder: Path, data: bytes, *, megapixels: float = 100) -> Mammogram:
    (folder / "picture").write_bytes(data)
    return photographs.describe(
        folder / "picture", "picture", kind="photographs", max_film_megapixels=megapixels
    )


def read(folder: Path, row: Mammogram) -> np.ndarray:
    return photographs.read(folder, row, kind="photographs", max_film_megapixels=100)


def oversized_png(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + sum_

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def oversized_jpeg(side: int) -> bytes:
    small = saved(Image.fromarray(RGB), "JPEG")
    at = small.index(b"\xff\xc0") + 5
    return small[:at] + struct.pack(">HH", side, side) + small[at + 4 :]


READ: dict[str, tuple[Callable[[], bytes], Callable[[], np.ndarray]]] = {
    "PNG": (lambda: imagecodecs.png_encode(RGB), lambda: RGB),
    "PNG of 16 bits": (lambda: imagecodecs.png_encode(RGB16), lambda: RGB16),
    "grey PNG": (lambda: imagecodecs.png_encode(GREY), lambda: GREY),
    "PNG with opaque alpha": (
        lambda: imagecodecs.png_encode(np.dstack((RGB, np.full((40, 30), 255, np.uint8)))),
        lambda: RGB,
    ),
    "PNG with a palette": (
        lambda: saved(Image.fromarray(RGB).quantize(200), "PNG"),
        lambda: np.array(Image.fromarray(RGB).quantize(200).convert("RGB")),
    ),
    "TIFF": (lambda: saved(Image.fromarray(RGB), "TIFF"), lambda: RGB),
    "compressed TIFF": (
        lambda: saved(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"),
        lambda: RGB,
    ),
    "TIFF of 16 bits": (
        lambda: imagecodecs.tiff_encode(RGB16, photometric="rgb"),
        lambda: RGB16,
    ),
    "JPEG": (
        lambda: saved(Image.fromarray(RGB), "JPEG", quality=95),
        lambda: np.array(Image.open(io.BytesIO(READ["JPEG"][0]()))),
    ),
    "progressive JPEG": (
        lambda: saved(Image.fromarray(RGB), "JPEG", progressive=True),
        lambda: np.array(Image.open(io.BytesIO(READ["progressive JPEG"][0]()))),
    ),
    "grey JPEG": (
        lambda: saved(Image.fromarray(RGB[..., 0]), "JPEG"),
        lambda: np.array(Image.open(io.BytesIO(READ["grey JPEG"][0]()))),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_it_is_read(name: str, tmp_path: Path) -> None:
    data, expected = READ[name]
    row = described(tmp_path, data())
    assert row.excluded_reason is None, row.excluded_rule
    pixels = read(tmp_path, row)
    assert pixels.dtype == expected().dtype
    assert (row.rows, row.columns, row.bits_stored) == (40, 30, 8 * pixels.itemsize)
    assert np.abs(pixels.astype(int) - expected()).max() <= (2 if "JPEG" in name else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_the_exif_orientation_is_followed(
    file_format: str, orientation: int, tmp_path: Path
) -> None:
    picture = np.full((24, 40, 3), 200, np.uint8)
    picture[:9, :14] = (250, 20, 20)
    picture[15:, 30:] = (20, 20, 250)
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(
        Image.fromarray(picture), file_format, **(
            {"tiffinfo": {274: orientation}} if file_format == "TIFF" else {"exif": exif}
        )
    )  # fmt: skip
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    row = described(tmp_path, data)
    assert (row.rows, row.columns) == expected.shape[:2]
    assert np.abs(read(tmp_path, row).astype(int) - expected).max() <= 2


def animated(file_format: str) -> bytes:
    frames = [Image.fromarray(np.full((9, 9, 3), v, np.uint8)) for v in (10, 200)]
    return saved(frames[0], file_format, save_all=True, append_images=frames[1:])


EXCLUDED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "zero bytes": (lambda: b"", "unreadable", "empty"),
    "text": (lambda: b"Dear Sir or Madam,\n" * 30, "unsupported", "text"),
    "noise": (lambda: b"\x07" + RNG.bytes(4000), "unsupported", "no format"),
    "CMYK JPEG": (
        lambda: saved(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
        "unsupported",
        "CMYK",
    ),
    "CMYK TIFF": (
        lambda: saved(Image.fromarray(RGB).convert("CMYK"), "TIFF"),
        "unsupported",
        "CMYK",
    ),
    "partly transparent PNG": (
        lambda: imagecodecs.png_encode(np.dstack((RGB, RGB[..., 0]))),
        "unsupported",
        "transparent",
    ),
    "animated PNG": (lambda: animated("PNG"), "unsupported", "animation"),
    "animated GIF": (lambda: animated("GIF"), "unsupported", "GIF"),
    "TIFF of two pages": (lambda: animated("TIFF"), "unsupported", "2 pages"),
    "palette of 4 bits": (
        lambda: saved(Image.fromarray(RGB).quantize(12), "PNG"),
        "unsupported",
        "4 bits",
    ),
    "floating point TIFF": (
        lambda: saved(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF"),
        "unsupported",
        "32",
    ),
    "20,000 x 20,000 PNG": (lambda: oversized_png(20_000), "oversized", "400 megapixels"),
    "20,000 x 20,000 JPEG": (lambda: oversized_jpeg(20_000), "oversized", "400 megapixels"),
    "cut off JPEG": (
        lambda: saved(Image.fromarray(RGB), "JPEG", quality=95)[:-300],
        "corrupt",
        "ends early",
    ),
    "cut off PNG": (lambda: imagecodecs.png_encode(RGB)[:-300], "corrupt", "ends early"),
    "cut off TIFF": (
        lambda: saved(Image.fromarray(RGB), "TIFF")[:1500],
        "corrupt",
        "ends early",
    ),
    "damaged PNG": (
        lambda: (d := imagecodecs.png_encode(RGB))[:500] + bytes(40) + d[540:],
        "corrupt",
        "damaged",
    ),
    "DICOM": (lambda: bytes(128) + b"DICM" + bytes(100), "unsupported", "a film"),
}


@pytest.mark.parametrize("name", EXCLUDED)
def test_it_is_excluded_with_a_reason(name: str, tmp_path: Path) -> None:
    data, reason, rule = EXCLUDED[name]
    row = described(tmp_path, data())
    if row.excluded_reason is None:  # told by the pixels only
        with pytest.raises(Exception, match=rule) as error:
            read(tmp_path, row)
        assert error.value.reason == reason
        assert error.value.remedy
        return
    assert row.excluded_reason == reason
    assert rule in str(row.excluded_rule)
    assert row.excluded_remedy


def test_no_exif_data_leaves_the_reader(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x9003], exif[0x013B] = "Camera Inc", "2026:01:02 03:04:05", "Jane Doe"
    row = described(tmp_path, saved(Image.fromarray(RGB), "JPEG", exif=exif))
    told = repr(row)
    assert all(word not in told for word in ("Camera", "2026", "Jane"))


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    row = photographs.describe(
        tmp_path / "gone.png", "gone.png", kind="photographs", max_film_megapixels=100
    )
    assert row.excluded_reason == "unreadable"


def test_a_file_altered_since_it_was_described_is_not_read(tmp_path: Path) -> None:
    row = described(tmp_path, imagecodecs.png_encode(RGB))
    (tmp_path / "picture").write_bytes(imagecodecs.png_encode(RGB[:20]))
    with pytest.raises(UnreadableFilm, match="altered"):
        read(tmp_path, row)


def test_a_known_row_spares_the_hash_only_while_the_file_is_the_same(tmp_path: Path) -> None:
    row = described(tmp_path, imagecodecs.png_encode(RGB))
    known = Mammogram(**{**vars(row), "source_sha256": "f" * 64})
    again = photographs.describe(
        tmp_path / "picture", "p", kind="photographs", max_film_megapixels=100, known=known
    )
    assert again.source_sha256 == "f" * 64
    (tmp_path / "picture").write_bytes(imagecodecs.png_encode(RGB[:20]))
    changed = photographs.describe(
        tmp_path / "picture", "p", kind="photographs", max_film_megapixels=100, known=known
    )
    assert changed.source_sha256 != "f" * 64


def test_a_film_is_read_as_the_film_readers_do(tmp_path: Path) -> None:
    (tmp_path / "film.png").write_bytes(imagecodecs.png_encode(GREY.astype(np.uint16)))
    row = photographs.describe(
        tmp_path / "film.png", "film.png", kind="films", max_film_megapixels=100
    )
    pixels = photographs.read(tmp_path, row, kind="films", max_film_megapixels=100)
    assert np.array_equal(pixels, GREY)


def test_pixels_that_disagree_with_the_row_are_corrupt(tmp_path: Path) -> None:
    row = described(tmp_path, imagecodecs.png_encode(RGB))
    with pytest.raises(CorruptFilm, match="header says"):
        read(tmp_path, Mammogram(**{**vars(row), "rows": 39}))
