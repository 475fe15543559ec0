"""Is this machine fit for a run? Each check says what was found and, if it is bad, what to do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Check:
    """One line of the doctor's."""

    name: str
    sound: bool
    finding: str


def examine(workspace: str | None = None) -> Iterator[Check]:
    """Run all checks, the quick ones first.

    Parameters
    ----------
    workspace : str or None
        Also verify the shards of this workspace byte by byte.
    """
    yield from (_python(), _packages(), _machine(), _disk())
    for name, check in (("torch", _torch), ("decoders", _decoders), ("dask", _dask)):
        yield _guarded(name, check)
    yield _guarded("prefect", _prefect)
    if workspace is not None:
        yield _guarded("workspace", lambda: _workspace(workspace))


def _guarded(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except Exception as e:  # a doctor reports whatever is wrong
        return Check(name, False, f"{type(e).__name__}: {e}")


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), f"{platform.python_version()}")


def _packages() -> Check:
    wrong = []
    for line in requires("mammosift") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    remedy = "; install with: pip install -c constraints.txt mammosift"
    finding = "all there" if not wrong else ", ".join(wrong) + remedy
    return Check("packages", not wrong, finding)


def _machine() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    enough = memory.available > 2 * 2**30
    finding = f"{os.cpu_count()} cores, {memory.available / 2**30:.1f} GiB of memory free"
    return Check("machine", enough, finding + ("" if enough else "; a run needs about 2 GiB"))


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    return Check("disk", free > 2**30, f"{free / 2**30:.0f} GiB free in this folder's file system")


def _torch() -> str:
    import torch

    if torch.cuda.is_available():
        return f"torch {torch.__version__}, GPU {torch.cuda.get_device_name()}"
    return f"torch {torch.__version__}, no GPU: training runs on the CPU"


def _decoders() -> str:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import (
        JPEG2000Lossless,
        JPEGBaseline8Bit,
        JPEGLosslessSV1,
        JPEGLSLossless,
        RLELossless,
    )

    syntaxes = (JPEGBaseline8Bit, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless)
    missing = [uid.name for uid in syntaxes if not get_decoder(uid).is_available]
    if missing:
        raise RuntimeError(f"no decoder for {', '.join(missing)}; install the pylibjpeg packages")
    return f"all {len(syntaxes)} compressed DICOM families"


def _dask() -> str:
    from flows.dask_cluster import dask_client, on_worker

    with dask_client(None, 1):
        on_worker(os.getpid)
    return "a local worker started and answered"


def _prefect() -> str:
    import prefect
    from prefect.server.api.server import create_app

    create_app(ephemeral=True)
    return f"prefect {prefect.__version__}, its server can be built"


def _workspace(uri: str) -> str:
    from storage.workspace import Workspace

    workspace = Workspace.open(uri)
    checked = 0
    for kind in ("tiles", "encoders", "embeddings", "clusters"):
        if not workspace.exists(kind):
            continue
        for entry in sorted(workspace.fs.ls(workspace.path(kind), detail=False)):
            key = str(entry).rstrip("/").rsplit("/", 1)[-1]
            if not key.startswith("."):
                workspace.shard(kind, key).check(deep=True)
                checked += 1
    return f"{checked} shards are what they were when they were written"
