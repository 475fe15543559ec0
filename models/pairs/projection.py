"""A few coordinates of each row that bound every distance between rows from below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.floating]

SAMPLE_ROWS = 4096
TARGETS = 2048
LEADING = (5, 13, 21, 29, 45, 61, 93)  # with residual and two columns of norms: a multiple of 8
WIDE = 47  # components of the second, wider look at a pair; with the rest's length 192 bytes a row
CHUNK_VALUES = 1 << 17  # 1 MB of float64

# of one pair, in nanoseconds on one core of 2021: only their ratios matter, and only for speed
MULTIPLY_ADD = 0.026
SCAN = 0.2
EXACT = 80.0


@dataclass(frozen=True)
class Projection:
    """Leading principal components, and the length of what they leave over.

    With P the components and r the length of the rest, ``|Px - Py|^2 + (rx - ry)^2 <= |x - y|^2``:
    the coordinates (Px, rx) are Euclidean coordinates of a space in which no pair is farther apart
    than it is.

    Parameters
    ----------
    mean : ndarray of float64, shape (dim,)
    axes : ndarray of float64, shape (dim, n_axes)
        Orthonormal columns.
    unit : float
        Length that is 1 in the space of the coordinates: a power of 2 near the rows' usual
        length, so that float32 is enough for data of any scale.
    pays : bool
        Whether products of the coordinates are expected to be cheaper than those of all columns.
    spare : ndarray of float64, shape (dim, n_spare), or None
        The components that come next; together `WIDE`.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    unit: float
    pays: bool
    spare: NDArray[np.float64] | None = None

    @property
    def width(self) -> int:
        """Number of coordinates: the components and the rest's length."""
        return int(self.axes.shape[1]) + 1

    @property
    def complete(self) -> bool:
        """Whether the components span all columns, so that the distances are those of the rows."""
        return bool(self.axes.shape[1] == self.axes.shape[0])

    @classmethod
    def fit(
        cls,
        sample: Rows,
        radius: float | NDArray[np.float64],
        queries: Rows | None = None,
        targets: Rows | None = None,
    ) -> Projection:
        """Choose the components from a sample.

        Parameters
        ----------
        sample : ndarray, shape (n, dim)
            Some thousand rows.
        radius : float or ndarray of float64, shape (n_queries,)
            Pairs farther apart are of no interest: as many components are taken as make the
            search for the others cheapest. An array gives each query its own.
        queries : ndarray, shape (n_queries, dim), or None
            Some rows that are typical of those that will ask; None: some of the sample.
        targets : ndarray, shape (n_targets, dim), or None
            Rows that are typical of those that will be asked for; None: the sample.
        """
        mean = sample.mean(axis=0, dtype=np.float64)
        centred = sample - mean
        components = min(max(LEADING), sample.shape[1])
        axes = _principal_axes(centred, components)
        pays, spare = True, None
        if sample.shape[1] > LEADING[0]:
            if queries is None:
                queries = sample[:: max(1, len(sample) // 128)][:128]
            against = centred[:TARGETS] if targets is None else targets - mean
            n_axes, pays = _cheapest(queries - mean, against, axes, radius)
            if n_axes < WIDE < axes.shape[1]:
                spare = axes[:, n_axes:WIDE].copy()
            axes = axes[:, :n_axes]
        usual = float(np.median(np.linalg.norm(centred, axis=1)))
        unit = 2.0 ** round(np.log2(usual)) if usual > 0 else 1.0
        return cls(mean, np.ascontiguousarray(axes), unit, pays, spare)

    def widened(self) -> Projection | None:
        """Give the projection with the spare components; None where there are none."""
        if self.spare is None:
            return None
        return Projection(self.mean, np.hstack([self.axes, self.spare]), self.unit, self.pays)

    @classmethod
    def none(cls, sample: Rows) -> Projection:
        """Know the sample's mean alone."""
        mean = sample.mean(axis=0, dtype=np.float64)
        return cls(mean, np.empty((len(mean), 0)), 1.0, pays=False)

    def apply(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Compute the coordinates of rows.

        Parameters
        ----------
        rows : ndarray, shape (n, dim)

        Returns
        -------
        coordinates : ndarray of float32, shape (n, n_axes + 1)
            In units; cut to +-`FAR`, which brings no two rows farther apart.
        lengths : ndarray of float64, shape (n,)
            Distance of each row from the mean, in units. The rounding of a row's coordinates is at
            most `ROUNDING` times this.
        """
        coordinates = np.empty((len(rows), self.width), dtype=np.float32)
        lengths = np.empty(len(rows), dtype=np.float64)
        step = max(1, CHUNK_VALUES // rows.shape[1])
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            centred = (rows[part] - self.mean) / self.unit
            np.clip(centred, -FAR, FAR, out=centred)
            leading = centred @ self.axes
            squares = np.einsum("ij,ij->i", centred, centred)
            rest = squares - np.einsum("ij,ij->i", leading, leading)
            coordinates[part, :-1] = leading
            coordinates[part, -1] = 0 if self.complete else np.sqrt(np.maximum(rest, 0))
            lengths[part] = np.sqrt(squares)
        return coordinates, lengths


FAR = 2.0**30
CUT = FAR * FAR
"""Rows whose squared length reaches this may have been cut: no bound from above holds for them."""
ROUNDING = 2.0**-20
"""Bound of the coordinates' error relative to a row's length: the rounding to float32 (2^-24), and
the square root of the difference of two squares in float64 (2^-20 at 10,000 columns)."""


def _principal_axes(centred: NDArray[np.float64], n_axes: int) -> NDArray[np.float64]:
    """Orthonormal columns of falling variance, shape (dim, n_axes)."""
    if centred.shape[1] <= 512:
        _, vectors = np.linalg.eigh(centred.T @ centred)
        return np.ascontiguousarray(vectors[:, ::-1][:, :n_axes])
    from sklearn.utils.extmath import randomized_svd

    _, _, vectors = randomized_svd(centred, n_axes, random_state=0)
    axes, _ = np.linalg.qr(vectors.T)  # orthonormal to the last bits, also where the rank is less
    return np.ascontiguousarray(axes)


def _cheapest(
    queries: NDArray[np.float64],
    centred: NDArray[np.float64],
    axes: NDArray[np.float64],
    radius: float | NDArray[np.float64],
) -> tuple[int, bool]:
    """Number of components for which product, scan and exact distances together cost least.

    And whether that is less than the product of all columns.
    """
    q, y = queries @ axes, centred @ axes
    q_squares = np.einsum("ij,ij->i", queries, queries)
    y_squares = np.einsum("ij,ij->i", centred, centred)
    limit = np.square(np.broadcast_to(radius, len(queries)))[:, None]
    best, cost = axes.shape[1], np.inf
    for n_axes in [n for n in LEADING if n < axes.shape[1]] + [axes.shape[1]]:
        a, b = q[:, :n_axes], y[:, :n_axes]
        q_lead, y_lead = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
        q_rest = np.sqrt(np.maximum(q_squares - q_lead, 0))
        y_rest = np.sqrt(np.maximum(y_squares - y_lead, 0))
        bound = q_lead[:, None] + y_lead - 2 * a @ b.T + (q_rest[:, None] - y_rest) ** 2
        share = float(np.mean(bound <= limit))
        price = MULTIPLY_ADD * (n_axes + 3) + SCAN + EXACT * share
        if price < cost:
            best, cost = n_axes, price
    return best, cost < MULTIPLY_ADD * (centred.shape[1] + 2) + SCAN


def sample_rows(rows: Rows, most: int = SAMPLE_ROWS) -> Rows:
    """Draw at most so many rows, always the same ones."""
    if len(rows) <= most:
        return np.asarray(rows)
    chosen = np.random.default_rng(0).choice(len(rows), most, replace=False)
    return np.asarray(rows[np.sort(chosen)])
