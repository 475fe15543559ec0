"""Pictures of the report: tiles, films with their tiles drawn on them, the loss curve."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from storage.workspace import Workspace
from tasks.kernels import drawing
from tasks.kernels.thumbnails import lifted_8bit, shrink, stretched_8bit
from tasks.report_page.tiles import BLACK, STYLES, Tile

TILE_PX = 128
"""Longest edge of a tile's picture."""
JPEG_QUALITY = 84
TITLED_BOXES = 300
"""Boxes of a film that tell their name and score when pointed at."""
LETTER_PX = {"keep": 60, "black": 60, "misinformative": 22, "review": 22, "other": 22}
"""Smallest box of a style that its letter is written into; most tiles of a film are kept or black,
and a letter in each would hide the film."""
LETTER_APART_PX = 14
PLAIN_BOXES = 3000
"""Boxes of a film that are drawn without; of more, every so-manieth."""

_DRAWN_FIRST = ("misinformative", "review", "other", "keep", "black")


def data_uri(data: bytes, kind: str) -> str:
    """Picture as part of the page; ``kind`` is jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


@dataclass(frozen=True)
class Chart:
    """A chart in its light and its dark form, as data URIs, and what it shows in words."""

    title: str
    alt: str
    light: str = field(repr=False)
    dark: str = field(repr=False)


def chart(title: str, alt: str, draw: Callable[[bool], drawing.Picture]) -> Chart:
    """Draw a chart in both forms; ``draw`` is told whether it is the dark one."""
    light, dark = (data_uri(drawing.png(draw(is_dark)), "png") for is_dark in (False, True))
    return Chart(title, alt, light, dark)


def jpeg(image: npt.NDArray[np.uint8]) -> bytes:
    """JPEG bytes of a grey picture, (rows, columns)."""
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise ValueError(f"cannot encode a picture of shape {image.shape} as JPEG")
    return bytes(data)


def tile_pictures(workspace: Workspace, tiles: Iterable[Tile]) -> dict[str, str]:
    """Pictures of tiles by tile_id, as data URIs; none for tiles whose pixels are not stored.

    Their shadows are lifted; black tiles, of which even that shows nothing, are stretched to their
    own range of intensity. One tile is in memory at a time, whatever its size.
    """
    by_array: dict[str, dict[int, Tile]] = {}
    for tile in tiles:
        if tile.pixels_uri is not None and tile.pixels_index is not None:
            by_array.setdefault(tile.pixels_uri, {})[tile.pixels_index] = tile
    out: dict[str, str] = {}
    for uri, rows in sorted(by_array.items()):
        _, key, name = uri.split("/")
        array = workspace.shard("tiles", key).array(name)
        for row, tile in sorted(rows.items()):
            small = shrunk_tile(np.asarray(array[row]))
            grey = stretched_8bit(small) if tile.fate == BLACK else lifted_8bit(small)
            out[tile.tile_id] = data_uri(jpeg(grey), "jpeg")
    return out


def shrunk_tile(tile: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Shrink a tile to the size of its picture."""
    longest = max(tile.shape)
    if longest <= TILE_PX:
        return tile
    height, width = (max(1, round(n * TILE_PX / longest)) for n in tile.shape)
    return shrink(tile, height, width)


@dataclass(frozen=True)
class Box:
    """A tile on a film's picture, in its pixels."""

    tile_id: str
    style: str
    x: float
    y: float
    width: float
    height: float
    title: str
    letter: str
    """Empty where letters would not fit."""


@dataclass(frozen=True)
class FilmPicture:
    """A film with its tiles drawn on it."""

    image: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    """Those that tell their name and score."""
    paths: dict[str, str]
    """By style: the outlines of all other boxes as one path."""
    left_out: int
    """Boxes that are not drawn because there are too many."""


