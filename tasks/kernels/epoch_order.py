"""In which order the tiles of an epoch come, and who sees which: seed and epoch alone decide.

Blocks (what is read at once) are shuffled and shared out; tiles are shuffled within the few blocks
that a reader holds at a time. So every block is read once an epoch, by one reader.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def drawn_tiles(
    n: int, weights: npt.NDArray[np.float64] | None, *, seed: int, epoch: int
) -> Indices:
    """Tiles of an epoch, ascending: each once, or drawn by weight.

    Parameters
    ----------
    n : int
        Tiles there are.
    weights : (n,) float64 or None
        Not negative, not all zero. ``n`` tiles are drawn with replacement, each with the
        probability ``weights / sum``; None: each tile once.
    seed, epoch : int
        Not negative.

    Returns
    -------
    (n,) int64
    """
    if weights is None or n == 0:
        return np.arange(n, dtype=np.int64)
    rng = np.random.default_rng([seed, epoch, 0])
    edges = np.cumsum(weights / weights.sum())
    drawn = np.searchsorted(edges / edges[-1], rng.random(n), side="right")
    return np.sort(drawn).astype(np.int64)


def block_order(n_blocks: int, *, shuffle: bool, seed: int, epoch: int) -> Indices:
    """Blocks in the order of the epoch, (n_blocks,) int64."""
    if not shuffle:
        return np.arange(n_blocks, dtype=np.int64)
    return np.random.default_rng([seed, epoch, 1]).permutation(n_blocks).astype(np.int64)


def share_out(order: Indices, sizes: npt.NDArray[np.int64], readers: int) -> list[Indices]:
    """Share blocks out among readers: the next block to whoever has the fewest tiles.

    Parameters
    ----------
    order : (n,) int64
        Numbers of blocks.
    sizes : (n_blocks,) int64
        Tiles in each block, by number; a block without any goes to nobody.
    readers : int
        At least 1.

    Returns
    -------
    list of int64 arrays, one a reader
        Disjoint, together all blocks with tiles, each in the order given. Where several readers
        have equally few tiles, the first gets the block.
    """
    held = np.zeros(readers, np.int64)
    shares: list[list[int]] = [[] for _ in range(readers)]
    for block in order.tolist():
        if sizes[block]:
            reader = int(held.argmin())
            shares[reader].append(block)
            held[reader] += sizes[block]
    return [np.array(share, np.int64) for share in shares]


def shuffled(tiles: Indices, *, shuffle: bool, seed: int, epoch: int, first_block: int) -> Indices:
    """Tiles of the blocks that are held together, in the order in which they come.

    Parameters
    ----------
    tiles : (n,) int64
    first_block : int
        Number of the first of the blocks: gives each round of blocks an order of its own that
        does not depend on who reads it.
    """
    if not shuffle:
        return tiles
    return np.random.default_rng([seed, epoch, 2, first_block]).permutation(tiles)
