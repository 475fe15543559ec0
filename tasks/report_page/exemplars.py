"""Tiles that the user knows to be misinformative: their table, and the tiles they mean."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import TableError
from tasks.report_page.tiles import TILE_COLUMNS, Tile, tiles_of

BOX = ("source", "x", "y", "width", "height")
EXAMPLE = "source,x,y,width,height"


@dataclass(frozen=True)
class Match:
    """A tile that an exemplar may mean, and how much of the exemplar lies in it."""

    tile: Tile
    overlap_px: float
    """Area in source pixels that both share; infinite for a tile that was named."""

    def better(self, other: Match) -> bool:
        """Whether this one fits better: more overlap, then the smaller tile, then its name."""
        return self._rank() < other._rank()

    def _rank(self) -> tuple[float, int, str]:
        return -self.overlap_px, self.tile.box[2] * self.tile.box[3], self.tile.tile_id


@dataclass(frozen=True)
class Exemplar:
    """One line of the table: a tile by name, or a box on a film."""

    line: int
    tile_id: str | None = None
    source: str | None = None
    box: tuple[int, int, int, int] | None = None
    """x, y, width, height in source pixels."""

    def describe(self) -> str:
        """Say what the line of the table said."""
        if self.box is None:
            return str(self.tile_id)
        x, y, width, height = self.box
        return f"{self.source}, x {x}, y {y}, {width} x {height} px"

    def match(self, batch: pa.Table) -> Match | None:
        """Tile of a batch of the manifest that fits best, if any fits at all."""
        if self.tile_id is not None:
            rows = batch.filter(pc.equal(batch["tile_id"], self.tile_id))
            if not rows.num_rows:
                return None
            return Match(tiles_of(rows.select(TILE_COLUMNS).to_pandas())[0], float("inf"))
        rows = batch.filter(pc.equal(batch["source"].cast(pa.string()), self.source))
        if not rows.num_rows or self.box is None:
            return None
        frame = rows.select(TILE_COLUMNS).to_pandas()
        sides = []
        for start, length, first, size in zip(
            ("x", "y"), ("width", "height"), self.box[:2], self.box[2:], strict=True
        ):
            low = np.maximum(frame[start].to_numpy(np.float64), first)
            high = np.minimum((frame[start] + frame[length]).to_numpy(np.float64), first + size)
            sides.append(np.clip(high - low, 0, None))
        overlap = sides[0] * sides[1]  # (n,)
        best = overlap.max()
        if best <= 0:
            return None
        found = [Match(tile, best) for tile in tiles_of(frame[overlap == best])]
        return min(found, key=Match._rank)


def read_exemplars(path: str) -> list[Exemplar]:
    """Read the table of exemplars.

    Parameters
    ----------
    path : str
        csv, local or any URI that fsspec knows, with the column ``tile_id``, or with ``source``,
        ``x``, ``y``, ``width`` and ``height`` in source pixels; further columns are ignored. Where
        a table has both, a line with a tile_id goes by that.

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
    if "tile_id" in names or set(BOX) <= set(names):
        return
    missing = [name for name in BOX if name not in names]
    raise TableError(
        f"{path}, line 1: neither a column tile_id nor all of {EXAMPLE} (missing: "
        f"{', '.join(missing)}). Name the columns in the first line."
    )


def _exemplar(path: str, line: int, row: dict[str, str | None]) -> Exemplar:
    tile_id = (row.get("tile_id") or "").strip()
    if tile_id:
        return Exemplar(line, tile_id=tile_id)
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
    return Exemplar(line, source=source, box=(x, y, width, height))


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
