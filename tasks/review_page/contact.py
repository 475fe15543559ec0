"""Contact sheets as pictures, for places that show a picture and no page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tasks.report_page.pictures import data_uri, jpeg
from tasks.report_page.tiles import Tile
from tasks.report_page.words import share_text
from tasks.review_page.page import ReviewPage, ReviewSheet

TILE_PX = 112
GAP_PX = 8
CAPTION_PX = 18
HEAD_PX = 52
COLUMNS = 6
PAPER, INK, QUIET = 255, 20, 110


@dataclass(frozen=True)
class Contact:
    """One contact sheet as a picture."""

    name: str
    """Lower case letters, digits and dashes."""
    title: str
    text: str
    jpeg: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return data_uri(self.jpeg, "jpeg")


def contacts(page: ReviewPage) -> list[Contact]:
    """Contact sheets of a page: its clusters, then its other sheets."""
    out = []
    for cluster in page.clusters:
        text = f"{cluster.size:,} tiles, {share_text(cluster.share_flagged)} flagged"
        out.append(_contact(cluster.sheet, text, page))
    return out + [_contact(sheet, sheet.text, page) for sheet in page.sheets]


def _contact(sheet: ReviewSheet, text: str, page: ReviewPage) -> Contact:
    picture = draw(
        sheet.title, text, sheet.tiles, [page.pictures.get(t.tile_id) for t in sheet.tiles]
    )
    return Contact(sheet.name, sheet.title, text, jpeg(picture))


def draw(
    title: str, text: str, tiles: Sequence[Tile], pictures: Sequence[str | None]
) -> npt.NDArray[np.uint8]:
    """Draw tiles in rows of six below a heading; below each the letter of its fate and its score.

    Parameters
    ----------
    title, text : str
        Two lines above the tiles.
    tiles : sequence of Tile
        To draw, (n,).
    pictures : sequence of str or None
        Of each tile, a data URI; None where its pixels are not stored.

    Returns
    -------
    (rows, columns) uint8
    """
    rows = max(1, -(-len(tiles) // COLUMNS))
    width = COLUMNS * (TILE_PX + GAP_PX) + GAP_PX
    height = HEAD_PX + rows * (TILE_PX + CAPTION_PX + GAP_PX)
    sheet = np.full((height, width), PAPER, np.uint8)
    _write(sheet, title, (GAP_PX, 22), 0.58, INK)
    _write(sheet, _cut(text, 96), (GAP_PX, 42), 0.42, QUIET)
    for i, (tile, uri) in enumerate(zip(tiles, pictures, strict=True)):
        x = GAP_PX + (i % COLUMNS) * (TILE_PX + GAP_PX)
        y = HEAD_PX + (i // COLUMNS) * (TILE_PX + CAPTION_PX + GAP_PX)
        sheet[y : y + TILE_PX, x : x + TILE_PX] = _picture(uri)
        score = "" if tile.score is None else f" {tile.score:.3f}"
        _write(sheet, f"{tile.style.letter}{score}", (x, y + TILE_PX + 14), 0.42, INK)
    return sheet


def _picture(uri: str | None) -> npt.NDArray[np.uint8]:
    box = np.zeros((TILE_PX, TILE_PX), np.uint8)
    if uri is None:
        return box
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    if picture is None:
        return box
    scale = TILE_PX / max(picture.shape)
    height, width = (max(1, round(n * scale)) for n in picture.shape)
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    top, left = (TILE_PX - height) // 2, (TILE_PX - width) // 2
    box[top : top + height, left : left + width] = small
    return box


def _write(
    sheet: npt.NDArray[np.uint8], text: str, at: tuple[int, int], size: float, grey: int
) -> None:
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(sheet, plain, at, cv2.FONT_HERSHEY_SIMPLEX, size, grey, 1, cv2.LINE_AA)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
