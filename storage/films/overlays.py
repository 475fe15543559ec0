"""DDSM ``.OVERLAY`` files: findings of a film, outlined by chain codes."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_STEPS = np.array([(0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1)], np.int32)
"""Column and row step of the chain codes 0 to 7: 0 is up, then clockwise."""


@dataclass(frozen=True)
class Abnormality:
    """One finding: its pathology and its boundaries."""

    pathology: str | None
    """``malignant``, ``benign``, ``benign_without_callback``; None where unproven or unstated."""
    outlines: tuple[npt.NDArray[np.int32], ...]
    """Boundaries, each of shape (points, 2): column and row of every pixel on the way."""


def parse(text: str) -> tuple[Abnormality, ...]:
    """Read the findings of an overlay.

    A finding has one BOUNDARY and may have COREs. A core is the densest part of the lesion inside
    its boundary, so it adds nothing to the lesion's area and is left out.

    Parameters
    ----------
    text : str
        Content of the ``.OVERLAY`` file.

    Raises
    ------
    ValueError
        Where an outline is no chain of codes 0 to 7 after a start.
    """
    findings = re.split(r"^\s*ABNORMALITY\s+\d+.*$", text, flags=re.MULTILINE)[1:]
    return tuple(_abnormality(finding) for finding in findings)


def _abnormality(text: str) -> Abnormality:
    named = re.search(r"^\s*PATHOLOGY\s+(\w+)", text, re.MULTILINE)
    pathology = named[1].lower() if named else None
    boundaries = re.findall(r"^\s*BOUNDARY\s+([^A-Za-z#]*)", text, re.MULTILINE)
    return Abnormality(
        None if pathology == "unproven" else pathology,
        tuple(_outline(numbers.split()) for numbers in boundaries),
    )


def _outline(words: list[str]) -> npt.NDArray[np.int32]:
    if len(words) < 2:
        raise ValueError("an outline has no start")
    column, row, *codes = (int(word) for word in words)
    if codes and not 0 <= min(codes) <= max(codes) <= 7:
        raise ValueError("a chain code lies outside 0 to 7")
    start = np.array([[column, row]], np.int32)
    steps = _STEPS[np.array(codes, np.intp)]  # (points - 1, 2)
    return np.concatenate([start, start + np.cumsum(steps, axis=0, dtype=np.int32)])


def fill(
    abnormalities: tuple[Abnormality, ...], *, rows: int, columns: int
) -> npt.NDArray[np.bool_]:
    """Area inside the boundaries, the boundaries included; what leaves the film is cut off.

    Returns
    -------
    ndarray of bool, shape (rows, columns)
    """
    import cv2

    mask = np.zeros((rows, columns), np.uint8)
    for abnormality in abnormalities:
        for outline in abnormality.outlines:
            cv2.fillPoly(mask, [outline], 1)
    return mask.view(np.bool_)
