"""Epochs: the order of the tiles."""

from __future__ import annotations

import numpy as np

from models.epochs import epoch_order
from models.training import TrainingSettings


def test_an_epochs_order_depends_on_seed_and_epoch_alone() -> None:
    orders = [
        epoch_order(50, TrainingSettings(), seed=seed, epoch=epoch).tolist()
        for seed, epoch in [(0, 1), (0, 2), (1, 1)]
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert epoch_order(50, TrainingSettings(), seed=0, epoch=1).tolist() == orders[0]


def test_an_epoch_cut_short_sees_that_many_batches() -> None:
    settings = TrainingSettings(batch_size=16, max_steps_per_epoch=2)
    order = epoch_order(50, settings, seed=0, epoch=1)
    assert len(order) == 32
    assert len(np.unique(order)) == 32


def test_an_epoch_over_blocks_holds_a_few_of_them_at_a_time_and_sees_each_tile_once() -> None:
    ends = np.cumsum(np.full(12, 5))
    order = epoch_order(60, TrainingSettings(), seed=0, epoch=1, block_ends=ends)
    assert sorted(order.tolist()) == list(range(60))
    rounds = [set((order[i : i + 20] // 5).tolist()) for i in (0, 20, 40)]
    assert [len(blocks) for blocks in rounds] == [4, 4, 4]
    other = epoch_order(60, TrainingSettings(), seed=0, epoch=2, block_ends=ends)
    assert other.tolist() != order.tolist()
