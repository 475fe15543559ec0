"""The tile scorer: agreement with the peer it is fitted by, and what it must not have seen."""

from __future__ import annotations

import numpy as np
import pytest

from models.tile_scorer import (
    ANNOTATION,
    GROUND,
    MIXED,
    N_CLASSES,
    TISSUE,
    Growth,
    TileScorer,
    _arrays,
    _raw,
    annotated_log_odds,
    averaged,
    fit_tile_scorer,
    log_odds,
    tissue_log_odds,
)

SHORT = Growth(rounds=12)


def tiles(n: int = 600, width: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Figures of which the first two say the class, more or less."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % N_CLASSES
    figures = rng.standard_normal((n, width)).astype(np.float32)
    figures[:, 0] += 1.5 * (classes % 2)
    figures[:, 1] += 1.5 * (classes // 2)
    return figures, classes


def names(width: int) -> tuple[str, ...]:
    return tuple(f"f{i}" for i in range(width))


def fitted(
    figures: np.ndarray, classes: np.ndarray, folds: np.ndarray, *, n_folds: int = 3
) -> TileScorer:
    return fit_tile_scorer(
        figures, classes, folds, names=names(figures.shape[1]), growth=SHORT, n_folds=n_folds
    )


def test_probabilities_sum_to_one() -> None:
    figures, classes = tiles()
    scorer = fitted(figures, classes, np.arange(600) % 3)
    unseen, _ = tiles(seed=1)
    said = scorer.log_probabilities(unseen, np.arange(600) % 3)
    assert said.shape == (600, N_CLASSES)
    np.testing.assert_allclose(np.exp(said.astype(np.float64)).sum(axis=1), 1, atol=1e-6)
    assert (said.argmax(axis=1) == classes).mean() > 0.5


def test_the_arrays_say_what_the_forest_says() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    figures, classes = tiles()
    forest = HistGradientBoostingClassifier(
        max_iter=SHORT.rounds,
        learning_rate=SHORT.learning_rate,
        max_leaf_nodes=SHORT.max_leaves,
        min_samples_leaf=15,  # a fortieth of the tiles
        early_stopping=False,
        random_state=0,
    ).fit(figures, classes)
    scorer = fitted(figures, classes, np.full(600, -1), n_folds=1)
    unseen, _ = tiles(seed=2)
    at_thresholds = figures  # every threshold lies between two of these
    for rows in (unseen, at_thresholds):
        proba = forest.predict_proba(rows)
        np.testing.assert_allclose(scorer.log_probabilities(rows), np.log(proba), atol=1e-6)


def test_a_tile_is_scored_by_the_trees_that_have_not_seen_its_fold() -> None:
    """In fold 0 a figure gives the class away; elsewhere it is noise."""
    rng = np.random.default_rng(0)
    n = 900
    classes, folds = np.arange(n) % N_CLASSES, np.arange(n) // N_CLASSES % 3
    figures = rng.standard_normal((n, 2)).astype(np.float32)
    figures[:, 1] = rng.integers(0, N_CLASSES, n)
    leaky = folds == 0
    figures[leaky, 1] = 10 + classes[leaky]
    scorer = fitted(figures, classes, folds)
    crossed = scorer.log_probabilities(figures[leaky], folds[leaky])
    by_others = scorer.log_probabilities(figures[leaky], np.ones(leaky.sum(), np.int64))
    assert (by_others.argmax(axis=1) == classes[leaky]).mean() > 0.95, "the leak can be learned"
    assert (crossed.argmax(axis=1) == classes[leaky]).mean() < 0.4, "a quarter by chance"


def test_a_tile_of_no_fold_gets_the_mean_of_all_scorers() -> None:
    figures, classes = tiles(300)
    scorer = fitted(figures, classes, np.arange(300) % 3)
    one_by_one = [scorer.log_probabilities(figures, np.full(300, f)) for f in range(3)]
    for fold in (None, np.full(300, -1), np.full(300, 3)):
        said = scorer.log_probabilities(figures, fold)
        np.testing.assert_allclose(said, np.mean(one_by_one, axis=0), atol=1e-5)


def test_tiles_of_no_fold_are_learned_by_every_scorer() -> None:
    figures, classes = tiles(400)
    folds = np.full(400, -1)
    scorer = fitted(figures, classes, folds)
    alone = fitted(figures, classes, folds, n_folds=1)
    for trees in scorer.folds:
        for name, array in vars(alone.folds[0]).items():
            np.testing.assert_array_equal(getattr(trees, name), array)


def test_an_averaged_scorer_gives_the_mean_of_the_raw_scores() -> None:
    folds = np.arange(400) % 3
    several = [fitted(*tiles(400, seed=seed), folds) for seed in range(3)]
    figures, _ = tiles(100, seed=9)
    for f, trees in enumerate(averaged(several).folds):
        parts = [_raw(figures, *_arrays(s.folds[f])) for s in several]
        np.testing.assert_allclose(_raw(figures, *_arrays(trees)), np.mean(parts, axis=0))
        inner = trees.feature >= 0
        own = np.arange(len(inner))[inner]
        for child in (trees.left[inner], trees.right[inner]):
            assert (child > own).all()
            assert (child < len(inner)).all()
    one = averaged(several[:1])
    np.testing.assert_array_equal(
        one.log_probabilities(figures), several[0].log_probabilities(figures)
    )


def test_the_same_tiles_give_the_same_bytes() -> None:
    figures, classes = tiles(400)
    folds = np.arange(400) % 3
    one, other = (fitted(figures, classes, folds) for _ in range(2))
    for a, b in zip(one.folds, other.folds, strict=True):
        for name, array in vars(a).items():
            assert array.tobytes() == getattr(b, name).tobytes()


def test_a_class_that_only_one_fold_has_is_refused_and_named() -> None:
    figures, classes = tiles(200)
    folds = np.where(classes == MIXED, 1, np.arange(200) % 3)
    with pytest.raises(ValueError, match=r"fold 1: no tile of the classes \[3\] outside of it"):
        fitted(figures, classes, folds)
    with pytest.raises(ValueError, match=r"fold 0: no tile of the classes \[0, 2, 3\]"):
        fitted(figures, np.full(200, GROUND), folds, n_folds=1)


def test_figures_of_another_number_are_refused() -> None:
    figures, classes = tiles(200)
    scorer = fitted(figures, classes, np.full(200, -1), n_folds=1)
    with pytest.raises(ValueError, match=r"\(200, 5\); the scorer knows 6"):
        scorer.log_probabilities(figures[:, :5])


def test_no_tiles_have_no_scores() -> None:
    figures, classes = tiles(200)
    scorer = fitted(figures, classes, np.full(200, -1), n_folds=1)
    assert scorer.log_probabilities(figures[:0]).shape == (0, N_CLASSES)


def test_odds_are_those_of_the_classes_named() -> None:
    chance = np.zeros((1, N_CLASSES))
    chance[0, [TISSUE, GROUND, ANNOTATION, MIXED]] = 0.5, 0.2, 0.1, 0.2
    said = np.log(chance).astype(np.float32)
    assert np.exp(log_odds(said))[0] == pytest.approx(0.1 / 0.5)
    assert np.exp(annotated_log_odds(said))[0] == pytest.approx(0.3 / 0.7)
    assert np.exp(tissue_log_odds(said))[0] == pytest.approx(0.7 / 0.3)
