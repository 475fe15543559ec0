"""Losses for TensorBoard: what was written comes back by its own reader."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from flows.scalars import Scalars
from storage.errors import InputError
from storage.workspace import Workspace


def test_losses_of_each_training_come_back_by_epoch(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w")
    scalars = Scalars.of(workspace, "run1", True)
    assert scalars is not None
    scalars.add("encoder", 1, {"loss/training": 0.5, "loss/validation": 0.25})
    scalars.add("encoder", 2, {"loss/training": 0.125})
    scalars.close()
    (file,) = (tmp_path / "w/tensorboard/run1/encoder").iterdir()
    found = [
        (value.tag, event.step, value.tensor.float_val[0])
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    assert found == [
        ("loss/training", 1, 0.5),
        ("loss/validation", 1, 0.25),
        ("loss/training", 2, 0.125),
    ]


def test_nothing_is_written_that_was_not_asked_for(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w")
    assert Scalars.of(workspace, "run1", False) is None
    assert not (tmp_path / "w/tensorboard").exists()


def test_without_tensorboard_the_run_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = builtins.__import__

    def lacking(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return whole(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(InputError, match=r"mammosift\[tensorboard\]"):
        Scalars(tmp_path)
