"""A workspace's tiles with what the pixel truth says of them: what every detector is judged on."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from storage.manifest import read_manifest
from storage.tile_shards import read_pixels
from storage.workspace import Workspace
from tasks.kernels import thumbnails
from tasks.kernels.agreement import (
    AMBIGUOUS,
    MISINFORMATIVE,
    TISSUE,
    Agreement,
    agreement,
    average_precision,
    tile_classes,
    truth_shares,
)

SMALL_PX = 64
TIE_ORDERS = 20
IGNORED = 255
BOX = ["x", "y", "width", "height"]


class Absent(Exception):
    """A peer, or a column of the manifest, is not there; the text says which."""


@dataclass(frozen=True)
class Findings:
    """What one detector says of the tiles that are not black, in the order of `Tiles.screened`."""

    title: str
    score: NDArray[np.floating] | None = None
    """(n,), or (draws, n) with NaN for a draw's own exemplars; higher is more misinformative."""
    flagged: NDArray[np.bool_] | None = None
    """(n,), at the detector's own default threshold; None where it has none."""
    within: NDArray[np.bool_] | None = None
    """(all tiles,): the subsample that it was run on; None: all."""
    note: str = ""
    seconds: float | None = None
    """None: the time between asking and answering."""


@dataclass(frozen=True)
class Judged:
    """Figures of one detector."""

    average_precision: float | None
    spread: float | None
    """Standard deviation over draws of exemplars."""
    agreement: Agreement | None
    note: str


