"""Settings of the command that clusters any embeddings. Defaults live here alone."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.run_settings import DaskCluster, dask_cluster_field, one_dask_side, whole_path


class ClusterFileSettings(BaseModel):
    """What a clustering of embeddings is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    embeddings: str = Field(
        title="Embeddings",
        description="Rows to cluster: .npy, a Zarr array, Parquet with a column embedding, or a "
        "workspace.",
        min_length=1,
    )
    out: str = Field(
        title="Labels",
        description="Parquet file to write: row (and tile_id where known), cluster_label (-1 is "
        "noise), membership, outlier_score, and what the method gives besides.",
        min_length=1,
    )
    method: Literal["dbscan", "hdbscan", "kmeans", "neighbours"] = Field(
        "hdbscan",
        title="Method",
        description="neighbours writes the nearest rows of each row instead of labels.",
    )
    eps: float | None = Field(
        None,
        title="Radius",
        description="Of dbscan. Default: the knee of the distances to the min-samples-th row.",
        gt=0,
    )
    min_samples: int = Field(
        5,
        title="Rows of a dense place",
        description="Rows within the radius, itself counted, that make a core row; hdbscan takes "
        "2 or more.",
        ge=1,
    )
    min_cluster_size: int = Field(
        10, title="Smallest cluster", description="Of hdbscan. Unit: rows.", ge=2
    )
    n_clusters: int = Field(20, title="Number of clusters", description="Of kmeans.", ge=1)
    algorithm: Literal["lloyd", "two-level", "minibatch"] = Field(
        "lloyd",
        title="Algorithm",
        description="Of kmeans: lloyd reads all rows in each iteration; two-level reads them four "
        "times, for ten million and more; minibatch learns from a sample and reads them twice.",
    )
    k: int = Field(
        10,
        title="Neighbours",
        description="Of neighbours: nearest rows of each row, itself the first.",
        ge=1,
        le=1000,
    )
    standardise: bool = Field(
        False,
        title="Standardise",
        description="Bring each column to mean 0 and standard deviation 1 first, in float32.",
    )
    exact: bool = Field(
        True,
        title="Exact",
        description="Of hdbscan: --no-exact joins nearest neighbours only, in less time.",
    )
    seed: int = Field(0, title="Seed", description="Of kmeans' starts.", ge=0)
    threads: int | None = Field(
        None, title="Threads", description="Default: one a core; not used with Dask.", ge=1
    )
    dask_address: str | None = Field(
        None,
        title="Dask scheduler",
        description="Address of a running scheduler whose workers do the work, e.g. "
        "tcp://10.0.0.5:8786.",
    )
    dask_cluster: DaskCluster = dask_cluster_field()
    workers: int | None = Field(
        None,
        title="Workers",
        description="Processes of the Dask cluster that do the work, over blocks of rows on disk: "
        "for rows beyond the memory. Default: threads of one process.",
        ge=1,
    )
    scratch: str | None = Field(
        None,
        title="Scratch folder",
        description="Where blocks of rows are written; all workers must reach it. Default: the "
        "temporary folder of this machine.",
    )

    _whole = field_validator("embeddings", "out", "scratch")(whole_path)
    _side = model_validator(mode="after")(one_dask_side)

    @model_validator(mode="after")
    def _one_kind_of_workers(self) -> ClusterFileSettings:
        if self.dask_address is not None and self.workers is not None:
            raise ValueError(
                "--workers starts processes here, --dask-address uses those of a cluster; give one."
            )
        return self

    @model_validator(mode="after")
    def _samples_of_hdbscan(self) -> ClusterFileSettings:
        if self.method == "hdbscan" and self.min_samples < 2:
            raise ValueError(
                f"--min-samples {self.min_samples} counts the row alone; hdbscan needs 2 or more."
            )
        return self
