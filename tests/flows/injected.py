"""Faults that a test injects into Dask workers: loaded by them as a Dask preload.

``MAMMOSIFT_POISON`` names the end of a path: whoever reads that film dies at once, as by a crash in
a decoder. ``MAMMOSIFT_FULL`` names a file: while it is there, the disk is full for arrays.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

from storage import films, workspace


def dask_setup(_worker: object) -> None:
    read, flush = films.read_pixels, workspace.ArrayWriter._flush

    def deadly(path: Path, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith(os.environ.get("MAMMOSIFT_POISON", "\0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, *args, **kwargs)

    def full(self: workspace.ArrayWriter, n: int) -> None:
        if Path(os.environ.get("MAMMOSIFT_FULL", "\0none")).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "pixels.zarr")
        flush(self, n)

    films.read_pixels = deadly
    workspace.ArrayWriter._flush = full  # type: ignore[method-assign]
