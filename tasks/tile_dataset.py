"""Tiles of a manifest for PyTorch: by number (`TileDataset`) and as a stream (`TileStream`).

The stream reads whole Zarr shards, each once an epoch, by one rank and one worker; a background
thread reads the next while the last is given out. Access by number reads the chunks that it needs
and keeps the latest.
"""

from __future__ import annotations

import gc
import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from storage.manifest import Filters
from storage.published_tiles import PublishedTiles
from storage.tile_shards import Tiles
from storage.workspace import Workspace
from tasks.kernels.epoch_order import block_order, drawn_tiles, share_out, shuffled

UNKNOWN = -1
"""Class of a tile whose target is null: what ``cross_entropy(ignore_index=-1)`` passes over."""

FULL_SCALE = np.float32(65535)
CACHE_BYTES = 128 * 2**20
PORTION_BYTES = 2 * 2**20
"""Of small batches that are made at once and lie in one piece of memory."""
PARCEL_BYTES = 8 * 2**20
"""Of tiles that a worker of `TileStream.loader` sends at once."""

Tile = npt.NDArray[np.uint16]
Transform = Callable[[Tensor], Tensor]
Batch = dict[str, Tensor]


class TileBatch(dict[str, Tensor]):
    """Tensors of a batch by name. Between processes its small ones travel by value.

    PyTorch passes each tensor as a file of shared memory, at some milliseconds each: worth it for
    the pixels alone.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Pixels as they are, all else as bytes."""
        small = {name: v.numpy() for name, v in self.items() if name != "pixels"}
        return _batch_of, (self.get("pixels"), small)


def _cut(portion: TileBatch, size: int | None) -> Iterator[TileBatch]:
    """Batches of a portion; single tiles where ``size`` is None."""
    for first in range(0, len(portion["index"]), size or 1):
        here = first if size is None else slice(first, first + size)
        yield TileBatch({name: values[here] for name, values in portion.items()})


def _batch_of(pixels: Tensor | None, small: dict[str, npt.NDArray[Any]]) -> TileBatch:
    batch = TileBatch({name: torch.from_numpy(values) for name, values in small.items()})
    if pixels is not None:
        batch["pixels"] = pixels
    return batch


