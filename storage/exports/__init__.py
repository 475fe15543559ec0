"""Writers of the formats that others read: one module a format, one class each.

Every writer takes tiles one by one, split by split mixed, and holds no more than one file's part of
them; the same tiles in the same order give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = Mapping[str, Any]


class ExportWriter(Protocol):
    """What all writers share."""

    def add(self, split: str, row: Row, png: bytes) -> None:
        """Take one tile: its split, its columns, its picture as 16-bit PNG."""
        ...

    def close(self) -> list[Path]:
        """Finish all files and list them, relative to the folder."""
        ...


def part_names(folder: Path, parts: Mapping[str, int], suffix: str) -> list[Path]:
    """Give the parts of each split their final names, ``train-00000-of-00003``.

    Parameters
    ----------
    folder : Path
        Where ``<split>-<number>.part`` lie.
    parts : mapping of str to int
        How many there are of each split.
    suffix : str
        Of the final names.
    """
    names = []
    for split, n in sorted(parts.items()):
        for number in range(n):
            target = folder / f"{split}-{number:05d}-of-{n:05d}{suffix}"
            (folder / f"{split}-{number}.part").rename(target)
            names.append(target)
    return names
