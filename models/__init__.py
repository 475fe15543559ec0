"""Everything that is fitted: networks, objectives, encoders, clusterers, neighbours."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

OURS = "kernels-"
"""How our folders of compiled functions begin; another folder that the user names is left alone."""


def _keep_kernels_apart() -> None:
    """Give the compiled functions of these very sources a cache of their own.

    numba looks whether the file of a cached function has changed, not those of the functions that
    it calls: after an update of some files, it would run old code without a word.
    """
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given and not Path(given).name.startswith(OURS):
        return
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(here.rglob("*.py")):
        digest.update(path.read_bytes())
    beside = here / "__pycache__"
    home = beside if os.access(beside if beside.exists() else here, os.W_OK) else _user_cache()
    folder = str(home / f"{OURS}{digest.hexdigest()[:16]}")
    os.environ["NUMBA_CACHE_DIR"] = folder
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = folder


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mammosift"


_keep_kernels_apart()