class TileDataset(Dataset[Batch]):
    """Tiles of a manifest by number, with their targets.

    An item is a dict: ``pixels`` (channels, size, size), ``target``, and ``index``, the tile's
    number in `table`.

    Parameters
    ----------
    workspace : Workspace, str or Path
        Local folder or any URI that fsspec knows (``s3://bucket/run``).
    split : str or sequence of str, optional
        ``train``, ``validation``, ``test``; default: all.
    filters : pyarrow.compute.Expression or list, optional
        Tiles wanted: ``pc.field("view") == "MLO"``, or tuples as in pandas and pyarrow,
        ``[("view", "==", "MLO"), ("lesion_fraction", ">", 0)]``.
    decisions : sequence of str or None
        Decisions that are let through; default: kept tiles only. None: all with pixels.
    target : str or None
        Column that is learned. Of text: the number of its class. Of numbers: the number as float32
        (null: NaN). None: no target. ``label`` is the film's, not the tile's.
    classes : sequence of str, optional
        Order of the classes; default: those of the manifest, sorted. Give it where train and
        validation may hold different ones.
    unlabelled : {"keep", "drop"}
        Tiles whose target is null or none of the classes: kept with class -1, or left out.
    channels : {1, 3}
        3: the grey channel thrice, for networks that were trained on colour.
    dtype : {"float32", "uint16"}
        float32 in [0, 1], or the stored uint16.
    transform : callable, optional
        Of a tile (channels, size, size) to a tensor.
    columns : sequence of str, optional
        Columns of `table` beside the usual ones.
    cache_bytes : int
        Of decoded chunks that access by number keeps.
    augmented : bool
        Also the augmented copies that the run has written of the tiles wanted (its settings
        ``augment_copies`` and ``augment_labels``); the training part alone has any.

    Attributes
    ----------
    table : pyarrow.Table
        One row a tile, in the order of the numbers.
    targets : Tensor or None
        (n,) int64 classes or float32.
    classes : tuple of str
        Empty where the target is a number or none.
    without_pixels : int
        Tiles left out because their pixels are not stored.
    n_unlabelled : int
        Tiles whose target is unknown, kept or left out.

    Raises
    ------
    WorkspaceError, ShardError
        No manifest; pixels missing or altered.
    ValueError
        Arguments that the manifest does not know.
    """

    def __init__(
        self,
        workspace: Workspace | str | Path,
        *,
        split: str | Sequence[str] | None = None,
        filters: Filters | None = None,
        decisions: Sequence[str] | None = ("keep",),
        target: str | None = "label",
        classes: Sequence[str] | None = None,
        unlabelled: Literal["keep", "drop"] = "keep",
        channels: Literal[1, 3] = 1,
        dtype: Literal["float32", "uint16"] = "float32",
        transform: Transform | None = None,
        columns: Sequence[str] = (),
        cache_bytes: int = CACHE_BYTES,
        augmented: bool = False,
    ) -> None:
        _one_of("unlabelled", unlabelled, "keep", "drop")
        _one_of("channels", channels, 1, 3)
        _one_of("dtype", dtype, "float32", "uint16")
        wanted = (*columns, *([target] if target is not None else []))
        self._source = PublishedTiles(
            workspace,
            split=split,
            filters=filters,
            decisions=decisions,
            columns=wanted,
            augmented=augmented,
        )
        values = None if target is None else self._source.table[target].combine_chunks()
        coded, self.classes = _targets(values, classes)
        known = np.ones(len(self._source), bool) if coded is None else _known(coded)
        self.n_unlabelled = int((~known).sum())
        chosen = np.flatnonzero(known) if unlabelled == "drop" else np.arange(len(known))
        self._numbers: npt.NDArray[np.int64] = chosen.astype(np.int64)
        whole = len(chosen) == len(known)  # then no second copy
        self.table: pa.Table = self._source.table
        if not whole:
            self.table = self.table.take(pa.array(self._numbers))
        self.targets = None if coded is None else torch.from_numpy(coded[self._numbers])
        self.without_pixels = self._source.without_pixels
        self.size_px = self._source.size_px
        self.channels, self.dtype, self.transform = channels, dtype, transform
        self.cache_bytes = cache_bytes
        self._block: npt.NDArray[np.int64] = self._source.block_of(self._numbers)
        self._chunks: OrderedDict[tuple[str, int], Tiles] = OrderedDict()

    def __len__(self) -> int:
        """Count the tiles."""
        return len(self._numbers)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it reads for itself."""
        return {**vars(self), "_chunks": OrderedDict()}

    def __getitem__(self, index: int) -> Batch:
        """One tile."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """Several tiles: each chunk that holds one of them is read once."""
        chosen = np.asarray(indices, np.int64)
        if len(chosen) and (chosen.min() < -len(self) or chosen.max() >= len(self)):
            raise IndexError(f"this data set has {len(self)} tiles, not tile {chosen.max()}.")
        chosen %= max(1, len(self))
        if not len(chosen):
            return []
        batch = self._batch(list(self._pixels(chosen)), chosen)
        return [{name: values[i] for name, values in batch.items()} for i in range(len(chosen))]

    # -- what is known of the tiles -----------------------------------------------------------

    def class_weights(self) -> Tensor:
        """Weights for a loss: n / (classes * tiles of the class), float32 (classes,).

        1 on average over the tiles; 0 for a class without a tile.
        """
        counts = self._class_counts()
        weights = np.divide(
            counts.sum(), len(counts) * counts, out=np.zeros(len(counts)), where=counts > 0
        )
        return torch.from_numpy(weights.astype(np.float32))

    def sample_weights(self) -> Tensor:
        """Weights that make all classes equally likely, float64 (n,); 0 for the unlabelled."""
        counts = self._class_counts()
        each = np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0)
        classes = np.asarray(self.targets)
        return torch.from_numpy(np.where(classes == UNKNOWN, 0.0, np.append(each, 0.0)[classes]))

    def _class_counts(self) -> npt.NDArray[np.int64]:
        if not self.classes or self.targets is None:
            raise ValueError(
                "weights of classes need a target of text, such as target='label'; this data set "
                "has none."
            )
        classes = self.targets.numpy()
        return np.bincount(classes[classes != UNKNOWN], minlength=len(self.classes))

    # -- orders -------------------------------------------------------------------------------

    def sampler(
        self,
        *,
        seed: int = 0,
        shuffle: bool = True,
        balanced: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        blocks_held: int = 2,
    ) -> TileSampler:
        """Order for ``DataLoader(dataset, sampler=...)``; parameters as of `stream`."""
        return TileSampler(
            _Plan(self, seed, shuffle, balanced, *_rank(rank, world_size), blocks_held)
        )

    def stream(
        self,
        batch_size: int | None = 64,
        *,
        seed: int = 0,
        shuffle: bool = True,
        balanced: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        blocks_held: int = 2,
        drop_last: bool = False,
    ) -> TileStream:
        """Stream of batches, read by whole shards: ``DataLoader(stream, batch_size=None)``.

        Parameters
        ----------
        batch_size : int or None
            Tiles in a batch; None: single tiles, for a loader that makes the batches.
        seed : int
            Same seed, epoch, ranks and workers: same tiles in the same order.
        shuffle : bool
            Shards, and tiles within the shards that are held together. False: order of `table`.
        balanced : bool
            As many tiles as there are, drawn with replacement so that all classes are equally
            likely; tiles without a label are not drawn.
        rank, world_size : int, optional
            Who of how many this is; default: as torch.distributed says, else alone. Ranks see
            disjoint tiles, together all; how many each sees differs by a shard at most.
        blocks_held : int
            Zarr shards (64 MiB at most each) among which tiles are mixed; one more is read ahead.
        drop_last : bool
            Leave out the last batch of a worker where it is not full.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1, or None.")
        plan = _Plan(self, seed, shuffle, balanced, *_rank(rank, world_size), blocks_held)
        return TileStream(self, plan, batch_size, drop_last)

    # -- pixels -------------------------------------------------------------------------------

    def _batch(self, tiles: Sequence[Tile], indices: npt.NDArray[np.int64]) -> TileBatch:
        """Tensors of a batch from its tiles, uint16 (size, size) each."""
        shape = (len(tiles), self.channels, self.size_px, self.size_px)
        pixels = _empty(shape, torch.float32 if self.dtype == "float32" else torch.uint16)
        filled = pixels.numpy()
        for tile, place in zip(tiles, filled, strict=True):
            if self.dtype == "float32":
                _on_unit_scale(tile, place[0])
            else:
                place[0] = tile
            place[1:] = place[0]
        if self.transform is not None:
            pixels = torch.stack([self.transform(tile) for tile in pixels])
        batch = TileBatch({"pixels": pixels, "index": torch.from_numpy(indices)})
        if self.targets is not None:
            batch["target"] = self.targets[batch["index"]]
        return batch

    def _pixels(self, indices: npt.NDArray[np.int64]) -> Tiles:
        """Pixels by number, through the chunks that are kept."""
        source = self._source
        numbers = self._numbers[indices]
        out = np.empty((len(indices), self.size_px, self.size_px), np.uint16)
        for uri, rows, places in source.rows_by_array(numbers):
            for chunk, pixels, here in self._chunks_of(uri, rows):
                out[places[here]] = pixels[rows[here] - chunk * source.chunk_rows(uri)]
        return out

    def _chunks_of(
        self, uri: str, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, Tiles, npt.NDArray[np.int64]]]:
        step = self._source.chunk_rows(uri)
        numbers = rows // step
        wanted = np.unique(numbers).tolist()
        read = self._source.read_chunks(uri, [c for c in wanted if (uri, c) not in self._chunks])
        for chunk in wanted:
            pixels = read[chunk] if chunk in read else self._chunks[uri, chunk]
            yield chunk, pixels, np.flatnonzero(numbers == chunk)
            self._chunks[uri, chunk] = pixels
            self._chunks.move_to_end((uri, chunk))
            while len(self._chunks) > 1 and len(self._chunks) * pixels.nbytes > self.cache_bytes:
                self._chunks.popitem(last=False)


