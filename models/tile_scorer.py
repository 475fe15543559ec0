"""Tells tissue from annotations by figures of the tile alone: boosted trees, crossed over patients.

Four classes: tissue, bare ground, an annotation on ground, an annotation on tissue. The last two
are known because they were planted. Trees are scikit-learn's (histogram gradient boosting, after Ke
et al., LightGBM, NeurIPS 2017); they are kept as plain arrays, so that a scorer can be stored and
read without unpickling anything, and applied without scikit-learn.

As many scorers are fitted as there are folds, each without the tiles of its fold. A tile is scored
by the one that has not seen its patient: what was learned by heart does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

TISSUE, GROUND, ANNOTATION, MIXED = 0, 1, 2, 3
"""Classes; ANNOTATION lies on ground, MIXED on tissue."""

N_CLASSES = 4
FOLDS = 3
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Growth:
    """How the trees are grown.

    Parameters
    ----------
    rounds : int
        Trees per class.
    learning_rate : float
        Share of each tree's step that is taken.
    max_leaves : int
        Of a tree.
    min_leaf : int
        Tiles in a leaf, at least: a handful of tiles cannot be learned by heart.
    """

    rounds: int = 60
    learning_rate: float = 0.15
    max_leaves: int = 8
    min_leaf: int = 40


@dataclass(frozen=True)
class Trees:
    """All trees of one scorer as arrays over their nodes."""

    feature: npt.NDArray[np.int32]
    """Figure that a node looks at; -1 in a leaf."""
    threshold: npt.NDArray[np.float64]
    """A figure at or below it goes left."""
    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    """Nodes, counted over all trees."""
    value: npt.NDArray[np.float64]
    """What a leaf adds to the score of the tree's class."""
    roots: npt.NDArray[np.int32]
    """First node of every tree, (rounds * classes,), the classes of a round in a row."""
    baseline: npt.NDArray[np.float64]
    """Score of every class before the first tree, (classes,)."""


@dataclass(frozen=True)
class TileScorer:
    """One set of trees a fold.

    Parameters
    ----------
    folds : tuple of Trees
        Scorer ``f`` has not seen the tiles of fold ``f``.
    figures : tuple of str
        Names of the figures, in their order.
    """

    folds: tuple[Trees, ...]
    figures: tuple[str, ...]

    def log_probabilities(
        self, figures: FloatArray, fold: npt.NDArray[np.int64] | None = None
    ) -> FloatArray:
        """Log probability of each class.

        Parameters
        ----------
        figures : float32, (n, n_figures)
            Of `tasks.kernels.tile_figures`.
        fold : int64, (n,), optional
            Of each tile's patient; -1 for tiles of no fold. Without it all scorers are averaged.

        Returns
        -------
        float32, (n, 4)
        """
        if figures.shape[1:] != (len(self.figures),):
            raise ValueError(
                f"figures have shape {figures.shape}; the scorer knows {len(self.figures)}."
            )
        rows = np.ascontiguousarray(figures, np.float32)
        member = np.full(len(rows), -1) if fold is None else np.asarray(fold)
        total = np.zeros((len(rows), N_CLASSES))
        count = np.zeros((len(rows), 1))
        for f, trees in enumerate(self.folds):
            use = (member == f) | (member < 0) | (member >= len(self.folds))
            if use.any():
                total[use] += _log_softmax(_raw(rows[use], *_arrays(trees)))
                count[use] += 1
        return (total / np.maximum(count, 1)).astype(np.float32)


def averaged(scorers: Sequence[TileScorer]) -> TileScorer:
    """Scorer whose raw scores are the mean of several, all with the same figures and folds."""
    folds = []
    for parts in zip(*(s.folds for s in scorers), strict=True):
        starts = np.cumsum([0, *(len(t.feature) for t in parts)])[:-1]
        inner = [t.feature >= 0 for t in parts]
        folds.append(
            Trees(
                feature=np.concatenate([t.feature for t in parts]),
                threshold=np.concatenate([t.threshold for t in parts]),
                left=_shifted([t.left for t in parts], inner, starts),
                right=_shifted([t.right for t in parts], inner, starts),
                value=np.concatenate([t.value for t in parts]) / len(parts),
                roots=np.concatenate(
                    [t.roots + s for t, s in zip(parts, starts, strict=True)]
                ).astype(np.int32),
                baseline=np.mean([t.baseline for t in parts], axis=0),
            )
        )
    return TileScorer(tuple(folds), scorers[0].figures)


def _shifted(
    children: Sequence[npt.NDArray[np.int32]],
    inner: Sequence[npt.NDArray[np.bool_]],
    starts: npt.NDArray[np.int64],
) -> npt.NDArray[np.int32]:
    """Child nodes counted over all trees; leaves keep 0."""
    moved = [np.where(i, c + s, 0) for c, i, s in zip(children, inner, starts, strict=True)]
    return np.concatenate(moved).astype(np.int32)


def log_odds(log_probabilities: FloatArray) -> FloatArray:
    """Log odds of an annotation on ground against clean tissue, (n,)."""
    return log_probabilities[:, ANNOTATION] - log_probabilities[:, TISSUE]


