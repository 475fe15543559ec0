"""Classes of tiles and the figures of agreement, by hand and beside the reference script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.agreement import (
    agreement,
    average_precision,
    tile_classes,
    truth_shares,
)

SIZE = 20
KINDS = ["misinformative", "tissue", "empty", "mixed", "ambiguous", "misinformative"]


def made_up_film() -> tuple[np.ndarray, np.ndarray]:
    """Truth of a film of six tiles in a row, one of each class and a plate; and their boxes."""
    truth = np.zeros((SIZE, 6 * SIZE), np.uint8)
    x = np.arange(6) * SIZE
    truth[:2, :2] = 2  # 4 of 400 pixels lettered: just 1 %
    truth[:, x[1] : x[2]] = 1
    truth[:10, x[3] : x[4]] = 1
    truth[15, x[3] : x[3] + 5] = 2
    truth[:1, x[4] : x[4] + 10] = 1  # 2.5 % of breast and nothing else
    truth[:5, x[5] : x[5] + 5] = 3
    boxes = np.stack([x, np.zeros(6), np.full(6, SIZE), np.full(6, SIZE)], axis=1)
    return truth, boxes.astype(np.int64)


def test_each_class_has_its_tile():
    truth, boxes = made_up_film()
    assert tile_classes(truth_shares(truth, boxes)).tolist() == KINDS


def test_a_tile_just_below_one_percent_of_lettering_is_ambiguous():
    assert tile_classes(np.array([[0, 0.0099, 0], [0, 0.01, 0]])).tolist() == [
        "ambiguous",
        "misinformative",
    ]


def test_ignored_pixels_count_for_nothing_and_a_tile_of_them_has_no_class():
    truth, boxes = made_up_film()
    ignored = np.zeros(truth.shape, bool)
    ignored[:, SIZE : 2 * SIZE] = True
    shares = truth_shares(truth, boxes[:2], ignored)
    assert np.isnan(shares[1]).all()
    assert tile_classes(shares).tolist() == ["misinformative", "ambiguous"]


def test_average_precision_by_hand():
    positive = np.array([True, False, True, False])
    assert average_precision(positive, np.array([4, 3, 2, 1])) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(positive & False, np.arange(4.0)))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_average_precision_depends_on_the_order_of_scores_alone(rows):
    positive, score = (np.array(column) for column in zip(*rows, strict=True))
    np.testing.assert_equal(
        average_precision(positive, score), average_precision(positive, np.exp(score))
    )


def test_black_counts_for_recall_but_not_for_precision():
    kinds = np.array(["misinformative", "misinformative", "tissue", "tissue", "mixed"], object)
    rejected = np.array([True, True, True, False, True])
    as_black = np.array([True, False, False, False, False])
    found = agreement(kinds, rejected, as_black)
    assert (found.recall, found.precision, found.tissue_lost) == (1.0, 0.5, 0.5)


def test_what_cannot_be_divided_is_none():
    none = np.zeros(1, bool)
    found = agreement(np.array(["empty"], object), none, none)
    assert (found.recall, found.precision, found.tissue_lost) == (None, None, None)


@pytest.mark.shared
def test_the_figures_are_those_of_the_reference_script(shared: Path, tmp_path: Path):
    truth, boxes = made_up_film()
    rng = np.random.default_rng(0)
    frames, kinds = [], []
    for film in range(8):
        (tmp_path / "truth").mkdir(exist_ok=True)
        altered = np.where(rng.random(truth.shape) < 0.002 * film, 2, truth).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "truth" / f"film{film}.png"), altered)
        kinds.append(tile_classes(truth_shares(altered, boxes)))
        frame = pd.DataFrame(boxes, columns=["x", "y", "width", "height"])
        frames.append(frame.assign(source=f"film{film}.png"))
    manifest = pd.concat(frames, ignore_index=True)
    n, kind = len(manifest), np.concatenate(kinds)
    manifest["decision"] = rng.choice(["keep", "drop", "review"], n)
    manifest["reason"] = np.where(
        manifest["decision"] == "keep", None, rng.choice(["black", "misinformative"], n)
    )
    black = manifest["reason"].eq("black").to_numpy()
    manifest["misinformative_score"] = np.where(black, np.nan, rng.integers(0, 4, n) / 3)
    manifest.to_parquet(tmp_path / "manifest.parquet")
    script = shared / "truth" / "score.py"
    command = [sys.executable, script, tmp_path / "manifest.parquet", tmp_path / "truth", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = json.loads(done.stdout)

    rejected = (manifest["decision"] != "keep").to_numpy()
    found = agreement(kind, rejected, black)
    assert found.recall == pytest.approx(expected["misinformative_recall"])
    assert found.precision == pytest.approx(expected["misinformative_precision"])
    assert found.tissue_lost == pytest.approx(expected["tissue_lost"])
    scored = np.isin(kind, ["misinformative", "tissue"]) & ~black
    score = manifest["misinformative_score"].to_numpy()
    assert average_precision(kind[scored] == "misinformative", score[scored]) == pytest.approx(
        expected["average_precision"]
    )
    assert {name: int((kind == name).sum()) for name in expected["tiles"]} == expected["tiles"]
