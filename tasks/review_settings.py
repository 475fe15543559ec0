"""Settings of a review: the command's options, the TOML file's keys, the form in the Prefect UI."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from tasks.run_settings import (
    DaskCluster,
    RunSettings,
    dask_cluster_field,
    one_dask_side,
    whole_path,
)


class ReviewSettings(RunSettings):
    """What a review is told. Frozen: a run cannot change it."""

    workspace: str = Field(
        title="Workspace",
        description="Folder (or fsspec URI) of a finished run: what its setting out named.",
        min_length=1,
    )
    decisions: str | None = Field(
        None,
        title="Decisions",
        description="Apply this table (csv or Parquet; columns tile_id or cluster, clustering, "
        "verdict, reviewed_by, reviewed_at, note) and publish anew, without asking.",
    )
    reviewer: str | None = Field(
        None,
        title="Reviewer",
        description="Who decides, where a row of the table does not say it.",
        max_length=200,
    )
    misinformative_threshold: float | None = Field(
        None,
        title="Threshold of the misinformative score",
        description="Publish anew with this one. Default: that of the run.",
        ge=0,
        le=1,
    )
    tissue_for_review: float | None = Field(
        None,
        title="Tissue that sends a tile to review",
        description="Publish anew with this one. Default: that of the run. Unit: share of the "
        "tile.",
        ge=0,
        le=1,
    )
    dask_address: str | None = Field(
        None,
        title="Dask scheduler",
        description="Address of a running cluster (tcp://host:8786); default: a local one.",
    )
    dask_cluster: DaskCluster = dask_cluster_field()
    workers: int | None = Field(
        None,
        title="Workers",
        description="Single-threaded processes of the Dask cluster. Default: one a core of this "
        "machine.",
        ge=1,
    )
    wait_for_workspace_min: float = Field(
        0.0,
        title="Wait for the workspace",
        description="How long to wait where another run is at work in this workspace; 0: refuse "
        "at once, and say who holds it. Unit: minutes.",
        ge=0,
        le=7 * 24 * 60,
    )

    _side = model_validator(mode="after")(one_dask_side)
    _whole = field_validator("workspace", "decisions")(whole_path)

    @property
    def thresholds(self) -> dict[str, float]:
        """Those that differ from the run's, as far as anyone said."""
        names = ("misinformative_threshold", "tissue_for_review")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def is_decided(self) -> bool:
        """Whether there is something to apply, so that nobody has to be asked."""
        return self.decisions is not None or bool(self.thresholds)
