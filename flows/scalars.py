"""Losses of a run's trainings for TensorBoard, where the run is told to write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.errors import InputError
from storage.workspace import Workspace

FOLDER = "tensorboard"


class Scalars:
    """Event files in ``tensorboard/<run>/<training>`` of a workspace.

    Parameters
    ----------
    folder : Path
        Of the run.

    Raises
    ------
    InputError
        TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as e:
            raise InputError(
                "tensorboard=true needs TensorBoard: pip install 'mammosift[tensorboard]'."
            ) from e
        self._make, self._folder = Writer, folder
        self._writers: dict[str, Any] = {}

    @classmethod
    def of(cls, workspace: Workspace, run_id: str, wanted: bool | None) -> Scalars | None:
        """Scalars of a run, or None where they are not wanted.

        Raises
        ------
        InputError
            TensorBoard is not installed, or the workspace is no local folder.
        """
        if not wanted:
            return None
        if not workspace.is_local:
            raise InputError(
                f"tensorboard=true writes into a local workspace, and {workspace.uri} is none; "
                "leave it out, or give a folder as out."
            )
        return cls(Path(workspace.path(FOLDER)) / run_id)

    def add(self, training: str, epoch: int, losses: dict[str, float]) -> None:
        """Write the losses of an epoch, by name."""
        if training not in self._writers:
            self._writers[training] = self._make(str(self._folder / training.replace("/", "-")))
        for name, loss in losses.items():
            self._writers[training].add_scalar(name, loss, epoch)
        self._writers[training].flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
