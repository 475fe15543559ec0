from __future__ import annotations

import numpy as np

from tasks.kernels import thumbnails


def test_lifting_is_the_square_root_of_the_intensity() -> None:
    image = np.array([[0, 655, 16384, 65535]], np.uint16)
    assert thumbnails.lifted_8bit(image).tolist() == [[0, 25, 128, 255]]


def test_lifting_keeps_the_order_of_all_intensities() -> None:
    lifted = thumbnails.lifted_8bit(np.arange(65536, dtype=np.uint16)[None])
    assert (np.diff(lifted.astype(int)) >= 0).all()


def test_stretching_uses_a_picture_s_own_range() -> None:
    image = np.linspace(10_000, 20_000, 10_000).reshape(100, 100).astype(np.uint16)
    stretched = thumbnails.stretched_8bit(image)
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert abs(int(np.median(stretched)) - 127) <= 1


def test_noise_is_not_stretched_to_the_full_range() -> None:
    image = np.random.default_rng(0).integers(100, 140, (64, 64)).astype(np.uint16)
    assert thumbnails.stretched_8bit(image).max() <= 255 * 40 / (0.02 * 65535) + 1


def test_an_even_picture_is_black_when_stretched() -> None:
    assert not thumbnails.stretched_8bit(np.full((8, 8), 700, np.uint16)).any()


def test_films_are_at_most_480_pixels_high() -> None:
    import cv2

    png = thumbnails.film_png(np.zeros((960, 500), np.uint16))
    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED).shape == (480, 250)
