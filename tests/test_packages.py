"""What a distribution of ours may and may not do to its neighbours, and to itself."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("mammosift", "flows", "tasks", "models", "storage")
LINT = Path(sys.executable).with_name("lint-imports")


def test_no_other_distribution_owns_our_packages() -> None:
    owners = packages_distributions()
    for name in OURS:
        assert set(owners.get(name, ["mammosift"])) == {"mammosift"}, name


def test_the_packages_are_those_of_this_checkout() -> None:
    import importlib

    for name in OURS:
        origin = importlib.import_module(name).__file__
        assert origin is not None
        assert Path(origin).is_relative_to(ROOT)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and their rules, to plant a breach in."""
    import shutil

    for name in OURS:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT, "--no-cache"], cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": "."}
    )


def test_the_import_directions_hold(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "breach"),
    [
        ("storage/manifest.py", "import models.scaling"),
        ("models/scaling.py", "import storage.workspace"),
        ("tasks/kernels/tiling.py", "import storage.errors"),
        ("tasks/kernels/tiling.py", "import pathlib"),
        ("tasks/tiles.py", "import tasks.encoders"),
        ("tasks/tiles.py", "import prefect"),
        ("tasks/films.py", "import flows.curate"),
        ("flows/curate.py", "import mammosift"),
    ],
)
def test_a_planted_breach_is_caught(copy: Path, module: str, breach: str) -> None:
    with (copy / module).open("a") as f:
        f.write(f"\n{breach}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout
