"""TileDataset against reading the same Zarr shards and nothing else, and its memory.

    python benchmarks/dataset.py [--tiles 40000] [--rounds 3] [--keep FOLDER]
    python benchmarks/dataset.py --memory [--tiles 200000]

Tiles of 128 x 128 are generated once: smooth tissue with noise, which hardly packs. The
floor reads each Zarr shard of 64 MiB in one slice and drops it: with 0 workers in this process,
with 2 in two forked processes with half of the shards each. Ours is an epoch of TileDataset.stream
through its loader, shuffled, in batches of 64. Variants take turns, reading from the page cache.
Seconds are those of the fastest round; a ratio is the median over the rounds of the floor's seconds
over ours in the same round. Processor seconds are of all processes together.

--memory goes through one shuffled epoch and prints the largest resident size of the process, and
of the process with its two workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pyarrow as pa
import zarr

from mammosift import TileDataset
from storage.manifest import ManifestWriter
from storage.schemas import MANIFEST, SCHEMA_VERSION
from storage.workspace import Workspace

SIZE = 128
TILES_PER_SHARD = 10_000


def main() -> None:
    options = parse_arguments()
    if options.workers is not None:
        report_memory(options.keep, options.workers)
        return
    n = options.tiles or (200_000 if options.memory else 40_000)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary) / "workspace"
        if not (folder / "manifest").exists():
            generate(folder, n)
        if options.memory:
            measure_memory(folder)
        else:
            measure_rates(folder, options.rounds)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder for the tiles; used again if there")
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def generate(folder: Path, n: int) -> None:
    """Shards and manifest of ``n`` kept tiles of ten a patient."""
    workspace = Workspace.create(folder)
    rng = np.random.default_rng(0)
    writer = ManifestWriter(workspace, ManifestWriter.staging_name())
    for shard, start in enumerate(range(0, n, TILES_PER_SHARD)):
        count = min(TILES_PER_SHARD, n - start)
        with workspace.write_shard("tiles", f"made{shard}") as made:
            array = made.array("pixels.zarr", (SIZE, SIZE), "uint16", {})
            for first in range(0, count, 500):
                array.append(made_tiles(rng, min(500, count - first)))
            array.close()
            made.rows = count
        rows = [made_row(start + i, shard, i) for i in range(count)]
        writer.write_part(f"p{shard}", "train", pa.Table.from_pylist(rows, schema=MANIFEST))
    writer.publish()


def made_tiles(rng: np.random.Generator, n: int) -> np.ndarray:
    coarse = rng.uniform(5000, 50_000, (n, 8, 8)).astype(np.float32)
    tiles = np.stack([cv2.resize(c, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for c in coarse])
    tiles += rng.standard_normal(tiles.shape, np.float32) * 150
    return np.clip(tiles, 0, 65535).astype(np.uint16)


def made_row(number: int, shard: int, index: int) -> dict[str, Any]:
    patient = number // 10
    return {
        "tile_id": f"m{patient:020x}-{number % 10 * SIZE}-0-{SIZE}-{SIZE}",
        "mammogram_id": f"m{patient:020x}",
        "patient_key": f"made:{patient}",
        "source": f"{patient}.png",
        "source_sha256": f"{patient:064x}",
        "x": number % 10 * SIZE,
        "y": 0,
        "width": SIZE,
        "height": SIZE,
        "label": ("benign", "malignant")[patient % 2],
        **dict.fromkeys(("dark_fraction", "mean", "std", "p01", "p99", "entropy"), 0.5),
        "decision": "keep",
        "pixels_uri": f"tiles/made{shard}/pixels.zarr",
        "pixels_index": index,
        "run_id": "made",
        "schema_version": SCHEMA_VERSION,
    }


# -- rates -----------------------------------------------------------------------------------------


def measure_rates(folder: Path, rounds: int) -> None:
    arrays = sorted((folder / "tiles").glob("*/pixels.zarr"))
    pieces = [
        (path, start, start + zarr.open_array(path).shards[0])
        for path in arrays
        for start in range(0, zarr.open_array(path).shape[0], zarr.open_array(path).shards[0])
    ]
    n = sum(zarr.open_array(path).shape[0] for path in arrays)
    print(f"{n:,} tiles in {len(pieces)} Zarr shards")
    print(f"{'workers':8}{'variant':18}{'tiles/s':>9}{'ratio':>7}{'cpu s':>8}{'ratio':>7}")
    for workers in (0, 2):
        variants: dict[str, Callable[[], int]] = {
            "floor": lambda workers=workers: read_only(pieces, workers),  # type: ignore[misc]
            "uint16": lambda workers=workers: epoch(folder, workers, "uint16"),  # type: ignore[misc]
            "float32": lambda workers=workers: epoch(folder, workers, "float32"),  # type: ignore[misc]
        }
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, run in variants.items():
                wall, cpu = time.perf_counter(), processor_seconds()
                assert run() == n
                spent[name].append((time.perf_counter() - wall, processor_seconds() - cpu))
        floor = np.array(spent["floor"])
        for name, figures in spent.items():
            own = np.array(figures)
            by_wall, by_cpu = np.median(floor / own, axis=0)
            wall, cpu = own.min(axis=0)
            print(f"{workers:<8}{name:18}{n / wall:9,.0f}{by_wall:7.2f}{cpu:8.2f}{by_cpu:7.2f}")


def processor_seconds() -> float:
    """Of this process and those that it has waited for."""
    return sum(os.times()[:4])


def read_only(pieces: list[tuple[Path, int, int]], workers: int) -> int:
    if not workers:
        return read_pieces(pieces)
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        counts = pool.map(read_pieces, [pieces[w::workers] for w in range(workers)])
        pool.close()
        pool.join()
    return sum(counts)


def read_pieces(pieces: list[tuple[Path, int, int]]) -> int:
    return sum(len(zarr.open_array(path, mode="r")[a:b]) for path, a, b in pieces)


def epoch(folder: Path, workers: int, dtype: Any) -> int:
    data = TileDataset(folder, dtype=dtype)
    return sum(len(batch["index"]) for batch in data.stream(64).loader(workers))


# -- memory ----------------------------------------------------------------------------------------


def measure_memory(folder: Path) -> None:
    for workers in (0, 2):  # a process of its own, which forks its workers as a training job does
        command = [sys.executable, __file__, "--keep", str(folder), "--workers", str(workers)]
        subprocess.run(command, check=True)


def report_memory(folder: Path, workers: int) -> None:
    most = [0]
    over = threading.Event()

    def watch() -> None:
        own = psutil.Process()
        while not over.wait(0.05):
            most[0] = max(most[0], sum(unshared(p) for p in [own, *own.children(recursive=True)]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    n = epoch(folder, workers, "float32")
    over.set()
    watcher.join()
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(
        f"{n:,} tiles, {workers} workers: largest resident size of the process {peak:,.0f} MiB, "
        f"of all processes {most[0] / 2**20:,.0f} MiB (shared pages counted once)",
        flush=True,
    )


def unshared(process: psutil.Process) -> int:
    """Proportional set size; 0 where the process has ended."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.Error, AttributeError):
        return 0


if __name__ == "__main__":
    main()
