"""Embeddings drawn together by their neighbours before they are clustered: blurring mean shift.

A row becomes the mean of its nearest rows, at length 1 again; repeated, rows move up the density,
and k-means finds the hills with fewer centres. The window is a number of neighbours and not a
radius, so that it needs no scale. Source: Y. Cheng, Mean shift, mode seeking, and clustering, IEEE
Transactions on Pattern Analysis and Machine Intelligence 17 (1995), 790-799.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.neighbours import nearest


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows at length 1 (zeros stay), so that Euclidean distance ranks by cosine similarity."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


class NeighbourMeans:
    """Moves rows to the means of their neighbours among the rows it was fitted on.

    Parameters
    ----------
    rows : ndarray of float, shape (n, dim)
        What neighbours are looked for in; taken at length 1.
    neighbours : int
        Rows that a mean is of, each row of `rows` itself among its own. At most n.
    rounds : int
        Means of means are taken so often; 0 leaves rows where they are.

    Attributes
    ----------
    rows_ : ndarray of float32, shape (n, dim)
        `rows` after the last round, at length 1.
    """

    def __init__(self, rows: NDArray[np.floating], *, neighbours: int, rounds: int) -> None:
        if not 1 <= neighbours <= len(rows):
            raise ValueError(f"neighbours={neighbours} must be within 1 and {len(rows)} rows.")
        self._neighbours = neighbours
        self._banks = [unit_rows(rows)]
        for _ in range(rounds):
            self._banks.append(self._moved(self._banks[-1], self._banks[-1]))
        self.rows_ = self._banks.pop()

    def transform(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Move other rows, (m, dim), the same way; gives (m, dim) at length 1."""
        moved = unit_rows(rows)
        for bank in self._banks:
            moved = self._moved(moved, bank)
        return moved

    def _moved(self, rows: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.float32]:
        near = nearest(rows, bank, self._neighbours).indices
        total = np.zeros_like(rows)
        for place in near.T:
            total += bank[place]
        return unit_rows(total / np.float32(self._neighbours))
