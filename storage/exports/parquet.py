"""Parquet with the pictures in it, as Hugging Face's datasets library reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.exports import Row, part_names

FOLDER = "data"
IMAGE = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
GROUP_BYTES = 32 * 2**20
"""Of pictures in a row group, and so in memory, for each split."""


class ParquetWriter:
    """``data/<split>-00000-of-00001.parquet``: column ``image``, then those of the manifest.

    Parameters
    ----------
    folder : Path
        Root of the export.
    schema : pyarrow.Schema
        Columns beside the picture.
    tiles_per_file : int
    """

    def __init__(self, folder: Path, schema: pa.Schema, tiles_per_file: int) -> None:
        self.folder, self.tiles_per_file = folder, tiles_per_file
        info = {"info": {"features": features(schema)}}
        self.schema = pa.schema(
            [IMAGE, *schema], metadata={b"huggingface": json.dumps(info).encode()}
        )
        self._splits: dict[str, _Split] = {}
        (folder / FOLDER).mkdir()

    def add(self, split: str, row: Row, png: bytes) -> None:
        """Take one tile."""
        held = self._splits.setdefault(split, _Split(self, split))
        held.add({"image": {"bytes": png, "path": f"{row['tile_id']}.png"}, **row}, len(png))

    def close(self) -> list[Path]:
        """Finish all files."""
        parts = {split: held.close() for split, held in self._splits.items()}
        named = part_names(self.folder / FOLDER, parts, ".parquet")
        return [path.relative_to(self.folder) for path in named]


class _Split:
    """Files of one split: rows waiting for their group, groups in the open file."""

    def __init__(self, writer: ParquetWriter, split: str) -> None:
        self.writer, self.split = writer, split
        self.rows: list[dict[str, Any]] = []
        self.bytes = self.in_file = self.files = 0
        self.open: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any], size: int) -> None:
        self.rows.append(row)
        self.bytes += size
        full = self.in_file + len(self.rows) == self.writer.tiles_per_file
        if full or self.bytes >= GROUP_BYTES:
            self._write_group()
        if full:
            self._finish()

    def close(self) -> int:
        self._write_group()
        self._finish()
        return self.files

    def _write_group(self) -> None:
        if not self.rows:
            return
        if self.open is None:
            path = self.writer.folder / FOLDER / f"{self.split}-{self.files}.part"
            compression = dict.fromkeys(_leaves(self.writer.schema), "zstd")
            self.open = pq.ParquetWriter(
                path, self.writer.schema, compression=compression | {"image.bytes": "none"}
            )
        self.open.write_table(pa.Table.from_pylist(self.rows, schema=self.writer.schema))
        self.in_file += len(self.rows)
        self.rows, self.bytes = [], 0

    def _finish(self) -> None:
        if self.open is not None:
            self.open.close()
            self.open, self.in_file = None, 0
            self.files += 1


def features(schema: pa.Schema) -> dict[str, Any]:
    """Hugging Face's names of the columns' types; ``image`` is decoded by the reader."""
    return {"image": {"_type": "Image"}} | {
        field.name: {"_type": "Value", "dtype": _dtype(field.type)} for field in schema
    }


def _dtype(kind: pa.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def _leaves(schema: pa.Schema) -> list[str]:
    return ["image.bytes", "image.path", *(name for name in schema.names if name != "image")]
