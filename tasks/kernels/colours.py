"""Colours of pixels: their place in a colour space, the cluster that they belong to, their sample.

A picture is (rows, columns, 3) in red, green, blue, or (rows, columns) for a film on the normalised
scale. 8-bit values v and 16-bit values 257 v are the same colour.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

ColourSpace: TypeAlias = Literal["rgb", "lab", "hsv", "grey"]

SPACES: tuple[str, ...] = get_args(ColourSpace)
AXES = {
    "rgb": ("red", "green", "blue"),
    "lab": ("L*", "a*", "b*"),
    "hsv": ("saturation x cos(hue)", "saturation x sin(hue)", "value"),
    "grey": ("intensity",),
}
"""What the columns of `in_space` are called."""

OUTSIDE = 255
"""Label of pixels that are not measured."""
MOST_CLUSTERS = 64
BALANCED_MEDIAN = 0.75
"""Of full scale: what `balanced` brings every median to."""
BALANCE_MOST_GAIN = 4.0
"""A picture that is darker is not brightened further, or its noise would be measured."""

Labels: TypeAlias = npt.NDArray[np.uint8]
Positions: TypeAlias = npt.NDArray[np.float64]


def in_space(pixels: npt.NDArray[Any], space: ColourSpace) -> Positions:
    """Places of pixels in a colour space, in which k-means measures distances.

    Parameters
    ----------
    pixels : uint8 or uint16, (n, 3); for ``grey`` uint16, (n,)
        sRGB (IEC 61966-2-1); or intensity on the normalised scale.
    space : {'rgb', 'lab', 'hsv', 'grey'}
        rgb: the values themselves, 0..255. lab: CIE 1976 L*a*b* of D65 and the 2 degree observer,
        L* 0..100, with the ratios 216/24389 and 24389/27 for the dark end (CIE 15). hsv: hue is an
        angle, so the place is (S cos H, S sin H, V) with S and V in 0..1 (Smith 1978); red at 359
        degrees lies beside red at 1. grey: intensity, 0..1.

    Returns
    -------
    float64, (n, 3); for ``grey`` (n, 1)
    """
    if space == "grey":
        return (np.asarray(pixels, np.float64) / 65535)[:, None]
    from tasks.kernels import colour_passes

    out = np.empty((len(pixels), 3), np.float64)
    scale = 1.0 if pixels.dtype == np.uint8 else 257.0
    colour_passes.positions(pixels, scale, _code(space), out)
    return out


def lightness(colours: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """CIE L*, 0..100, of sRGB colours (n, 3) with channels in 0..255."""
    share = np.asarray(colours, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126729, 0.7151522, 0.0721750])
    return np.asarray(np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, 24389 / 27 * y))


def balanced(picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A picture with its median colour brought to the same light grey as every other's.

    Each channel is multiplied and clipped (von Kries 1902, with the median as white): differences
    of light, camera and skin between pictures fall away, what is darker than its surroundings
    stays.

    Parameters
    ----------
    picture : uint8 or uint16, (rows, columns, 3)

    Returns
    -------
    uint8 or uint16, same shape
    """
    full_scale = int(np.iinfo(picture.dtype).max)
    levels = np.arange(full_scale + 1)
    out = np.empty_like(picture)
    for channel in range(3):
        plane = picture[..., channel]
        counts = np.cumsum(np.bincount(plane.reshape(-1), minlength=full_scale + 1))
        median = int(np.searchsorted(counts, (counts[-1] + 1) // 2))
        gain = min(BALANCED_MEDIAN * full_scale / max(1, median), BALANCE_MOST_GAIN)
        table = np.clip(np.rint(levels * gain), 0, full_scale).astype(picture.dtype)
        out[..., channel] = table[plane]
    return out


class ColourLabeller:
    """Gives every pixel the number of its nearest centre, exactly; of equals the first.

    The nearest centre of an 8-bit colour is worked out when the colour first occurs and looked up
    from then on, in 16 MiB; of 16-bit pixels it is worked out for each; of films it is looked up
    among all 65536 levels.

    Parameters
    ----------
    centres : float64, (n_clusters, 3); for ``grey`` (n_clusters, 1)
        As `in_space` gives places; 1 to 64 of them.
    space : {'rgb', 'lab', 'hsv', 'grey'}
    """

    def __init__(self, centres: npt.ArrayLike, space: ColourSpace) -> None:
        self.centres = np.ascontiguousarray(centres, np.float64)
        self.space = space
        if self.centres.ndim != 2 or self.centres.shape[1] != len(AXES[space]):
            raise ValueError(
                f"centres of shape {self.centres.shape} are not (n_clusters, {len(AXES[space])}), "
                f"as places in {space} are."
            )
        if not 1 <= len(self.centres) <= MOST_CLUSTERS:
            raise ValueError(f"{len(self.centres)} centres; use 1 to {MOST_CLUSTERS}.")
        self._table: Labels | None = None

    def label(self, picture: npt.NDArray[Any]) -> Labels:
        """Label a picture.

        Parameters
        ----------
        picture : uint8 or uint16, (rows, columns, 3); for ``grey`` uint16, (rows, columns)

        Returns
        -------
        uint8, (rows, columns)
        """
        from tasks.kernels import colour_passes

        if self.space == "grey":
            return np.take(self._grey_table(), picture)
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"a picture of shape {picture.shape} is not (rows, columns, 3).")
        out = np.empty(picture.shape[:2], np.uint8)
        if picture.dtype == np.uint8:
            if self._table is None:
                self._table = np.full(1 << 24, colour_passes.UNKNOWN, np.uint8)
            colour_passes.label_8bit(picture, self.centres, _code(self.space), self._table, out)
        else:
            colour_passes.label_16bit(picture, self.centres, _code(self.space), out)
        return out

    def _grey_table(self) -> Labels:
        if self._table is None:
            levels = np.arange(65536) / 65535
            distances = (levels[:, None] - self.centres[:, 0]) ** 2
            self._table = distances.argmin(axis=1).astype(np.uint8)
        return self._table


def sample_positions(
    n_pixels: int, *, fraction: float, at_most: int, digest: str, seed: int
) -> npt.NDArray[np.int64]:
    """Draw pixels of one picture, in random order, without repetition.

    The draw depends on the picture's content and the seed alone, so that pictures added beside it
    change nothing; a shorter sample is the beginning of this one.

    Parameters
    ----------
    n_pixels : int
        That there are, at least 1.
    fraction : float
        Share of them that is drawn, in (0, 1]; at least one pixel.
    at_most : int
        Pixels drawn at most.
    digest : str
        Hash of the picture's content, hexadecimal.
    seed : int

    Returns
    -------
    int64, (n,)
        In 0..n_pixels - 1.
    """
    wanted = min(n_pixels, at_most, max(1, round(fraction * n_pixels)))
    rng = np.random.default_rng([int(digest[:16], 16), seed])
    if wanted > n_pixels // 8:
        return rng.permutation(n_pixels)[:wanted]
    return rng.choice(n_pixels, wanted, replace=False, shuffle=True)


@cache
def _code(space: str) -> int:
    from tasks.kernels import colour_passes

    return {"rgb": colour_passes.RGB, "lab": colour_passes.LAB, "hsv": colour_passes.HSV}[space]