class TileStream(IterableDataset[Batch]):
    """Batches in the order of an epoch; made by `TileDataset.stream`.

    A batch is a dict: ``pixels`` (n, channels, size, size), ``target`` (n,), ``index`` (n,).
    """

    def __init__(
        self, dataset: TileDataset, plan: _Plan, batch_size: int | None, drop_last: bool
    ) -> None:
        self.dataset, self._plan = dataset, plan
        self.batch_size, self.drop_last = batch_size, drop_last

    @property
    def n_tiles(self) -> int:
        """Tiles that this rank sees in the epoch."""
        return len(self._plan.tiles_of_rank())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; workers that go on from one to the next see it too."""
        self._plan.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        """Go through the epoch once."""
        for portion in self._made(PORTION_BYTES):
            yield from _cut(portion, self.batch_size)

    def loader(self, num_workers: int = 0, **options: Any) -> TileLoader:
        """Batches through worker processes, which pass their tiles in memory that is used again.

        The batches are those of ``DataLoader(stream, batch_size=None, num_workers=...)``, which
        makes new shared memory for each, at some milliseconds; several of one worker's come after
        each other. Their order, too, is the same in every run.

        Parameters
        ----------
        num_workers : int
            Processes that read; 0: this one.
        **options
            Of ``torch.utils.data.DataLoader``: ``persistent_workers``, ``pin_memory``,
            ``prefetch_factor``, ...
        """
        return TileLoader(self, num_workers, options)

    def _made(self, portion_bytes: int) -> Iterator[TileBatch]:
        """Several batches in one, as many as fit into ``portion_bytes``; at least one."""
        data = self.dataset
        value_bytes = data.channels * (4 if data.dtype == "float32" else 2)
        for indices, tiles in self._portions(self._tiles_in(portion_bytes, value_bytes)):
            portion = data._batch(tiles, np.array(indices, np.int64))
            tiles.clear()  # views that would hold their shards in memory
            yield portion

    def _tiles_in(self, portion_bytes: int, value_bytes: int) -> int:
        """Tiles of as many whole batches as fit; of one at least."""
        size = self.batch_size or 1
        batch_bytes = max(1, size * self.dataset.size_px**2 * value_bytes)
        return max(1, portion_bytes // batch_bytes) * size

    def _portions(self, size: int) -> Iterator[tuple[list[int], list[Tile]]]:
        """Tiles with their numbers, ``size`` at a time over the epoch; the last may be fewer."""
        worker = get_worker_info()
        rounds = self._plan.rounds(*((0, 1) if worker is None else (worker.id, worker.num_workers)))
        indices: list[int] = []
        tiles: list[Tile] = []
        for held, order in self._held(rounds):
            for index, tile in held.tiles(order):
                indices.append(index)
                tiles.append(tile)
                if len(tiles) == size:
                    yield indices, tiles
                    indices, tiles = [], []
            tiles = [tile.copy() for tile in tiles]
            del tile
        if self.drop_last and self.batch_size is not None:
            whole = len(tiles) // self.batch_size * self.batch_size
            indices, tiles = indices[:whole], tiles[:whole]
        if tiles:
            yield indices, tiles

    def _held(self, rounds: list[_Round]) -> Iterator[tuple[_Held, npt.NDArray[np.int64]]]:
        """Blocks of each round with their pixels."""
        with closing(self._read([block for this in rounds for block in this.blocks])) as pixels:
            for this in rounds:
                held = _Held(self.dataset)
                for block in this.blocks:
                    held.pixels[block] = next(pixels)
                yield held, this.order
                held.pixels.clear()  # before the next are collected

    def _read(self, blocks: list[int]) -> Generator[Tiles, None, None]:
        """Pixels of blocks; the next one is read meanwhile.

        In workers too: their batches come in turn, so that all would wait for the one that reads.
        """
        read = self.dataset._source.read_block
        waiting: Future[Tiles] | None = None
        with ThreadPoolExecutor(1, "mammosift-read") as reader:
            for block in blocks:
                arriving = reader.submit(read, block)
                if waiting is not None:
                    yield waiting.result()
                waiting = arriving
            if waiting is not None:
                yield waiting.result()


class TileLoader:
    """Batches of a stream through worker processes; made by `TileStream.loader`."""

    def __init__(self, stream: TileStream, num_workers: int, options: dict[str, Any]) -> None:
        self._stream, self._workers = stream, num_workers
        context = options.get("multiprocessing_context")  # a name, or one already
        if context is None or isinstance(context, str):
            context = torch.multiprocessing.get_context(context)
        self._context = context
        self._slots = 1 + int(options.get("prefetch_factor") or 2)  # one is being unpacked
        self._persists = bool(options.get("persistent_workers"))
        self._pins = bool(options.get("pin_memory"))
        self._parcels = _Parcels(stream)
        self._loader = DataLoader(
            self._parcels, batch_size=None, num_workers=num_workers, **options
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self._stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[TileBatch]:
        """Go through the epoch once."""
        data, ring = self._stream.dataset, self._parcels.ring
        if self._workers and data.transform is None and (ring is None or not self._persists):
            tiles = self._stream._tiles_in(PARCEL_BYTES, 2)
            ring = _Ring(self._workers, self._slots, tiles, data.size_px, self._context)
            self._parcels.ring = ring
        if ring is not None:
            ring.begin_epoch()
        with _forking() if self._workers else nullcontext():
            made_by_workers = iter(self._loader)
        for made in made_by_workers:
            if isinstance(made, _Parcel) and ring is not None:
                yield from self._unpacked(ring, made)
            else:
                yield from _cut(made, self._stream.batch_size)

    def _unpacked(self, ring: _Ring, parcel: _Parcel) -> Iterator[TileBatch]:
        """Batches of a parcel, one made after the other: small memory is used again."""
        size = self._stream.batch_size
        tiles, step = ring.take(parcel), size or 64
        try:
            for first in range(0, len(tiles), step):
                here = slice(first, first + step)
                batch = self._stream.dataset._batch(tiles[here], parcel.indices[here])
                if self._pins:
                    batch["pixels"] = batch["pixels"].pin_memory()
                yield from _cut(batch, size)
        finally:
            ring.free[parcel.worker].put((parcel.epoch, parcel.slot))


@contextmanager
def _forking() -> Iterator[None]:
    """Fork inside: else a process's first collection copies every page that it shares with us."""
    frozen_before = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen_before:
            gc.unfreeze()


