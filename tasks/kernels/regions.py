"""Areas of labelled pixels, and pictures of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.kernels.colours import Labels

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Areas:
    """What the clusters of one picture cover."""

    pixels: npt.NDArray[np.int64]
    """(n_clusters,)"""
    largest_region: npt.NDArray[np.int64]
    """Pixels of each cluster's largest piece; pixels that touch at a corner are connected."""
    regions: npt.NDArray[np.int64]
    """Number of pieces of each cluster."""

    @property
    def measured(self) -> int:
        """Pixels that belong to any cluster."""
        return int(self.pixels.sum())


def areas(labels: Labels, n_clusters: int) -> Areas:
    """Count the pixels of each cluster and find its pieces.

    Parameters
    ----------
    labels : uint8, (rows, columns)
        0..n_clusters - 1, or 255 outside of what is measured.
    n_clusters : int
    """
    import cv2

    from tasks.kernels.colour_passes import count_labels

    counts = np.zeros(256, np.int64)
    count_labels(labels, counts)
    largest, regions = np.zeros(n_clusters, np.int64), np.zeros(n_clusters, np.int64)
    for cluster in range(n_clusters):
        if counts[cluster]:
            plane = (labels == cluster).view(np.uint8)
            found, _, statistics, _ = cv2.connectedComponentsWithStats(plane, connectivity=8)
            largest[cluster] = statistics[1:, cv2.CC_STAT_AREA].max()
            regions[cluster] = found - 1
    return Areas(counts[:n_clusters], largest, regions)


def expanded(blocks: npt.NDArray[np.bool_], factor: int, rows: int, columns: int) -> Labels:
    """Blocks of ``factor`` pixels as pixels: 1 where the block is True, uint8 (rows, columns)."""
    tall = np.repeat(blocks.astype(np.uint8), factor, axis=0)[:rows]
    return np.ascontiguousarray(np.repeat(tall, factor, axis=1)[:, :columns])


def quantised(labels: Labels, palette: npt.NDArray[np.uint8]) -> Picture:
    """Every pixel in its cluster's colour, black outside.

    Parameters
    ----------
    labels : uint8, (rows, columns)
    palette : uint8, (n_clusters, 3)

    Returns
    -------
    uint8, (rows, columns, 3)
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return np.asarray(table[labels])


def overlay(picture: Picture, mask: npt.NDArray[np.bool_], colour: tuple[int, int, int]) -> Picture:
    """A picture with a mask tinted and its outline drawn.

    Parameters
    ----------
    picture : uint8, (rows, columns, 3)
    mask : bool, (rows, columns)
    colour : (red, green, blue)
    """
    import cv2

    inside = mask.astype(np.uint8)
    out = picture.astype(np.float32)
    out[mask] = 0.75 * out[mask] + 0.25 * np.array(colour, np.float32)
    edge = cv2.dilate(inside, np.ones((3, 3), np.uint8)) != inside
    out[edge] = colour
    return out.astype(np.uint8)


def small_labels(labels: Labels, height: int, width: int) -> Labels:
    """Labels of a smaller picture: those at the middle of each of its pixels."""
    rows = (np.arange(height) * 2 + 1) * labels.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * labels.shape[1] // (2 * width)
    return np.asarray(labels[np.ix_(rows, columns)])


def fitting(rows: int, columns: int, longest: int) -> tuple[int, int]:
    """Height and width of a picture reduced to fit a square of ``longest``; never enlarged."""
    share = min(1.0, longest / max(rows, columns))
    return max(1, round(rows * share)), max(1, round(columns * share))
