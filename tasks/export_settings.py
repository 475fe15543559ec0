"""Settings of an export: the command's options and the TOML file's keys. Defaults live here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class ExportSettings(BaseModel):
    """What an export is told. Frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    workspace: str = Field(
        title="Workspace",
        description="Folder (or fsspec URI) of a finished run: what its setting out named.",
        min_length=1,
    )
    out: str = Field(
        title="Folder",
        description="New folder for the export. It appears when it is whole.",
        min_length=1,
    )
    format: Literal["webdataset", "huggingface", "croissant", "csv"] = Field(
        title="Format",
        description="webdataset: tar shards. huggingface: Parquet with the pictures in it and a "
        "dataset card. croissant: the same Parquet with Croissant metadata (JSON-LD). csv: a table "
        "and PNG files.",
    )
    tiles: Literal["keep", "keep-and-review", "stored"] = Field(
        "keep",
        title="Tiles",
        description="keep: those that the manifest keeps; keep-and-review: also those that wait "
        "for a person; stored: all whose pixels are stored, the dropped ones too.",
    )
    title: str | None = Field(
        None,
        title="Name of the data set",
        description="Default: the name of the folder.",
        max_length=200,
    )
    licences: str | None = Field(
        None,
        title="Table of licences",
        description="csv with the columns source (a pattern such as clinic-a/*), collection, "
        "licence, url, citation: what may be done with whose films. CBIS-DDSM and DDSM are known.",
    )
    licence: str | None = Field(
        None,
        title="Licence of all other films",
        description="One sentence. Default: the export says that none was stated.",
        max_length=500,
    )
    with_source: bool = Field(
        False,
        title="With the paths of the films",
        description="Paths and reviewers' names are left out otherwise: they may name people.",
    )
    tiles_per_file: int = Field(
        4096,
        title="Tiles per file",
        description="Of a tar shard or a Parquet file.",
        ge=1,
        le=1_000_000,
    )

    @field_validator("out")
    @classmethod
    def _local(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(
                f"out={value!r}: an export is written to a local folder; copy it from there."
            )
        return value