@dataclass(frozen=True)
class _Parcel:
    """Where in the ring a worker has put tiles, in which epoch, and their numbers."""

    worker: int
    epoch: int
    slot: int
    indices: npt.NDArray[np.int64]


class _Ring:
    """Shared memory that workers fill with tiles again and again, some slots each.

    Memory that is new costs more than what is written to it. A slot is free again when its tiles
    have been made into a batch, and at the latest when the next epoch begins: one that is left
    early never unpacks what is under way.
    """

    def __init__(self, workers: int, slots: int, tiles: int, size_px: int, context: Any) -> None:
        shape = (workers, slots, tiles, size_px, size_px)
        self.pixels = _shared(shape, torch.uint16)
        self.free = [context.SimpleQueue() for _ in range(workers)]
        self.epoch = _shared((), torch.int64).zero_()

    def begin_epoch(self) -> None:
        """Let all slots be free: those of the epochs before are no longer used."""
        self.epoch += 1
        for queue in self.free:
            for slot in range(self.pixels.shape[1]):
                queue.put((int(self.epoch), slot))

    def put(self, worker: int, epoch: int, indices: list[int], tiles: list[Tile]) -> _Parcel | None:
        """Put tiles into a slot of a worker; None where none of the epoch is free."""
        of_epoch, slot = -1, -1
        while of_epoch < epoch:
            if self.free[worker].empty():
                return None
            of_epoch, slot = self.free[worker].get()
        if of_epoch > epoch:  # the next has begun, and we are still at this one
            self.free[worker].put((of_epoch, slot))
            return None
        for place, tile in zip(self.pixels[worker, slot].numpy(), tiles, strict=False):
            place[...] = tile
        return _Parcel(worker, epoch, slot, np.array(indices, np.int64))

    def take(self, parcel: _Parcel) -> list[Tile]:
        """Tiles of a parcel, not copied."""
        return list(self.pixels[parcel.worker, parcel.slot].numpy()[: len(parcel.indices)])