@dataclass
class Tiles:
    """The manifest's tiles that lie on films with truth, film by film, with a column ``kind``.

    Parameters
    ----------
    workspace : Workspace
        Made by ``mammosift run``.
    table : DataFrame
        Rows of the manifest, and ``kind`` (see `tile_classes`).
    scratch : Path
        Folder for pictures.
    """

    workspace: Workspace
    table: pd.DataFrame
    scratch: Path
    is_screened: NDArray[np.bool_] = field(init=False)
    """(all tiles,): passed the black screen, and was scored."""

    def __post_init__(self) -> None:
        self.is_screened = self.table["misinformative_score"].notna().to_numpy()

    @classmethod
    def read(cls, workspace: Workspace, truth: Path, ignore: Path | None, scratch: Path) -> Tiles:
        """Read the manifest and class its tiles by the truth of their films."""
        if not workspace.exists("manifest"):
            raise SystemExit(f"{workspace.uri} has no manifest yet: finish its mammosift run first")
        table = read_manifest(workspace).to_pandas()
        films = []
        for source, rows in table.groupby("source", sort=False):
            found = truth_of(str(source), truth)
            if found is not None:
                films.append(rows.assign(kind=tile_classes(_shares(found, ignore, rows))))
        if not films:
            raise SystemExit(f"no film of {workspace.uri} has a truth picture in {truth}")
        return cls(workspace, pd.concat(films, ignore_index=True), scratch)

    @property
    def screened(self) -> pd.DataFrame:
        """Tiles that are not black: those that detectors see."""
        return self.table[self.is_screened]

    def kinds(self) -> NDArray[np.object_]:
        """Class of each tile that is not black."""
        return self.screened["kind"].to_numpy(object)

    def sample(self, share: float, seed: int) -> NDArray[np.bool_]:
        """Draw a share of all tiles, black ones too, the same for every detector."""
        return np.random.default_rng(seed).random(len(self.table)) < share

    def to_look_at(self, within: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Positions in `screened` of tiles in a subsample that will be judged, and no others."""
        judged = np.isin(self.kinds(), [MISINFORMATIVE, TISSUE])
        return np.flatnonzero(judged & within[self.is_screened])

    def blocks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint16]]]:
        """Pixels some at a time: positions in `screened`, and (n, size, size) uint16."""
        place = self.screened.reset_index(drop=True)
        key = place["pixels_uri"].str.split("/").str[1]
        for name, rows in place.groupby(key, sort=False):
            rows = rows.sort_values("pixels_index")
            positions = rows.index.to_numpy(np.int64)
            start = 0
            wanted = rows["pixels_index"].to_numpy(np.int64)
            for pixels in read_pixels(self.workspace, str(name), wanted):
                yield positions[start : start + len(pixels)], pixels
                start += len(pixels)

    @cached_property
    def small(self) -> NDArray[np.float32]:
        """All tiles that are not black, area-averaged: (n, 64, 64), in [0, 1]."""
        out = np.empty((int(self.is_screened.sum()), SMALL_PX, SMALL_PX), np.float32)
        for positions, pixels in self.blocks():
            out[positions] = [thumbnails.shrink(p, SMALL_PX, SMALL_PX) for p in pixels]
        return out / np.float32(65535)

    @cached_property
    def pictures(self) -> list[Path]:
        """All tiles that are not black as 8-bit PNG, for the peers that read files."""
        folder = self.scratch / "tiles"
        folder.mkdir()
        paths = [folder / f"{i:07d}.png" for i in range(int(self.is_screened.sum()))]
        for positions, pixels in self.blocks():
            for i, picture in zip(positions, thumbnails.to_8bit(pixels), strict=True):
                cv2.imwrite(str(paths[i]), picture)
        return paths

    def exemplar_draws(self, draws: int, count: int, seed: int) -> list[NDArray[np.int64]]:
        """Draw exemplars among the truly misinformative tiles; draw i is the same for all."""
        true = np.flatnonzero(self.kinds() == MISINFORMATIVE)
        if len(true) <= count:
            raise SystemExit(f"{count} exemplars cannot be drawn from {len(true)} tiles")
        return [
            np.random.default_rng([seed, i]).choice(true, count, replace=False)
            for i in range(draws)
        ]

    def judge(self, found: Findings) -> Judged:
        """Compare with the truth; black tiles are as the manifest has them, for every detector."""
        within = np.ones(len(self.table), bool) if found.within is None else found.within
        figures = None
        if found.flagged is not None:
            reason = self.table["reason"].fillna("")
            rejected = self.table["decision"].isin(["drop", "review"]).to_numpy(copy=True)
            as_black = reason.str.contains("black").to_numpy(bool)
            rejected[self.is_screened] = found.flagged
            kinds = np.where(within, self.table["kind"], AMBIGUOUS)
            figures = agreement(kinds, rejected, as_black)
        if found.score is None:
            return Judged(None, None, figures, found.note)
        draws = np.atleast_2d(found.score)
        precisions = [self._average_precision(score, within) for score in draws]
        note = found.note
        if len(draws) == 1:
            shuffled = self._with_ties_shuffled(draws[0], within)
            if abs(shuffled - precisions[0]) >= 0.005:
                note += f"; with equal scores in random order AP {shuffled:.3f}"
        spread = float(np.std(precisions)) if len(draws) > 1 else None
        return Judged(float(np.mean(precisions)), spread, figures, note.removeprefix("; "))

    def _average_precision(self, score: NDArray[np.floating], within: NDArray[np.bool_]) -> float:
        kinds, judged = self.kinds(), self._scored(score, within)
        return average_precision(kinds[judged] == MISINFORMATIVE, score[judged])

    def _with_ties_shuffled(self, score: NDArray[np.floating], within: NDArray[np.bool_]) -> float:
        kinds, judged = self.kinds(), self._scored(score, within)
        values = []
        for i in range(TIE_ORDERS):
            order = np.random.default_rng(i).permutation(judged)
            values.append(average_precision(kinds[order] == MISINFORMATIVE, score[order]))
        return float(np.mean(values))

    def _scored(self, score: NDArray[np.floating], within: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Positions in `screened` of misinformative and tissue tiles that have a score."""
        positions = self.to_look_at(within)
        return positions[~np.isnan(score[positions])]


def truth_of(source: str, folder: Path) -> Path | None:
    """Truth picture of a film: by its name, or by its folder's and its own joined by ``_``."""
    path = Path(source)
    for name in (path.stem, f"{path.parent.name}_{path.stem}"):
        if (folder / f"{name}.png").exists():
            return folder / f"{name}.png"
    return None


def _shares(found: Path, ignore: Path | None, rows: pd.DataFrame) -> NDArray[np.float64]:
    truth = _grey(found)
    ignored = None
    if ignore is not None and (ignore / found.name).exists():
        ignored = _grey(ignore / found.name) == IGNORED
    return truth_shares(truth, rows[BOX].to_numpy(np.int64), ignored)


def _grey(path: Path) -> NDArray[np.uint8]:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 2 or picture.dtype != np.uint8:
        raise SystemExit(f"{path} is no 8-bit grey picture")
    return np.asarray(picture)


def require(*modules: str) -> None:
    """Raise `Absent` for the first module that is not installed."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise Absent("not installed")
