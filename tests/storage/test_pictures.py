"""PNG, TIFF, PGM and JPEG films."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.discovery import describe
from storage.errors import CorruptFilm, FilmError, OversizedFilm, UnreadableFilm, UnsupportedFilm
from storage.films import read_header, read_pixels

RNG = np.random.default_rng(7)
GREY8 = RNG.integers(0, 256, (40, 30), np.uint8)
GREY16 = RNG.integers(0, 65536, (40, 30), np.uint16)


def pgm(pixels: np.ndarray, highest: int | None = None, *, plain: bool = False) -> bytes:
    highest = highest or int(np.iinfo(pixels.dtype).max)
    rows, columns = pixels.shape
    if plain:
        text = "\n".join(" ".join(map(str, row)) for row in pixels.tolist())
        return f"P2 # a comment\n{columns} {rows}\n{highest}\n{text}\n".encode()
    samples = pixels.astype(">u2" if highest > 255 else "u1").tobytes()
    return f"P5\n{columns} {rows}\n# a comment\n{highest}\n".encode() + samples


def tiff(pixels: np.ndarray, **kwargs) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", **kwargs)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return imagecodecs.png_encode(pixels)


ENCODERS = {"png": png, "tiff": tiff, "pgm": pgm}


def written(folder: Path, data: bytes, name: str = "film") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def header(path: Path):
    return read_header(path, source=path.name, max_film_megapixels=200)


def read(path: Path) -> np.ndarray:
    return read_pixels(path, header(path), max_film_megapixels=200)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["png", "tiff", "pgm"]),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    data=st.data(),
)
def test_write_then_read_is_identity(tmp_path_factory, kind, rows, columns, dtype, data):
    flat = data.draw(st.binary(min_size=rows * columns * 2, max_size=rows * columns * 2))
    pixels = np.frombuffer(flat, dtype)[: rows * columns].reshape(rows, columns)
    path = written(tmp_path_factory.mktemp("film"), ENCODERS[kind](pixels))
    film = header(path)
    assert (film.file_format, film.rows, film.columns) == (kind, rows, columns)
    assert film.bits_stored == 8 * dtype().itemsize
    found = read_pixels(path, film, max_film_megapixels=200)
    assert found.dtype == dtype
    assert found.flags.writeable
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize("name", ["film.png", "film.dcm", "film", "film.tiff.bak"])
def test_the_format_is_told_by_content_and_not_by_name(tmp_path, name):
    np.testing.assert_array_equal(read(written(tmp_path, png(GREY16), name)), GREY16)


def test_plain_pgm_reads_like_binary(tmp_path):
    np.testing.assert_array_equal(read(written(tmp_path, pgm(GREY16, plain=True))), GREY16)


def test_pgm_of_twelve_bits_says_so(tmp_path):
    path = written(tmp_path, pgm(GREY16 >> 4, 4095))
    assert header(path).bits_stored == 12
    np.testing.assert_array_equal(read(path), GREY16 >> 4)


@pytest.mark.parametrize("plain", [True, False])
def test_pgm_samples_above_the_maximum_are_corrupt(tmp_path, plain):
    path = written(tmp_path, pgm(GREY16, 4095, plain=plain))
    with pytest.raises(CorruptFilm, match="exceeds the maximum"):
        read(path)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_reads(tmp_path, compression):
    path = written(tmp_path, tiff(GREY16, compression=compression))
    np.testing.assert_array_equal(read(path), GREY16)


def test_tiff_where_white_is_zero_is_inverted(tmp_path):
    data = bytearray(tiff(GREY8))
    entry = data.index(struct.pack("<HHI", 262, 3, 1))
    data[entry + 8] = 0
    np.testing.assert_array_equal(read(written(tmp_path, bytes(data))), 255 - GREY8)


def test_tiff_of_several_pages_is_unsupported(tmp_path):
    data = tiff(GREY8, save_all=True, append_images=[Image.fromarray(GREY8)])
    with pytest.raises(UnsupportedFilm, match="2 pages"):
        header(written(tmp_path, data))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_tiff_of_other_samples_is_unsupported(tmp_path, dtype):
    with pytest.raises(UnsupportedFilm, match="bits"):
        header(written(tmp_path, tiff(GREY8.astype(dtype))))


def test_jpeg_of_a_grey_film_reads(tmp_path):
    data = imagecodecs.jpeg8_encode(GREY8, level=100)
    film = header(written(tmp_path, data))
    assert (film.file_format, film.bits_stored) == ("jpeg", 8)
    difference = read(written(tmp_path, data)).astype(int) - GREY8
    assert np.abs(difference).max() <= 2


def test_jpeg_of_twelve_bits_reads(tmp_path):
    data = imagecodecs.jpeg_encode(GREY16 >> 4, bitspersample=12, level=100)
    film = header(written(tmp_path, data))
    assert film.bits_stored == 12
    difference = read(written(tmp_path, data)).astype(int) - (GREY16 >> 4)
    assert np.abs(difference).max() <= 8


# -- colour ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [GREY8, GREY16])
@pytest.mark.parametrize("alpha", [False, True])
def test_equal_channels_are_one_grey_film(tmp_path, pixels, alpha):
    opaque = np.full_like(pixels, np.iinfo(pixels.dtype).max)
    channels = np.dstack([pixels] * 3 + [opaque] * alpha)
    np.testing.assert_array_equal(read(written(tmp_path, png(channels))), pixels)


def test_a_palette_of_greys_is_looked_up(tmp_path):
    file = io.BytesIO()
    picture = Image.new("P", (30, 40))
    picture.putdata((GREY8 // 2).ravel().tolist())
    picture.putpalette([level for index in range(256) for level in [255 - index] * 3])
    picture.save(file, "PNG")
    np.testing.assert_array_equal(read(written(tmp_path, file.getvalue())), 255 - GREY8 // 2)


def test_nearly_equal_channels_become_their_luma(tmp_path):
    channels = np.dstack([GREY8 // 2, GREY8 // 2 + 4, GREY8 // 2])
    difference = read(written(tmp_path, png(channels))).astype(int) - GREY8 // 2
    assert 0 <= difference.min() <= difference.max() <= 4


def test_a_coloured_picture_is_unsupported(tmp_path):
    channels = np.dstack([GREY8, GREY8 // 2, GREY8])
    with pytest.raises(UnsupportedFilm, match="coloured"):
        read(written(tmp_path, png(channels)))


def test_a_see_through_picture_is_unsupported(tmp_path):
    with pytest.raises(UnsupportedFilm, match="transparent"):
        read(written(tmp_path, png(np.dstack([GREY8] * 3 + [GREY8]))))


def test_cmyk_jpeg_is_unsupported(tmp_path):
    file = io.BytesIO()
    Image.new("CMYK", (30, 40)).save(file, "JPEG")
    with pytest.raises(UnsupportedFilm, match="4 components"):
        header(written(tmp_path, file.getvalue()))


def test_an_animation_is_unsupported(tmp_path):
    file = io.BytesIO()
    frames = [Image.fromarray(GREY8), Image.fromarray(255 - GREY8)]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedFilm, match="animation"):
        header(written(tmp_path, file.getvalue()))


def test_a_bilevel_png_is_unsupported(tmp_path):
    file = io.BytesIO()
    Image.fromarray(GREY8 > 128).save(file, "PNG")
    with pytest.raises(UnsupportedFilm, match="1 bits a sample"):
        header(written(tmp_path, file.getvalue()))


@pytest.mark.shared
def test_rgb_jpegs_of_ddsm_films_read_as_grey_with_something_appended(shared):
    path = shared / "data" / "ddsm-normal" / "A_0018_1.LEFT_CC.jpg"
    film = describe(path, path.name, max_film_megapixels=200)
    assert (film.patient_key, film.laterality, film.view) == ("ddsm:A_0018_1", "L", "CC")
    assert (film.scanner, film.grey_scale, film.label) == (None, None, None)
    pixels = read_pixels(path, film, max_film_megapixels=200)
    assert pixels.shape == (4676, 2009)
    np.testing.assert_array_equal(pixels, imagecodecs.jpeg8_decode(path.read_bytes())[..., 0])


@pytest.mark.shared
def test_photographs_of_moles_are_no_films(shared):
    path = next((shared / "data" / "moles").glob("*.jpg"))
    with pytest.raises(UnsupportedFilm, match="coloured"):
        read(path)


# -- bad files -------------------------------------------------------------------------------------


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


HUGE = {
    "png": b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 16, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b""))
    + chunk(b"IEND", b""),
    "pgm": b"P5 60000 60000 65535\n",
    "tiff": b"II*\0\x08\0\0\0\x02\0"
    + struct.pack("<HHII", 256, 4, 1, 60000)
    + struct.pack("<HHII", 257, 4, 1, 60000)
    + b"\0\0\0\0",
    "jpeg": b"\xff\xd8\xff\xc0\0\x0b\x08\xea\x60\xea\x60\x01\x01\x11\0"
    b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\0\xff\xd9",
    "ljpeg": b"\xff\xd8\xff\xc3\0\x0b\x10\xea\x60\xea\x60\x01\x01\x11\0"
    b"\xff\xda\0\x08\x01\x01\0\x07\0\0\0\xff\xd9",
}


@pytest.mark.parametrize("kind", HUGE)
def test_a_header_of_60000_x_60000_is_refused_before_decoding(tmp_path, kind):
    with pytest.raises(OversizedFilm, match="3600 megapixels; the bound is 200"):
        header(written(tmp_path, HUGE[kind]))


def test_the_size_bound_holds_for_pixels_too(tmp_path):
    path = written(tmp_path, png(GREY8))
    with pytest.raises(OversizedFilm):
        read_pixels(path, header(path), max_film_megapixels=0.001)


WHOLE = {
    "png8": png(GREY8),
    "png16": png(GREY16),
    "tiff": tiff(GREY16),
    "tiff-lzw": tiff(GREY16, compression="tiff_lzw"),
    "pgm": pgm(GREY16),
    "pgm-plain": pgm(GREY16, plain=True),
    "jpeg": imagecodecs.jpeg8_encode(GREY8),
    "ljpeg": imagecodecs.ljpeg_encode(GREY16),
}


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 0.995))
def test_a_file_cut_off_anywhere_is_an_error(tmp_path_factory, kind, share):
    data = WHOLE[kind]
    path = written(tmp_path_factory.mktemp("cut"), data[: int(share * len(data))])
    with pytest.raises(FilmError):
        read(path)


def test_a_flipped_byte_in_a_png_is_corrupt(tmp_path):
    data = bytearray(png(GREY16))
    data[len(data) // 2] ^= 255
    with pytest.raises(CorruptFilm, match="damaged"):
        read(written(tmp_path, bytes(data)))


def test_something_appended_to_a_film_does_no_harm(tmp_path):
    for name, data in WHOLE.items():
        if name == "pgm-plain":
            continue
        assert read(written(tmp_path, data + b"PK\3\4" + b"\0" * 9000, name)).shape == (40, 30)


def test_a_film_that_changed_since_its_header_was_read_is_corrupt(tmp_path):
    path = written(tmp_path, png(GREY8))
    film = header(path)
    written(tmp_path, png(GREY8[:20]))
    with pytest.raises(CorruptFilm, match="the header says"):
        read_pixels(path, film, max_film_megapixels=200)


def test_an_empty_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadableFilm, match="empty"):
        header(written(tmp_path, b""))


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadableFilm, match="no such file"):
        header(tmp_path / "none.png")


def test_text_named_dcm_is_unsupported_and_says_so(tmp_path):
    path = written(tmp_path, b"These are my notes.\n", "film.dcm")
    with pytest.raises(UnsupportedFilm, match=r"The file is text, although its name ends in \.dcm"):
        header(path)


@pytest.mark.parametrize(
    ("data", "name"), [(b"GIF89a" + b"\0" * 200, "GIF"), (b"BM" + b"\0" * 200, "BMP")]
)
def test_other_formats_are_named(tmp_path, data, name):
    with pytest.raises(UnsupportedFilm, match=name):
        header(written(tmp_path, data))


@settings(max_examples=150, deadline=None)
@given(
    head=st.sampled_from(
        [b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"P5 ", b"P2 ", b"\xff\xd8\xff",
         b"\0" * 128 + b"DICM", b"\x08\0\x05\0CS\x0a\0"]
    ),
    rest=st.binary(max_size=300),
)  # fmt: skip
def test_garbage_after_a_magic_number_is_a_film_error(tmp_path_factory, head, rest):
    path = written(tmp_path_factory.mktemp("garbage"), head + rest)
    film = describe(path, "garbage", max_film_megapixels=200)
    if film.excluded_reason is None:
        with pytest.raises(FilmError):
            read_pixels(path, film, max_film_megapixels=200)
