"""What is known of each row's density, and the forest that joins the dense ones."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.pairs.products import compiled

Positions = NDArray[np.int32]


class Density(NamedTuple):
    """What is known so far of each row, by position; the rows of two sets one after the other.

    Parameters
    ----------
    counts : ndarray of int32, shape (n,)
        Rows within the radius, itself counted, up to ``enough``.
    parents : ndarray of int32, shape (n,)
        Forest over the rows that have enough: a position not above its own, of the same cluster.
    enough : int
        Rows within the radius that make a core row.
    """

    counts: NDArray[np.int32]
    parents: NDArray[np.int32]
    enough: int

    @classmethod
    def blank(cls, n: int, enough: int) -> Density:
        """Start with each row alone."""
        return cls(np.ones(n, dtype=np.int32), np.arange(n, dtype=np.int32), enough)


@compiled
def root_of(parents, row):  # type: ignore[no-untyped-def]
    """Follow the parents to the end; writes nothing, so that it may run beside a writer."""
    while parents[row] != row:
        row = parents[row]
    return row


@compiled
def absorb(first, second, n_pairs, density, kept_first, kept_second):  # type: ignore[no-untyped-def]
    """Count pairs and join those of two core rows; keep the others, and say how many.

    A pair is kept only where it raised the count of a row that was not core: at most
    ``n * (enough - 1)`` pairs are ever kept. Not to be run twice at a time.
    """
    counts, parents, enough = density
    kept = 0
    for p in range(n_pairs):
        a, b = first[p], second[p]
        if counts[a] < enough:
            counts[a] += 1
        if counts[b] < enough:
            counts[b] += 1
        if counts[a] >= enough and counts[b] >= enough:
            _join(parents, a, b)
        else:
            kept_first[kept] = a
            kept_second[kept] = b
            kept += 1
    return kept


@compiled
def _join(parents, a, b):  # type: ignore[no-untyped-def]
    while parents[a] != a:
        parents[a] = parents[parents[a]]
        a = parents[a]
    while parents[b] != b:
        parents[b] = parents[parents[b]]
        b = parents[b]
    if a < b:
        parents[b] = a
    elif b < a:
        parents[a] = b


@compiled
def join_all(first, second, parents):  # type: ignore[no-untyped-def]
    """Join pairs of core rows."""
    for p in range(len(first)):
        _join(parents, first[p], second[p])


class DensityRecord:
    """The density of n rows as pairs come in, from several threads.

    Parameters
    ----------
    n : int
        Number of rows, below 2^31.
    enough : int
        Rows within the radius, itself counted, that make a core row.

    Attributes
    ----------
    density : Density
    """

    def __init__(self, n: int, enough: int) -> None:
        if n >= 2**31:
            raise ValueError(f"{n} rows are more than positions of 32 bits can tell apart.")
        self.density = Density.blank(n, enough)
        self._lock = threading.Lock()
        self._kept: list[tuple[Positions, Positions]] = []
        self._n_kept = self._n_settled = 0

    def add(self, first: Positions, second: Positions, n_pairs: int) -> None:
        """Count the first ``n_pairs`` pairs; the arrays are overwritten."""
        with self._lock:
            kept = absorb(first, second, n_pairs, self.density, first, second)
            self._keep(first[:kept].copy(), second[:kept].copy())

    def merge(
        self,
        positions: Positions,
        more: Positions,
        joined: Positions,
        roots: Positions,
        first: Positions,
        second: Positions,
    ) -> None:
        """Take over what another record has found of some rows.

        Parameters
        ----------
        positions, more : ndarray of int32, shape (k,)
            Rows, and by how much their counts grew.
        joined, roots : ndarray of int32
            Core rows of one cluster, pair by pair.
        first, second : ndarray of int32
            Pairs that are counted, but not both core as far as the other record knew.
        """
        counts, parents, enough = self.density
        with self._lock:
            counts[positions] = np.minimum(counts[positions] + more, enough)
            join_all(joined, roots, parents)
            self._keep(first, second)

    def pairs(self) -> tuple[Positions, Positions]:
        """Pairs of which one row at least is not core, after joining all others."""
        with self._lock:
            self._settle()
            if not self._kept:
                return np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32)
            return self._kept[0]

    def core(self) -> NDArray[np.bool_]:
        """Tell which rows are core."""
        core: NDArray[np.bool_] = self.density.counts >= self.density.enough
        return core

    def roots(self) -> Positions:
        """Root of each core row, all pairs joined; other rows are their own."""
        with self._lock:
            self._settle()
        parents = self.density.parents
        while not np.array_equal(above := parents[parents], parents):
            parents = above
        return parents

    def _keep(self, first: Positions, second: Positions) -> None:
        if len(first):
            self._kept.append((first, second))
            self._n_kept += len(first)
        if self._n_kept > 2 * self._n_settled + 4 * len(self.density.counts):
            self._settle()

    def _settle(self) -> None:
        """Join the pairs kept whose rows have both become core, and forget them."""
        if not self._kept:
            return
        first, second = (np.concatenate(part) for part in zip(*self._kept, strict=True))
        core = self.core()
        both = core[first] & core[second]
        join_all(first[both], second[both], self.density.parents)
        self._kept = [(first[~both], second[~both])]
        self._n_kept = self._n_settled = int(np.count_nonzero(~both))


@compiled
def roots_of(parents, start, stop):  # type: ignore[no-untyped-def]
    """Root of each row from start to stop, int32; the ways there are cut short."""
    roots = np.empty(stop - start, dtype=np.int32)
    for row in range(start, stop):
        root = root_of(parents, row)
        parents[row] = root
        roots[row - start] = root
    return roots
