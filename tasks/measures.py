"""Stages of measuring: sample pixels, fit clusters of colours, measure what they cover."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.clustering import make_clusterer
from models.knee import elbow
from storage import photographs
from storage.area_shards import (
    AREAS,
    AREAS_SCHEMA,
    COLOURS,
    FIT,
    IMAGES,
    IMAGES_SCHEMA,
    POINTS,
    ROWS,
    SAMPLES,
    SAMPLES_SCHEMA,
    TABLE,
    cluster_names,
    read_fit,
)
from storage.errors import FilmError, MammosiftError, UnreadableFilm
from storage.records import FilmShard, Mammogram
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint
from tasks.kernels import colours, context, intensity, regions, thumbnails

CLUSTERER = ("models.kmeans", "models.kmeans_starts", "models.lloyd", "models.knee", "models.pairs")
"""Modules that the fit depends on."""
THUMBNAIL_PX = 300
SHOWN_POINTS = 4000
ELBOW_PX = 40_000
ELBOW_STARTS = 2


@dataclass(frozen=True)
class SampleSettings:
    """The settings that the sample depends on."""

    kind: photographs.Kind
    balance: Literal["median", "none"]
    sample_fraction: float
    max_sample_px: int
    seed: int
    max_film_megapixels: float


@dataclass(frozen=True)
class FitSettings:
    """The settings that the fit depends on."""

    colour_space: colours.ColourSpace
    n_clusters: int
    max_sample_px: int
    starts: int
    most_clusters: int
    seed: int


@dataclass(frozen=True)
class AreaSettings:
    """The settings that the measuring depends on."""

    kind: photographs.Kind
    balance: Literal["median", "none"]
    pixel_spacing_mm: float | None
    masks: bool
    max_film_megapixels: float


def _code() -> str:
    return source_fingerprint(
        "tasks.measures", "tasks.kernels.colours", "tasks.kernels.colour_passes",
        "tasks.kernels.regions", "tasks.kernels.context", "tasks.kernels.film_passes",
        "tasks.kernels.bit_planes", "tasks.kernels.intensity", "tasks.kernels.thumbnails",
        "storage.photographs", "storage.films", "storage.workspace",
    )  # fmt: skip


def _content(shard: FilmShard) -> list[Any]:
    return [
        (f.source_sha256, f.calibrated_scanner, f.bits_stored, f.pixel_spacing_mm)
        for f in shard.films
    ]


def describe_batch(
    files: Sequence[tuple[str, str]],
    *,
    kind: photographs.Kind,
    max_film_megapixels: float,
    known: dict[str, Mammogram],
) -> list[Mammogram]:
    """Headers and hashes of a batch of files; what cannot be used comes back with its reason."""
    return [
        photographs.describe(
            Path(path),
            source,
            kind=kind,
            max_film_megapixels=max_film_megapixels,
            known=known.get(source),
        )
        for path, source in files
    ]


# -- sampling --------------------------------------------------------------------------------------


def sample_shard(
    workspace_uri: str, root: str, shard: FilmShard, settings: SampleSettings
) -> ShardRef:
    """Draw pixels of each picture of a shard, unless they are there.

    A picture that turns out to be corrupt is a row with its reason.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    root : str
        Folder that sources are relative to.
    shard : FilmShard
        Pictures.
    settings : SampleSettings
        How.

    Returns
    -------
    ShardRef
        Rows are pictures; counts: images, sampled (pixels), excluded, unreadable.
    """
    workspace = Workspace.open(workspace_uri)

    def write(writer: ShardWriter) -> None:
        rows: list[dict[str, Any]] = []
        sampled = 0
        for film in shard.films:
            row: dict[str, Any] = {"image_id": film.mammogram_id, "measured_px": 0}
            try:
                pixels, row["measured_px"] = _sample(film, Path(root), settings)
                row |= {"pixels": pixels.tobytes(), "bits": 8 * pixels.itemsize}
                sampled += len(pixels)
            except FilmError as e:
                row |= _exclusion(e)
            rows.append(row)
        writer.write_table(IMAGES, pa.Table.from_pylist(rows, schema=SAMPLES_SCHEMA))
        writer.rows = len(rows)
        writer.counts = _counts(rows) | {"sampled": sampled}

    key = content_key(SAMPLES, _content(shard), vars(settings), _code())
    return workspace.made(SAMPLES, key, write, reusable=lambda ref: ref.counts["unreadable"] == 0)


def _sample(film: Mammogram, root: Path, settings: SampleSettings) -> tuple[npt.NDArray[Any], int]:
    picture, inside, _ = _picture(film, root, settings)
    places = (
        np.arange(picture.shape[0] * picture.shape[1]) if inside is None else np.flatnonzero(inside)
    )
    if not len(places):
        return picture[:0].reshape(-1, *picture.shape[2:]), 0
    drawn = colours.sample_positions(
        len(places),
        fraction=settings.sample_fraction,
        at_most=settings.max_sample_px,
        digest=str(film.source_sha256),
        seed=settings.seed,
    )
    return picture.reshape(-1, *picture.shape[2:])[places[drawn]], len(places)


def _picture(
    film: Mammogram, root: Path, settings: SampleSettings | AreaSettings
) -> tuple[npt.NDArray[Any], colours.Labels | None, npt.NDArray[Any]]:
    """A picture as it is measured, where (1 in the breast of a film; None: all), and as it is.

    A photograph is RGB and may be balanced; a film is on the normalised scale.
    """
    pixels: npt.NDArray[Any] = photographs.read(
        root, film, kind=settings.kind, max_film_megapixels=settings.max_film_megapixels
    )
    if settings.kind == "photographs":
        rgb = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
        return (colours.balanced(rgb) if settings.balance == "median" else rgb), None, rgb
    scanner, bits = film.calibrated_scanner, film.bits_stored
    scaled = seen = intensity.normalise(pixels, scanner=scanner, bits_stored=bits)
    if scanner is not None:
        seen = intensity.normalise_for_context(pixels, scanner=scanner, bits_stored=bits)
    ground = context.film_context(seen)
    breast = ground.mask == context.BREAST
    rows, columns = scaled.shape
    return scaled, regions.expanded(breast, ground.factor, rows, columns), scaled


# -- fitting ---------------------------------------------------------------------------------------


def fit_colours(workspace_uri: str, sample_keys: Sequence[str], settings: FitSettings) -> ShardRef:
    """Fit one k-means to the samples of all pictures, unless it is there.

    Of samples that hold more than ``max_sample_px`` together, the same share of each picture's is
    used, from its beginning. Clusters are numbered from dark to light by the CIE lightness of their
    members' mean colour.

    Returns
    -------
    ShardRef
        Rows are pixels fitted to; counts: images, clusters. ``fit.json`` holds centres, palette,
        lightness, inertia and the elbow curve; ``points.parquet`` pixels for the report.

    Raises
    ------
    MammosiftError
        There is no pixel to fit to.
    """
    workspace = Workspace.open(workspace_uri)

    def write(writer: ShardWriter) -> None:
        refs = [workspace.shard(SAMPLES, key).ref() for key in sorted(sample_keys)]
        share = min(1.0, settings.max_sample_px / max(1, sum(r.counts["sampled"] for r in refs)))
        samples = [s for r in refs for s in _samples(workspace, r.key, settings, share)]
        if not samples:
            raise MammosiftError(
                "no pixel can be measured: every picture was excluded, or no breast was found on "
                "any film. The table mammograms/ of the workspace says why."
            )
        pixels = np.concatenate(samples)
        del samples
        fit, points = _fit(pixels, settings)
        writer.write_bytes(FIT, (json.dumps(fit, indent=2) + "\n").encode())
        writer.write_table(POINTS, points)
        writer.rows = len(pixels)
        writer.counts = {
            "images": sum(r.counts["images"] for r in refs),
            "clusters": len(fit["centres"]),
        }

    key = content_key(
        COLOURS,
        sorted(sample_keys),
        vars(settings),
        _code(),
        source_fingerprint("models.clustering"),
    )
    return workspace.made(COLOURS, key, write)


def _samples(
    workspace: Workspace, key: str, settings: FitSettings, share: float
) -> Iterator[npt.NDArray[Any]]:
    """The beginning of each picture's sample, as uint16."""
    for row in workspace.shard(SAMPLES, key).table(IMAGES).to_pylist():
        if row["pixels"]:
            pixels = np.frombuffer(row["pixels"], f"uint{row['bits']}")
            if settings.colour_space != "grey":
                pixels = pixels.reshape(-1, 3)
            pixels = pixels[: max(1, round(share * len(pixels)))]
            yield pixels.astype(np.uint16) * np.uint16(257) if row["bits"] == 8 else pixels