class _Parcels(IterableDataset[Any]):
    """Several batches of a stream in one: in the ring where there is a free slot."""

    def __init__(self, stream: TileStream) -> None:
        self.stream = stream
        self.ring: _Ring | None = None

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        if worker is None or self.ring is None:
            yield from self.stream._made(PORTION_BYTES if worker is None else PARCEL_BYTES)
            return
        epoch = int(self.ring.epoch)
        for indices, tiles in self.stream._portions(self.stream._tiles_in(PARCEL_BYTES, 2)):
            parcel = self.ring.put(worker.id, epoch, indices, tiles)
            made = parcel or self.stream.dataset._batch(tiles, np.array(indices, np.int64))
            tiles.clear()
            yield made


class TileSampler(Sampler[int]):
    """Numbers of tiles in the order of an epoch; made by `TileDataset.sampler`."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self._plan.set_epoch(epoch)

    def __len__(self) -> int:
        """Count the tiles of this rank's epoch."""
        return len(self._plan.tiles_of_rank())

    def __iter__(self) -> Iterator[int]:
        """Go through the epoch once."""
        for this in self._plan.rounds(0, 1):
            yield from this.order.tolist()


class _Round:
    """Blocks that are held together, and the numbers of their tiles in the order of the epoch."""

    def __init__(self, blocks: list[int], order: npt.NDArray[np.int64]) -> None:
        self.blocks, self.order = blocks, order


