"""Which of very many tiles or films are shown: bounded memory, the same choice in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from tasks.report_page.tiles import TILE_COLUMNS, Tile, draws

FilmFrame = pd.DataFrame
"""mammogram_id, source, tiles, flagged, stored: a row a film."""


@dataclass(frozen=True)
class Candidate:
    """A row that may be shown; ``draw`` decides between equal values."""

    value: float
    draw: int
    row: dict[str, Any]

    def rank(self) -> tuple[float, int, str]:
        """Key that puts the better one first."""
        return -self.value, self.draw, self.row["tile_id"]


class HighestTiles:
    """Tiles with the highest values of a stream, at most two a film while others have any.

    A tile's turn is how often two better ones of its film come first; tiles of the first turn go
    before those of the second, within a turn the higher value goes first, and equal values are put
    in order by a hash of the tile's name. So neither the order of the parts nor their number
    changes the choice.

    Parameters
    ----------
    size : int
        How many.
    per_film : int
        Tiles of one film in a turn.
    columns : sequence of str
        Kept of each tile; tile_id and mammogram_id among them.
    """

    def __init__(
        self, size: int, *, per_film: int = 2, columns: Sequence[str] = TILE_COLUMNS
    ) -> None:
        self.size, self.per_film, self.columns = size, per_film, list(columns)
        self._best: list[Candidate] = []
        self._floor: tuple[float, int] | None = None
        """Value and draw of the last one, where no worse one can be chosen any more."""

    def add(
        self, batch: pa.Table, where: npt.NDArray[np.bool_], values: npt.NDArray[np.floating]
    ) -> None:
        """Look at the rows of a batch.

        Parameters
        ----------
        batch : pa.Table
            With the columns that are kept.
        where : (n,) bool
            Rows that count.
        values : (n,) float
            Higher goes first.
        """
        lowest = -np.inf if self._floor is None else self._floor[0]
        rows = np.flatnonzero(where & (values >= lowest))  # which no NaN is
        if not len(rows):
            return
        draw = draws(batch["tile_id"].take(pa.array(rows)).to_numpy().astype(object))
        if self._floor is not None:
            near = (values[rows] > self._floor[0]) | (draw <= self._floor[1])
            rows, draw = rows[near], draw[near]
        films = batch["mammogram_id"].take(pa.array(rows)).to_numpy()
        best = _first_of_each(films, values[rows], draw, self.size)
        if not len(best):
            return
        taken = batch.select(self.columns).take(pa.array(rows[best])).to_pylist()
        self._best += [
            Candidate(float(values[i]), int(d), row)
            for i, d, row in zip(rows[best], draw[best], taken, strict=True)
        ]
        self._choose()

    def rows(self) -> list[dict[str, Any]]:
        """Rows chosen, highest first."""
        return [candidate.row for candidate in sorted(self._best, key=Candidate.rank)]

    def tiles(self) -> list[Tile]:
        """Tiles chosen, highest first."""
        return [Tile.of(row) for row in self.rows()]

    def _choose(self) -> None:
        of_film: Counter[str] = Counter()
        in_turn: list[tuple[int, Candidate]] = []
        for candidate in sorted(self._best, key=Candidate.rank):
            film = candidate.row["mammogram_id"]
            in_turn.append((of_film[film] // self.per_film, candidate))
            of_film[film] += 1
        chosen = sorted(in_turn, key=lambda pair: pair[0])[: self.size]
        self._best = [candidate for _, candidate in chosen]
        if len(chosen) == self.size and chosen[-1][0] == 0:
            self._floor = chosen[-1][1].value, chosen[-1][1].draw


def _first_of_each(
    films: npt.NDArray[np.object_],
    values: npt.NDArray[np.floating],
    draw: npt.NDArray[np.uint64],
    size: int,
) -> npt.NDArray[np.int64]:
    """Places of the best ``size`` rows of each film: no other of its rows can be chosen."""
    order = np.lexsort((draw, -values))
    of_film = pd.Series(films[order]).groupby(films[order], sort=False).cumcount().to_numpy()
    return order[of_film < size]


class ShownFilms:
    """Films to draw: first those where the largest share of tiles is flagged, then any.

    Parameters
    ----------
    size : int
        How many at most.
    flagged : int
        At most this many of them because of their flagged tiles.
    """

    def __init__(self, size: int, *, flagged: int) -> None:
        self.size, self.flagged = size, flagged
        self._flagged: FilmFrame | None = None
        self._any: FilmFrame | None = None

    def add(self, films: FilmFrame) -> None:
        """Look at films; each is given once, with all its tiles counted."""
        films = films[films["stored"] > 0]
        films = films.assign(share=films["flagged"] / films["tiles"])
        self._flagged = self._joined(self._flagged, films[films["flagged"] > 0]).head(self.flagged)
        self._any = self._joined(self._any, films.assign(share=0.0)).head(self.size)

    def film_ids(self) -> list[str]:
        """Films chosen, the flagged ones first; the others in the order of their names' hashes."""
        if self._flagged is None or self._any is None:
            return []
        first = [str(i) for i in self._flagged["mammogram_id"]]
        others = [str(i) for i in self._any["mammogram_id"] if i not in set(first)]
        return (first + others)[: self.size]

    @staticmethod
    def _joined(known: FilmFrame | None, films: FilmFrame) -> FilmFrame:
        both = films if known is None else pd.concat([known, films], ignore_index=True)
        return both.sort_values(["share", "mammogram_id"], ascending=[False, True], kind="stable")
