"""How well a few features tell one label from the others, without ever testing on a patient seen.

Cross-validation by patient, an L2 logistic regression, and the area under the ROC curve with a
bootstrap interval, all from scikit-learn and NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

FEWEST_FILMS = 20
FEWEST_PATIENTS = 5
"""Of each class: below that a fold has none, and the figure is noise."""
FOLDS = 5
REPEATS = 5
RESAMPLES = 500
INTERVAL = 0.95
WIDENED = math.sqrt(1 + FOLDS / (FOLDS - 1))
"""The variance of a cross-validated figure is larger than that of its tests alone by one part for
the training sets, which overlap (Nadeau and Bengio 2003): 1.5 for five folds."""
PENALTY = 0.1
"""scikit-learn's C: strong, as there are about as many features as films."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve with its interval; 0.5 is chance."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval of a bootstrap by patient."""
    films: int
    patients: int


def why_not(positive: Bools, patients: Ints) -> str | None:
    """Reason not to measure, in words; None where there is enough of both classes.

    Parameters
    ----------
    positive : (n,) bool
        Films with the label that is told from the others.
    patients : (n,) int64
        Whose film each is.
    """
    if len(positive) < FEWEST_FILMS:
        return f"{len(positive)} films, fewer than {FEWEST_FILMS}"
    for wanted, name in ((True, "with the label"), (False, "with another label")):
        n = len(np.unique(patients[positive == wanted]))
        if n < FEWEST_PATIENTS:
            return f"{n} patient{'s' if n != 1 else ''} {name}, fewer than {FEWEST_PATIENTS}"
    return None


def patient_folds(positive: Bools, patients: Ints, *, seed: int, repeats: int = REPEATS) -> Ints:
    """Fold of each film, all films of a patient in one fold, both classes in like shares.

    Parameters
    ----------
    positive : (n,) bool
        Class of each film.
    patients : (n,) int64
        Whose film each is.
    seed : int
        Of the drawing; repeat r takes seed + r.
    repeats : int
        How often it is drawn anew.

    Returns
    -------
    (repeats, n) int64, in 0..FOLDS-1
    """
    out = np.empty((repeats, len(positive)), dtype=np.int64)
    for r in range(repeats):
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed + r)
        for k, (_, tested) in enumerate(folds.split(positive, positive, patients)):
            out[r, tested] = k
    return out


def classifier() -> Pipeline:
    """Build the classifier: standardised features, then an L2 logistic regression.

    NaN is taken for the mean of the films learnt from, so that what is absent says nothing.

    Linear and strongly regularised: with 60 films it finds lettering at one place or of one
    brightness, and does not learn the films by heart.
    """
    return make_pipeline(
        SimpleImputer(keep_empty_features=True),
        StandardScaler(),
        LogisticRegression(C=PENALTY, max_iter=1000),
    )


def cross_validated_auc(
    features: Floats, positive: Bools, patients: Ints, folds: Ints, *, seed: int
) -> Auc:
    """Measure how well features tell the positive films from the others.

    Only films of one fold are compared with each other, and all such pairs of all folds and repeats
    are pooled: the chance that a positive film scores higher than another film tested beside it,
    ties counted half. Scores of different folds are never compared: they come from models whose
    intercepts follow the share of positives left for training, which runs against the share in the
    fold tested, so that without any cue the pooled curve would fall below 0.5 (Parker, Guenter and
    Bedo 2007).

    Parameters
    ----------
    features : (n, d) floating
        One row a film; NaN is not known.
    positive : (n,) bool
        Its class.
    patients : (n,) int64
        Whose film it is.
    folds : (repeats, n) int64
        From `patient_folds`, of these films or of more that these are from.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Auc
        The bootstrap draws patients with replacement and keeps the models as they are, so it sees
        how much the figure depends on who was tested, not on who was trained with. Its interval is
        therefore widened by `WIDENED`.

    Raises
    ------
    ValueError
        `why_not` has a reason.
    """
    if reason := why_not(positive, patients):
        raise ValueError(f"cannot measure: {reason}.")
    _, patient = np.unique(patients, return_inverse=True)
    rng = np.random.default_rng(seed)
    n_patients = int(patient.max()) + 1
    draws = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=RESAMPLES)
    times = np.vstack([np.ones(n_patients), draws]).astype(np.float64)  # the first: as it is
    won, pairs = np.zeros(len(times)), np.zeros(len(times))
    with threadpool_limits(1):  # small matrices, and the same bytes everywhere
        for tested, scores in _tested(features, positive, folds):
            up, down = (np.flatnonzero(positive[tested] == c) for c in (True, False))
            higher = scores[up, None] > scores[None, down]
            equal = scores[up, None] == scores[None, down]
            weight_up, weight_down = (times[:, patient[tested[i]]] for i in (up, down))
            won += ((weight_up @ (higher + 0.5 * equal)) * weight_down).sum(axis=1)
            pairs += weight_up.sum(axis=1) * weight_down.sum(axis=1)
    areas = won[pairs > 0] / pairs[pairs > 0]
    value, tail = areas[0], (1 - INTERVAL) / 2
    ends = value + WIDENED * (np.quantile(areas[1:], (tail, 1 - tail)) - value)
    low, high = np.clip(ends, 0, 1)
    return Auc(float(value), float(low), float(high), len(positive), n_patients)


def _tested(features: Floats, positive: Bools, folds: Ints) -> Iterator[tuple[Ints, Floats]]:
    """Films of each fold that has both classes, and their scores by a model of the other folds."""
    for numbers in folds:
        for k in range(FOLDS):
            tested = np.flatnonzero(numbers == k)
            rest = numbers != k
            if any(len(np.unique(positive[part])) < 2 for part in (tested, rest)):
                continue
            model = classifier().fit(features[rest], positive[rest])
            yield tested, np.asarray(model.decision_function(features[tested]))
