"""The scale: published calibrations, and the robust one of films without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.kernels.intensity import (
    full_range,
    normalise,
    normalise_for_context,
    optical_density,
    robust_range,
)


@pytest.mark.parametrize(
    ("scanner", "grey_level", "density"),
    [
        ("howtek-mgh", 1000, 3.789 - 0.94568),
        ("howtek-ismd", 2000, 3.96604096240593 - 1.98111615022424),
        ("lumisys", 2078.98, 2.0),
        ("dba", 10**4.80662, 0.05),
        ("dba", 10 ** (4.80662 - 1.07553), 1.0),
    ],
)
def test_density_follows_the_published_calibration(scanner, grey_level, density):
    assert optical_density(np.array([grey_level]), scanner)[0] == pytest.approx(density, abs=1e-5)


def test_density_is_clipped_and_defined_at_grey_level_zero():
    assert optical_density(np.array([0]), "dba").tolist() == [3.0]
    assert optical_density(np.array([4095]), "lumisys").tolist() == pytest.approx([0.05])


def test_an_unknown_scanner_has_no_density():
    with pytest.raises(ValueError, match="scanner='agfa' has no calibration"):
        optical_density(np.array([1]), "agfa")


def test_a_calibrated_film_runs_from_density_3_to_density_0_05():
    film = np.array([[0, 834, 2078, 4095]], np.uint16)  # HOWTEK at MGH: 834 is density 3.0003
    scaled = normalise(film, scanner="howtek-mgh", bits_stored=12)
    assert scaled[0, 0] == scaled[0, 1] == 0
    expected = (3.0 - (3.789 - 0.00094568 * 2078)) / 2.95 * 65535
    assert scaled[0, 2] == pytest.approx(expected, abs=1)
    assert scaled[0, 3] == 65535


@pytest.mark.parametrize("scanner", ["howtek-mgh", "howtek-ismd", "lumisys", "dba"])
def test_eight_bits_take_the_robust_scale_whatever_the_scanner(scanner):
    film = np.arange(200, dtype=np.uint8).reshape(10, 20)
    robust = normalise(film, scanner=None, bits_stored=8)
    np.testing.assert_array_equal(normalise(film, scanner=scanner, bits_stored=8), robust)


def test_levels_beyond_12_bits_are_not_read_as_a_12_bit_digitisers():
    film = np.arange(0, 40000, 100, dtype=np.uint16).reshape(20, 20)
    robust = normalise(film, scanner=None, bits_stored=16)
    np.testing.assert_array_equal(normalise(film, scanner="lumisys", bits_stored=16), robust)


def test_sixteen_bits_keep_their_full_depth():
    film = np.arange(10_000, 14_096, dtype=np.uint16).reshape(64, 64)
    assert len(np.unique(normalise(film, scanner=None, bits_stored=16))) > 3900


def test_the_robust_scale_is_linear_between_its_bounds():
    film = np.random.default_rng(0).integers(500, 3000, (200, 200)).astype(np.uint16)
    low, high = robust_range(film)
    expected = np.clip((film - low) / (high - low), 0, 1) * 65535
    scaled = normalise(film, scanner=None, bits_stored=12)
    assert np.abs(scaled - expected).max() <= 0.5 + 1e-6


def test_white_borders_redaction_and_lettering_leave_the_robust_scale_alone():
    rng = np.random.default_rng(1)
    film = rng.integers(2000, 30_000, (400, 300)).astype(np.uint16)
    low, high = robust_range(film)
    film[:10] = film[:, -8:] = 65535
    film[50:120, 200:280] = 0
    film[300:310, 50:90] = 65535
    marred_low, marred_high = robust_range(film)
    assert marred_low == pytest.approx(low, abs=0.02 * (high - low))
    assert marred_high == pytest.approx(high, rel=0.25)
    assert marred_high < 40_000


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_film_of_one_value_is_scaled_without_dividing_by_zero(value):
    scaled = normalise(np.full((9, 9), value, np.uint16), scanner=None, bits_stored=16)
    assert np.unique(scaled).size == 1


def test_a_volume_is_no_film():
    with pytest.raises(ValueError, match=r"not an array of shape \(2, 3, 4\)"):
        normalise(np.zeros((2, 3, 4), np.uint8), scanner=None, bits_stored=None)


def test_the_context_scale_of_an_uncalibrated_film_is_its_robust_scale():
    film = np.random.default_rng(0).integers(0, 4096, (60, 60)).astype(np.uint16)
    for scanner in (None, "agfa"):
        np.testing.assert_array_equal(
            normalise_for_context(film, scanner=scanner, bits_stored=16),
            normalise(film, scanner=None, bits_stored=16),
        )


@pytest.mark.parametrize(
    ("scanner", "skin", "ground"), [("howtek-mgh", 500, 300), ("lumisys", 900, 700), ("dba", 30, 9)]
)
def test_the_context_scale_tells_skin_from_ground_beyond_density_3(scanner, skin, ground):
    film = np.linspace(ground, 16_000 if scanner == "dba" else 3500, 900).reshape(30, 30)
    film[:, :6], film[:, 6] = ground, skin
    film = film.astype(np.uint16)
    bits = 16 if scanner == "dba" else 12
    calibrated = normalise(film, scanner=scanner, bits_stored=bits)
    assert calibrated[9, 6] == calibrated[9, 5] == 0
    seen = normalise_for_context(film, scanner=scanner, bits_stored=bits).astype(int)
    assert seen[9, 6] - seen[9, 5] > 0.015 * 65535


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]),
    scanner=st.sampled_from([None, "dba", "howtek-mgh", "howtek-ismd", "lumisys", "other"]),
    bits=st.sampled_from([None, 8, 12, 16]),
)
def test_the_scale_never_reverses_two_levels(seed, dtype, scanner, bits):
    film = np.random.default_rng(seed).integers(0, 255, (20, 30)).astype(dtype)
    order = np.argsort(film, axis=None, kind="stable")
    for scale in (normalise, normalise_for_context):
        scaled = scale(film, scanner=scanner, bits_stored=bits)
        assert (np.diff(scaled.ravel()[order].astype(np.int64)) >= 0).all()
        assert scaled.dtype == np.uint16


def test_the_full_range_of_the_type_becomes_the_scale():
    eight, sixteen = np.uint8([[0, 51, 255]]), np.uint16([[0, 13107, 65535]])
    for pixels in (eight, sixteen):
        scaled = full_range(pixels, bits_stored=None)
        assert scaled.dtype == np.uint16
        assert scaled.tolist() == [[0, 13107, 65535]]


def test_the_bits_of_the_source_say_what_is_white_and_more_is_clipped():
    twelve = np.uint16([[0, 4095, 4096, 65535]])
    assert full_range(twelve, bits_stored=12).tolist() == [[0, 65535, 65535, 65535]]


def test_the_full_range_does_not_depend_on_the_other_pixels():
    film = np.random.default_rng(0).integers(0, 4096, (50, 50)).astype(np.uint16)
    whole = full_range(film, bits_stored=12)
    np.testing.assert_array_equal(whole[:7, :9], full_range(film[:7, :9], bits_stored=12))
