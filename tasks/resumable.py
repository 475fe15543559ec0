"""A training that writes its state after each epoch, and goes on from a killed one's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from dask.system import CPU_COUNT

from storage.workspace import Workspace
from tasks import progress

if TYPE_CHECKING:
    from models.epochs import EpochRecord
    from models.fitting import FitResult, FitSettings
    from models.objectives import Objective
    from models.tile_source import TileSource

Result = TypeVar("Result")


def from_state_or_anew(
    workspace: Workspace, state: str, train: Callable[[bytes | None], Result]
) -> Result:
    """Train from the state that a killed run left, or from the start where there is none.

    Parameters
    ----------
    workspace, state : Workspace, str
        Where the state lies. One that is damaged, or of other code, is removed.
    train : callable
        Receives the state, or None.
    """
    from models.checkpoints import CheckpointError

    try:
        return train(workspace.read_bytes(state) if workspace.exists(state) else None)
    except CheckpointError:
        workspace.fs.rm(workspace.path(state))
        return train(None)


def fit_or_go_on(
    objective: Objective,
    tiles: TileSource,
    settings: FitSettings,
    *,
    workspace: Workspace,
    state: str,
    name: str,
    seed: int,
    validation: TileSource | None,
    n_threads: int | None,
) -> FitResult:
    """Train the network of an objective.

    Parameters
    ----------
    objective : Objective
        Its network is trained in place.
    tiles, validation : TileSource
        To train on, and to validate on.
    settings : FitSettings
        How.
    workspace, state : Workspace, str
        Where the state lies between epochs; see `from_state_or_anew`.
    name : str
        Of the training, for those who follow it.
    seed : int
        Draws everything.
    n_threads : int or None
        None is one a core.

    Returns
    -------
    FitResult
    """
    from models.checkpoints import copied, load_into
    from models.fitting import fit

    network = objective.network
    first = copied(network.state_dict())

    def on_epoch(record: EpochRecord) -> None:
        progress.report(
            stage="trial",
            name=name,
            seed=seed,
            epoch=record.epoch,
            max_epochs=settings.max_epochs,
            training_loss=record.training_loss,
            validation_loss=record.validation_loss,
        )

    def train(resume: bytes | None) -> FitResult:
        load_into(network, first, what="first weights")
        return fit(
            objective,
            tiles,
            settings,
            seed=seed,
            validation=validation,
            checkpoint=lambda data: workspace.write_bytes(state, data),
            resume=resume,
            on_epoch=on_epoch,
            n_threads=n_threads or CPU_COUNT,
        )

    return from_state_or_anew(workspace, state, train)