class _Plan:
    """Who sees which tiles when. Small: it travels to the workers."""

    def __init__(
        self,
        dataset: TileDataset,
        seed: int,
        shuffle: bool,
        balanced: bool,
        rank: int,
        world_size: int,
        blocks_held: int,
    ) -> None:
        if seed < 0 or blocks_held < 1:
            raise ValueError(f"seed={seed}, blocks_held={blocks_held}: at least 0 and at least 1.")
        self.seed, self.shuffle, self.blocks_held = seed, shuffle, blocks_held
        self.rank, self.world_size = rank, world_size
        self._weights = dataset.sample_weights().numpy() if balanced else None
        if self._weights is not None and not self._weights.sum() and len(dataset):
            raise ValueError("balanced=True, but no tile has a label. Drop balanced.")
        self._block = dataset._block
        self._n_blocks = len(dataset._source.blocks)
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        if epoch < 0:
            raise ValueError(f"epoch={epoch}: at least 0.")
        self._epoch.fill_(epoch)

    def _shares(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[Any]]:
        """Tiles drawn, tiles in each block, and each rank's blocks."""
        epoch = int(self._epoch)
        tiles = drawn_tiles(len(self._block), self._weights, seed=self.seed, epoch=epoch)
        sizes = np.bincount(self._block[tiles], minlength=self._n_blocks)
        order = block_order(self._n_blocks, shuffle=self.shuffle, seed=self.seed, epoch=epoch)
        return tiles, sizes, share_out(order, sizes, self.world_size)

    def tiles_of_rank(self) -> npt.NDArray[np.int64]:
        tiles, _, shares = self._shares()
        return tiles[np.isin(self._block[tiles], shares[self.rank])]

    def rounds(self, worker: int, workers: int) -> list[_Round]:
        tiles, sizes, shares = self._shares()
        mine = share_out(shares[self.rank], sizes, workers)[worker]
        bounds = np.r_[0, np.cumsum(sizes)]
        rounds = []
        for start in range(0, len(mine), self.blocks_held):
            blocks = mine[start : start + self.blocks_held].tolist()
            held = np.concatenate([tiles[bounds[b] : bounds[b + 1]] for b in blocks])
            order = shuffled(
                held,
                shuffle=self.shuffle,
                seed=self.seed,
                epoch=int(self._epoch),
                first_block=blocks[0],
            )
            rounds.append(_Round(blocks, order))
        return rounds


