"""Stages of augmenting: write altered copies of pictures, and the table of what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from models import augmentation
from models.augmentation import Augmentation, Choice, Draws
from storage import photographs
from storage.copy_shards import (
    COPIES,
    COPIES_SCHEMA,
    FOLDER,
    IMAGES,
    IMAGES_SCHEMA,
    ORIGINAL,
    PREVIEWS,
    PREVIEWS_SCHEMA,
    ROWS,
    TABLE,
)
from storage.errors import FilmError, UnreadableFilm
from storage.records import FilmShard, Mammogram
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint
from tasks.kernels import regions, thumbnails
from tasks.operations import operation_of
from tasks.picture_settings import OPERATION_OPTIONS

MIX = "mix"
PREVIEWED = 3
"""Pictures of a shard that previews are kept of."""
PREVIEW_PX = 220
FIRST_COPY = 1000
"""Number of the view that is the first random copy; those below are of single operations."""
MIX_STREAM = 900
"""Of random numbers, apart from those of the operations."""


@dataclass(frozen=True)
class CopySettings:
    """The settings that the copies depend on."""

    operations: tuple[tuple[str, float], ...]
    """Names of `tasks.picture_settings.OPERATION_OPTIONS` with the strength given."""
    copies: int
    only_copies: bool
    format: Literal["png", "jpeg"]
    quality: int
    kind: photographs.Kind
    seed: int
    max_film_megapixels: float


@dataclass(frozen=True)
class View:
    """One copy to make of every picture."""

    name: str
    number: int
    augmentation: Augmentation
    mix: float = 0.0
    """Weight of the partner: this much where it is the only operation, else at most."""

    @property
    def is_random(self) -> bool:
        """Whether it combines all operations."""
        return self.number >= FIRST_COPY


def views_of(settings: CopySettings) -> list[View]:
    """All copies that are made of each picture, single operations first."""
    out: list[View] = []
    if not settings.only_copies:
        for name, value in settings.operations:
            single = () if name == MIX else (operation_of(name, value, probability=1.0),)
            out.append(
                View(
                    name.removesuffix("_sigma"),
                    OPERATION_OPTIONS.index(name),
                    Augmentation(single, strongest=True),
                    value if name == MIX else 0.0,
                )
            )
    probability = 0.5 if len(settings.operations) > 1 else 1.0
    combined = Augmentation(
        tuple(
            operation_of(name, value, probability=probability)
            for name, value in settings.operations
            if name != MIX
        )
    )
    mix = dict(settings.operations).get(MIX, 0.0)
    out += [View(f"copy{n + 1:04d}", FIRST_COPY + n, combined, mix) for n in range(settings.copies)]
    return out


def augment_shard(
    workspace_uri: str, root: str, shard: FilmShard, settings: CopySettings
) -> ShardRef:
    """Write all copies of a shard's pictures, unless they are there.

    A picture that turns out to be corrupt is a row with its reason. The same picture, settings and
    seed give the same copies, whatever lies beside it; only the partner of ``mix`` is another
    picture of the shard, and so may change when pictures are added.

    Returns
    -------
    ShardRef
        Rows are copies; counts: images, copies, excluded, unreadable.
    """
    workspace = Workspace.open(workspace_uri)

    def write(writer: ShardWriter) -> None:
        copies: list[dict[str, Any]] = []
        images: list[dict[str, Any]] = []
        previews: list[dict[str, Any]] = []
        reader = _Reader(Path(root), shard, settings)
        for film in shard.films:
            image: dict[str, Any] = {"image_id": film.mammogram_id}
            try:
                made = _copies_of(workspace, film, reader, settings)
                shown = sum(row["view"] == ORIGINAL for row in previews) < PREVIEWED
                if shown:
                    previews.append(_preview(film, ORIGINAL, reader.read(film)))
                for row, pixels in made:
                    copies.append(row)
                    if shown:
                        previews.append(_preview(film, row["view"], pixels))
            except FilmError as e:
                image |= {
                    "excluded_reason": e.reason,
                    "excluded_rule": e.rule,
                    "excluded_remedy": e.remedy,
                }
            images.append(image)
        writer.write_table(ROWS, pa.Table.from_pylist(copies, schema=COPIES_SCHEMA))
        writer.write_table(IMAGES, pa.Table.from_pylist(images, schema=IMAGES_SCHEMA))
        writer.write_table(PREVIEWS, pa.Table.from_pylist(previews, schema=PREVIEWS_SCHEMA))
        reasons = [row["excluded_reason"] for row in images if row.get("excluded_reason")]
        writer.rows = len(copies)
        writer.counts = {
            "images": len(images) - len(reasons),
            "copies": len(copies),
            "excluded": len(reasons),
            "unreadable": reasons.count(UnreadableFilm.reason),
        }

    content = [(f.source, f.source_sha256, f.bits_stored) for f in shard.films]
    code = source_fingerprint(
        "tasks.augmentations",
        "tasks.operations",
        "tasks.kernels.thumbnails",
        "models.augmentation",
        "storage.photographs",
        "storage.films",
    )
    with _one_thread():
        return workspace.made(
            COPIES,
            content_key(COPIES, content, vars(settings), code),
            write,
            reusable=lambda ref: ref.counts["unreadable"] == 0 and _are_there(workspace, ref.key),
        )


def publish(workspace: Workspace, keys: Sequence[str], films: Sequence[Mammogram]) -> pa.Table:
    """Write the copies of all shards as one table, in order of source and view, and return it."""
    by_id = {f.mammogram_id: f for f in films if f.excluded_reason is None}
    parts = [workspace.shard(COPIES, key).table(ROWS) for key in keys]
    table = pa.concat_tables([COPIES_SCHEMA.empty_table(), *parts])
    sources = [by_id[i] for i in table["image_id"].to_pylist()]
    for place, name in enumerate(("source", "source_sha256", "patient_key", "label")):
        values = [getattr(film, name) for film in sources]
        table = table.add_column(place, name, pa.array(values, pa.string()))
    table = table.sort_by([("source", "ascending"), ("view", "ascending")])
    workspace.write_table(TABLE, table)
    return table


def _are_there(workspace: Workspace, key: str) -> bool:
    """Whether the copies that a shard tells of still lie in their places, in their sizes."""
    rows = workspace.shard(COPIES, key).table(ROWS, ["output", "bytes"]).to_pylist()
    try:
        return all(workspace.fs.size(workspace.path(r["output"])) == r["bytes"] for r in rows)
    except FileNotFoundError:
        return False


@contextmanager
def _one_thread() -> Iterator[None]:
    """A worker a core: more threads would be in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# -- one picture -----------------------------------------------------------------------------------


