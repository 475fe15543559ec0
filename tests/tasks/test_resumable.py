"""A training whose state is damaged begins anew, from the weights that it had at first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.autoencoder import AutoencoderConfig
from models.checkpoints import to_bytes
from models.fitting import FitSettings
from models.objectives import Variational
from models.tile_source import ArrayTiles
from models.variational import VariationalAutoencoder
from storage.workspace import Workspace
from tasks.resumable import fit_or_go_on

TINY = AutoencoderConfig(
    name="tiny", input_size_px=16, channels=1, widths=(4, 6), dense_dim=16, latent_dim=5
)
STATE = "trials/.k.training/state.safetensors"


def trained(workspace: Workspace) -> bytes:
    torch.manual_seed(0)
    objective = Variational(VariationalAutoencoder(TINY))
    tiles = np.random.default_rng(0).integers(0, 65536, (12, 16, 16), np.uint16)
    fit_or_go_on(
        objective,
        ArrayTiles(tiles),
        FitSettings(max_epochs=2, batch_size=4),
        workspace=workspace,
        state=STATE,
        name="tiny",
        seed=0,
        validation=None,
        n_threads=1,
    )
    return to_bytes(objective.network)


def test_a_damaged_state_is_removed_and_training_begins_anew(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w")
    undisturbed = trained(workspace)
    whole = workspace.read_bytes(STATE)
    workspace.write_bytes(STATE, whole[:-50])
    assert trained(workspace) == undisturbed
    assert workspace.read_bytes(STATE)[:100] == whole[:100]
