"""Which device and which precision a network runs at, and how torch is held to repeat itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def default_device() -> torch.device:
    """Choose the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Resolve a precision to the type for autocast; None computes in float32 throughout.

    ``auto`` takes bfloat16 where the device multiplies it in hardware: a recent GPU, or a CPU
    with AVX512-BF16 or AMX. Elsewhere bfloat16 is emulated and slower.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision={precision!r} is not auto, float32 or bfloat16.")
    if precision == "float32":
        return None
    if precision == "bfloat16" or _has_bfloat16(device):
        return torch.bfloat16
    return None


@contextmanager
def autocast(dtype: torch.dtype | None, device: torch.device) -> Iterator[None]:
    """Compute convolutions and products at ``dtype`` inside; None changes nothing."""
    with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        yield


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Hold torch to ``count`` CPU threads inside; None leaves it as it is.

    The setting belongs to the process: do not train twice at a time in one.
    """
    before = torch.get_num_threads()
    if count is not None and count < 1:
        raise ValueError(f"threads={count} must be at least 1.")
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch draw from ``seed`` and use deterministic algorithms inside; restored afterwards.

    The same seed then gives the same bytes on the same machine with the same thread count.
    """
    before = torch.are_deterministic_algorithms_enabled()
    cudnn_benchmark = torch.backends.cudnn.benchmark
    if device.type == "cuda":  # cuBLAS refuses to be deterministic without a fixed workspace
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            torch.backends.cudnn.benchmark = cudnn_benchmark


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
