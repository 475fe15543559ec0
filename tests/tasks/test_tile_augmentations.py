"""Augmented copies: of kept training tiles of the labels named alone, the same in every run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from pydantic import ValidationError

from storage import augmented
from storage.errors import WorkspaceError
from storage.manifest import SPLITS, ManifestWriter, read_manifest
from storage.schemas import MANIFEST
from storage.workspace import ShardRef, Workspace
from tasks import tile_augmentations
from tasks.settings import CurationSettings
from tasks.tile_augmentations import TileCopySettings, augment_tiles
from tasks.tile_dataset import TileDataset

SETTINGS = TileCopySettings(
    labels=("malignant",),
    copies=3,
    operations=(("rotate", 20.0), ("flip_h", 1.0), ("noise", 0.02)),
    seed=5,
)
SHARDS = ("shard0", "shard1", "shard2")
RUN = "20260101T000000Z-abcdef"


@pytest.fixture
def workspace(tmp_path: Path, publish: Callable[..., Workspace]) -> Workspace:
    """Made-up tiles; the manifest's parts are called as a run calls them, after their shards."""
    made = publish(tmp_path / "w")
    table = read_manifest(made)
    shard = table["pixels_uri"].to_pandas().str.split("/").str[1].fillna("shard0").to_numpy()
    part = table["split"].to_pandas().to_numpy()
    writer = ManifestWriter(made, ManifestWriter.staging_name())
    for key in SHARDS:
        for split in SPLITS:
            rows = table.take(np.flatnonzero((shard == key) & (part == split)))
            writer.write_part(key, split, rows.drop_columns(["split"]).cast(MANIFEST))
    writer.publish()
    return made


def augment(workspace: Workspace, settings: TileCopySettings = SETTINGS) -> list[ShardRef]:
    refs = [augment_tiles(workspace.uri, key, settings) for key in SHARDS]
    tile_augmentations.publish(workspace.uri, [ref.key for ref in refs], RUN)
    return refs


def copies_of(workspace: Workspace) -> pd.DataFrame:
    return augmented.read(workspace, [RUN]).to_pandas()


def pixels(workspace: Workspace, row: pd.Series) -> np.ndarray:
    return np.asarray(zarr.open_array(f"{workspace.root}/{row.pixels_uri}")[int(row.pixels_index)])


def test_kept_training_tiles_of_the_labels_are_copied_and_no_others(workspace: Workspace) -> None:
    augment(workspace)
    copies, manifest = copies_of(workspace), read_manifest(workspace).to_pandas()
    wanted = manifest[
        (manifest.split == "train")
        & (manifest.decision == "keep")
        & (manifest.label == "malignant")
    ]
    assert copies.source_tile_id.value_counts().to_dict() == dict.fromkeys(wanted.tile_id, 3)
    assert copies.tile_id.is_unique
    assert set(copies.split) == {"train"}
    held_out = set(manifest[manifest.split != "train"].patient_key)
    assert held_out
    assert not held_out & set(copies.patient_key)


def test_a_copy_differs_from_its_tile_and_says_how(workspace: Workspace) -> None:
    augment(workspace)
    manifest = read_manifest(workspace).to_pandas().set_index("tile_id")
    for _, row in copies_of(workspace).iterrows():
        done = json.loads(row.operations)
        assert done
        assert {d["operation"] for d in done} <= {"rotate", "flip_h", "noise"}
        source = pixels(workspace, manifest.loc[row.source_tile_id])
        assert (pixels(workspace, row) != source).any()
        if [d["operation"] for d in done] == ["flip_h"]:
            assert (pixels(workspace, row) == source[:, ::-1]).all()


