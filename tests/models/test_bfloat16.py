"""Products in bfloat16: bounds that hold, and the same pairs as without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.cluster
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.dbscan import label_rows
from models.pairs import bfloat16, within
from models.pairs.bfloat16 import BriefRows, limit_left, load_left, most_above, multiply
from models.pairs.density import DensityRecord
from models.pairs.every_pair import scan_every_pair, scan_on_device
from models.pairs.leaves import Leaves
from models.pairs.projection import Projection, sample_rows
from models.pairs.sides import Side
from models.pairs.within import Search, scan_within
from models.workers import ThreadWorkers

Rows = NDArray[np.floating]
ON_A_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
)
KINDS = ("isotropic", "heavy tails", "near-duplicates", "a pile", "far from zero", "one column")


def made(kind: str, n: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 1 if kind == "one column" else 40))
    if kind == "heavy tails":
        rows *= np.exp(1.5 * rng.standard_normal((n, 1)))
    elif kind == "near-duplicates":
        rows = rows[rng.integers(0, min(n, 30), n)] + 1e-3 * rng.standard_normal(rows.shape)
    elif kind == "a pile":
        rows[: 3 * n // 4] = rows[0]
    elif kind == "far from zero":
        rows += 1e3
    return rows[rng.permutation(n)].astype(np.float32)


def side_of(rows: Rows, offset: int = 0) -> tuple[Side, Projection]:
    projection = Projection.fit(sample_rows(rows), 1.0)
    return Side.of(Leaves.of(rows, projection), offset), projection


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_bounds_half_the_squared_distance_less_half_the_limit(
    kind: str, scale: float
) -> None:
    rows = made(kind, 100) * np.float32(scale)
    side, projection = side_of(rows)
    n, unit = len(rows), projection.unit
    brief = BriefRows.of(side.rows, side.order, bfloat16.centre_of(side.rows), 1.0 / unit)
    x = rows[side.order].astype(np.float64) / unit
    squares = np.square(x[:, None] - x[None]).sum(axis=2)
    limits = np.quantile(squares, 0.3, axis=1)
    left, out = np.zeros_like(brief.values[:n]), np.empty((n, 128), dtype=np.int16)
    load_left(brief, np.arange(n), left)
    limit_left(brief, np.arange(n), limits, left)
    multiply(left, brief.values, out)
    products = (out.astype(np.int32) << 16).view(np.float32).astype(np.float64)
    true = (squares - limits[:, None]) / 2
    rounding = 2.0**-8 * np.abs(products[:, :n])
    assert np.all((products[:, :n] < 0) >= (true < 0)), "no pair within the limit is lost"
    assert np.all(products[:, :n] - rounding <= true)
    for p in range(0, n, 9):
        for q in range(n):
            most = most_above(brief, p, brief, q, limits[p], rows.shape[1])
            assert true[p, q] <= products[p, q] + rounding[p, q] + most
    assert np.all(products[:, n:] > 0), "what fills the last strip is beyond every limit"


def test_a_limit_below_zero_lets_nothing_pass() -> None:
    side, projection = side_of(made("a pile", 64))
    brief = BriefRows.of(
        side.rows, side.order, bfloat16.centre_of(side.rows), 1.0 / projection.unit
    )
    left, out = np.zeros_like(brief.values), np.empty((64, 64), dtype=np.int16)
    load_left(brief, np.arange(64), left)
    limit_left(brief, np.arange(64), np.full(64, -1.0), left)
    multiply(left, brief.values, out)
    assert np.all(out > 0)


@pytest.mark.parametrize("min_samples", [1, 5, 60])
@pytest.mark.parametrize("n", [3, 512, 513, 1600])
@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_within_a_radius_is_found(kind: str, n: int, min_samples: int) -> None:
    rows = made(kind, n)
    distances = np.linalg.norm(rows[:40, None].astype(np.float64) - rows[None], axis=2)
    for eps in 1e-3 + 1.001 * np.quantile(distances, [0.01, 0.5]):  # between two distances
        side, projection = side_of(rows)
        record = DensityRecord(n, min_samples)
        search = Search.of(float(eps), projection)
        scan_every_pair(side, side, record, search, ThreadWorkers(2))
        labels = label_rows(record, side.order).labels
        peer = sklearn.cluster.DBSCAN(eps=eps, min_samples=min_samples, algorithm="kd_tree")
        assert np.array_equal(labels, peer.fit(rows.astype(np.float64)).labels_)


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(2, 9))
@settings(deadline=None, max_examples=30)
def test_pairs_at_the_radius_itself_belong_to_it(seed: int, dim: int, min_samples: int) -> None:
    rows = np.random.default_rng(seed).integers(-4, 5, (300, dim)).astype(np.float32)
    side, projection = side_of(rows)
    for eps in (1.0, np.nextafter(1.0, 0), np.sqrt(2.0), 2.0):
        record = DensityRecord(300, min_samples)
        scan_every_pair(side, side, record, Search.of(eps, projection), ThreadWorkers(1))
        labels = label_rows(record, side.order).labels
        peer = sklearn.cluster.DBSCAN(eps=eps, min_samples=min_samples, algorithm="brute")
        assert np.array_equal(labels, peer.fit(rows.astype(np.float64)).labels_)


OUTLIERS = 0.1 + np.array([70, -70, 140, -140, 280, -280, 500, -500.0])
BY_HAND = {
    "far beyond the usual length": (np.r_[np.full(25, 0.1), OUTLIERS], 50.0),
    "a radius whose square is lost in float32": (np.array([0, 3e-16, 1, -1, 2, -2, 3, -3]), 1e-16),
}


@pytest.mark.parametrize("scan", [scan_every_pair, scan_within])
@pytest.mark.parametrize("case", BY_HAND)
def test_what_products_cannot_tell_is_measured(
    case: str, scan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "available", lambda: False)  # of scan_within
    rows, eps = BY_HAND[case][0][:, None], BY_HAND[case][1]
    side, projection = side_of(rows)
    record = DensityRecord(len(rows), 2)
    scan(side, side, record, Search.of(eps, projection), ThreadWorkers(1))
    peer = sklearn.cluster.DBSCAN(eps=eps, min_samples=2, algorithm="brute")
    assert np.array_equal(label_rows(record, side.order).labels, peer.fit(rows).labels_)


def test_pairs_of_two_sides_are_found_as_those_of_one() -> None:
    rows = made("heavy tails", 1500)
    projection = Projection.fit(sample_rows(rows), 4.0)
    search = Search.of(4.0, projection)
    first = Side.of(Leaves.of(rows[:700], projection))
    second = Side.of(Leaves.of(rows[700:], projection), offset=700)
    record = DensityRecord(1500, 5)
    for a, b in ((first, first), (second, second), (first, second)):
        scan_every_pair(a, b, record, search, ThreadWorkers(2))
    labels = label_rows(record, np.concatenate([first.order, 700 + second.order])).labels
    peer = sklearn.cluster.DBSCAN(eps=4.0, min_samples=5, algorithm="kd_tree")
    assert np.array_equal(labels, peer.fit(rows.astype(np.float64)).labels_)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_A_GPU)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_finds_the_same_pairs(kind: str, device: str) -> None:
    rows = made(kind, 2500)
    distances = np.linalg.norm(rows[:40, None].astype(np.float64) - rows[None], axis=2)
    for eps in 1e-3 + 1.001 * np.quantile(distances, [0.01, 0.5]):
        side, projection = side_of(rows)
        record = DensityRecord(len(rows), 5)
        search = Search.of(float(eps), projection)
        scan_on_device(side, side, record, search, torch.device(device))
        labels = label_rows(record, side.order).labels
        peer = sklearn.cluster.DBSCAN(eps=eps, min_samples=5, algorithm="kd_tree")
        assert np.array_equal(labels, peer.fit(rows.astype(np.float64)).labels_)


def test_it_is_chosen_where_boxes_prune_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made("isotropic", 3000)
    side, projection = side_of(rows)
    search = Search.of(7.0, projection)._replace(dense_share=0.0)
    answers = []
    monkeypatch.setattr(bfloat16, "gpu", lambda: None)
    for available in (True, False):
        monkeypatch.setattr(bfloat16, "available", lambda found=available: found)
        called = []
        ours = lambda *args, called=called: called.append(1) or scan_every_pair(*args)  # noqa: E731
        monkeypatch.setattr(within, "scan_every_pair", ours)
        record = DensityRecord(len(rows), 5)
        scan_within(side, side, record, search, ThreadWorkers(2))
        answers.append(label_rows(record, side.order).labels)
        assert bool(called) is available
    assert np.array_equal(*answers)


def test_it_is_not_chosen_where_boxes_prune_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_called(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(within, "scan_every_pair", not_called)
    monkeypatch.setattr(bfloat16, "available", lambda: True)
    rng = np.random.default_rng(0)
    flat = rng.uniform(0, 1000, (3000, 2))
    in_space = np.concatenate([flat, np.zeros((3000, 38))], axis=1)
    for rows in (flat, in_space):
        side, projection = side_of(rows)
        search = Search.of(5.0, projection)._replace(dense_share=0.0)
        scan_within(side, side, DensityRecord(len(rows), 5), search, ThreadWorkers(1))


def test_hardware_that_rounds_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bfloat16._is_sound()

    def low_sums(left: NDArray[np.int16], right: NDArray[np.int16], out: NDArray[np.int16]) -> None:
        multiply(left, right, out)
        out[:] = (out >> 5) << 5  # as if sums were formed in few bits

    monkeypatch.setattr(bfloat16, "multiply", low_sums)
    assert not bfloat16._is_sound()
