"""Where numba keeps what it has compiled of this package."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

OURS = "mammosift-kernels-"
"""How our folders of compiled functions begin; another folder that the user names is left alone."""
KEPT_S = 30 * 24 * 3600
"""Folders of other sources are removed when they have not been used for so long."""


def keep_apart() -> None:
    """Give the compiled functions of these very sources a cache of their own.

    numba looks whether the file of a cached function has changed, not those of the functions that
    it calls: after an update of some files, it would run old code without a word.
    """
    given = os.environ.get("NUMBA_CACHE_DIR")
    if given and not Path(given).name.startswith(OURS):
        return
    here = Path(__file__).parent
    sources = sorted(here.rglob("*.py"))
    if not sources:  # in a zip file: nothing tells one version from another
        return
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    beside = here / "__pycache__"
    home = beside if os.access(beside if beside.exists() else here, os.W_OK) else _user_cache()
    folder = home / f"{OURS}{digest.hexdigest()[:16]}"
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(folder)
    with contextlib.suppress(OSError):
        _remove_unused(folder)


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    home = os.path.expanduser("~/.cache")  # noqa: PTH111  pathlib's raises where there is no home
    return Path(named or home) / "mammosift"


def _remove_unused(folder: Path) -> None:
    """Note that a folder is used, and remove those beside it that no longer are."""
    if folder.exists():
        os.utime(folder)
    for other in folder.parent.glob(f"{OURS}*"):
        if other != folder and time.time() - other.stat().st_mtime > KEPT_S:
            shutil.rmtree(other, ignore_errors=True)
