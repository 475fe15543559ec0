"""What a run would do, from the films' headers alone and one film cut as a sample."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
from tasks.words import about, size

TRAINING_TILES_PER_S = {"light": 1000.0, "ddsm": 15.0}
ENCODING_TILES_PER_S = {"light": 7000.0, "ddsm": 42.0}
"""Measured on one CPU core with AVX-512 (training in bfloat16); a GPU is far above."""
DIMENSIONS = {"light": 32, "ddsm": 150}

START_AND_STOP_S = 20.0
"""Prefect's server, the workers and their imports."""

HEADERS_PER_S = 500.0
DECIDED_TILES_PER_S = 4000.0
"""Of one core; both are waiting for storage more than anything else."""

PLANTED_TILES_PER_S = 110.0
AUDITED_FILMS_PER_S = 40.0
DESCRIBED_TILES_PER_S = 5000.0
"""Of the steps that one worker does: planting and learning, the shortcut audit, the report."""

CLUSTERING_S, CLUSTERED, GROWTH = 7.0, 50_000, 1.21
"""HDBSCAN of so many embeddings; the exponent was measured from 50,000 to 1,000,000 rows
(docs/clustering.md). Nearest neighbours, for near-duplicates, take about as long."""

STORED_SHARE = 0.6
"""Of the tiles of a film, those that are not black: about 0.5 to 0.7 on films seen so far."""

COMPRESSED_SHARE = 0.75
"""Of 16-bit tiles with the codec used, on films seen so far."""

IMPORTS_BYTES = 500 * 2**20
"""Of a worker that has done nothing yet but import torch and scikit-learn."""

WORKER_NUMBERS = (1, 8, 64)

MOST_TASKS = 36
"""Task runs of a stage over shards. A curation run has four or five such stages: 180 at most."""
SINGLE_TASKS = 8
"""Task runs for the whole run: learn, train, cluster, near-duplicates, evidence, audit, calibrate,
report."""


@dataclass(frozen=True)
class Stage:
    """Time of one worker, and whether more of them share it."""

    seconds: float
    shared: bool

    def on(self, workers: int) -> float:
        """Seconds on so many workers."""
        return self.seconds / workers if self.shared else self.seconds


@dataclass(frozen=True)
class Estimate:
    """Films, tiles, bytes, memory and time that a run would take."""

    films: int
    excluded: Mapping[str, int]
    warnings: Sequence[str]
    tiles: int
    shards: int
    batches: int
    """Of files whose headers are read together."""
    bytes_read: int
    bytes_on_disk: int
    bytes_of_worker: int
    """Of the worker that clusters: all embeddings, four times."""
    stages: Mapping[str, Stage]
    workers: int
    stages_over_shards: int = 3
    """Cutting, encoding, deciding; and augmented copies, where they are asked for."""

    def seconds(self, workers: int) -> float:
        """Seconds on so many workers."""
        return sum(stage.on(workers) for stage in self.stages.values())

    @property
    def task_runs(self) -> int:
        """Rows that Prefect's server keeps of the run: headers, stages over shards, and others."""
        of_shards = self.stages_over_shards * min(self.shards, MOST_TASKS)
        return min(self.batches, MOST_TASKS) + of_shards + SINGLE_TASKS

    def __str__(self) -> str:
        columns = sorted({*WORKER_NUMBERS, self.workers})
        rows = [
            f"films      {self.films:,} used, {size(self.bytes_read)}; "
            f"{sum(self.excluded.values()):,} files excluded",
            *(f"             {n:,} {reason}" for reason, n in self.excluded.items()),
            f"tiles      {self.tiles:,} cut, about {self.tiles * STORED_SHARE:,.0f} stored",
            f"shards     {self.shards:,}, in {self.task_runs} task runs of Prefect",
            f"disk       about {size(self.bytes_on_disk)} in the workspace",
            f"memory     about {self.bytes_of_worker / 2**30:,.1f} GiB in the largest worker",
            f"time       about {about(self.seconds(self.workers))} on {self.workers} "
            f"worker{'s' if self.workers > 1 else ''} of one core",
            f"{'':13}{'workers':24}" + "".join(f"{n:>10}" for n in columns),
        ]
        for name, stage in self.stages.items():
            times = "".join(f"{about(stage.on(n)):>10}" for n in columns)
            rows.append(f"{'':13}{name:24}{times}")
        times = "".join(f"{about(self.seconds(n)):>10}" for n in columns)
        rows.append(f"{'':13}{'in all':24}{times}")
        rows += [f"warning    {w}" for w in self.warnings[:5]]
        return "\n".join([*rows, "Nothing was written."])


