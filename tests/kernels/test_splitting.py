from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.kernels.splitting import split_of


@given(st.text(), st.integers(0, 10))
def test_a_patient_is_always_in_the_same_part(patient: str, seed: int) -> None:
    shares = {"seed": seed, "validation_fraction": 0.2, "test_fraction": 0.2}
    assert split_of(patient, **shares) == split_of(patient, **shares)


def test_the_shares_hold_over_many_patients() -> None:
    parts = [
        split_of(f"p{i}", seed=0, validation_fraction=0.1, test_fraction=0.2) for i in range(20_000)
    ]
    assert abs(parts.count("test") / len(parts) - 0.2) < 0.01
    assert abs(parts.count("validation") / len(parts) - 0.1) < 0.01


@given(st.text())
def test_without_held_out_shares_everybody_trains(patient: str) -> None:
    assert split_of(patient, seed=0, validation_fraction=0.0, test_fraction=0.0) == "train"


def test_a_larger_validation_share_moves_nobody_out_of_test() -> None:
    def test_patients(validation: float) -> set[int]:
        return {
            i
            for i in range(500)
            if split_of(f"p{i}", seed=3, validation_fraction=validation, test_fraction=0.2)
            == "test"
        }

    assert test_patients(0.1) == test_patients(0.4)