def _fit(pixels: npt.NDArray[np.uint16], settings: FitSettings) -> tuple[dict[str, Any], pa.Table]:
    places = colours.in_space(pixels, settings.colour_space)
    fitted: Any = make_clusterer(
        "kmeans",
        n_clusters=settings.n_clusters,
        n_init=settings.starts,
        random_state=settings.seed,
    ).fit(places)
    labels, centres = fitted.labels_, fitted.cluster_centers_
    sizes = np.bincount(labels, minlength=len(centres))
    palette = _palette(pixels, labels, sizes)
    light = colours.lightness(palette) if pixels.ndim == 2 else 100 * centres[:, 0]
    order = np.argsort(light, kind="stable")
    spread = np.random.default_rng(settings.seed)
    few = places[spread.permutation(len(places))[:ELBOW_PX]]
    inertias = _inertias(few, settings)
    shown = np.sort(spread.permutation(len(places))[:SHOWN_POINTS])
    number = np.argsort(order)
    fit = {
        "colour_space": settings.colour_space,
        "axes": colours.AXES[settings.colour_space],
        "centres": centres[order].tolist(),
        "palette": np.clip(np.rint(palette[order]), 0, 255).astype(int).tolist(),
        "lightness": light[order].tolist(),
        "share_of_sample": (sizes[order] / len(places)).tolist(),
        "sampled_px": len(places),
        "inertia": float(fitted.inertia_),
        "inertia_per_px": float(fitted.inertia_) / len(places),
        "elbow_px": len(few),
        "elbow_inertia_per_px": inertias,
        "elbow": elbow(np.arange(1, len(inertias) + 1), np.array(inertias)),
    }
    points = {f"place_{i}": places[shown, i] for i in range(places.shape[1])}
    rgb = _rgb(pixels[shown])
    points |= {name: rgb[:, i] for i, name in enumerate(("red", "green", "blue"))}
    points["cluster"] = number[labels[shown]].astype(np.int32)
    return fit, pa.table(points)


