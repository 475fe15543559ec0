"""Embeddings keep the tiles' order and do not depend on their company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.autoencoder import Autoencoder, AutoencoderConfig, build, network_input
from models.encoding import encode, reconstruct, reconstruction_error


@pytest.fixture
def model(tiny_config: AutoencoderConfig) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(tiny_config)


def test_an_embedding_does_not_depend_on_batch_size_or_order(
    model: Autoencoder, tiles: NDArray[np.uint16]
) -> None:
    whole = encode(model, tiles)
    assert whole.dtype == np.float32
    assert whole.shape == (40, 5)
    scale = np.abs(whole).max()
    for batch_size in (1, 7, 40):
        part = encode(model, tiles, batch_size=batch_size)
        np.testing.assert_allclose(part, whole, rtol=0, atol=1e-5 * scale)
    reversed_ = encode(model, tiles[::-1], batch_size=7)[::-1]
    np.testing.assert_allclose(reversed_, whole, rtol=0, atol=1e-5 * scale)


def test_the_same_call_gives_the_same_bytes(model: Autoencoder, tiles: NDArray[np.uint16]) -> None:
    assert encode(model, tiles).tobytes() == encode(model, tiles).tobytes()


def test_bfloat16_inside_stays_near_float32(model: Autoencoder, tiles: NDArray[np.uint16]) -> None:
    exact = encode(model, tiles)
    rough = encode(model, tiles, precision="bfloat16")
    assert rough.dtype == np.float32
    assert np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


def test_reconstructions_lie_in_the_unit_interval_at_the_networks_size(
    model: Autoencoder, tiles: NDArray[np.uint16]
) -> None:
    images = reconstruct(model, tiles, batch_size=9)
    assert images.shape == (40, 16, 16)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1


def test_the_reconstruction_error_is_the_root_mean_square_difference(
    model: Autoencoder, tiles: NDArray[np.uint16]
) -> None:
    seen = network_input(tiles, model.config, torch.device("cpu"))[:, 0].numpy()
    expected = np.sqrt(np.square(reconstruct(model, tiles) - seen).mean(axis=(1, 2)))
    np.testing.assert_allclose(reconstruction_error(model, tiles), expected, rtol=1e-5)


def test_no_tiles_give_no_rows(model: Autoencoder, tiles: NDArray[np.uint16]) -> None:
    assert encode(model, tiles[:0]).shape == (0, 5)
    assert reconstruct(model, tiles[:0]).shape == (0, 16, 16)
    assert reconstruction_error(model, tiles[:0]).shape == (0,)


def test_arguments_out_of_bounds_are_refused(model: Autoencoder, tiles: NDArray[np.uint16]) -> None:
    with pytest.raises(ValueError, match="batch_size=0"):
        encode(model, tiles, batch_size=0)
    with pytest.raises(ValueError, match="precision='half'"):
        encode(model, tiles, precision="half")  # type: ignore[arg-type]


def test_few_sizes_of_batches_are_seen_whatever_the_number_of_tiles(
    model: Autoencoder, tiles: NDArray[np.uint16], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, encode_images = set(), model.encode

    def noted(images: torch.Tensor) -> torch.Tensor:
        seen.add(len(images))
        return encode_images(images)

    monkeypatch.setattr(model, "encode", noted)
    whole = encode(model, tiles, batch_size=35)
    assert whole.shape == (40, 5)
    for n in (1, 31, 32, 33, 36, 39):
        part = encode(model, tiles[:n], batch_size=35)
        np.testing.assert_allclose(part, whole[:n], rtol=0, atol=1e-5 * np.abs(whole).max())
    assert seen == {32, 35}
