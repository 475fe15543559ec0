"""Made-up tissue and ground."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.kernels import made_tissue
from tasks.kernels.made_tissue import BETA, made_ground


@pytest.mark.parametrize("make", [made_tissue.made_tissue, made_ground])
@pytest.mark.parametrize("size", [16, 64])
def test_made_up_tiles_lie_on_the_scale_and_are_drawn_by_their_generator(make, size) -> None:
    tiles = make(30, size, np.random.default_rng(0))
    assert tiles.shape == (30, size, size)
    assert tiles.dtype == np.float32
    assert 0 <= tiles.min() <= tiles.max() <= 1
    np.testing.assert_array_equal(tiles, make(30, size, np.random.default_rng(0)))
    assert not np.array_equal(tiles, make(30, size, np.random.default_rng(1)))


@pytest.mark.parametrize("beta", [2.2, 3.0, 3.8])
def test_the_power_spectrum_of_the_texture_falls_by_its_exponent(
    beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_tissue, "BETA", (beta, beta))
    fields = made_tissue._power_law(60, 64, np.random.default_rng(0))
    np.testing.assert_allclose(fields.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(fields.std(axis=(1, 2)), 1, atol=1e-4)
    window = np.outer(np.hanning(64), np.hanning(64))
    power = (np.abs(np.fft.fft2(fields * window)) ** 2).mean(axis=0)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    rings = np.round(radius * 64).astype(int)
    used = np.arange(4, 20)
    mean = [power[rings == r].mean() for r in used]
    slope = np.polyfit(np.log(used), np.log(mean), 1)[0]
    assert slope == pytest.approx(-beta, abs=0.35)


def test_the_exponent_lies_about_three() -> None:
    assert BETA[0] < 3 < BETA[1]


def test_ground_is_dark_and_almost_flat_and_tissue_is_not() -> None:
    tissue = made_tissue.made_tissue(200, 64, np.random.default_rng(0))
    ground = made_ground(200, 64, np.random.default_rng(0))
    assert ground.mean(axis=(1, 2)).max() < 0.2
    assert np.median(ground.std(axis=(1, 2))) < 0.02 < np.median(tissue.std(axis=(1, 2)))
