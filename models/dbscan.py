"""DBSCAN, exact, by the pair engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import validate_data

from models.knee import knee
from models.neighbours import distances_to_nearest
from models.pairs.blocks import (
    Blocks,
    is_stored,
    pairs_of_blocks,
    require_matrix,
    sample_stored,
    scratch_folder,
    stored,
)
from models.pairs.density import DensityRecord, roots_of
from models.pairs.leaves import Leaves
from models.pairs.projection import Projection, Rows, sample_rows
from models.pairs.sides import Side
from models.pairs.within import Search, scan_within
from models.workers import DaskWorkers, ThreadWorkers, Workers

NOISE = -1
MOST_TASKS = 50_000  # of one graph
KNEE_ROWS = 2048


@dataclass(frozen=True)
class Densities:
    """DBSCAN's answer for each row.

    Parameters
    ----------
    labels : ndarray of int32, shape (n,)
        -1 is noise; clusters are numbered by their first core row. A border row is of the lowest
        of the clusters that reach it.
    counts : ndarray of int32, shape (n,)
        Rows within eps, itself counted; not more than min_samples.
    """

    labels: NDArray[np.int32]
    counts: NDArray[np.int32]


def dbscan(rows: Rows, eps: float, min_samples: int, workers: Workers) -> Densities:
    """Cluster rows that lie in memory (or a memory map).

    Besides the rows it holds about 30 coordinates, 24 bytes and at most min_samples pairs a row,
    and some megabytes a thread.

    Parameters
    ----------
    rows : ndarray, shape (n, dim)
        Float32 or float64, finite.
    eps : float
        Radius, above 0.
    min_samples : int
        Rows within eps, itself counted, that make a core row.
    workers : Workers
        Threads.
    """
    projection = Projection.fit(sample_rows(rows), eps)
    leaves = Leaves.of(rows, projection)
    record = DensityRecord(len(rows), min_samples)
    side = Side.of(leaves)
    scan_within(side, side, record, Search.of(eps, projection), workers)
    return label_rows(record, leaves.order)


def label_rows(record: DensityRecord, order: NDArray[np.int64]) -> Densities:
    """Number the clusters as scikit-learn does.

    Parameters
    ----------
    record : DensityRecord
        Of all rows, by position, with all pairs.
    order : ndarray of int64, shape (n,)
        Row number at each position.
    """
    n = len(order)
    first, second = record.pairs()
    roots, core = record.roots(), record.core()
    first_row = np.full(n, n, dtype=np.int64)  # of each root: the lowest core row of its cluster
    np.minimum.at(first_row, roots[core], order[core])
    cluster = np.full(n, n, dtype=np.int64)
    cluster[core] = first_row[roots[core]]
    for a, b in ((first, second), (second, first)):
        border = core[a] & ~core[b]
        np.minimum.at(cluster, b[border], first_row[roots[a[border]]])
    number = np.unique(cluster, return_inverse=True)[1]
    labels = np.empty(n, dtype=np.int32)
    labels[order] = np.where(cluster == n, NOISE, number)
    counts = np.empty(n, dtype=np.int32)
    counts[order] = record.density.counts
    return Densities(labels, counts)


@dataclass(frozen=True)
class _Known:
    """What the driver knows of a block's rows when it sends a task."""

    block: int
    counts: NDArray[np.int32]
    roots: NDArray[np.int32]


@dataclass(frozen=True)
class _Found:
    """What a task found, by position among all rows; see `DensityRecord.merge`."""

    grown: NDArray[np.int32]
    more: NDArray[np.int32]
    joined: NDArray[np.int32]
    roots: NDArray[np.int32]
    first: NDArray[np.int32]
    second: NDArray[np.int32]


