"""Made-up breast tissue and bare ground, for tiles that come without their films.

Where films are at hand, their maps say which tiles are tissue. Where there are tiles alone, a first
idea of tissue comes from its physics: the texture of breasts in X-ray projection has a power
spectrum of 1 / f^beta with beta near 3 (Burgess, Jacobson and Judy, Med. Phys. 28, 2001), muscle
and skin have soft borders, and the skin line thins out over millimetres.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]

BETA = (2.2, 3.8)
"""Exponent of the power spectrum: about what is reported over cases."""


def made_tissue(n: int, size: int, rng: np.random.Generator) -> Plane:
    """Tiles of tissue: inside the breast, at the border of a muscle, or at the skin line.

    Parameters
    ----------
    n, size : int
        How many, and their side in pixels.
    rng : numpy.random.Generator
        Draws everything.

    Returns
    -------
    float32, (n, size, size), [0, 1]
    """
    texture, waves = _power_law(n, size, rng), _power_law(n, size, rng)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    out = np.empty_like(texture)
    for i in range(n):
        level, contrast = rng.uniform(0.08, 0.85), _log_uniform(rng, 0.01, 0.16)
        tile = level + contrast * texture[i]
        if rng.random() < 0.35:  # glands are brighter than fat by more than fat varies
            tile = np.where(tile > level, level + (tile - level) * rng.uniform(1, 1.6), tile)
        tile = tile + rng.normal(0, 0.12) * _ramp(x, y, rng)
        if rng.random() < 0.2:
            tile = tile + _muscle(x, y, waves[i], rng)
        if rng.random() < 0.45:
            tile = _behind_skin(tile, x, y, waves[i], rng)
        out[i] = tile + _grain(rng, 0.0005, 0.02, tile.shape)
    return np.clip(out, 0, 1)


def made_ground(n: int, size: int, rng: np.random.Generator) -> Plane:
    """Tiles of unexposed film: dark, hardly any slope, grain. As `made_tissue`."""
    texture = _power_law(n, size, rng)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    out = np.empty_like(texture)
    for i in range(n):
        level = rng.uniform(0, 0.15) if rng.random() < 0.7 else 0.0
        tile = level + rng.normal(0, 0.03) * _ramp(x, y, rng)
        tile = tile + _log_uniform(rng, 0.0005, 0.01) * texture[i]
        out[i] = tile + _grain(rng, 0.0003, 0.012, tile.shape)
    return np.clip(out, 0, 1)


def _power_law(n: int, size: int, rng: np.random.Generator) -> Plane:
    """Gaussian fields of zero mean and unit spread, cut from fields of twice the side."""
    side = 2 * size
    rows, columns = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1
    out = np.empty((n, size, size), np.float32)
    for field in out:
        beta = rng.uniform(*BETA)
        waves = rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)
        waves *= frequency ** (-beta / 2)
        waves[0, 0] = 0
        cut = np.fft.irfft2(waves, (side, side))[:size, :size]
        field[:] = (cut - cut.mean()) / cut.std()
    return out


def _ramp(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray((x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), np.float32)


def _muscle(x: Plane, y: Plane, waves: Plane, rng: np.random.Generator) -> Plane:
    """A soft step: the border of the pectoral muscle, or a fold."""
    from scipy.special import expit

    depth = _ramp(x, y, rng) - rng.uniform(-0.4, 0.4) + 0.03 * waves
    step = expit(depth / _log_uniform(rng, 0.012, 0.1))
    return np.asarray(rng.uniform(0.05, 0.35) * step, np.float32)


def _behind_skin(tile: Plane, x: Plane, y: Plane, waves: Plane, rng: np.random.Generator) -> Plane:
    """Tissue on one side of a curve, thinning out towards it; bare ground on the other."""
    ground = 0.0 if rng.random() < 0.4 else rng.uniform(0, 0.12)
    sideways = rng.choice((0.0, np.pi)) + rng.normal(0, 0.5)
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.4 else sideways
    radius, offset = _log_uniform(rng, 0.5, 20), rng.uniform(-0.55, 0.75)
    centre = 0.5 - np.cos(angle) * (radius - offset), 0.5 - np.sin(angle) * (radius - offset)
    wavy = 0.01 * rng.uniform(0, 2) * waves
    depth = radius - np.hypot(x - centre[0], y - centre[1]) + wavy
    inside = np.clip(depth, 0, None) / _log_uniform(rng, 0.03, 1.0)
    if rng.random() < 0.5:
        profile = 1 - np.exp(-inside)
    else:
        profile = np.clip(inside, 0, 1) ** rng.uniform(0.5, 1.2)
    tile = ground + np.clip(tile - ground, 0.01, None) * profile
    if rng.random() < 0.3:  # the skin itself, seen edge-on
        tile = tile + 0.04 * rng.random() * np.exp(-((depth / 0.03) ** 2))
    return np.asarray(tile, np.float32)


def _grain(
    rng: np.random.Generator, least: float, most: float, shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    return rng.normal(0, _log_uniform(rng, least, most), shape)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
