"""What training and encoding of very many tiles take of memory.

    python benchmarks/memory.py [--tiles 200000] [--size-px 128] [--threads 1]

Writes shards of made-up tiles as a run does, then, in one process: an epoch over all of them
through the streaming loader by a network so small that reading is what counts; steps of the network
that curation uses; and the embeddings of all shards, written as a run writes them (again by the
small network; some also by curation's own). The largest resident size is printed after each.
"""

from __future__ import annotations

import argparse
import functools
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from models.autoencoder import AutoencoderConfig, build, named_config
from models.devices import threads
from models.encoding import encode
from models.fitting import FitSettings, fit
from models.objectives import Reconstruction
from models.tile_source import StoredTiles
from storage.tile_shards import PIXELS, read_pixels
from storage.workspace import ShardWriter, Workspace
from storage.zarr_rows import rows_of

TILES_PER_SHARD = 10_000
SMALL = AutoencoderConfig(
    name="small", input_size_px=16, channels=1, widths=(4, 8), dense_dim=32, latent_dim=16
)


def write_tiles(writer: ShardWriter, *, n: int, size: int, seed: int) -> None:
    """Discs of different places, sizes and brightness on even ground: cheap to make and store."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    array = writer.array(PIXELS, (size, size), "uint16", {})
    for start in range(0, n, 500):
        k = min(500, n - start)
        tiles = np.empty((k, size, size), np.uint16)
        for i in range(k):
            across, down = rng.uniform(0, size, 2)
            disc = (x - across) ** 2 + (y - down) ** 2 < rng.uniform(4, size / 2) ** 2
            tiles[i] = np.where(disc, rng.integers(20_000, 60_000), rng.integers(0, 9_000))
        array.append(tiles)
    array.close()
    writer.rows = n


def write_embeddings(writer: ShardWriter, *, network: object, key: str, n: int, dim: int) -> None:
    array = writer.array("embeddings.zarr", (dim,), "float32", {})
    for tiles in read_pixels(writer.workspace, key, np.arange(n)):
        array.append(encode(network, tiles))  # type: ignore[arg-type]
    array.close()
    writer.rows = n


def say(what: str, n: int, started: float) -> None:
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:46} {n:9,} tiles {seconds:8.1f} s   largest size {peak:.2f} GiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=200_000)
    parser.add_argument("--size-px", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with threads(given.threads), tempfile.TemporaryDirectory() as folder:
        workspace = Workspace.create(Path(folder) / "workspace")
        sizes = {
            f"shard{i:04d}": min(TILES_PER_SHARD, given.tiles - start)
            for i, start in enumerate(range(0, given.tiles, TILES_PER_SHARD))
        }
        started = time.perf_counter()
        for seed, (key, n) in enumerate(sizes.items()):
            write = functools.partial(write_tiles, n=n, size=given.size_px, seed=seed)
            workspace.made("tiles", key, write)
        raw = given.tiles * given.size_px**2 * 2 / 2**30
        say(f"written ({raw:.1f} GiB as uint16)", given.tiles, started)

        arrays = [workspace.shard("tiles", key).array(PIXELS) for key in sizes]
        source = StoredTiles([rows_of(array) for array in arrays])
        small = build(SMALL)
        started = time.perf_counter()
        fit(Reconstruction(small), source, FitSettings(max_epochs=1, batch_size=256), seed=0)
        say("an epoch, small network", given.tiles, started)

        light = build(named_config("light"))
        started = time.perf_counter()
        steps = FitSettings(max_epochs=1, batch_size=64, max_steps_per_epoch=20, precision="auto")
        fit(Reconstruction(light), source, steps, seed=0)
        say("20 steps, network of curation", 20 * 64, started)

        started = time.perf_counter()
        for key, n in sizes.items():
            write = functools.partial(
                write_embeddings, network=small, key=key, n=n, dim=SMALL.latent_dim
            )
            workspace.made("embeddings", key, write)
        say("embeddings, small network", given.tiles, started)

        started = time.perf_counter()
        key, n = next(iter(sizes.items()))
        n = min(n, 2_000)
        write = functools.partial(
            write_embeddings, network=light, key=key, n=n, dim=light.config.latent_dim
        )
        workspace.made("embeddings", "light", write)
        say("embeddings, network of curation", n, started)


if __name__ == "__main__":
    main()
