"""A csv table and PNG files, for programs that know neither Parquet nor tar."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from storage.exports import Row

TABLE = "tiles.csv"
PICTURES = "images"


class CsvWriter:
    """``tiles.csv``, whose column ``file`` names ``images/<split>/<tile_id>.png``.

    Parameters
    ----------
    folder : Path
        Root of the export.
    columns : sequence of str
        Of the table, beside ``file``. A null is an empty cell.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.folder = folder
        self._file = (folder / TABLE).open("w", encoding="utf-8", newline="")
        self._table = csv.DictWriter(self._file, ["file", *columns], lineterminator="\n")
        self._table.writeheader()

    def add(self, split: str, row: Row, png: bytes) -> None:
        """Take one tile."""
        name = f"{PICTURES}/{split}/{row['tile_id']}.png"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        self._table.writerow({"file": name, **row})

    def close(self) -> list[Path]:
        """Finish the table."""
        self._file.close()
        return [Path(TABLE)]
