"""Which of very many tiles or films are shown: bounded memory, the same choice in any order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from tasks.report_page.tiles import TILE_COLUMNS, Tile, draws, tiles_of

FilmFrame = pd.DataFrame
"""mammogram_id, source, tiles, flagged, stored: a row a film."""


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
    """

    def __init__(self, size: int, *, per_film: int = 2) -> None:
        self.size, self.per_film = size, per_film
        self._best: pd.DataFrame | None = None

    def add(
        self, batch: pa.Table, where: npt.NDArray[np.bool_], values: npt.NDArray[np.floating]
    ) -> None:
        """Look at the rows of a batch.

        Parameters
        ----------
        batch : pa.Table
            With the columns ``TILE_COLUMNS``.
        where : (n,) bool
            Rows that count.
        values : (n,) float
            Higher goes first.
        """
        chosen = np.flatnonzero(where & (values >= self._floor()))
        if not len(chosen):
            return
        frame = batch.select(TILE_COLUMNS).take(pa.array(chosen)).to_pandas()
        self.add_frame(frame.assign(value=values[chosen].astype(np.float64)))

    def add_frame(self, frame: pd.DataFrame) -> None:
        """Look at rows that have a column ``value``, and at least tile_id and mammogram_id."""
        frame = frame.assign(draw=draws(frame["tile_id"].to_numpy(object)))
        if self._best is not None:
            frame = pd.concat([self._best, frame], ignore_index=True)
        frame = frame.sort_values(
            ["value", "draw", "tile_id"], ascending=[False, True, True], kind="stable"
        )
        turn = frame.groupby("mammogram_id", sort=False).cumcount() // self.per_film
        frame = frame.assign(turn=turn).sort_values("turn", kind="stable").head(self.size)
        self._best = frame.reset_index(drop=True)

    def rows(self) -> pd.DataFrame | None:
        """Rows chosen, highest first; None where there are none."""
        if self._best is None:
            return None
        order = self._best.sort_values(
            ["value", "draw", "tile_id"], ascending=[False, True, True], kind="stable"
        )
        return order.reset_index(drop=True)

    def tiles(self) -> list[Tile]:
        """Tiles chosen, highest first."""
        rows = self.rows()
        return [] if rows is None else tiles_of(rows)

    def _floor(self) -> float:
        """No tile below can be chosen any more."""
        if self._best is None or len(self._best) < self.size or self._best["turn"].max() > 0:
            return -np.inf
        return float(self._best["value"].min())


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
