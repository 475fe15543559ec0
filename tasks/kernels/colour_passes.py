"""Single passes over the pixels of a picture, compiled. Imported late, as numba is slow to load.

Every function releases the GIL and runs on one core; the callers fan out over pictures.
"""

from __future__ import annotations

import math

from tasks.kernels.bit_planes import compiled

RGB, LAB, HSV = 0, 1, 2
UNKNOWN = 255
"""In a table of labels: a colour that has not occurred yet."""

WHITE_X, WHITE_Z = 0.95047, 1.08883
"""Of D65 with the 2 degree observer; its Y is 1."""


@compiled
def _linear(value):  # type: ignore[no-untyped-def]
    share = value / 255.0
    if share <= 0.04045:
        return share / 12.92
    return ((share + 0.055) / 1.055) ** 2.4


@compiled
def _cube_root(share):  # type: ignore[no-untyped-def]
    if share > 216.0 / 24389.0:
        return share ** (1.0 / 3.0)
    return (24389.0 / 27.0 * share + 16.0) / 116.0


@compiled
def position(red, green, blue, space):  # type: ignore[no-untyped-def]
    """Place of a colour, 0..255 a channel, in a colour space."""
    if space == LAB:
        r, g, b = _linear(red), _linear(green), _linear(blue)
        x = _cube_root((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / WHITE_X)
        y = _cube_root(0.2126729 * r + 0.7151522 * g + 0.0721750 * b)
        z = _cube_root((0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / WHITE_Z)
        return 116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)
    if space == HSV:
        most, least = max(red, green, blue), min(red, green, blue)
        span = most - least
        if span == 0.0:
            return 0.0, 0.0, most / 255.0
        if most == red:
            sixths = (green - blue) / span
        elif most == green:
            sixths = 2.0 + (blue - red) / span
        else:
            sixths = 4.0 + (red - green) / span
        hue, saturation = sixths * math.pi / 3.0, span / most
        return saturation * math.cos(hue), saturation * math.sin(hue), most / 255.0
    return red, green, blue


@compiled
def positions(pixels, scale, space, out):  # type: ignore[no-untyped-def]
    """Places of pixels (n, 3), whose full scale is 255 * ``scale``; ``out`` is (n, 3) float64."""
    for i in range(len(pixels)):
        out[i] = position(pixels[i, 0] / scale, pixels[i, 1] / scale, pixels[i, 2] / scale, space)


@compiled
def _nearest(at, centres):  # type: ignore[no-untyped-def]
    label, least = 0, math.inf
    for k in range(len(centres)):
        distance = 0.0
        for i in range(3):
            step = at[i] - centres[k, i]
            distance += step * step
        if distance < least:
            label, least = k, distance
    return label


@compiled
def label_8bit(pixels, centres, space, table, out):  # type: ignore[no-untyped-def]
    """Label pixels (rows, columns, 3) uint8; a colour is worked out when it first occurs."""
    for row in range(pixels.shape[0]):
        line, labels = pixels[row], out[row]
        for column in range(pixels.shape[1]):
            red, green, blue = line[column, 0], line[column, 1], line[column, 2]
            code = (int(red) << 16) | (int(green) << 8) | int(blue)
            label = table[code]
            if label == UNKNOWN:
                at = position(float(red), float(green), float(blue), space)
                label = table[code] = _nearest(at, centres)
            labels[column] = label


@compiled
def label_16bit(pixels, centres, space, out):  # type: ignore[no-untyped-def]
    """Label pixels (rows, columns, 3) uint16, each by itself."""
    for row in range(pixels.shape[0]):
        line, labels = pixels[row], out[row]
        for column in range(pixels.shape[1]):
            at = position(
                line[column, 0] / 257.0, line[column, 1] / 257.0, line[column, 2] / 257.0, space
            )
            labels[column] = _nearest(at, centres)


@compiled
def count_labels(labels, counts):  # type: ignore[no-untyped-def]
    """Add the number of pixels of each label to ``counts`` (256,)."""
    for row in range(labels.shape[0]):
        line = labels[row]
        for column in range(labels.shape[1]):
            counts[line[column]] += 1
