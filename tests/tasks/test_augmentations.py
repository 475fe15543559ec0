"""Copies of pictures: what is written, with which lineage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from storage.workspace import ShardRef, Workspace
from tasks import augmentations, films, measures
from tasks.operations import operation_of
from tasks.picture_settings import OPERATION_OPTIONS

EVERY = (
    ("rotate", 90.0), ("flip_h", 1.0), ("flip_v", 1.0), ("crop", 0.5), ("blur_sigma", 2.0),
    ("sharpen", 1.0), ("brightness", 0.2), ("contrast", -0.3), ("saturation", 0.5), ("hue", 0.1),
    ("noise", 0.02), ("erase", 0.1), ("mix", 0.3),
)  # fmt: skip


def augmented(folder: Path, out: Path, **changed: Any) -> tuple[pd.DataFrame, list[ShardRef]]:
    settings = augmentations.CopySettings(
        **{
            "operations": EVERY, "copies": 2, "only_copies": False, "format": "png",
            "quality": 95, "kind": "photographs", "seed": 0, "max_film_megapixels": 100.0,
        } | changed
    )  # fmt: skip
    workspace = Workspace.create(out)
    root, batches = films.find(str(folder))
    described = [
        film
        for batch in batches
        for film in measures.describe_batch(
            batch, kind=settings.kind, max_film_megapixels=100, known={}
        )
    ]
    found, _ = films.join(described, root, films_csv=None, lesions_csv=None)
    shards = films.form_shards(found, root, films_per_shard=64)
    refs = [augmentations.augment_shard(str(out), str(root), s, settings) for s in shards]
    return augmentations.publish(workspace, [r.key for r in refs], found).to_pandas(), refs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name, shape, dtype in (
        ("a.png", (30, 40, 3), np.uint8),
        ("sub/a.png", (33, 33, 3), np.uint16),
        ("grey.png", (20, 25), np.uint8),
    ):
        picture = rng.integers(0, np.iinfo(dtype).max, shape, dtype)
        cv2.imwrite(str(tmp_path / "in" / name), picture)
    return tmp_path / "in"


def opened(out: Path, table: pd.DataFrame, source: str, view: str) -> np.ndarray:
    row = table[(table.source == source) & (table["view"] == view)].iloc[0]
    picture = cv2.imread(str(out / row.output), cv2.IMREAD_UNCHANGED)
    assert picture.shape[:2] == (row.height, row.width)
    return picture


def test_each_operation_and_copy_is_one_file_with_its_lineage(folder: Path, tmp_path: Path) -> None:
    table, _ = augmented(folder, tmp_path / "out")
    counts = table.groupby("source").size()
    assert counts["a.png"] == counts["sub/a.png"] == len(EVERY) + 2
    assert counts["grey.png"] == len(EVERY)  # saturation and hue say nothing to it
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out/images").rglob("*.png")}
    assert files == set(table.output)
    assert table.output.is_unique
    for row in table.itertuples():
        steps = json.loads(row.operations)
        assert steps
        assert row.source_sha256
        assert row.patient_key
        if not row.view.startswith("copy"):
            assert len(steps) == 1


def test_turns_and_flips_are_exact_at_8_and_16_bits(folder: Path, tmp_path: Path) -> None:
    table, _ = augmented(folder, tmp_path / "out")
    for source in ("a.png", "sub/a.png", "grey.png"):
        original = cv2.imread(str(folder / source), cv2.IMREAD_UNCHANGED)
        for view, expected in (
            ("rotate", np.rot90(original)),
            ("flip_h", original[:, ::-1]),
            ("flip_v", original[::-1]),
        ):
            copy = opened(tmp_path / "out", table, source, view)
            assert copy.dtype == original.dtype
            assert np.array_equal(copy, expected)


def test_the_same_run_writes_the_same_bytes_and_another_seed_others(
    folder: Path, tmp_path: Path
) -> None:
    def hashes(out: str, seed: int) -> dict[str, str]:
        table, _ = augmented(folder, tmp_path / out, seed=seed)
        return dict(zip(table.output, table.output_sha256, strict=True))

    first = hashes("one", 0)
    assert hashes("two", 0) == first
    other = hashes("three", 1)
    random = {name for name in first if "copy" in name or "noise" in name or "crop" in name}
    assert all(other[name] != first[name] for name in random)


def test_more_copies_leave_the_earlier_ones_as_they_are(folder: Path, tmp_path: Path) -> None:
    few, _ = augmented(folder, tmp_path / "few", copies=2)
    many, _ = augmented(folder, tmp_path / "many", copies=12)
    both = few.merge(many, on="output")
    assert len(both) == len(few)
    assert (both.output_sha256_x == both.output_sha256_y).all()


def test_a_copy_is_never_the_original_itself(folder: Path, tmp_path: Path) -> None:
    table, _ = augmented(
        folder,
        tmp_path / "out",
        operations=(("flip_h", 1.0), ("noise", 0.05)),
        copies=30,
        only_copies=True,
    )
    assert len(table) == 90
    assert all(json.loads(steps) for steps in table.operations)


def test_mixing_adds_a_partner_of_the_same_shard(folder: Path, tmp_path: Path) -> None:
    table, _ = augmented(folder, tmp_path / "out", operations=(("mix", 0.25),), copies=0)
    assert set(table["view"]) == {"mix"}
    assert (table.partner_id != table.image_id).all()
    row = table[table.source == "a.png"].iloc[0]
    step = json.loads(row.operations)[0]
    original = cv2.imread(str(folder / "a.png"), cv2.IMREAD_UNCHANGED).astype(float)
    mixed = opened(tmp_path / "out", table, "a.png", "mix")
    assert step["weight"] == 0.25
    assert mixed.min() >= 0.74 * original.min()
    assert (mixed >= np.floor(0.75 * original)).all()


def test_finished_shards_are_used_again_while_their_files_are_there(
    folder: Path, tmp_path: Path
) -> None:
    table, _ = augmented(folder, tmp_path / "out")
    _, refs = augmented(folder, tmp_path / "out")
    assert all(r.reused for r in refs)
    (tmp_path / "out" / table.output[3]).unlink()
    again, refs = augmented(folder, tmp_path / "out")
    assert not any(r.reused for r in refs)
    assert (tmp_path / "out" / table.output[3]).is_file()
    pd.testing.assert_frame_equal(again, table)


def test_jpeg_is_written_where_asked_for_and_16_bits_stay_png(folder: Path, tmp_path: Path) -> None:
    table, _ = augmented(
        folder, tmp_path / "out", operations=(("flip_h", 1.0),), copies=0, format="jpeg"
    )
    suffix = dict(zip(table.source, table.output.str[-4:], strict=True))
    assert suffix == {"a.png": ".jpg", "grey.png": ".jpg", "sub/a.png": ".png"}


def test_a_damaged_picture_is_a_row_with_its_reason(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "a.png").read_bytes())
    data[300:340] = bytes(40)
    (folder / "a.png").write_bytes(bytes(data))
    table, refs = augmented(folder, tmp_path / "out")
    assert refs[0].counts["excluded"] == 1
    assert "a.png" not in set(table.source)


def test_every_option_has_an_operation() -> None:
    for name, value in EVERY:
        if name != "mix":
            operation = operation_of(name, value, probability=1.0)
            assert operation.probability == 1.0
    assert tuple(name for name, _ in EVERY) == OPERATION_OPTIONS


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (270, 3), (-90, 3)])
def test_multiples_of_90_degrees_are_quarter_turns(degrees: float, turns: int) -> None:
    operation: Any = operation_of("rotate", degrees, probability=1.0)
    assert operation.turns[0] == turns
