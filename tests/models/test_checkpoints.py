"""Networks come back from bytes as they were, or not at all."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save

from models.autoencoder import CONFIGS, Autoencoder, AutoencoderConfig, build, place
from models.checkpoints import CheckpointError, config_json, from_bytes, parse_config, to_bytes
from models.encoding import encode


@pytest.fixture
def model(tiny_config: AutoencoderConfig) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(tiny_config)
    model.encode(torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    return model.eval()


def test_a_network_comes_back_with_the_same_bytes_and_embeddings(
    model: Autoencoder, tiles: NDArray[np.uint16]
) -> None:
    weights = to_bytes(model)
    restored = from_bytes(weights, config_json(model.config))
    assert to_bytes(restored) == weights
    assert not restored.training
    assert np.array_equal(encode(restored, tiles), encode(model, tiles))


def test_bytes_do_not_depend_on_the_memory_order(model: Autoencoder) -> None:
    before = to_bytes(model)
    assert to_bytes(place(model, torch.device("cpu"))) == before


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_configuration_comes_back_equal(name: str) -> None:
    text = config_json(CONFIGS[name])
    assert parse_config(text) == CONFIGS[name]
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_every_kind_of_damage_is_a_clear_error(model: Autoencoder) -> None:
    weights, text = to_bytes(model), config_json(model.config)
    for damaged in (b"", weights[:50], weights[:-1], weights + b"\0", b"\x80\x04" + weights[2:]):
        with pytest.raises(CheckpointError, match="damaged"):
            from_bytes(damaged, text)


def test_weights_that_do_not_fit_are_named(model: Autoencoder) -> None:
    text = config_json(model.config)
    tensors = load(to_bytes(model))
    name = "to_image.bias"
    cases = {
        "lack to_image.bias": {key: t for key, t in tensors.items() if key != name},
        "unknown tensors: extra": {**tensors, "extra": torch.zeros(1)},
        r"to_image.bias is torch.float32 \(2,\)": {**tensors, name: torch.zeros(2)},
        "to_image.bias is torch.float64": {**tensors, name: tensors[name].double()},
        "to_image.bias holds values that are not finite": {
            **tensors,
            name: torch.full_like(tensors[name], float("nan")),
        },
    }
    for message, changed in cases.items():
        with pytest.raises(CheckpointError, match=message):
            from_bytes(save(changed), text)


def test_weights_of_another_network_are_refused(
    model: Autoencoder, tiny_config: AutoencoderConfig
) -> None:
    other = dataclasses.replace(tiny_config, latent_dim=7)
    with pytest.raises(CheckpointError, match=r"to_latent.1.*\(5, 16\).*\(7, 16\)"):
        from_bytes(to_bytes(model), config_json(other))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"format_version": 1}'])
def test_a_text_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="no configuration"):
        parse_config(text)


def test_an_impossible_or_later_configuration_is_refused(tiny_config: AutoencoderConfig) -> None:
    record = json.loads(config_json(tiny_config))
    with pytest.raises(CheckpointError, match="multiple of 4"):
        parse_config(json.dumps({**record, "input_size_px": 3}))
    with pytest.raises(CheckpointError, match="format_version=2"):
        parse_config(json.dumps({**record, "format_version": 2}))


def test_rebuilding_leaves_the_random_state_alone(model: Autoencoder) -> None:
    before = torch.get_rng_state()
    from_bytes(to_bytes(model), config_json(model.config))
    assert torch.equal(torch.get_rng_state(), before)
