"""The intensity scale of the pipeline: [0, 1] held as uint16, 0 = darkest film, 65535 = brightest.

Where the digitiser is known the scale is physical (optical density, inverted for display), so that
equal values mean equal blackening on every film. Elsewhere each film is stretched linearly between
robust levels of its own.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

FULL_SCALE = 65535
"""The integer that stands for 1.0."""

OPTICAL_DENSITY_RANGE = (0.05, 3.0)
"""Densities are clipped here: below lies the film base, above the digitisers do not resolve."""

SCANNERS = ("dba", "howtek-mgh", "howtek-ismd", "lumisys")
"""Digitisers whose calibration the DDSM publishes."""

_ROBUST_MARGIN = 0.03
_ROBUST_QUANTILES = (0.005, 0.99)
_ROBUST_HEADROOM = (0.02, 0.25)
_ROBUST_SAMPLES = 400_000

_Pixels = TypeVar("_Pixels", bound=np.generic)


def optical_density(
    grey_level: npt.NDArray[np.integer] | npt.NDArray[np.floating], scanner: str
) -> npt.NDArray[np.float32]:
    """Optical density of a film from the grey levels of a calibrated digitiser.

    The calibrations are those of the Digital Database for Screening Mammography (University of
    South Florida).

    Parameters
    ----------
    grey_level : integer or floating array, any shape
        As the digitiser stored them (12 bits, or 16 for ``dba``).
    scanner : {'dba', 'howtek-mgh', 'howtek-ismd', 'lumisys'}

    Returns
    -------
    float32, same shape
        Density, clipped to 0.05..3.0; larger is darker.

    Raises
    ------
    ValueError
        For a digitiser without a published calibration.
    """
    level = np.asarray(grey_level, np.float64)
    if scanner == "dba":
        density = (np.log10(np.maximum(level, 1.0)) - 4.80662) / -1.07553
    elif scanner == "howtek-mgh":
        density = 3.789 - 0.00094568 * level
    elif scanner == "howtek-ismd":
        density = 3.96604096240593 - 0.00099055807612 * level
    elif scanner == "lumisys":
        density = (level - 4096.99) / -1009.01
    else:
        raise ValueError(f"scanner={scanner!r} has no calibration; use one of {SCANNERS} or None.")
    return np.clip(density, *OPTICAL_DENSITY_RANGE).astype(np.float32)


def normalise(
    pixels: npt.NDArray[_Pixels], *, scanner: str | None, bits_stored: int | None
) -> npt.NDArray[np.uint16]:
    """Put a film on the pipeline's scale.

    With a calibrated scanner, 0 is optical density 3.0 and 65535 density 0.05. Otherwise the scale
    is linear between the levels of `robust_range`, and what lies outside is clipped.

    Parameters
    ----------
    pixels : (rows, columns), unsigned or signed integer or floating
        Larger is brighter.
    scanner : str or None
        A name in `SCANNERS`; any other name counts as unknown.
    bits_stored : int or None
        Bits of the source. Calibrations for 12 bits are applied only where the source has at most
        12; a picture of 8 bits is no longer what the digitiser wrote and takes the robust scale.

    Returns
    -------
    uint16, (rows, columns)

    Raises
    ------
    ValueError
        If `pixels` is not a plane, or is empty.
    """
    if pixels.ndim != 2 or not pixels.size:
        raise ValueError(f"a film is a plane of pixels, not an array of shape {pixels.shape}.")
    calibrated = scanner is not None and _calibration_applies(pixels, scanner, bits_stored)
    if pixels.dtype in (np.uint8, np.uint16):
        from tasks.kernels.film_passes import look_up

        levels = np.arange(int(np.iinfo(pixels.dtype).max) + 1, dtype=np.float64)
        bounds = (0.0, 1.0) if calibrated else robust_range(pixels)
        table = _on_scale(levels, scanner if calibrated else None, bounds)
        return look_up(np.ascontiguousarray(pixels), table)  # type: ignore[arg-type]
    finite = np.nan_to_num(pixels.astype(np.float64))
    bounds = (0.0, 1.0) if calibrated else robust_range(finite)
    return _on_scale(finite, scanner if calibrated else None, bounds)


def robust_range(pixels: npt.NDArray[_Pixels]) -> tuple[float, float]:
    """Levels of a film that become 0 and 1 on the scale.

    Taken over the film without its outer 3 % (white borders) and without the pixels at its two
    extreme values (redaction, padding, saturated lettering): the 0.5th percentile less 2 %, and the
    99th percentile plus 25 % of the distance between them, neither beyond the film's own extremes.
    The headroom keeps calcifications and clips off the upper end.

    Parameters
    ----------
    pixels : (rows, columns)

    Returns
    -------
    low, high : float
        In the units of `pixels`; ``low < high`` always.
    """
    rows, columns = pixels.shape
    top, left = int(rows * _ROBUST_MARGIN), int(columns * _ROBUST_MARGIN)
    inner = pixels[top : rows - top, left : columns - left]
    step = max(1, int(np.sqrt(inner.size / _ROBUST_SAMPLES)))
    sample = np.sort(inner[::step, ::step], axis=None).astype(np.float64)
    darkest, brightest = float(sample[0]), float(sample[-1])
    within = sample[
        np.searchsorted(sample, darkest, "right") : np.searchsorted(sample, brightest, "left")
    ]
    if not within.size:
        return darkest, max(brightest, darkest + 1.0)
    low, high = np.quantile(within, _ROBUST_QUANTILES)
    span = max(float(high - low), 1.0)
    low = max(darkest, low - _ROBUST_HEADROOM[0] * span)
    high = min(brightest, high + _ROBUST_HEADROOM[1] * span)
    return float(low), float(max(high, low + 1.0))


def _calibration_applies(
    pixels: npt.NDArray[_Pixels], scanner: str, bits_stored: int | None
) -> bool:
    if scanner not in SCANNERS:
        return False
    bits = bits_stored if bits_stored is not None else pixels.dtype.itemsize * 8
    return bits > 12 if scanner == "dba" else 8 < bits <= 16


def _on_scale(
    levels: npt.NDArray[np.float64], scanner: str | None, bounds: tuple[float, float]
) -> npt.NDArray[np.uint16]:
    if scanner is not None:
        brightest, darkest = OPTICAL_DENSITY_RANGE
        share = (darkest - optical_density(levels, scanner)) / (darkest - brightest)
    else:
        low, high = bounds
        share = (levels - low) / (high - low)
    return np.rint(np.clip(share, 0.0, 1.0) * FULL_SCALE).astype(np.uint16)
