"""What a run would do, from the films' headers alone and one film cut as a sample."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from storage import collections, discovery, films
from storage.errors import FilmError, MammosiftError
from storage.records import Mammogram
from tasks.kernels import film_tiles, intensity, tiling
from tasks.settings import CurationSettings

TRAINING_TILES_PER_S = {"light": 1000.0, "ddsm": 15.0}
ENCODING_TILES_PER_S = {"light": 7000.0, "ddsm": 42.0}
"""Measured on one CPU core with AVX-512 (training in bfloat16); a GPU is far above."""

START_AND_STOP_S = 20.0
"""Prefect's server, the workers and their imports."""

STORED_SHARE = 0.6
"""Of the tiles of a film, those that are not black: about 0.5 to 0.7 on films seen so far."""

COMPRESSED_SHARE = 0.75
"""Of 16-bit tiles with the codec used, on films seen so far."""


@dataclass(frozen=True)
class Estimate:
    """Films, tiles, bytes and time that a run would take."""

    films: int
    excluded: dict[str, int]
    warnings: tuple[str, ...]
    tiles: int
    shards: int
    bytes_on_disk: int
    seconds: dict[str, float]
    workers: int

    def __str__(self) -> str:
        lines = [f"films      {self.films:,} used, {sum(self.excluded.values()):,} files excluded"]
        lines += [f"             {n:,} {reason}" for reason, n in self.excluded.items()]
        lines += [
            f"tiles      {self.tiles:,} cut, about {self.tiles * STORED_SHARE:,.0f} stored",
            f"shards     {self.shards:,}",
            f"disk       about {self.bytes_on_disk / 1e9:,.2f} GB in the workspace",
            f"time       about {_duration(sum(self.seconds.values()))} on {self.workers} workers",
        ]
        lines += [f"             {_duration(s)} {stage}" for stage, s in self.seconds.items()]
        lines += [f"warning    {w}" for w in self.warnings[:5]]
        return "\n".join([*lines, "Nothing was written."])


def estimate(settings: CurationSettings) -> Estimate:
    """Estimate a run.

    Reads the headers of all films, and the pixels of one of middling size to measure this machine.

    Raises
    ------
    MammosiftError
        No film can be used.
    """
    root, files = discovery.list_files(settings.source)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda f: _header(f[0], f[1], settings.max_film_megapixels), files))
    found, warnings = collections.join(
        found,
        root,
        films_csv=Path(settings.films_csv) if settings.films_csv else None,
        lesions_csv=Path(settings.lesions_csv) if settings.lesions_csv else None,
    )
    if settings.tile_size_mm is not None:
        found = collections.without_spacing_excluded(found)
    used = [f for f in found if f.excluded_reason is None]
    if not used:
        raise MammosiftError(
            f"no film in {settings.source} can be used; {len(found)} files were looked at."
        )
    tiles = sum(len(_boxes(film, settings)) for film in used)
    workers = settings.workers or os.cpu_count() or 1
    megapixels = [(f.rows or 0) * (f.columns or 0) / 1e6 for f in used]
    stored = tiles * STORED_SHARE
    training = min(stored, settings.training_tiles) * settings.max_epochs
    seconds = {
        "cutting and screening": _seconds_per_megapixel(used, root, settings)
        * sum(megapixels)
        / workers,
        "start and stop": START_AND_STOP_S,
        "training (all epochs)": training / TRAINING_TILES_PER_S[settings.encoder],
        "encoding": stored / ENCODING_TILES_PER_S[settings.encoder] / workers,
    }
    excluded = Counter(f.excluded_reason for f in found if f.excluded_reason is not None)
    return Estimate(
        films=len(used),
        excluded=dict(sorted(excluded.items())),
        warnings=tuple(warnings),
        tiles=tiles,
        shards=-(-len(used) // settings.films_per_shard),
        bytes_on_disk=int(stored * settings.tile_size_px**2 * 2 * COMPRESSED_SHARE),
        seconds=seconds,
        workers=workers,
    )


def _header(path: Path, source: str, max_film_megapixels: float) -> Mammogram:
    """Row of a film without its hash, which would cost reading it whole."""
    return discovery.describe(path, source, max_film_megapixels=max_film_megapixels, hashed=False)


def _boxes(film: Mammogram, settings: CurationSettings) -> npt.NDArray[np.int32]:
    box = settings.tile_size_px
    if settings.tile_size_mm is not None and film.pixel_spacing_mm is not None:
        box = tiling.tile_size_px_from_mm(settings.tile_size_mm, film.pixel_spacing_mm)
    stride = settings.stride_px or settings.tile_size_px
    return tiling.tile_boxes(
        film.rows or 1,
        film.columns or 1,
        tile_size_px=box,
        stride_px=max(1, round(stride * box / settings.tile_size_px)),
        edge=settings.edge,
    )


def _seconds_per_megapixel(used: list[Mammogram], root: Path, settings: CurationSettings) -> float:
    """Time of reading and screening a film of middling size; of the next one if it is damaged."""
    by_size = sorted(used, key=lambda f: (f.rows or 0) * (f.columns or 0))
    for film in by_size[len(used) // 2 :] + by_size[: len(used) // 2]:
        try:
            return _seconds_of(film, root, settings)
        except FilmError:
            continue
    raise MammosiftError(f"no film in {settings.source} can be read; all of them are damaged.")


def _seconds_of(film: Mammogram, root: Path, settings: CurationSettings) -> float:
    boxes = _boxes(film, settings)
    path = discovery.film_path(root, film.source)
    seconds, megapixels = 0.0, 1.0
    for _ in range(2):  # the first pass compiles
        started = time.perf_counter()
        grey = films.read_pixels(path, film, max_film_megapixels=settings.max_film_megapixels)
        scaled = intensity.normalise(
            grey, scanner=film.calibrated_scanner, bits_stored=film.bits_stored
        )
        film_tiles.screen_film(scaled, boxes, lesion_mask=None)
        seconds, megapixels = time.perf_counter() - started, scaled.size / 1e6
    return 2.0 * seconds / megapixels  # as much again for hashing and writing


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
