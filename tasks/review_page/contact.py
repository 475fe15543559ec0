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
from tasks.review_page.page import ReviewPage, ReviewSheet
from tasks.words import share_text

TILE_PX = 112
GAP_PX = 8
CAPTION_PX = 18
COLUMNS = 6
PAPER, INK = 255, 20


@dataclass(frozen=True)
class Contact:
    """One contact sheet as a picture."""

    title: str
    text: str
    tile_ids: tuple[str, ...]
    jpeg: bytes
    is_cluster: bool

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return data_uri(self.jpeg, "jpeg")


def contacts(page: ReviewPage) -> list[Contact]:
    """Contact sheets of a page: its clusters, then its other sheets."""
    out = []
    for cluster in page.clusters:
        share = share_text(cluster.share_flagged)
        text = f"{cluster.size:,} tile{'s' if cluster.size != 1 else ''}, {share} flagged"
        out.append(_contact(cluster.sheet, text, page, is_cluster=True))
    return out + [_contact(sheet, sheet.text, page, is_cluster=False) for sheet in page.sheets]


def _contact(sheet: ReviewSheet, text: str, page: ReviewPage, *, is_cluster: bool) -> Contact:
    names = tuple(tile.tile_id for tile in sheet.tiles)
    picture = draw(sheet.tiles, [page.pictures.get(name) for name in names])
    return Contact(sheet.title, text, names, jpeg(picture), is_cluster)


def draw(tiles: Sequence[Tile], pictures: Sequence[str | None]) -> npt.NDArray[np.uint8]:
    """Draw tiles in rows of six; below each the letter of its fate and its score.

    Parameters
    ----------
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
    height = GAP_PX + rows * (TILE_PX + CAPTION_PX + GAP_PX)
    sheet = np.full((height, width), PAPER, np.uint8)
    for i, (tile, uri) in enumerate(zip(tiles, pictures, strict=True)):
        x = GAP_PX + (i % COLUMNS) * (TILE_PX + GAP_PX)
        y = GAP_PX + (i // COLUMNS) * (TILE_PX + CAPTION_PX + GAP_PX)
        sheet[y : y + TILE_PX, x : x + TILE_PX] = _picture(uri)
        score = "" if tile.score is None else f" {tile.score:.3f}"
        caption, at = f"{tile.style.letter}{score}", (x, y + TILE_PX + 14)
        cv2.putText(sheet, caption, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
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