class _Reader:
    """Reads the pictures of a shard, and finds each one's partner."""

    def __init__(self, root: Path, shard: FilmShard, settings: CopySettings) -> None:
        self.root, self.shard, self.settings = root, shard, settings

    def read(self, film: Mammogram) -> npt.NDArray[Any]:
        return photographs.read(
            self.root,
            film,
            kind=self.settings.kind,
            max_film_megapixels=self.settings.max_film_megapixels,
        )

    def partners(self, film: Mammogram, view: View) -> list[Mammogram]:
        """Others of the shard, in an order drawn for this picture and view."""
        others = [f for f in self.shard.films if f.mammogram_id != film.mammogram_id]
        names = [f"{film.source_sha256}{f.source_sha256}" for f in others]
        draws = augmentation.view_seeds(self.settings.seed, names, view.number).tolist()
        return [others[i] for i in np.argsort(draws, kind="stable")]


def _copies_of(
    workspace: Workspace, film: Mammogram, reader: _Reader, settings: CopySettings
) -> Iterator[tuple[dict[str, Any], npt.NDArray[Any]]]:
    pixels = reader.read(film)
    full_scale = _full_scale(film, pixels, settings.kind)
    batch = _batch(pixels, full_scale)
    channels = batch.shape[1]
    for view in views_of(settings):
        seeds = augmentation.view_seeds(settings.seed, [str(film.source_sha256)], view.number)
        choices, weight = _drawn(view, seeds, channels)
        done = augmentation.lineage(choices, 0, channels=channels)
        changed = augmentation.apply(batch, choices)
        partner = None
        if weight:
            partner, other = _partner(film, view, reader, changed)
            if other is not None and partner is not None:
                changed = augmentation.mix(changed, other, torch.tensor([1 - weight]))
                done.append({"operation": MIX, "weight": weight, "partner": partner.source})
        if not done:
            continue  # colour on a grey picture, or nothing to mix with
        out = _pixels(changed, full_scale, pixels.dtype)
        data, suffix = _encoded(out, settings)
        output = _output(film, view, suffix)
        workspace.write_bytes(output, data)
        yield (
            {
                "output": output,
                "image_id": film.mammogram_id,
                "view": view.name,
                "operations": json.dumps(done),
                "seed": settings.seed,
                "view_seed": int(seeds[0]),
                "partner_id": partner.mammogram_id if partner is not None else None,
                "width": out.shape[1],
                "height": out.shape[0],
                "channels": channels,
                "bits": 8 * out.itemsize,
                "bytes": len(data),
                "output_sha256": hashlib.sha256(data).hexdigest(),
            },
            out,
        )