def test_a_second_run_makes_nothing_and_another_seed_other_copies(workspace: Workspace) -> None:
    first = augment(workspace)
    table = copies_of(workspace)
    before = [pixels(workspace, row) for _, row in table.iterrows()]
    assert all(ref.reused for ref in augment(workspace))
    workspace.fs.rm(workspace.path(f"augmented/{first[0].key}"), recursive=True)
    again = augment(workspace)
    assert [ref.key for ref in again] == [ref.key for ref in first]
    assert copies_of(workspace).equals(table)
    after = [pixels(workspace, row) for _, row in table.iterrows()]
    np.testing.assert_array_equal(after, before)
    other = augment(workspace, replace(SETTINGS, seed=6))
    assert not any(ref.reused for ref in other)


def test_memory_is_bounded_by_small_batches_that_change_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    augment(workspace)
    whole = {row.tile_id: pixels(workspace, row) for _, row in copies_of(workspace).iterrows()}
    for ref in [augment_tiles(workspace.uri, key, SETTINGS) for key in SHARDS]:
        workspace.fs.rm(workspace.path(f"augmented/{ref.key}"), recursive=True)
    monkeypatch.setattr(tile_augmentations, "BATCH_BYTES", 1)
    augment(workspace)
    for _, row in copies_of(workspace).iterrows():
        np.testing.assert_array_equal(pixels(workspace, row), whole[row.tile_id])


def test_a_data_set_takes_copies_in_where_it_is_asked_to(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="no augmented copies"):
        TileDataset(workspace, split="train", augmented=True)
    augment(workspace)
    alone, more = (TileDataset(workspace, split="train", augmented=a) for a in (False, True))
    copies = copies_of(workspace)
    assert len(more) == len(alone) + len(copies)
    assert set(more.table["tile_id"].to_pylist()) >= set(copies.tile_id)
    sources = more.table["source_tile_id"].to_pylist()
    assert sum(s is not None for s in sources) == len(copies)
    malignant = more.classes.index("malignant")
    place = more.table["tile_id"].to_pylist().index(copies.tile_id[0])
    item = more[place]
    assert item["target"] == malignant
    expected = pixels(workspace, copies.iloc[0]).astype(np.float32) / np.float32(65535)
    np.testing.assert_array_equal(item["pixels"][0].numpy(), expected)
    seen = [i for batch in more.stream(8, seed=1) for i in batch["index"].tolist()]
    assert sorted(seen) == list(range(len(more)))


def test_parts_that_are_held_out_have_no_copies(workspace: Workspace) -> None:
    augment(workspace)
    for split in ("validation", "test"):
        alone, more = (TileDataset(workspace, split=split, augmented=a) for a in (False, True))
        assert len(more) == len(alone) > 0


def test_copies_of_another_manifest_are_refused(workspace: Workspace) -> None:
    refs = augment(workspace)
    tile_augmentations.publish(workspace.uri, [ref.key for ref in refs], "another")
    with pytest.raises(WorkspaceError, match="of run another"):
        TileDataset(workspace, augmented=True)
    augmented.withdraw(workspace)
    assert not workspace.exists(augmented.TABLE)


def test_copies_need_labels_and_an_operation() -> None:
    films = {"source": "/films", "out": "/out"}
    with pytest.raises(ValidationError, match="needs augment_labels"):
        CurationSettings(**films, augment_copies=2)  # type: ignore[arg-type]
    none = dict.fromkeys(("augment_rotate", "augment_noise", "augment_brightness"), 0.0)
    none |= {"augment_contrast": 0.0, "augment_flip_h": False, "augment_flip_v": False}
    with pytest.raises(ValidationError, match="without any operation"):
        CurationSettings(**films, **none, augment_copies=2, augment_labels="benign")  # type: ignore[arg-type]
    good = CurationSettings(**films, augment_copies=1, augment_labels=" b, a,b")  # type: ignore[arg-type]
    assert good.labels_to_copy == ("a", "b")
    assert [name for name, _ in good.copy_operations] == [
        "rotate",
        "flip_h",
        "flip_v",
        "brightness",
        "contrast",
        "noise",
    ]
