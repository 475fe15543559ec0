"""The Python of the pages on training and exports runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.export_settings import ExportSettings
from tasks.exports import export

ROOT = Path(__file__).parents[1]


def blocks(page: str, *, containing: str = "") -> str:
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    chosen = [block for block in found if containing in block]
    assert chosen, page
    return "\n".join(chosen)


def run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    (tmp_path / "curated").symlink_to(published)
    return tmp_path


def test_readme_page_and_example_train_as_they_stand(folder: Path) -> None:
    example = ROOT / "examples/train_with_mammosift.py"
    program = (
        blocks("README.md", containing="mammosift.TileDataset")
        + "print(batch['pixels'].shape)\n"
        + blocks("docs/training.md")
        + "import runpy, sys; sys.argv = ['x', 'curated', '--epochs', '1']\n"
        + f"runpy.run_path({str(example)!r}, run_name='__main__')\n"
    )
    printed = run(program, folder)
    assert "torch.Size([14, 1, 32, 32])" in printed, "the second worker's only batch"
    assert "49 tiles of ('benign', 'malignant')" in printed
    assert "cbis-ddsm:P_00004 {'benign': " in printed
    assert "epoch 1: loss" in printed
    assert "per patient:" in printed


def test_the_page_on_exports_runs_as_it_stands(folder: Path) -> None:
    export(
        ExportSettings(workspace=str(folder / "curated"), out=str(folder / "mammograms"),
                       format="huggingface")
    )  # fmt: skip
    assert "'train': 56" in run(blocks("docs/exports.md"), folder)
