"""Lossless JPEG: the standard's rule, the rule of the codec that wrote DDSM, and which is which."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import CorruptFilm
from storage.films import jpeg, ljpeg, read_header, read_pixels

METADATA = Path("data") / "ddsm-metadata"


def film(rows: int, columns: int, bits: int, *, edge: int = 0, seed: int = 0) -> np.ndarray:
    """A smooth picture with some grain whose first row lies near ``edge``."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    shade = edge + (1 << (bits - 1)) * 0.8 * (y / rows) * np.sin(np.pi * x / columns)
    grain = rng.normal(0, max(1, (1 << bits) / 2000), (rows, columns))
    return np.clip(shade + grain, 0, (1 << bits) - 1).astype(np.int64)


def differences(pixels: np.ndarray, bits: int, *, predictor: int, pvrg: bool) -> np.ndarray:
    """Differences of lossless JPEG, modulo 65536; with ``pvrg`` by that codec's rule."""
    half = 1 << (bits - 1)
    rows, columns = pixels.shape
    out = np.zeros_like(pixels)
    for r in range(rows):
        for c in range(columns):
            left = pixels[r, c - 1] if c else None
            above = pixels[r - 1, c] if r else (half if pvrg else None)
            if left is None and above is None:
                predicted = half
            elif left is None:
                predicted = above
            elif above is None:
                predicted = left
            elif r == 0:
                predicted = (left + above) >> 1
            else:
                corner = pixels[r - 1, c - 1]
                predicted = {
                    1: left,
                    2: above,
                    3: corner,
                    4: left + above - corner,
                    5: left + ((above - corner) >> 1),
                    6: above + ((left - corner) >> 1),
                    7: (left + above) >> 1,
                }[predictor]
            out[r, c] = (pixels[r, c] - predicted) & 0xFFFF
    return out