def estimate(settings: CurationSettings) -> Estimate:
    """Estimate a run.

    Reads the headers of all films, and the pixels of one of middling size to measure this machine;
    the other rates were measured before, on one core.

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
    excluded = Counter(f.excluded_reason for f in found if f.excluded_reason is not None)
    return estimate_films(
        settings,
        used,
        tiles=sum(len(_boxes(film, settings)) for film in used),
        seconds_per_megapixel=_seconds_per_megapixel(used, root, settings),
        excluded=dict(sorted(excluded.items())),
        warnings=warnings,
    )


def estimate_films(
    settings: CurationSettings,
    used: Sequence[Mammogram],
    *,
    tiles: int,
    seconds_per_megapixel: float,
    excluded: Mapping[str, int] | None = None,
    warnings: Sequence[str] = (),
) -> Estimate:
    """Estimate a run over films that are described already.

    Parameters
    ----------
    settings : CurationSettings
        Of the run.
    used : sequence of Mammogram
        The films, with their rows, columns and sizes of file.
    tiles : int
        That are cut of them.
    seconds_per_megapixel : float
        Of one core, to read, cut, screen and store.
    excluded, warnings : mapping of str to int, sequence of str
        To be told.
    """
    n = len(used)
    stored = tiles * STORED_SHARE
    training = min(stored, settings.training_tiles) * settings.max_epochs
    clustering = CLUSTERING_S * (stored / CLUSTERED) ** (GROWTH if stored > CLUSTERED else 1.0)
    bytes_read = sum(f.file_size_bytes or 0 for f in used)
    megapixels = sum((f.rows or 0) * (f.columns or 0) for f in used) / 1e6
    near = settings.near_duplicates != "off"
    embeddings = stored * DIMENSIONS[settings.encoder] * 4
    return Estimate(
        films=n,
        excluded=excluded or {},
        warnings=warnings,
        tiles=tiles,
        shards=-(-n // settings.films_per_shard),
        batches=-(-(n + sum((excluded or {}).values())) // discovery.FILES_PER_BATCH),
        bytes_read=bytes_read,
        bytes_on_disk=int(stored * settings.tile_size_px**2 * 2 * COMPRESSED_SHARE + embeddings),
        bytes_of_worker=int(
            IMPORTS_BYTES
            + max(
                4 * embeddings,
                min(stored, settings.training_tiles) * settings.tile_size_px**2 * 2,
            )
        ),
        stages={
            "start and stop": Stage(START_AND_STOP_S, False),
            "headers and hashes": Stage(n / HEADERS_PER_S + bytes_read / 1e9, True),
            "cutting and screening": Stage(seconds_per_megapixel * megapixels, True),
            "learning annotations": Stage(settings.planted_tiles / PLANTED_TILES_PER_S, False),
            "training, all epochs": Stage(training / TRAINING_TILES_PER_S[settings.encoder], False),
            "encoding": Stage(stored / ENCODING_TILES_PER_S[settings.encoder], True),
            "clustering": Stage(clustering, False),
            "near-duplicates": Stage(clustering if near else 0.0, False),
            "deciding": Stage(tiles / DECIDED_TILES_PER_S, True),
            "audit and report": Stage(
                n / AUDITED_FILMS_PER_S + stored / DESCRIBED_TILES_PER_S, False
            ),
        },
        workers=settings.workers or os.cpu_count() or 1,
        stages_over_shards=4 if settings.augment_copies else 3,
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