def _drawn(view: View, seeds: torch.Tensor, channels: int) -> tuple[list[Choice], float]:
    """What is done to a picture, and the weight of its partner; of a random copy at least one."""
    choices = view.augmentation.draw(seeds)
    if not view.is_random:
        return choices, view.mix
    draws = Draws(seeds, stream=MIX_STREAM)
    weight = float(draws.uniform(0.0, view.mix)) if float(draws.uniform()) < 0.5 else 0.0
    if not weight:
        choices = augmentation.with_one_at_least(choices, seeds, channels=channels)
    return choices, weight


def _partner(
    film: Mammogram, view: View, reader: _Reader, like: torch.Tensor
) -> tuple[Mammogram | None, torch.Tensor | None]:
    """First partner that can be read, brought to the size and the channels of a picture."""
    for partner in reader.partners(film, view):
        try:
            pixels = reader.read(partner)
        except FilmError:
            continue
        scale = _full_scale(partner, pixels, reader.settings.kind)
        other = thumbnails.shrink(
            pixels.astype(np.float32) / scale, int(like.shape[2]), int(like.shape[3])
        )
        tensor = _batch(other, 1.0)
        if like.shape[1] == 1 and tensor.shape[1] == 3:
            luma = torch.tensor(augmentation.LUMA)[:, None, None]
            tensor = (tensor * luma).sum(1, keepdim=True)
        return partner, tensor.expand(like.shape)
    return None, None


def _full_scale(film: Mammogram, pixels: npt.NDArray[Any], kind: str) -> float:
    """Highest value: of a film by the bits that its header states."""
    if kind == "films" and film.bits_stored:
        return float(max((1 << film.bits_stored) - 1, int(pixels.max(initial=1))))
    return float(np.iinfo(pixels.dtype).max)


def _batch(pixels: npt.NDArray[Any], full_scale: float) -> torch.Tensor:
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    scaled = np.ascontiguousarray(planes, np.float32) / np.float32(full_scale)
    return torch.from_numpy(scaled)[None]


def _pixels(
    batch: torch.Tensor, full_scale: float, dtype: npt.DTypeLike
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    planes = np.rint(batch[0].clamp(0, 1).numpy() * np.float32(full_scale)).astype(dtype)
    out = planes[0] if len(planes) == 1 else np.moveaxis(planes, 0, -1)
    return np.ascontiguousarray(out)


def _encoded(pixels: npt.NDArray[Any], settings: CopySettings) -> tuple[bytes, str]:
    bgr = np.ascontiguousarray(pixels[..., ::-1]) if pixels.ndim == 3 else pixels
    if settings.format == "jpeg" and pixels.dtype == np.uint8:
        ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, settings.quality])
        suffix = "jpg"
    else:
        ok, data = cv2.imencode(".png", bgr)
        suffix = "png"
    if not ok:
        raise ValueError(f"cannot encode a picture of shape {pixels.shape} as {suffix}")
    return bytes(data), suffix


def _output(film: Mammogram, view: View, suffix: str) -> str:
    """Where a copy goes: the source's folder and name, its content's hash, and the view."""
    source = PurePosixPath(film.source)
    name = f"{source.stem}-{str(film.source_sha256)[:8]}-{view.name}.{suffix}"
    return str(PurePosixPath(FOLDER, source.parent, name))


def _preview(film: Mammogram, view: str, pixels: npt.NDArray[Any]) -> dict[str, Any]:
    small = thumbnails.shrink(
        pixels, *regions.fitting(pixels.shape[0], pixels.shape[1], PREVIEW_PX)
    )
    if small.dtype == np.uint16:
        scale = max(1, (1 << (film.bits_stored or 16)) - 1)
        small = np.clip(small.astype(np.float32) * (255 / scale), 0, 255).astype(np.uint8)
    bgr = np.ascontiguousarray(small[..., ::-1]) if small.ndim == 3 else small
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return {"image_id": film.mammogram_id, "view": view, "jpeg": bytes(data)}
