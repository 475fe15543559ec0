"""Compiled functions are of the sources that run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from models import kernel_cache

SAY = "import models, os; print(os.environ['NUMBA_CACHE_DIR'])"
DENIED = "import os; os.access = lambda *_, **__: False; "
"""Root may write anywhere."""


def folder(sources: Path, said: str = SAY, **env: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    run = subprocess.run(
        [sys.executable, "-c", said],
        env=clean | {"PYTHONPATH": str(sources)} | env,
        cwd=sources,
        check=True,
        capture_output=True,
        text=True,
    )
    return run.stdout.strip()


def copied(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    own = Path(str(kernel_cache.__file__))
    for name in ("__init__.py", own.name):
        shutil.copy(own.with_name(name), tmp_path / "models" / name)
    (tmp_path / "models" / "kernel.py").write_text("STEP = 1\n")
    return tmp_path


def test_a_changed_source_has_a_cache_of_its_own(tmp_path: Path) -> None:
    sources = copied(tmp_path)
    before = folder(sources)
    assert Path(before).is_relative_to(sources), "beside the sources"
    assert folder(sources) == before
    (sources / "models" / "kernel.py").write_text("STEP = 2\n")
    after = folder(sources, NUMBA_CACHE_DIR=before)
    assert after != before, "also where the process that starts it still runs the old ones"


def test_caches_of_other_sources_go_when_they_are_no_longer_used(tmp_path: Path) -> None:
    sources = copied(tmp_path)
    now = Path(folder(sources))
    old, recent = (
        now.with_name(f"{kernel_cache.OURS}old"),
        now.with_name(f"{kernel_cache.OURS}recent"),
    )
    for other in (now, old, recent):
        other.mkdir(parents=True)
    long_ago = time.time() - kernel_cache.KEPT_S - 60
    for unused in (now, old):
        os.utime(unused, (long_ago, long_ago))
    assert folder(sources) == str(now)
    assert [p.exists() for p in (now, old, recent)] == [True, False, True]
    assert now.stat().st_mtime > long_ago + 60


def test_an_unknown_user_without_a_home_can_import(tmp_path: Path) -> None:
    found = folder(
        copied(tmp_path), "import pathlib; pathlib.Path.expanduser = None; " + DENIED + SAY
    )
    assert Path(found).name.startswith(kernel_cache.OURS)


def test_a_folder_that_the_user_names_is_kept(tmp_path: Path) -> None:
    assert folder(copied(tmp_path), NUMBA_CACHE_DIR="/elsewhere") == "/elsewhere"


def test_sources_that_cannot_be_written_beside_use_the_users_cache(tmp_path: Path) -> None:
    found = folder(copied(tmp_path), DENIED + SAY, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert Path(found).parent == tmp_path / "cache" / "mammosift"
