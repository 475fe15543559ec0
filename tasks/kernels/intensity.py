"""The intensity scale of the pipeline: [0, 1] held as uint16, 0 = darkest film, 65535 = brightest.

Where the digitiser is known the scale is physical (optical density, inverted for display), so that
equal values mean equal blackening on every film. Elsewhere each film is stretched linearly between
robust levels of its own.
"""

from __future__ import annotations

import math
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
_ROBUST_SAMPLES = 100_000
_DBA_NOISE_LEVEL = 16.0  # grey levels, of 65535, below which a logarithm would show noise alone

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
        Bits of the source; the pixels' own type where None. A calibration for 12 bits is applied
        only to levels of 9 to 12 bits, one for 16 bits only to more than 12: a picture that was
        rescaled is no longer what the digitiser wrote, and takes the robust scale.

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
    calibrated = scanner if _calibration_applies(pixels, scanner, bits_stored) else None
    bounds = (0.0, 1.0) if calibrated else robust_range(pixels)
    if pixels.dtype == np.uint8 or pixels.dtype == np.uint16:
        from tasks.kernels.film_passes import look_up, stretched

        plane = np.ascontiguousarray(pixels)
        if calibrated is None:
            return stretched(plane, *bounds)
        levels = np.arange(256 if pixels.dtype == np.uint8 else 65536, dtype=np.float64)
        return look_up(plane, _on_scale(levels, calibrated, bounds))
    return _on_scale(np.nan_to_num(pixels.astype(np.float64)), calibrated, bounds)


def full_range(pixels: npt.NDArray[_Pixels], *, bits_stored: int | None) -> npt.NDArray[np.uint16]:
    """Put grey levels on the scale by the range of their type, the same for every picture.

    Parameters
    ----------
    pixels : (rows, columns), uint8 or uint16
        Larger is brighter.
    bits_stored : int or None
        Bits of the source; of the pixels' type where None.

    Returns
    -------
    uint16, (rows, columns)
    """
    bits = bits_stored or 8 * pixels.dtype.itemsize
    most = max(2**bits - 1, 1)
    scaled = np.clip(pixels.astype(np.float64) / most, 0, 1)
    return np.asarray(np.rint(scaled * 65535), np.uint16)


def normalise_for_context(
    pixels: npt.NDArray[_Pixels], *, scanner: str | None, bits_stored: int | None
) -> npt.NDArray[np.uint16]:
    """Put a film on the scale on which its map is drawn and its black tiles are found.

    Always a robust scale, and always linear in density: optical density is cut off at 3.0, where
    the ground of a film and much of its skin line lie beyond. The grey levels of most digitisers
    are linear in density as they come; those of ``dba`` in transmitted light, and their logarithm
    is taken. Films without calibration get what `normalise` gives.

    Parameters
    ----------
    pixels, scanner, bits_stored
        As for `normalise`.

    Returns
    -------
    uint16, (rows, columns)
    """
    logarithmic = scanner == "dba" and _calibration_applies(pixels, scanner, bits_stored)
    if not logarithmic or pixels.dtype != np.uint16:
        return normalise(pixels, scanner=None, bits_stored=bits_stored)
    from tasks.kernels.film_passes import look_up

    logarithms = np.log10(np.arange(65536) + _DBA_NOISE_LEVEL)
    bounds = robust_range(pixels, logarithms)
    return look_up(np.ascontiguousarray(pixels), _on_scale(logarithms, None, bounds))


def robust_range(
    pixels: npt.NDArray[_Pixels], levels: npt.NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Levels of a film that become 0 and 1 on the scale.

    Taken over the film without its outer 3 % (white borders) and without the pixels at its two
    extreme values (redaction, padding, saturated lettering): the 0.5th percentile less 2 % of the
    distance to the 99th, and the 99th plus 25 % of it, neither beyond the film's own extremes. The
    headroom keeps calcifications and clips off the upper end.

    Parameters
    ----------
    pixels : (rows, columns)
    levels : float64, optional
        Rising; level of each pixel value. The values themselves by default.

    Returns
    -------
    low, high : float
        In the units of `levels`; ``low < high`` always.
    """
    rows, columns = pixels.shape
    top, left = int(rows * _ROBUST_MARGIN), int(columns * _ROBUST_MARGIN)
    inner = pixels[top : rows - top, left : columns - left]
    values, counts = _value_counts(inner, max(1, int(np.sqrt(inner.size / _ROBUST_SAMPLES))))
    sample = values if levels is None else levels[values.astype(np.intp)]
    most = pixels.max()
    brightest = float(np.nan_to_num(most)) if levels is None else float(levels[most])
    least_span = 1.0 if levels is None else float(np.diff(levels).min())
    if len(sample) < 3:
        return float(sample[0]), max(brightest, float(sample[0]) + least_span)
    low, high = _weighted_quantiles(sample[1:-1], counts[1:-1], _ROBUST_QUANTILES)
    span = max(high - low, least_span)
    low = max(float(sample[0]), low - _ROBUST_HEADROOM[0] * span)
    high = min(brightest, high + _ROBUST_HEADROOM[1] * span)
    return low, max(high, low + least_span)


def _value_counts(
    pixels: npt.NDArray[_Pixels], step: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.integer]]:
    """Values among every `step`-th pixel of every `step`-th row, rising, and their counts."""
    if pixels.dtype == np.uint8 or pixels.dtype == np.uint16:
        from tasks.kernels.film_passes import value_counts

        counts = value_counts(pixels, step)
        values = np.flatnonzero(counts)
        return values.astype(np.float64), counts[values]
    sample = np.nan_to_num(pixels[::step, ::step].astype(np.float64))
    return np.unique(sample, return_counts=True)


def _weighted_quantiles(
    values: npt.NDArray[np.float64], counts: npt.NDArray[np.integer], shares: tuple[float, ...]
) -> list[float]:
    """Quantiles of repeated values, linear between neighbours as `numpy.quantile` has them."""
    running = counts.cumsum(dtype=np.int64)
    quantiles = []
    for share in shares:
        rank = share * float(running[-1] - 1)
        lower, upper = values[running.searchsorted([int(rank), math.ceil(rank)], "right")].tolist()
        quantiles.append(lower + (upper - lower) * (rank - int(rank)))
    return quantiles


def _calibration_applies(
    pixels: npt.NDArray[_Pixels], scanner: str | None, bits_stored: int | None
) -> bool:
    if scanner not in SCANNERS:
        return False
    bits = pixels.dtype.itemsize * 8 if bits_stored is None else bits_stored
    if scanner == "dba":
        return bits > 12
    return bits > 8 and float(np.max(pixels)) < 4096


def _on_scale(
    levels: npt.NDArray[np.float64], scanner: str | None, bounds: tuple[float, float]
) -> npt.NDArray[np.uint16]:
    if scanner is not None:
        brightest, darkest = OPTICAL_DENSITY_RANGE
        share = (darkest - optical_density(levels, scanner)) / (darkest - brightest)
    else:
        low, high = bounds
        share = (levels - low) / (high - low)
    return np.asarray(np.rint(np.clip(share, 0.0, 1.0) * FULL_SCALE), np.uint16)