class _Held:
    """Pixels of the blocks of a round, by the number of the tile in the data set."""

    def __init__(self, dataset: TileDataset) -> None:
        self.dataset = dataset
        self.pixels: dict[int, Tiles] = {}

    def tiles(self, indices: npt.NDArray[np.int64]) -> Iterator[tuple[int, Tile]]:
        """Numbers and pixels, in the order asked for; not copied."""
        data = self.dataset
        first = np.array([block.first for block in data._source.blocks])
        blocks = data._block[indices]
        rows = data._numbers[indices] - first[blocks]
        for index, block, row in zip(indices.tolist(), blocks.tolist(), rows.tolist(), strict=True):
            yield index, self.pixels[block][row]


def _divided(tile, out):  # type: ignore[no-untyped-def]
    for row in range(tile.shape[0]):
        for column in range(tile.shape[1]):
            out[row, column] = np.float32(tile[row, column]) / FULL_SCALE


_on_unit_scale: Callable[[Tile, npt.NDArray[np.float32]], None] = numba.njit(
    cache=True, nogil=True, error_model="numpy"
)(_divided)
"""Tile over the full scale, in one pass; NumPy converts and divides in two."""


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory for a batch: of a worker's in shared memory, so that nothing is copied on its way."""
    if get_worker_info() is not None:
        return _shared(shape, dtype)
    return torch.from_numpy(np.empty(shape, "float32" if dtype == torch.float32 else "uint16"))


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Shared memory, not touched yet."""
    size = math.prod(shape) * dtype.itemsize
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    made: Tensor = torch.empty(0, dtype=dtype)
    return made.set_(storage, 0, torch.Size(shape), torch.empty(shape, device="meta").stride())


def _one_of(name: str, value: object, *allowed: object) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: one of {', '.join(map(repr, allowed))}.")


def _rank(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if rank is None and world_size is None:
        group = torch.distributed
        if group.is_available() and group.is_initialized():
            return group.get_rank(), group.get_world_size()
        return 0, 1
    if rank is None or world_size is None or not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} of world_size={world_size}: give both, rank < world_size.")
    return rank, world_size


def _targets(
    values: pa.Array | None, classes: Sequence[str] | None
) -> tuple[npt.NDArray[Any] | None, tuple[str, ...]]:
    """Targets as numbers (-1 or NaN: unknown), and the names of the classes."""
    if values is None:
        return None, ()
    if pa.types.is_string(values.type):
        names = sorted(set(values.drop_null().to_pylist())) if classes is None else list(classes)
        if len(set(names)) < len(names):
            raise ValueError(f"classes={classes!r} names a class twice.")
        found = pc.index_in(values, pa.array(names, pa.string()), skip_nulls=True)
        coded = pc.fill_null(found, UNKNOWN).to_numpy(zero_copy_only=False).astype(np.int64)
        return coded, tuple(names)
    if classes is not None:
        raise ValueError(f"classes={classes!r}, but the target is a number; leave classes out.")
    return values.to_numpy(zero_copy_only=False).astype(np.float32), ()


def _known(coded: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    known: npt.NDArray[np.bool_] = (
        ~np.isnan(coded) if coded.dtype == np.float32 else coded != UNKNOWN
    )
    return known