def _palette(
    pixels: npt.NDArray[np.uint16], labels: npt.NDArray[np.integer[Any]], sizes: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Mean colour of each cluster's members, 0..255; films with their shadows lifted."""
    if pixels.ndim == 1:
        mean = np.bincount(labels, pixels, len(sizes)) / sizes / 65535
        return np.repeat(255 * np.sqrt(mean)[:, None], 3, axis=1)
    sums = [np.bincount(labels, pixels[:, i], len(sizes)) for i in range(3)]
    return np.asarray(np.stack(sums, axis=1) / sizes[:, None] / 257)


def _rgb(pixels: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    if pixels.ndim == 1:
        return np.repeat(thumbnails.lifted_8bit(pixels)[:, None], 3, axis=1)
    return (pixels >> 8).astype(np.uint8)


def _inertias(places: colours.Positions, settings: FitSettings) -> list[float]:
    """Mean squared distance to the own centre for 1, 2, ... clusters."""
    out = [float(((places - places.mean(axis=0)) ** 2).sum(axis=1).mean())]
    for k in range(2, settings.most_clusters + 1):
        fitted: Any = make_clusterer(
            "kmeans", n_clusters=k, n_init=ELBOW_STARTS, random_state=settings.seed
        ).fit(places)
        out.append(float(fitted.inertia_) / len(places))
    return out


# -- measuring -------------------------------------------------------------------------------------


def measure_shard(
    workspace_uri: str, root: str, shard: FilmShard, colours_key: str, settings: AreaSettings
) -> ShardRef:
    """Assign every pixel of a shard's pictures and measure the clusters, unless that is done.

    Returns
    -------
    ShardRef
        Rows are pictures times clusters; counts: images, pixels, excluded, unreadable.
        ``areas.parquet`` has the schema ``AREAS_SCHEMA``; ``images.parquet`` small pictures for the
        report; ``masks/<image_id>.png`` the labels where ``masks`` asks for them.
    """
    workspace = Workspace.open(workspace_uri)

    def write(writer: ShardWriter) -> None:
        fit = read_fit(workspace, colours_key)
        labeller = colours.ColourLabeller(fit["centres"], fit["colour_space"])
        areas: list[dict[str, Any]] = []
        images: list[dict[str, Any]] = []
        for film in shard.films:
            image: dict[str, Any] = {"image_id": film.mammogram_id}
            try:
                picture, inside, original = _picture(film, Path(root), settings)
            except FilmError as e:
                images.append(image | _exclusion(e))
                continue
            labels = labeller.label(picture)
            if inside is not None:
                labels[inside == 0] = colours.OUTSIDE
            areas += _rows(film, labels, fit, settings)
            image["thumbnail_jpeg"], image["labels_png"] = _small(original, labels)
            if settings.masks:
                writer.write_bytes(f"masks/{film.mammogram_id}.png", thumbnails.png(labels))
            images.append(image)
        writer.write_table(ROWS, pa.Table.from_pylist(areas, schema=AREAS_SCHEMA))
        writer.write_table(IMAGES, pa.Table.from_pylist(images, schema=IMAGES_SCHEMA))
        writer.rows = len(areas)
        writer.counts = _counts(images) | {"pixels": sum(row["pixel_count"] for row in areas)}

    key = content_key(AREAS, _content(shard), colours_key, vars(settings), _code())
    return workspace.made(AREAS, key, write, reusable=lambda ref: ref.counts["unreadable"] == 0)


def _rows(
    film: Mammogram, labels: colours.Labels, fit: dict[str, Any], settings: AreaSettings
) -> Iterator[dict[str, Any]]:
    n = len(fit["centres"])
    found = regions.areas(labels, n)
    measured = found.measured
    spacing = film.pixel_spacing_mm or settings.pixel_spacing_mm
    for cluster, name in enumerate(cluster_names(settings.kind, n)):
        pixels, largest = int(found.pixels[cluster]), int(found.largest_region[cluster])
        yield {
            "image_id": film.mammogram_id,
            "cluster": cluster,
            "cluster_name": name,
            "pixel_count": pixels,
            "measured_px": measured,
            "image_px": labels.size,
            "area_fraction": pixels / measured if measured else None,
            "area_mm2": pixels * spacing**2 if spacing else None,
            "largest_region_px": largest,
            "largest_region_mm2": largest * spacing**2 if spacing else None,
            "regions": int(found.regions[cluster]),
            "pixel_spacing_mm": spacing,
            "colour": "#{:02x}{:02x}{:02x}".format(*fit["palette"][cluster]),
            "lightness": fit["lightness"][cluster],
        }


def _small(picture: npt.NDArray[Any], labels: colours.Labels) -> tuple[bytes, bytes]:
    """Small picture as JPEG, and its labels as PNG."""
    import cv2

    height, width = regions.fitting(labels.shape[0], labels.shape[1], THUMBNAIL_PX)
    small = thumbnails.shrink(picture, height, width)
    if small.ndim == 2:
        small = thumbnails.lifted_8bit(small)
    elif small.dtype == np.uint16:
        small = thumbnails.to_8bit(small)
    small = small[..., ::-1] if small.ndim == 3 else small
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(jpeg), thumbnails.png(regions.small_labels(labels, height, width))


def publish(workspace: Workspace, area_keys: Sequence[str], films: Sequence[Mammogram]) -> pa.Table:
    """Write the areas of all shards as one table, in order of source and cluster.

    Parameters
    ----------
    workspace : Workspace
    area_keys : sequence of str
        Of shards of `measure_shard`.
    films : sequence of Mammogram
        Pictures used and excluded, for their sources.

    Returns
    -------
    pyarrow.Table
        As docs/measure.md describes it.
    """
    by_id = {f.mammogram_id: f for f in films if f.excluded_reason is None}
    parts = [workspace.shard(AREAS, key).table(ROWS) for key in area_keys]
    table = pa.concat_tables([AREAS_SCHEMA.empty_table(), *parts])
    ids = table["image_id"].to_pylist()
    sources = pa.array([by_id[i].source for i in ids], pa.string())
    hashes = pa.array([by_id[i].source_sha256 for i in ids], pa.string())
    table = table.add_column(0, "source", sources).add_column(1, "source_sha256", hashes)
    table = table.sort_by([("source", "ascending"), ("cluster", "ascending")])
    workspace.write_table(TABLE, table)
    return table


def _exclusion(error: FilmError) -> dict[str, str]:
    return {
        "excluded_reason": error.reason,
        "excluded_rule": error.rule,
        "excluded_remedy": error.remedy,
    }


def _counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    reasons = [row["excluded_reason"] for row in rows if row.get("excluded_reason")]
    return {
        "images": len(rows) - len(reasons),
        "excluded": len(reasons),
        "unreadable": reasons.count(UnreadableFilm.reason),
    }
