"""Training, validation and test parts, by patient."""

from __future__ import annotations

import hashlib


def split_of(
    patient_key: str, *, seed: int, validation_fraction: float, test_fraction: float
) -> str:
    """Part that a patient belongs to: a hash of the key, so that no other film can change it.

    All films of a patient fall into one part, and a patient stays in it when films are added to the
    set later. The shares hold in expectation; with few patients they can be off, or a part empty.

    Parameters
    ----------
    patient_key : str
        Pseudonym of the patient.
    seed : int
        Another seed draws another split.
    validation_fraction, test_fraction : float
        Shares of the patients, in [0, 1), together below 1.

    Returns
    -------
    str
        ``train``, ``validation`` or ``test``.
    """
    digest = hashlib.sha256(f"{seed}:{patient_key}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64  # uniform in [0, 1)
    if draw < test_fraction:
        return "test"
    if draw < test_fraction + validation_fraction:
        return "validation"
    return "train"