def annotated_log_odds(log_probabilities: FloatArray) -> FloatArray:
    """Log odds that there is any annotation, on ground or on tissue, (n,)."""
    with_, without = (
        np.logaddexp(log_probabilities[:, a], log_probabilities[:, b])
        for a, b in ((ANNOTATION, MIXED), (TISSUE, GROUND))
    )
    return np.asarray(with_ - without, np.float32)


def tissue_log_odds(log_probabilities: FloatArray) -> FloatArray:
    """Log odds that there is tissue, with or without an annotation, (n,)."""
    with_, without = (
        np.logaddexp(log_probabilities[:, a], log_probabilities[:, b])
        for a, b in ((TISSUE, MIXED), (GROUND, ANNOTATION))
    )
    return np.asarray(with_ - without, np.float32)


def fit_tile_scorer(
    figures: FloatArray,
    classes: IntArray,
    folds: IntArray,
    *,
    names: tuple[str, ...],
    growth: Growth | None = None,
    n_folds: int = FOLDS,
    seed: int = 0,
) -> TileScorer:
    """Fit a scorer, crossed over folds.

    Parameters
    ----------
    figures : float32, (n, n_figures)
        Of the tiles.
    classes : int64, (n,)
        `TISSUE`, `GROUND`, `ANNOTATION` or `MIXED`.
    folds : int64, (n,)
        Fold of each tile's patient, 0 to n_folds - 1; -1: in every scorer.
    names : tuple of str
        Of the figures.
    growth : Growth, optional
        Of the trees.
    n_folds, seed : int
        Scorers, and the random state of their trees.

    Returns
    -------
    TileScorer

    Raises
    ------
    ValueError
        A class is missing from the tiles that one of the scorers would see.
    """
    growth = growth or Growth()
    fitted = []
    for f in range(n_folds):
        use = folds != f
        if missing := sorted(set(range(N_CLASSES)) - set(classes[use].tolist())):
            raise ValueError(f"fold {f}: no tile of the classes {missing} outside of it.")
        fitted.append(_fit(figures[use], classes[use], growth, seed))
    return TileScorer(tuple(fitted), names)


def _fit(
    figures: FloatArray,
    classes: IntArray,
    growth: Growth,
    seed: int,
) -> Trees:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    leaf = max(1, min(growth.min_leaf, len(classes) // 40))
    forest = HistGradientBoostingClassifier(
        max_iter=growth.rounds,
        learning_rate=growth.learning_rate,
        max_leaf_nodes=growth.max_leaves,
        min_samples_leaf=leaf,
        early_stopping=False,
        random_state=seed,
    )
    with threadpool_limits(1):  # a second, and not ten where other work keeps the cores
        forest.fit(figures, classes)
    columns: dict[str, list[npt.NDArray[np.generic]]] = {
        n: [] for n in ("feature", "threshold", "left", "right", "value")
    }
    roots, start = [], 0
    for of_round in forest._predictors:
        for tree in of_round:
            nodes = tree.nodes
            leaf_node = nodes["is_leaf"].astype(bool)
            columns["feature"].append(np.where(leaf_node, -1, nodes["feature_idx"]))
            columns["threshold"].append(np.where(leaf_node, 0.0, nodes["num_threshold"]))
            columns["left"].append(np.where(leaf_node, 0, nodes["left"].astype(np.int64) + start))
            columns["right"].append(np.where(leaf_node, 0, nodes["right"].astype(np.int64) + start))
            columns["value"].append(np.where(leaf_node, nodes["value"], 0.0))
            roots.append(start)
            start += len(nodes)
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Trees(
        feature=joined["feature"].astype(np.int32),
        threshold=joined["threshold"].astype(np.float64),
        left=joined["left"].astype(np.int32),
        right=joined["right"].astype(np.int32),
        value=joined["value"].astype(np.float64),
        roots=np.asarray(roots, np.int32),
        baseline=np.asarray(forest._baseline_prediction, np.float64).ravel(),
    )


def _arrays(trees: Trees) -> tuple[npt.NDArray[np.generic], ...]:
    return (
        trees.feature,
        trees.threshold,
        trees.left,
        trees.right,
        trees.value,
        trees.roots,
        trees.baseline,
    )


@njit(cache=True, nogil=True)
def _raw(figures, feature, threshold, left, right, value, roots, baseline):  # type: ignore[no-untyped-def]
    """Sum of the leaves that every row falls into, (n, classes)."""
    classes = len(baseline)
    out = np.empty((len(figures), classes))
    for i in range(len(figures)):
        out[i] = baseline
        for t in range(len(roots)):
            node = roots[t]
            while feature[node] >= 0:
                goes_left = figures[i, feature[node]] <= threshold[node]
                node = left[node] if goes_left else right[node]
            out[i, t % classes] += value[node]
    return out


def _log_softmax(raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    top = raw.max(axis=1, keepdims=True)
    return np.asarray(raw - top - np.log(np.exp(raw - top).sum(axis=1, keepdims=True)))
