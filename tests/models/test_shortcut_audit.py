from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from models import shortcut_audit as audit
from models.shortcut_audit import FOLDS, cross_validated_auc, patient_folds, why_not


def pairs(n_patients: int) -> np.ndarray:
    """Two films a patient."""
    return np.repeat(np.arange(n_patients), 2)


def classes(n_patients: int, seed: int) -> np.ndarray:
    """A class a patient, about half of each."""
    return np.repeat(np.random.default_rng(seed).permutation(n_patients) % 2 == 0, 2)


def test_the_films_of_a_patient_are_in_one_fold() -> None:
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 25, 120)
    folds = patient_folds(rng.random(120) > 0.6, patients, seed=4)
    assert folds.shape == (audit.REPEATS, 120)
    for numbers in folds:
        assert set(numbers) == set(range(FOLDS))
        for patient in np.unique(patients):
            assert len(set(numbers[patients == patient])) == 1


def test_folds_depend_on_the_seed_alone() -> None:
    patients, positive = pairs(20), classes(20, 0)
    one, same, other = (patient_folds(positive, patients, seed=s) for s in (1, 1, 9))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_no_model_is_fitted_on_a_patient_it_is_tested_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that names the patient: a model that had seen it would know the class."""
    patients = pairs(40)
    seen: list[set[int]] = []

    class Spy:
        def fit(self, features: np.ndarray, positive: np.ndarray) -> Spy:
            seen.append(set(features[:, 0].astype(int)))
            return self

        def decision_function(self, features: np.ndarray) -> np.ndarray:
            assert not seen[-1] & set(features[:, 0].astype(int))
            return np.zeros(len(features))

    monkeypatch.setattr(audit, "classifier", Spy)
    positive = classes(40, 2)
    folds = patient_folds(positive, patients, seed=0)
    found = cross_validated_auc(patients[:, None].astype(float), positive, patients, folds, seed=0)
    assert len(seen) == FOLDS * audit.REPEATS
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)  # all scores equal


def test_a_cue_that_is_the_label_has_the_area_one() -> None:
    patients, positive = pairs(30), classes(30, 1)
    folds = patient_folds(positive, patients, seed=0)
    found = cross_validated_auc(positive[:, None].astype(float), positive, patients, folds, seed=0)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert (found.films, found.patients) == (60, 30)


def test_features_that_never_change_say_nothing() -> None:
    patients, positive = pairs(30), classes(30, 1)
    positive[::3] = True  # unequal shares in the folds: pooled scores would fall below 0.5
    folds = patient_folds(positive, patients, seed=0)
    found = cross_validated_auc(np.zeros((60, 7)), positive, patients, folds, seed=0)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_what_is_not_known_of_one_class_alone_says_nothing() -> None:
    """Half of the films lack a feature, and they are one class: their absence is no cue."""
    rng = np.random.default_rng(8)
    patients, positive = pairs(40), classes(40, 8)
    features = rng.standard_normal((80, 3))
    features[:, 2] = np.where(positive, np.nan, 1.0)
    features[:, 1] = np.nan  # of no film
    folds = patient_folds(positive, patients, seed=0)
    without = cross_validated_auc(features[:, :1], positive, patients, folds, seed=0)
    found = cross_validated_auc(features, positive, patients, folds, seed=0)
    assert found == without


def test_the_area_is_that_of_scikit_learn_within_each_fold() -> None:
    rng = np.random.default_rng(5)
    patients, positive = pairs(30), classes(30, 5)
    features = rng.standard_normal((60, 4)) + 0.7 * positive[:, None]
    folds = patient_folds(positive, patients, seed=3, repeats=2)
    won = weight = 0.0
    for numbers in folds:
        for k in range(FOLDS):
            rest, tested = numbers != k, numbers == k
            model = audit.classifier().fit(features[rest], positive[rest])
            n = int(positive[tested].sum()) * int((~positive[tested]).sum())
            scores = model.decision_function(features[tested])
            won += n * float(roc_auc_score(positive[tested], scores))
            weight += n
    found = cross_validated_auc(features, positive, patients, folds, seed=0)
    assert found.value == pytest.approx(won / weight)
    assert found.low < found.value < found.high


def test_noise_is_at_chance_on_average_and_mostly_inside_the_interval() -> None:
    rng = np.random.default_rng(11)
    patients = pairs(40)
    found = []
    for i in range(30):
        positive = classes(40, i)
        folds = patient_folds(positive, patients, seed=i, repeats=2)
        noise = rng.standard_normal((80, 30))
        found.append(cross_validated_auc(noise, positive, patients, folds, seed=i))
    assert np.mean([f.value for f in found]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([f.low <= 0.5 <= f.high for f in found]) >= 0.85


def test_a_film_seen_twice_makes_no_interval_narrower() -> None:
    """The bootstrap draws patients: four copies of every film are no more patients."""
    rng = np.random.default_rng(2)
    positive = np.arange(40) % 2 == 0
    features = rng.standard_normal((40, 3)) + 0.8 * positive[:, None]
    patients = np.arange(40)
    widths = []
    for copies in (1, 4):
        many = [np.repeat(a, copies, axis=0) for a in (features, positive, patients)]
        folds = np.repeat(patient_folds(positive, patients, seed=0), copies, axis=1)
        found = cross_validated_auc(*many, folds, seed=0)
        widths.append(found.high - found.low)
    assert widths[1] > 0.8 * widths[0]


@pytest.mark.parametrize(
    ("positive", "patients", "reason"),
    [
        ([True, False] * 9, range(18), "18 films, fewer than 20"),
        ([True] * 4 + [False] * 20, range(24), "4 patients with the label, fewer than 5"),
        ([True] * 20 + [False] * 8, [*range(20), *[20] * 8], "1 patient with another label"),
    ],
)
def test_too_few_films_or_patients_are_not_measured(
    positive: list[bool], patients: list[int], reason: str
) -> None:
    given = np.array(positive), np.array(patients)
    said = why_not(*given)
    assert said is not None
    assert reason in said
    with pytest.raises(ValueError, match=reason):
        cross_validated_auc(np.zeros((len(positive), 1)), *given, np.zeros((1, 1), int), seed=0)