def encode(
    pixels: np.ndarray,
    bits: int,
    *,
    predictor: int = 7,
    pvrg: bool = False,
    rows_a_segment: int | None = None,
) -> bytes:
    """A lossless JPEG (T.81 H) with all seventeen categories in codes of five bits."""
    rows, columns = pixels.shape
    step = rows_a_segment or rows
    scans = [
        entropy_coded(pixels[r : r + step], bits, predictor=predictor, pvrg=pvrg)
        for r in range(0, rows, step)
    ]
    scan = b"".join(
        part + bytes([0xFF, 0xD0 + n % 8] if n + 1 < len(scans) else [])
        for n, part in enumerate(scans)
    )
    restarts = b"\xff\xdd\0\x04" + (step * columns).to_bytes(2, "big") if rows_a_segment else b""
    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    codes = bytes([0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    return (
        b"\xff\xd8\xff\xc3\0\x0b" + bytes([bits]) + size + b"\x01\x01\x11\0" + restarts
        + b"\xff\xc4" + (len(codes) + 3).to_bytes(2, "big") + b"\0" + codes
        + b"\xff\xda\0\x08\x01\x01\0" + bytes([predictor]) + b"\0\0" + scan + b"\xff\xd9"
    )  # fmt: skip


def entropy_coded(pixels: np.ndarray, bits: int, *, predictor: int, pvrg: bool) -> bytes:
    text = []
    for value in differences(pixels, bits, predictor=predictor, pvrg=pvrg).ravel().tolist():
        signed = value - 65536 if value > 32768 else value
        category = abs(signed).bit_length()
        text.append(f"{category:05b}")
        if 0 < category < 16:
            extra = signed if signed > 0 else signed + (1 << category) - 1
            text.append(f"{extra:0{category}b}")
    stream = "".join(text)
    stream += "1" * (-len(stream) % 8)
    return int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\0")


def read(path: Path) -> np.ndarray:
    row = read_header(path, source=path.name, max_film_megapixels=200)
    assert row.file_format == "ddsm-ljpeg"
    return read_pixels(path, row, max_film_megapixels=200)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("share_of_full_scale", [0.0, 0.1, 0.45, 0.9])
def test_a_film_by_the_old_codecs_rule_reads_bit_exactly(tmp_path, bits, share_of_full_scale):
    pixels = film(24, 160, bits, edge=int(share_of_full_scale * (1 << bits)))
    path = tmp_path / "film.LJPEG"
    path.write_bytes(encode(pixels, bits, pvrg=True))
    np.testing.assert_array_equal(read(path), pixels)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_film_by_the_standards_rule_reads_bit_exactly(tmp_path, predictor, bits):
    pixels = film(24, 160, bits, edge=(1 << bits) // 10)
    path = tmp_path / "film.jpg"
    path.write_bytes(encode(pixels, bits, predictor=predictor))
    np.testing.assert_array_equal(read(path), pixels)


@pytest.mark.parametrize("bits", [12, 16])
def test_a_long_smooth_first_row_by_the_standards_rule_is_not_taken_for_the_old_codecs(
    tmp_path, bits
):
    ramp = np.linspace(0, (1 << bits) - 1, 400).astype(np.int64)
    pixels = np.stack([np.roll(ramp, shift) // 2 + 50 for shift in range(4)])
    data = encode(pixels, bits)
    np.testing.assert_array_equal(decoded(data, tmp_path / "film"), pixels)


@pytest.mark.parametrize("predictor", [1, 7])
def test_restart_intervals_are_followed(tmp_path, predictor):
    pixels = film(24, 160, 12, edge=300)
    data = encode(pixels, 12, predictor=predictor, rows_a_segment=5)
    np.testing.assert_array_equal(decoded(data, tmp_path / "film"), pixels)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("pvrg", [True, False])
def test_rows_before_the_end_of_a_cut_off_file_are_true(tmp_path, share, pvrg):
    pixels = film(40, 60, 12, edge=300)
    data = encode(pixels, 12, pvrg=pvrg)
    path = tmp_path / "film.LJPEG"
    path.write_bytes(data[: int(share * len(data))])
    found, whole_rows = ljpeg.decode(path.read_bytes(), jpeg.scan(path, source="film"))
    assert 0 < whole_rows < 40
    np.testing.assert_array_equal(found[:whole_rows], pixels[:whole_rows])
    assert not found[whole_rows:].any()


def test_a_stream_too_short_for_its_header_is_corrupt_although_it_ends_in_its_marker(tmp_path):
    data = encode(film(40, 60, 12), 12)
    path = tmp_path / "film.LJPEG"
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with pytest.raises(CorruptFilm, match="of its 40 rows are whole"):
        read(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_film_by_imagecodecs_reads_bit_exactly(tmp_path, dtype):
    pixels = film(40, 60, 8 * dtype().itemsize, edge=30).astype(dtype)
    path = tmp_path / "film.ljpeg"
    path.write_bytes(imagecodecs.ljpeg_encode(pixels, bitspersample=8 * dtype().itemsize))
    found = read(path)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, pixels)


@settings(max_examples=30, deadline=None)
@given(
    edge=st.floats(0, 0.49) | st.floats(0.51, 0.95),
    bits=st.sampled_from([12, 16]),
    pvrg=st.booleans(),
    seed=st.integers(0, 999),
)
def test_the_rule_is_told_by_the_first_rows(tmp_path_factory, edge, bits, pvrg, seed):
    pixels = film(400, 300, bits, edge=int(edge * (1 << bits)), seed=seed)[:3]
    data = encode(pixels, bits, pvrg=pvrg)
    path = tmp_path_factory.mktemp("film") / "film"
    np.testing.assert_array_equal(decoded(data, path), pixels)


def decoded(data: bytes, path: Path) -> np.ndarray:
    path.write_bytes(data)
    pixels, whole_rows = ljpeg.decode(data, jpeg.scan(path, source=path.name))
    assert whole_rows == len(pixels)
    return pixels


@pytest.mark.shared
@pytest.mark.parametrize("bits", [12, 16])
def test_whole_files_from_the_original_codec_read_bit_exactly(shared, bits):
    true = imagecodecs.png_decode((shared / METADATA / f"pvrg_{bits}bit.png").read_bytes())
    found = read(shared / METADATA / f"pvrg_{bits}bit.LJPEG")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, true)


@pytest.mark.shared
def test_the_truncated_real_film_is_excluded(shared):
    path = shared / METADATA / "A_0002_1.RIGHT_CC.LJPEG"
    with pytest.raises(CorruptFilm, match="no end-of-image marker"):
        read_header(path, source=path.name, max_film_megapixels=200)


@pytest.mark.shared
def test_rows_before_the_end_of_the_truncated_real_film_decode(shared):
    path = shared / METADATA / "A_0002_1.RIGHT_CC.LJPEG"
    header = jpeg.scan(path, source=path.name)
    assert (header.rows, header.columns, header.bits) == (4334, 1874, 16)
    pixels, whole_rows = ljpeg.decode(path.read_bytes(), header)
    assert 165 <= whole_rows <= 175
    assert not pixels[whole_rows:].any()
    assert pixels[0, :8].tolist() == [103, 51, 29, 30, 23, 26, 28, 27]
    assert pixels[10, ::200].tolist() == [106, 8, 9, 7, 8, 10, 13, 12, 15, 57]
    whole = pixels[:150].astype(int)
    steps = [np.median(np.abs(a - b)) for a, b in pairwise(whole)]
    assert max(steps) < 10  # by the standard's rule the rows are smears
