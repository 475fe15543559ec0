"""Tar shards as the webdataset library reads them: of each tile a png, a json and a cls."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

from storage.exports import Row, part_names

UNKNOWN_CLASS = -1


class WebDatasetWriter:
    """One tar after the other for each split, the same bytes for the same tiles.

    Parameters
    ----------
    folder : Path
        Where the shards go.
    classes : sequence of str
        Labels; ``cls`` is the number of a tile's, -1 where it is unknown.
    tiles_per_file : int
    """

    def __init__(self, folder: Path, classes: Sequence[str], tiles_per_file: int) -> None:
        self.folder, self.tiles_per_file = folder, tiles_per_file
        self._class = {name: number for number, name in enumerate(classes)}
        self._open: dict[str, tarfile.TarFile] = {}
        self._held: dict[str, int] = {}
        self._parts: dict[str, int] = {}

    def add(self, split: str, row: Row, png: bytes) -> None:
        """Take one tile."""
        if split not in self._open:
            number = self._parts.get(split, 0)
            self._open[split] = tarfile.open(  # noqa: SIM115 - open until it is full
                self.folder / f"{split}-{number}.part", "w", format=tarfile.USTAR_FORMAT
            )
            self._parts[split], self._held[split] = number + 1, 0
        label = self._class.get(str(row["label"]), UNKNOWN_CLASS)
        text = json.dumps(dict(row), default=_as_text, ensure_ascii=False, allow_nan=False)
        for suffix, data in (("png", png), ("json", text.encode()), ("cls", str(label).encode())):
            member = tarfile.TarInfo(f"{row['tile_id']}.{suffix}")
            member.size, member.mtime, member.mode = len(data), 0, 0o644
            self._open[split].addfile(member, io.BytesIO(data))
        self._held[split] += 1
        if self._held[split] == self.tiles_per_file:
            self._open.pop(split).close()

    def close(self) -> list[Path]:
        """Finish all shards."""
        for shard in self._open.values():
            shard.close()
        self._open.clear()
        return [p.relative_to(self.folder) for p in part_names(self.folder, self._parts, ".tar")]


def _as_text(value: Any) -> str:
    if isinstance(value, date | datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON")
