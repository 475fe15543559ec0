"""What the settings of every run have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo

DaskCluster: TypeAlias = Literal["local", "slurm", "pbs", "kubernetes"]
S = TypeVar("S", bound=BaseModel)


class RunSettings(BaseModel):
    """Settings of a run: frozen, with nothing that they do not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,  # they are logged, and a value may be what should not be
    )

    def only(self, *names: str) -> dict[str, Any]:
        """These settings alone: what a stage depends on, and so what its shards' key is made of."""
        return {name: getattr(self, name) for name in names}


def whole_path(value: str | None, info: ValidationInfo) -> str | None:
    """Whole path of a field that names a file or folder; URIs and None stay.

    A run may start anywhere: a worker of Prefect's starts in a folder that it removes.

    Raises
    ------
    ValueError
        The path is relative, or a URI with a password: settings are shown and written down.
    """
    if value is None or "://" in value:
        if value is not None and urlsplit(value).password is not None:
            raise ValueError(
                f"{info.field_name} holds a password, and settings are shown and written "
                "down; give credentials in the environment (AWS_ACCESS_KEY_ID, ...)."
            )
        return value
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise ValueError(
            f"{info.field_name}={value!r} is relative, and a run may start in any folder; "
            "give the whole path."
        )
    return str(path)


def dask_cluster_field() -> Any:
    """Field ``dask_cluster`` of every run's settings, beside ``dask_address`` and ``workers``."""
    return Field(
        "local",
        title="Dask cluster",
        description="Where workers are started, unless a Dask scheduler's address is given. local: "
        "on this machine; slurm, pbs: as jobs of the batch system; kubernetes: as pods. Queue, "
        "memory and image stand in Dask's own configuration (deployments/README.md).",
    )


def one_dask_side(settings: S) -> S:
    """Check that the three settings of the Dask side go together.

    Raises
    ------
    ValueError
        An address and a kind of cluster are both given, or a cluster without a number of workers.
    """
    kind, address, workers = (
        getattr(settings, name) for name in ("dask_cluster", "dask_address", "workers")
    )
    if kind != "local" and address is not None:
        raise ValueError(
            f"dask_cluster={kind!r} starts workers, dask_address={address!r} uses those that are "
            "there; give one of them."
        )
    if kind != "local" and workers is None:
        raise ValueError(
            f"dask_cluster={kind!r} needs workers: how many processes to ask for, e.g. workers=16."
        )
    return settings
