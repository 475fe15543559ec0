"""Clusters are named on train alone; probes find what is there, and no more."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

from models.evaluation import (
    LinearProbe,
    Part,
    ProbeSettings,
    agreement,
    choose_clusters,
    draw_by_class,
    evaluate,
    name_clusters,
    predict_by_neighbours,
    scores,
)


def blobs(n: int, seed: int, classes: int = 3) -> Part:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return Part(rows=rng.normal(size=(n, 4)) + 6 * np.eye(classes, 4)[labels], labels=labels)


def test_scores_by_hand() -> None:
    found = scores(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    assert found.accuracy == 0.75
    assert found.macro_precision == pytest.approx((1 + 0.5) / 2)
    assert found.macro_recall == pytest.approx((2 / 3 + 1) / 2)


def test_a_class_never_predicted_has_precision_zero_without_a_warning() -> None:
    assert scores(np.array([0, 1]), np.array([0, 0])).macro_precision == 0.25


def test_purity_by_hand_and_its_bounds() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert agreement(labels, np.array([5, 5, 5, 9, 9, 9])).purity == pytest.approx(4 / 6)
    same = agreement(labels, labels + 3)
    assert (same.purity, same.ari) == (1.0, 1.0)
    assert same.nmi == pytest.approx(1.0)
    counts = confusion_matrix(labels, np.array([0, 0, 0, 1, 1, 1])).max(axis=0).sum()
    assert counts == 4


def test_clusters_are_named_by_their_majority_and_empty_ones_by_the_whole() -> None:
    names = name_clusters(np.array([0, 0, 0, 2, 2]), np.array([1, 1, 0, 0, 0]), 4)
    assert names.tolist() == [1, 0, 0, 0]


def test_neighbours_agree_with_scikit_learn_where_votes_are_not_tied() -> None:
    train, test = blobs(200, 0), blobs(60, 1)
    peer = KNeighborsClassifier(5).fit(train.rows, train.labels)
    clear = peer.predict_proba(test.rows).max(axis=1) > 0.5
    ours = predict_by_neighbours(train, test.rows)
    assert (ours == peer.predict(test.rows))[clear].all()


def test_of_tied_classes_the_nearer_wins() -> None:
    train = Part(rows=np.array([[0.0], [1.0], [2.0], [3.0]]), labels=np.array([1, 0, 0, 1]))
    assert predict_by_neighbours(train, np.array([[0.1], [1.1]]), k=4).tolist() == [1, 0]


def test_a_part_of_the_labels_is_drawn_by_class() -> None:
    labels = np.array([0] * 90 + [1] * 10 + [2])
    drawn = draw_by_class(labels, 0.2, np.random.default_rng(0))
    assert np.bincount(labels[drawn]).tolist() == [18, 2, 1]


def test_everything_is_right_on_distant_blobs_and_repeats_itself() -> None:
    parts = {"train": blobs(300, 0), "validation": blobs(50, 1), "test": blobs(80, 2)}
    probe = ProbeSettings(learning_rate=0.05, epochs=20)
    found = evaluate(parts, n_clusters=3, seed=0, probe=probe)
    for part in ("validation", "test"):
        for measure in ("mapping_accuracy", "knn_accuracy", "linear_accuracy", "purity", "nmi"):
            assert found[part][measure] > 0.97, (part, measure)
    assert "knn_accuracy" not in found["train"]
    assert found == evaluate(parts, n_clusters=3, seed=0, probe=probe)


def test_a_probe_never_sees_the_labels_of_other_parts() -> None:
    train = blobs(100, 0)
    shuffled = Part(rows=train.rows, labels=np.random.default_rng(5).permutation(train.labels))
    probe = LinearProbe(shuffled, ProbeSettings(epochs=5), seed=0)
    test = blobs(300, 1)
    assert scores(test.labels, probe.predict(test.rows)).accuracy < 0.7


def test_the_elbow_lies_at_the_number_of_blobs() -> None:
    assert choose_clusters(blobs(300, 0, classes=4).rows, list(range(1, 11)), seed=0) == 4


def test_clusters_may_be_of_other_rows_than_neighbours_and_probe() -> None:
    train, test = blobs(300, 0), blobs(100, 1)
    useless = {"train": np.zeros((300, 2)), "test": np.zeros((100, 2))}
    useless["train"][0] = 1.0
    found = evaluate({"train": train, "test": test}, n_clusters=2, seed=0, clustered=useless)
    assert found["test"]["knn_accuracy"] > 0.99
    assert found["test"]["mapping_accuracy"] < 0.5


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one label a row"):
        Part(rows=np.zeros((3, 2)), labels=np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="one each"):
        scores(np.array([1]), np.array([1, 2]))
    with pytest.raises(ValueError, match="not in"):
        ProbeSettings(label_share=0)
