"""One tile of the manifest as the report shows it, and how its fate is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

TILE_COLUMNS = (
    "tile_id",
    "mammogram_id",
    "source",
    "x",
    "y",
    "width",
    "height",
    "decision",
    "reason",
    "misinformative_score",
    "cluster_label",
    "outlier_score",
    "pixels_uri",
    "pixels_index",
)
"""Columns of the manifest that a ``Tile`` is made from."""

KEEP, BLACK, MISINFORMATIVE = "keep", "drop/black", "drop/misinformative"

_TITLES = {
    KEEP: "Kept",
    BLACK: "Dropped: black",
    MISINFORMATIVE: "Dropped: misinformative",
    "review/mixed": "In review: mixed",
    "review/lesion_guard": "In review: lesion guard",
    "keep/reviewer": "Kept by a person",
    "drop/reviewer": "Dropped by a person",
    "review/reviewer": "In review: sent by a person",
    "review/no_pixels": "In review: no pixels stored",
}
_STARTS = {"keep": "Kept", "drop": "Dropped", "review": "In review"}
_ORDER = {"keep": 0, "review": 1, "drop": 2}


@dataclass(frozen=True)
class Style:
    """How tiles of a fate are marked: never by colour alone."""

    name: str
    """Class in the style sheet, and of the hatching."""
    letter: str
    words: str
    """What the line and the hatching look like, for the legend."""


STYLES = {
    "keep": Style("keep", "K", "thin solid line"),
    "black": Style("black", "B", "dotted line"),
    "misinformative": Style("misinformative", "M", "thick dashed line, hatched"),
    "review": Style("review", "R", "thick solid line, dotted area"),
    "other": Style("other", "D", "dash-dotted line"),
}


@dataclass(frozen=True)
class Tile:
    """A tile with what its caption says and where its pixels lie."""

    tile_id: str
    mammogram_id: str
    source: str
    box: tuple[int, int, int, int]
    """x, y, width, height in source pixels."""
    fate: str
    """``keep``, ``drop/black``, ``review/mixed``, ...: as in the run's record."""
    score: float | None
    cluster_label: int | None
    outlier_score: float | None
    pixels_uri: str | None
    pixels_index: int | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> Tile:
        """Make one of a row of the manifest."""
        index = _number(row["pixels_index"])
        label = _number(row["cluster_label"])
        reason = row["reason"] if isinstance(row["reason"], str) else None
        uri = row["pixels_uri"] if isinstance(row["pixels_uri"], str) else None
        return cls(
            tile_id=row["tile_id"],
            mammogram_id=row["mammogram_id"],
            source=row["source"],
            box=(int(row["x"]), int(row["y"]), int(row["width"]), int(row["height"])),
            fate=fate_name(row["decision"], reason),
            score=_number(row["misinformative_score"]),
            cluster_label=None if label is None else int(label),
            outlier_score=_number(row["outlier_score"]),
            pixels_uri=uri if index is not None else None,
            pixels_index=None if index is None else int(index),
        )

    @property
    def style(self) -> Style:
        """How it is marked."""
        return style_of(self.fate)

    def describe(self) -> str:
        """Caption in full: film, box, fate, score."""
        x, y, width, height = self.box
        parts = [
            shortened(self.source),
            f"x {x}, y {y}, {width} x {height} px",
            fate_title(self.fate),
        ]
        if self.score is not None:
            parts.append(f"score {self.score:.3f}")
        return "; ".join(parts)


def tiles_of(frame: pd.DataFrame) -> list[Tile]:
    """Tiles of rows of the manifest, in their order."""
    columns = list(TILE_COLUMNS)
    return [
        Tile.of(dict(zip(columns, row, strict=True)))
        for row in frame[columns].itertuples(index=False, name=None)
    ]


def fate_name(decision: str, reason: str | None) -> str:
    """Decision and reason in one word, as the run's record counts them."""
    return decision if reason is None else f"{decision}/{reason}"


def fate_title(fate: str) -> str:
    """Say a fate in words: ``Dropped: near duplicate``."""
    decision, _, reason = fate.partition("/")
    start = _STARTS.get(decision, decision)
    return _TITLES.get(fate, f"{start}: {reason.replace('_', ' ')}" if reason else start)


def fate_order(fate: str) -> tuple[int, str]:
    """Key that sorts fates: kept, in review, dropped."""
    return _ORDER.get(fate.split("/")[0], 3), fate


def style_of(fate: str) -> Style:
    """How tiles of a fate are marked."""
    decision, _, reason = fate.partition("/")
    name = decision if decision in ("keep", "review") else reason
    return STYLES.get(name, STYLES["other"])


def shortened(name: str, longest: int = 120) -> str:
    """Keep the end of a long path: the start of it is shared by many."""
    return name if len(name) <= longest else "…" + name[1 - longest :]


def draws(tile_ids: npt.NDArray[np.object_]) -> npt.NDArray[np.uint64]:
    """Draw a number a tile, from its name alone: the same in any run, order and part."""
    return pd.util.hash_array(tile_ids, categorize=False)


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