def film_picture(
    thumbnail_png: bytes, tiles: Sequence[Tile], *, rows: int, columns: int
) -> FilmPicture:
    """Draw tiles on the small picture of their film.

    Parameters
    ----------
    thumbnail_png : bytes
        Whole film.
    tiles : sequence of Tile
        Of this film.
    rows, columns : int
        Size of the film in source pixels.
    """
    decoded = cv2.imdecode(np.frombuffer(thumbnail_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    if decoded is None:
        raise ValueError("the film's small picture is no PNG")
    return drawn_on(np.asarray(decoded, dtype=np.uint8), tiles, rows=rows, columns=columns)


def drawn_on(
    grey: npt.NDArray[np.uint8],
    tiles: Sequence[Tile],
    *,
    rows: int,
    columns: int,
    titled: int = TITLED_BOXES,
) -> FilmPicture:
    """Draw tiles on a grey picture of their film.

    Parameters
    ----------
    grey : (height, width) uint8
        Whole film.
    tiles : sequence of Tile
        Of this film.
    rows, columns : int
        Size of the film in source pixels.
    titled : int
        How many boxes at most tell their name and score.
    """
    height, width = grey.shape
    across, down = width / columns, height / rows
    order = sorted(
        tiles,
        key=lambda t: (_DRAWN_FIRST.index(t.style.name), -(t.score or 0.0), t.tile_id),
    )
    named, rest = order[:titled], order[titled:]
    step = max(1, -(-len(rest) // PLAIN_BOXES))
    plain = rest[::step]

    def scaled(tile: Tile) -> tuple[float, float, float, float]:
        x, y, w, h = tile.box
        left, top = x * across, y * down
        return round(left, 1), round(top, 1), round(w * across, 1), round(h * down, 1)

    boxes = []
    written: list[tuple[float, float]] = []
    for tile in reversed(named):  # the most telling ones are drawn last, on top
        x, y, w, h = scaled(tile)
        title = f"{tile.tile_id}: {tile.describe()}"
        letter = ""
        apart = all(
            abs(x - left) >= LETTER_APART_PX or abs(y - top) >= LETTER_APART_PX
            for left, top in written
        )
        if apart and min(w, h) >= LETTER_PX[tile.style.name]:
            letter = tile.style.letter
            written.append((x, y))
        boxes.append(Box(tile.tile_id, tile.style.name, x, y, w, h, title, letter))
    paths = {}
    for name in STYLES:
        outlines = [scaled(tile) for tile in plain if tile.style.name == name]
        if outlines:
            paths[name] = "".join(f"M{x} {y}h{w}v{h}h-{w}z" for x, y, w, h in outlines)
    return FilmPicture(
        image=data_uri(jpeg(grey), "jpeg"),
        width=width,
        height=height,
        boxes=tuple(boxes),
        paths=paths,
        left_out=len(rest) - len(plain),
    )


@dataclass(frozen=True)
class Curve:
    """Losses over epochs, drawn in a box of ``WIDTH`` by ``HEIGHT``."""

    WIDTH = 640
    HEIGHT = 240
    LEFT, RIGHT, TOP, BOTTOM = 84, 12, 12, 36

    training: str
    """Points of a polyline."""
    validation: str
    dots: tuple[tuple[float, float], ...]
    """Of the training losses, where there are too few for a line."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    best: tuple[float, float] | None
    """Where the best validation loss lies."""


def loss_curve(
    training: Sequence[float], validation: Sequence[float | None], *, best_epoch: int | None
) -> Curve | None:
    """Draw the losses of the epochs 1, 2, ...; None where there is none that is finite."""
    n = len(training)
    epochs = np.unique(np.linspace(0, n - 1, min(n, 400)).round().astype(int)).tolist()
    series = [
        [(e + 1, float(v)) for e in epochs if (v := values[e]) is not None and np.isfinite(v)]
        for values in (training, validation)
    ]
    losses = [v for points in series for _, v in points]
    if not losses:
        return None
    low, high = min(losses), max(losses)
    pad = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    low, high = low - pad, high + pad
    span_x = Curve.WIDTH - Curve.LEFT - Curve.RIGHT
    span_y = Curve.HEIGHT - Curve.TOP - Curve.BOTTOM

    def at(epoch: float, loss: float) -> tuple[float, float]:
        across = (epoch - 1) / max(1, n - 1) if n > 1 else 0.5
        down = (high - loss) / (high - low)
        return round(Curve.LEFT + across * span_x, 1), round(Curve.TOP + down * span_y, 1)

    lines = [" ".join("{},{}".format(*at(e, v)) for e, v in points) for points in series]
    best = next((at(e, v) for e, v in series[1] if e == best_epoch), None)
    every = max(1, -(-n // 10))
    ticks = [e for e in range(1, n + 1) if e == 1 or e % every == 0]
    return Curve(
        training=lines[0],
        validation=lines[1],
        dots=tuple(at(e, v) for e, v in series[0]) if n < 3 else (),
        x_ticks=tuple((at(e, low)[0], str(e)) for e in ticks),
        y_ticks=tuple(
            (at(1, v)[1], f"{v:.4g}") for v in np.linspace(low + pad, high - pad, 4).tolist()
        ),
        best=best,
    )
