"""Colour spaces, labelling, sampling, balance."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.kernels import colours
from tasks.kernels.colours import ColourLabeller, balanced, in_space, sample_positions

RNG = np.random.default_rng(3)
PICTURE = RNG.integers(0, 256, (37, 41, 3), np.uint8)
SPACES = ("rgb", "lab", "hsv")


def slow_labels(picture: np.ndarray, centres: np.ndarray, space: str) -> np.ndarray:
    places = in_space(picture.reshape(-1, 3), space)
    distances = ((places[:, None] - centres[None]) ** 2).sum(axis=2)
    return distances.argmin(axis=1).reshape(picture.shape[:2])


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((255, 0, 0), (53.2408, 80.0925, 67.2032)),
        ((0, 0, 255), (32.2970, 79.1875, -107.8602)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_lab_has_the_published_values_of_the_primaries(
    rgb: tuple[int, ...], lab: tuple[float, ...]
) -> None:
    place = in_space(np.array([rgb], np.uint8), "lab")
    assert place[0] == pytest.approx(lab, abs=0.02)


def test_lightness_is_the_first_axis_of_lab() -> None:
    pixels = PICTURE.reshape(-1, 3)
    assert colours.lightness(pixels) == pytest.approx(in_space(pixels, "lab")[:, 0])


def test_hsv_is_the_hexcone_with_hue_as_an_angle() -> None:
    pixels = PICTURE.reshape(-1, 3)[:200]
    hsv = np.array([colorsys.rgb_to_hsv(*(p / 255)) for p in pixels])
    angle = 2 * np.pi * hsv[:, 0]
    expected = np.stack((hsv[:, 1] * np.cos(angle), hsv[:, 1] * np.sin(angle), hsv[:, 2]), axis=1)
    assert in_space(pixels, "hsv") == pytest.approx(expected, abs=1e-12)


def test_reds_on_both_sides_of_hue_zero_are_neighbours_in_hsv() -> None:
    near = in_space(np.array([[200, 0, 3], [200, 3, 0]], np.uint8), "hsv")
    assert np.linalg.norm(near[0] - near[1]) < 0.04


@pytest.mark.parametrize("space", SPACES)
def test_a_16_bit_colour_is_the_8_bit_one_times_257(space: str) -> None:
    centres = in_space(RNG.integers(0, 256, (5, 3), np.uint8), space)
    labeller = ColourLabeller(centres, space)
    wide = PICTURE.astype(np.uint16) * np.uint16(257)
    assert np.array_equal(labeller.label(PICTURE), labeller.label(wide))
    assert in_space(wide.reshape(-1, 3), space) == pytest.approx(
        in_space(PICTURE.reshape(-1, 3), space)
    )


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_every_pixel_gets_its_nearest_centre(space: str, n: int) -> None:
    centres = in_space(RNG.integers(0, 256, (n, 3), np.uint8), space)
    labeller = ColourLabeller(centres, space)
    for _ in range(2):  # looked up the second time
        assert np.array_equal(labeller.label(PICTURE), slow_labels(PICTURE, centres, space))


def test_of_equally_near_centres_the_first_is_taken() -> None:
    labeller = ColourLabeller([[20.0, 0, 0], [0, 0, 0]], "rgb")
    assert labeller.label(np.full((1, 1, 3), (10, 0, 0), np.uint8))[0, 0] == 0


def test_films_are_labelled_by_level() -> None:
    labeller = ColourLabeller([[0.1], [0.5], [0.9]], "grey")
    film = np.array([[0, 65535 * 29 // 100, 65535 * 31 // 100, 65535]], np.uint16)
    assert labeller.label(film).tolist() == [[0, 0, 1, 2]]


def test_labels_are_scikit_learns_from_the_same_centres_on_the_same_sample() -> None:
    from sklearn.cluster import KMeans

    pixels = PICTURE.reshape(-1, 3)
    start = in_space(pixels[:4], "rgb")
    theirs = KMeans(4, init=start, n_init=1).fit(in_space(pixels[::5], "rgb"))
    labels = ColourLabeller(theirs.cluster_centers_, "rgb").label(PICTURE)
    assert np.array_equal(labels.ravel(), theirs.predict(in_space(pixels, "rgb")))


@pytest.mark.parametrize("centres", [np.zeros((2, 2)), np.zeros((0, 3)), np.zeros((65, 3))])
def test_centres_of_another_shape_are_refused(centres: np.ndarray) -> None:
    with pytest.raises(ValueError, match="centres"):
        ColourLabeller(centres, "rgb")


# -- sampling --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5000), st.floats(0.001, 1.0), st.integers(1, 3000))
def test_a_sample_has_no_pixel_twice_and_the_size_asked_for(
    n: int, fraction: float, most: int
) -> None:
    drawn = sample_positions(n, fraction=fraction, at_most=most, digest="ab" * 32, seed=1)
    assert len(drawn) == min(n, most, max(1, round(fraction * n)))
    assert len(np.unique(drawn)) == len(drawn)
    assert drawn.min() >= 0
    assert drawn.max() < n


def test_a_sample_depends_on_content_and_seed_alone() -> None:
    def draw(digest: str, seed: int) -> list[int]:
        drawn = sample_positions(10_000, fraction=0.05, at_most=9999, digest=digest, seed=seed)
        return drawn.tolist()

    assert draw("ab" * 32, 1) == draw("ab" * 32, 1)
    assert draw("ab" * 32, 1) != draw("ab" * 32, 2)
    assert draw("ab" * 32, 1) != draw("ac" * 32, 1)


# -- balance ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_balance_brings_the_median_to_three_quarters(dtype: type) -> None:
    top = np.iinfo(dtype).max
    picture = (PICTURE.astype(float) / 255 * np.array([0.9, 0.7, 0.5]) * top).astype(dtype)
    medians = np.median(balanced(picture).reshape(-1, 3), axis=0)
    assert medians / top == pytest.approx([0.75] * 3, abs=0.01)


def test_balance_takes_the_light_of_a_picture_away() -> None:
    skin = np.full((20, 20, 3), (200, 160, 120), np.uint8)
    skin[5:9, 5:9] = (100, 80, 60)
    dim = (skin // 2).astype(np.uint8)
    assert np.abs(balanced(skin).astype(int) - balanced(dim)).max() <= 1


def test_balance_does_not_blow_a_black_picture_up() -> None:
    black = np.full((4, 4, 3), 2, np.uint8)
    assert balanced(black).max() == 8
