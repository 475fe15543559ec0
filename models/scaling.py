"""Standardisation of embeddings that never lie in memory all at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations per column, in float64.

    Parameters
    ----------
    count : int
        Rows seen.
    mean, squares : ndarray of float64, shape (dim,)
        Mean, and sum of squared deviations from it.
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Moments:
        """Measure rows of shape (n, dim); n may be 0."""
        _require_matrix(rows)
        if len(rows) == 0:
            return cls(0, np.zeros(rows.shape[1]), np.zeros(rows.shape[1]))
        exact = rows.astype(np.float64)
        mean = exact.mean(axis=0)
        return cls(len(exact), mean, np.square(exact - mean).sum(axis=0))

    def merge(self, other: Moments) -> Moments:
        """Join the moments of two disjoint sets of rows (Chan, Golub and LeVeque 1979)."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"Rows of {len(self.mean)} and {len(other.mean)} columns do not mix.")
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        share = other.count / count
        return Moments(
            count=count,
            mean=self.mean + step * share,
            squares=self.squares + other.squares + step**2 * (self.count * share),
        )


@dataclass(frozen=True)
class Scaler:
    """Shift and scale per column, as scikit-learn's StandardScaler.

    Parameters
    ----------
    mean, scale : ndarray of float64, shape (dim,)
        Mean, and standard deviation (of the population: divided by n). The scale of a column
        that does not change is 1, so that it becomes zeros.
    count : int
        Rows that these are from.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    count: int

    @classmethod
    def from_moments(cls, moments: Moments) -> Scaler:
        """Turn moments into a scaler; without any rows it changes nothing."""
        variance = moments.squares / max(moments.count, 1)
        # what rounding alone leaves of a constant column, as scikit-learn bounds it
        eps = np.finfo(np.float64).eps
        noise = moments.count * eps * variance + (moments.count * moments.mean * eps) ** 2
        scale = np.where(variance <= noise, 1.0, np.sqrt(variance))
        return cls(mean=moments.mean, scale=scale, count=moments.count)

    def transform(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Standardise rows of shape (n, dim); float32 of the same shape."""
        _require_matrix(rows)
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"The scaler was fitted on {len(self.mean)} columns; these rows have "
                f"{rows.shape[1]}."
            )
        standard: NDArray[np.float32] = ((rows - self.mean) / self.scale).astype(np.float32)
        return standard

    def to_json(self) -> str:
        """Write as JSON; `from_json` reads back the same floats."""
        record = {
            "count": self.count,
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
        }
        return json.dumps(record, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Scaler:
        """Read what `to_json` wrote."""
        record = json.loads(text)
        return cls(
            mean=np.array(record["mean"], dtype=np.float64),
            scale=np.array(record["scale"], dtype=np.float64),
            count=int(record["count"]),
        )


def fit_scaler(shards: Iterable[NDArray[np.floating]]) -> Scaler:
    """Fit a scaler on shards of rows, one at a time.

    Parameters
    ----------
    shards : iterable of ndarray, shape (n, dim)
        At least one; a shard may have no rows. The order of the shards changes the last bits at
        most; give them in a fixed order where bytes must repeat.
    """
    total: Moments | None = None
    for shard in shards:
        moments = Moments.of(shard)
        total = moments if total is None else total.merge(moments)
    if total is None:
        raise ValueError("There is no shard to fit a scaler on.")
    return Scaler.from_moments(total)


def _require_matrix(rows: NDArray[np.floating]) -> None:
    if rows.ndim != 2:
        raise ValueError(f"rows must have shape (n, dim), not {rows.shape}.")
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"Row {bad} holds a value that is not finite; encode its tile again.")
