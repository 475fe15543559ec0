"""Tiles that the user knows: misinformative ones, and ones that only look like it. Their table."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from storage import films
from storage.errors import FilmError, TableError

BOX = ("source", "x", "y", "width", "height")
EXAMPLE = "source,x,y,width,height"
POSITIVE, NEGATIVE = "misinformative", "informative"
LARGEST_IMAGE_MEGAPIXELS = 50.0
"""Of a picture of an exemplar: it is one tile."""


@dataclass(frozen=True)
class Exemplar:
    """One line of the table: a tile by name, a box on a film, or a picture."""

    line: int
    tile_id: str | None = None
    source: str | None = None
    box: tuple[int, int, int, int] | None = None
    """x, y, width, height in source pixels."""
    image: str | None = None
    """Path of a picture of the tile."""
    positive: bool = True
    """True: misinformative; False: informative, whatever it looks like."""

    def describe(self) -> str:
        """Say what the line of the table said."""
        if self.image is not None:
            return Path(self.image).name
        if self.box is None:
            return str(self.tile_id)
        x, y, width, height = self.box
        return f"{self.source}, x {x}, y {y}, {width} x {height} px"

    def content(self) -> list[Any]:
        """What changes when the exemplar does: a picture by its bytes."""
        picture = None
        if self.image is not None:
            picture = hashlib.sha256(Path(self.image).read_bytes()).hexdigest()
        return [self.tile_id, self.source, self.box, picture, self.positive]

    def picture(self) -> npt.NDArray[np.float32]:
        """Pixels of the picture, in the range of their type: float32 (rows, columns), [0, 1].

        Raises
        ------
        TableError
            It cannot be read as a grey picture.
        """
        path = Path(str(self.image))
        try:
            row = films.read_header(
                path, source=path.name, max_film_megapixels=LARGEST_IMAGE_MEGAPIXELS
            )
            pixels = films.read_pixels(path, row, max_film_megapixels=LARGEST_IMAGE_MEGAPIXELS)
        except FilmError as e:
            raise TableError(
                f"line {self.line} of the exemplars: {path.name} cannot be used. {e.rule} "
                f"{e.remedy}"
            ) from e
        most = 2 ** (row.bits_stored or 8 * pixels.dtype.itemsize) - 1
        return np.asarray(np.clip(pixels / max(most, 1), 0, 1), np.float32)

    def best_of(self, tiles: pd.DataFrame) -> tuple[pd.Series | None, float]:
        """Tile that the exemplar means, and how well it fits.

        Parameters
        ----------
        tiles : DataFrame
            With the columns tile_id, source, x, y, width, height.

        Returns
        -------
        row : Series or None
            None where no tile fits.
        overlap : float
            Area in source pixels that both share; infinite for a tile that was named.
        """
        if self.tile_id is not None:
            named = tiles[tiles["tile_id"] == self.tile_id]
            return (named.iloc[0], np.inf) if len(named) else (None, 0.0)
        here = tiles[tiles["source"] == self.source]
        if not len(here) or self.box is None:
            return None, 0.0
        x, y, width, height = self.box
        across = np.minimum(here["x"] + here["width"], x + width) - np.maximum(here["x"], x)
        down = np.minimum(here["y"] + here["height"], y + height) - np.maximum(here["y"], y)
        overlap = np.clip(across, 0, None) * np.clip(down, 0, None)
        if overlap.max() <= 0:
            return None, 0.0
        best = here[overlap == overlap.max()].sort_values("tile_id").iloc[0]
        return best, float(overlap.max())


def read_exemplars(path: str) -> list[Exemplar]:
    """Read the table of exemplars.

    Parameters
    ----------
    path : str
        csv, local or any URI that fsspec knows, with the column ``tile_id``, with ``source``,
        ``x``, ``y``, ``width`` and ``height`` in source pixels, or with ``image``, the path of a
        picture of a tile (relative to the table); further columns are ignored. Where a table has
        several, a line goes by the first of tile_id, image and box that it fills in. A column
        ``kind`` says ``misinformative`` (the default) or ``informative``.

    Returns
    -------
    list of Exemplar
        In the order of the table.

    Raises
    ------
    TableError
        The file cannot be read, lacks columns or lines, or a value is no whole number in range.
    """
    try:
        with fsspec.open(path, "r", encoding="utf-8-sig", newline="") as f:
            reader = csv.DictReader(f, strict=True)
            names = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = names
            _check_columns(path, names)
            out = [
                _exemplar(path, reader.line_num, row)
                for row in reader
                if any(isinstance(v, str) and v.strip() for v in row.values())
            ]
    except OSError as e:
        raise TableError(
            f"{path}: the table of exemplars cannot be opened ({type(e).__name__}). "
            "Check the path in exemplars."
        ) from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise TableError(f"{path}: this is no csv in UTF-8 ({e}). Save it as such.") from e
    if not out:
        raise TableError(f"{path}: the table of exemplars has no lines. Add some, or leave it out.")
    return out


def _check_columns(path: str, names: Sequence[str]) -> None:
    if {"tile_id", "image"} & set(names) or set(BOX) <= set(names):
        return
    missing = [name for name in BOX if name not in names]
    raise TableError(
        f"{path}, line 1: no column tile_id or image, nor all of {EXAMPLE} (missing: "
        f"{', '.join(missing)}). Name the columns in the first line."
    )


def _exemplar(path: str, line: int, row: dict[str, str | None]) -> Exemplar:
    kind = (row.get("kind") or "").strip() or POSITIVE
    if kind not in (POSITIVE, NEGATIVE):
        raise TableError(
            f"{path}, line {line}, column kind: {kind!r} is neither {POSITIVE} nor {NEGATIVE}."
        )
    positive = kind == POSITIVE
    tile_id = (row.get("tile_id") or "").strip()
    if tile_id:
        return Exemplar(line, tile_id=tile_id, positive=positive)
    if image := (row.get("image") or "").strip():
        found = Path(path).parent / image
        if not found.is_file():
            raise TableError(
                f"{path}, line {line}, column image: {image!r} is no file. Paths are relative to "
                "the table."
            )
        return Exemplar(line, image=str(found), positive=positive)
    if not set(BOX) <= row.keys():
        raise TableError(f"{path}, line {line}, column tile_id: it is empty. Give a tile_id.")
    source = (row["source"] or "").strip()
    if not source:
        raise TableError(
            f"{path}, line {line}, column source: it is empty. Give the film's path relative to "
            "the folder of films."
        )
    x, y = (_whole(path, line, name, row[name], lowest=0) for name in ("x", "y"))
    width, height = (_whole(path, line, name, row[name], lowest=1) for name in ("width", "height"))
    return Exemplar(line, source=source, box=(x, y, width, height), positive=positive)


def _whole(path: str, line: int, column: str, text: str | None, *, lowest: int) -> int:
    try:
        value = int((text or "").strip())
    except ValueError:
        value = lowest - 1
    if not lowest <= value < 2**31:
        raise TableError(
            f"{path}, line {line}, column {column}: {(text or '').strip()!r} is no whole number of "
            f"at least {lowest}. Boxes are in pixels of the film as it is stored."
        )
    return value
