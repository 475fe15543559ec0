"""Settings of a fetch. Defaults live here alone; the command and the form in the UI show them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from tasks.run_settings import RunSettings, whole_path


class FetchSettings(RunSettings):
    """What a fetch is told. Frozen: it cannot change on the way."""

    collection: Literal["cbis-ddsm"] = Field(
        "cbis-ddsm",
        title="Collection",
        description="cbis-ddsm: digitised films of the Imaging Data Commons.",
        json_schema_extra={"positional": True},
    )
    out: str = Field(
        title="Folder",
        description="For the films, a folder a patient. What is there and whole is not fetched "
        "again.",
        min_length=1,
    )
    films: int | None = Field(
        None,
        title="Films",
        description="At least so many, by whole patients. Default: all. Unit: films.",
        ge=1,
    )
    view: Literal["CC", "MLO"] | None = Field(
        None, title="View", description="CC or MLO. Default: both."
    )
    label: Literal["malignant", "benign"] | None = Field(
        None, title="Label", description="Of the film; needs the case tables. Default: all."
    )
    cases: str | None = Field(
        None,
        title="Case tables",
        description="Folder of the collection's case_description csvs; they hold the labels.",
    )
    with_findings: bool = Field(
        False, title="With findings", description="Also crops and masks of the films' findings."
    )
    parallel: int = Field(8, title="Transfers", description="At a time. Unit: files.", ge=1, le=64)
    endpoint: str | None = Field(
        None,
        title="Address",
        description="Of a mirror of the bucket; {bucket} stands for its name. Default: the bucket.",
    )

    _whole = field_validator("out", "cases", "endpoint")(whole_path)

    @model_validator(mode="after")
    def _labels_are_known(self) -> FetchSettings:
        if self.label is not None and self.cases is None:
            raise ValueError(
                "label needs cases: the folder of the collection's case_description csvs."
            )
        return self
