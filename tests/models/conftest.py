"""Tiles and networks small enough to train in a moment."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.autoencoder import AutoencoderConfig


@pytest.fixture(scope="session")
def tiny_config() -> AutoencoderConfig:
    return AutoencoderConfig(
        name="tiny", input_size_px=16, channels=1, widths=(4, 6), dense_dim=16, latent_dim=5
    )


@pytest.fixture(scope="session")
def tiles() -> NDArray[np.uint16]:
    """Forty tiles of a bright disc on a dark ground, uint16 (40, 20, 20)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :20]
    centres = rng.uniform(5, 15, (40, 2, 1, 1))
    radii = rng.uniform(2, 6, (40, 1, 1))
    discs = np.hypot(y - centres[:, 0], x - centres[:, 1]) < radii
    made = (discs * 50_000 + rng.integers(0, 5_000, discs.shape)).astype(np.uint16)
    assert made.shape == (40, 20, 20)
    assert made.max() > 49_999
    made.flags.writeable = False
    return made