def dbscan_blocks(blocks: Blocks, eps: float, min_samples: int, workers: Workers) -> Densities:
    """Cluster rows in blocks on disk; the same answer as `dbscan` gives.

    A worker holds two blocks at a time. This process holds 24 bytes a row and the pairs of rows
    that are not core, at most min_samples a row: some 10 GB for 10^8 rows, which is where it ends.

    Parameters
    ----------
    blocks : Blocks
    eps, min_samples
        As for `dbscan`.
    workers : Workers
    """
    search = Search.of(eps, blocks.projection)
    record = DensityRecord(blocks.n_rows, min_samples)

    def known(block: int) -> _Known:
        start, stop = blocks.starts[block], blocks.starts[block + 1]
        return _Known(
            block,
            record.density.counts[start:stop].copy(),
            roots_of(record.density.parents, start, stop),
        )

    def tasks(pairs: list[tuple[int, int]]) -> Iterator[list[tuple[_Known, _Known]]]:
        size = max(1, -(-len(pairs) // MOST_TASKS))
        for i in range(0, len(pairs), size):
            task = [(known(a), known(b)) for a, b in pairs[i : i + size]]
            yield [pair for pair in task if not _settled(*pair, min_samples)]

    scan = partial(_scan_blocks, blocks, search, min_samples)
    inside = [(b, b) for b in range(len(blocks)) if blocks.size(b)]
    between = list(pairs_of_blocks(blocks, search.radius))
    for pairs in (inside, between):  # what lies together first: it settles most rows
        for findings in workers.map(scan, tasks(pairs)):
            for found in findings:
                record.merge(*astuple(found))
    return label_rows(record, blocks.order())


def _settled(a: _Known, b: _Known, enough: int) -> bool:
    """Whether all rows are core rows of one cluster."""
    rows = (a,) if a is b else (a, b)
    return all((k.counts >= enough).all() and (k.roots == a.roots[0]).all() for k in rows)


def _scan_blocks(
    blocks: Blocks, search: Search, enough: int, task: list[tuple[_Known, _Known]]
) -> list[_Found]:
    """Find the pairs of two blocks, or inside one, for each pair of blocks of a task."""
    threads = ThreadWorkers(1)
    found = []
    last: tuple[int, Leaves] | None = None
    for a, b in task:
        if last is None or last[0] != a.block:
            last = (a.block, blocks.read(a.block))
        side = Side.of(last[1])
        if a.block == b.block:
            other, counts, roots = side, a.counts, a.roots
        else:
            other = Side.of(blocks.read(b.block), offset=len(a.counts))
            counts = np.concatenate([a.counts, b.counts])
            roots = np.concatenate([a.roots, b.roots])
        record = DensityRecord(len(counts), enough)
        record.density.counts[:] = counts
        record.density.parents[:] = _local_parents(roots)
        before = record.density.parents.copy()
        scan_within(side, other, record, search, threads)
        place = np.arange(len(a.counts)) + blocks.starts[a.block]
        if a.block != b.block:
            other_place = np.arange(len(b.counts)) + blocks.starts[b.block]
            place = np.concatenate([place, other_place])
        found.append(_findings(record, counts, before, place.astype(np.int32)))
    return found


def _local_parents(roots: NDArray[np.int32]) -> NDArray[np.int32]:
    """Forest in which each row's parent is the first that has the same root."""
    _, first, which = np.unique(roots, return_index=True, return_inverse=True)
    parents: NDArray[np.int32] = first[which].astype(np.int32)
    return parents


def _findings(
    record: DensityRecord,
    counts: NDArray[np.int32],
    before: NDArray[np.int32],
    place: NDArray[np.int32],
) -> _Found:
    first, second = record.pairs()
    grown = np.flatnonzero(record.density.counts > counts)
    parents = record.density.parents
    joined = np.flatnonzero((before == np.arange(len(before))) & (parents != before))
    return _Found(
        grown=place[grown],
        more=(record.density.counts - counts)[grown],
        joined=place[joined],
        roots=place[parents[joined]],
        first=place[first],
        second=place[second],
    )


class DBSCANClusterer(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Density clusters by a fixed radius: scikit-learn's labels, by far fewer products.

    Core rows have a membership of 1, border rows the share of min_samples that they have within
    eps, noise 0. The outlier score is what is missing to be core: 0 for core rows, 1 for a row
    with nobody within eps.

    Parameters
    ----------
    eps : float or None
        Radius. None: the knee of the sorted distances to the ``min_samples``-th nearest row,
        itself counted, of 2,048 rows; see `knee`.
    min_samples : int
        Rows within eps, itself counted, that make a core row.
    n_jobs : int or None
        Threads; None is one a core.
    client : distributed.Client or None
        Its workers do the work, over blocks of rows.
    scratch : str or None
        Folder or URL for the blocks that all workers reach; None: a temporary folder, which is
        right for workers on this machine.

    Attributes
    ----------
    eps_ : float
        The radius that was used.
    core_sample_indices_ : ndarray of int64
    counts_ : ndarray of int32, shape (n,)
        Rows within eps, itself counted, up to min_samples.
    k_distances_ : ndarray of float64
        Only where eps is None: the distances that it was chosen from, sorted.
    """

    def __init__(
        self,
        eps: float | None = None,
        *,
        min_samples: int = 5,
        n_jobs: int | None = None,
        client: Any = None,
        scratch: str | None = None,
    ) -> None:
        self.eps = eps
        self.min_samples = min_samples
        self.n_jobs = n_jobs
        self.client = client
        self.scratch = scratch

    def fit(self, X: ArrayLike, y: None = None) -> Self:  # noqa: N803
        """Cluster rows of shape (n, dim), n at least 1: NumPy, a memory map, Dask or Zarr.

        Arrays of Dask and Zarr, and all rows where there is a client, are sorted into blocks on
        disk first; labels are the same in every case.
        """
        if self.min_samples < 1:
            raise ValueError(f"min_samples={self.min_samples} must be at least 1.")
        if self.eps is not None and not self.eps > 0:
            raise ValueError(f"eps={self.eps} must be positive, or None for the knee.")
        if is_stored(X) or self.client is not None:
            found = self._fit_blocks(X)
        else:
            rows = validate_data(self, X, dtype=[np.float64, np.float32], order="C")
            self._choose_eps(sample_rows(rows, KNEE_ROWS), rows)
            found = dbscan(rows, self.eps_, self.min_samples, ThreadWorkers(self.n_jobs))
        core = found.counts >= self.min_samples
        share = found.counts / np.float32(self.min_samples)
        self.labels_ = found.labels
        self.counts_ = found.counts
        self.core_sample_indices_ = np.flatnonzero(core)
        self.membership_ = np.where(found.labels == NOISE, 0, share).astype(np.float32)
        missing = (self.min_samples - found.counts) / max(1, self.min_samples - 1)
        self.outlier_score_ = missing.astype(np.float32)
        return self

    def _fit_blocks(self, X: Any) -> Densities:  # noqa: N803
        workers = ThreadWorkers(self.n_jobs) if self.client is None else DaskWorkers(self.client)
        if not is_stored(X):
            X = validate_data(self, X, dtype=[np.float64, np.float32], order="C")  # noqa: N806
        require_matrix(X)
        self.n_features_in_ = X.shape[1]
        with scratch_folder(self.scratch) as folder:
            rows = stored(X, folder, self.client)
            self._choose_eps(sample_stored(rows, KNEE_ROWS), rows)
            blocks = Blocks.sort(rows, folder, workers, radius=self.eps_)
            return dbscan_blocks(blocks, self.eps_, self.min_samples, workers)

    def _choose_eps(self, sample: Rows, rows: Any) -> None:
        if self.eps is not None:
            self.eps_ = float(self.eps)
            return
        self.k_distances_ = np.sort(distances_to_nearest(sample, rows, self.min_samples))
        self.eps_ = knee(self.k_distances_)
