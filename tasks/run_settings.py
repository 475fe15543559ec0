"""What the settings of every run have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo


class RunSettings(BaseModel):
    """Settings of a run: frozen, with nothing that they do not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def only(self, *names: str) -> dict[str, Any]:
        """These settings alone: what a stage depends on, and so what its shards' key is made of."""
        return {name: getattr(self, name) for name in names}


def whole_path(value: str | None, info: ValidationInfo) -> str | None:
    """Whole path of a field that names a file or folder; URIs and None stay.

    A run may start anywhere: a worker of Prefect's starts in a folder that it removes.

    Raises
    ------
    ValueError
        The path is relative.
    """
    if value is None or "://" in value:
        return value
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise ValueError(
            f"{info.field_name}={value!r} is relative, and a run may start in any folder; "
            "give the whole path."
        )
    return str(path)
