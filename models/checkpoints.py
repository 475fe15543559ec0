"""Networks to bytes and back: safetensors for the weights, JSON for the shape, never pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from models.autoencoder import Autoencoder, AutoencoderConfig, build

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """Weights or configuration are damaged, or do not belong together."""


def to_bytes(model: nn.Module) -> bytes:
    """Write a network's weights and running statistics as safetensors.

    Equal weights give equal bytes: safetensors orders the tensors itself, and no time or path is
    stored.
    """
    return save(plain_tensors(model.state_dict()))


def config_json(config: AutoencoderConfig) -> str:
    """Write a configuration as JSON with sorted keys: the companion of `to_bytes`."""
    record = {"format_version": FORMAT_VERSION, **dataclasses.asdict(config)}
    return json.dumps(record, sort_keys=True, indent=2) + "\n"


def parse_config(text: str) -> AutoencoderConfig:
    """Read what `config_json` wrote.

    Raises
    ------
    CheckpointError
        The text is no configuration of a network, or one of another format version.
    """
    try:
        record = json.loads(text)
        version = record.pop("format_version")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"The network's configuration has format_version={version}; this mammosift reads "
                f"{FORMAT_VERSION}. Train again, or use the mammosift that wrote it."
            )
        return AutoencoderConfig(**{**record, "widths": tuple(record["widths"])})
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"This is no configuration of a network: {error}") from error


def from_bytes(weights: bytes, config_text: str) -> Autoencoder:
    """Rebuild a network in evaluation mode on the CPU.

    Parameters
    ----------
    weights : bytes
        What `to_bytes` wrote.
    config_text : str
        What `config_json` wrote.

    Raises
    ------
    CheckpointError
        Damaged bytes; a tensor missing, of another shape or type, or too many; values that are
        not finite.
    """
    model = build_quietly(parse_config(config_text))
    load_into(model, read_tensors(weights), what="weights")
    return model.eval()


def build_quietly(config: AutoencoderConfig) -> Autoencoder:
    """Build a network whose first weights do not matter, without touching the random state."""
    with torch.random.fork_rng(devices=[]):
        return build(config)


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Read safetensors bytes; `CheckpointError` where they are damaged."""
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"The stored network is damaged ({len(data)} bytes, {error}). Delete it and train "
            "again."
        ) from error


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Copy tensors into a network after checking that each fits; ``what`` names them in errors."""
    expected = model.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"The stored {what} lack {', '.join(missing)}.")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise CheckpointError(f"The stored {what} hold unknown tensors: {', '.join(unknown)}.")
    for name, target in expected.items():
        stored = tensors[name]
        if stored.shape != target.shape or stored.dtype != target.dtype:
            raise CheckpointError(
                f"{name} is {stored.dtype} {tuple(stored.shape)} in the stored {what}, and "
                f"{target.dtype} {tuple(target.shape)} in network {_name(model)!r}."
            )
        if stored.is_floating_point() and not torch.isfinite(stored).all():
            raise CheckpointError(f"{name} holds values that are not finite. Train again.")
        target.copy_(stored)  # state_dict() is detached and shares the network's memory


def _name(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "name", type(model).__name__))


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to the CPU, row by row in memory whatever their order was before."""
    return {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}


def require_same(stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse the state of another training; both are what their identities say."""
    differing = [key for key in wanted if stored.get(key) != wanted[key]]
    if differing:
        what = "; ".join(f"{key} was {stored.get(key)}, is {wanted[key]}" for key in differing)
        raise CheckpointError(
            f"The training state to resume is from another training: {what}. Train afresh."
        )


def read_header(data: bytes) -> dict[str, Any]:
    """Read the metadata of a training state's bytes that `read_tensors` has found sound.

    The format: 8 bytes little-endian length, then that many bytes of JSON.
    """
    length = int.from_bytes(data[:8], "little")
    try:
        header: dict[str, Any] = json.loads(
            json.loads(data[8 : 8 + length])["__metadata__"]["training"]
        )
        for name in ("identity", "history", "numbers", "groups", "position"):
            header[name]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"These bytes are no training state: {error!r}.") from error
    return header


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin so, the prefix taken off."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors, apart from what they were computed of."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
