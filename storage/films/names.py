"""What a film's name tells, and how patients are named."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from dataclasses import dataclass

_DDSM = re.compile(
    r"(?<![A-Za-z0-9])([ABCD])[_-](\d{4})[_-](\d+)\.(LEFT|RIGHT)_(CC|MLO)(?![A-Za-z])",
    re.IGNORECASE,
)
_CBIS = re.compile(
    r"(?:(Mass|Calc)-(?:Training|Test)_)?(P_\d{5})_(LEFT|RIGHT)_(CC|MLO)(?:_(\d+))?(?:\.dcm)?"
)
_SIDE = re.compile(r"(?<![A-Za-z0-9])(LEFT|RIGHT|L|R)(?=(?:CC|MLO|ML|LM|XCCL)?(?![A-Za-z]))", re.I)
_VIEW = re.compile(r"(?<![A-Za-z0-9])[LR]?(XCCL|XCCM|MLO|LMO|CC|ML|LM)(?![A-Za-z])", re.I)

VIEWS = frozenset({"CC", "MLO", "ML", "LM", "XCCL", "XCCM", "LMO", "FB", "SIO", "ISO", "CV", "AT"})
"""Views that are told apart; DICOM's View Code abbreviations."""


@dataclass(frozen=True)
class NameHints:
    """What a film's name says; None where it says nothing."""

    laterality: str | None = None
    view: str | None = None
    ddsm_case: str | None = None
    """``A_0018_1``, upper case, with underscores."""


@dataclass(frozen=True)
class CbisId:
    """A CBIS-DDSM PatientID, which names the picture and not only the patient."""

    patient: str
    """``P_nnnnn``."""
    laterality: str
    view: str
    kind: str | None
    """``mass`` or ``calc``; None where it does not say (``P_00038_LEFT_CC.dcm``)."""
    abnormality: str | None
    """Number of the finding; None for a whole film."""


def hints(file_name: str) -> NameHints:
    """Read laterality, view and DDSM case from a file name.

    Examples
    --------
    >>> hints("A_0018_1.LEFT_CC.LJPEG")
    NameHints(laterality='L', view='CC', ddsm_case='A_0018_1')
    >>> hints("patient7_R_MLO.png")
    NameHints(laterality='R', view='MLO', ddsm_case=None)
    """
    if ddsm := _DDSM.search(file_name):
        site, number, study, side, view = ddsm.groups()
        return NameHints(side[0].upper(), view.upper(), f"{site.upper()}_{number}_{study}")
    stem = re.sub(r"\.[A-Za-z]{2,5}$", "", file_name)
    view_found = _VIEW.search(stem)
    if view_found is None:  # a lone L or R is no laterality: it may be anything
        sides = {found[1][0].upper() for found in _SIDE.finditer(stem) if len(found[1]) > 1}
    else:
        sides = {found[1][0].upper() for found in _SIDE.finditer(stem)}
    return NameHints(
        sides.pop() if len(sides) == 1 else None,
        view_found[1].upper() if view_found else None,
        None,
    )


def cbis(patient_id: str) -> CbisId | None:
    """Take a CBIS-DDSM PatientID apart; None for any other.

    Examples
    --------
    >>> cbis("Calc-Training_P_00474_LEFT_MLO_1")
    CbisId(patient='P_00474', laterality='L', view='MLO', kind='calc', abnormality='1')
    """
    found = _CBIS.fullmatch(patient_id.strip())
    if found is None:
        return None
    kind, patient, side, view, abnormality = found.groups()
    return CbisId(patient, side[0], view, kind and kind.lower(), abnormality)


def patient_key(patient_id: str) -> str | None:
    """Key of a patient: stable, and readable for the public collections alone.

    CBIS-DDSM gives ``cbis-ddsm:P_00173``, DDSM ``ddsm:A_0018_1``. Any other identifier may be a
    person's: it becomes ``p`` and 16 hex digits of its HMAC-SHA256 under the key in the environment
    variable MAMMOSIFT_PATIENT_SALT (``mammosift`` where that is unset: then whoever knows the
    identifiers can find the keys, so set it for films of your own patients).

    Returns
    -------
    str or None
        None for an empty identifier.
    """
    patient_id = patient_id.strip()
    if not patient_id:
        return None
    if found := cbis(patient_id):
        return f"cbis-ddsm:{found.patient}"
    if re.fullmatch(r"P_\d{5}", patient_id):
        return f"cbis-ddsm:{patient_id}"
    if case := re.fullmatch(r"([ABCD])[_-](\d{4})[_-](\d+)", patient_id):
        return "ddsm:" + "_".join(case.groups())
    salt = os.environ.get("MAMMOSIFT_PATIENT_SALT", "").encode() or b"mammosift"
    return "p" + hmac.new(salt, patient_id.encode(), hashlib.sha256).hexdigest()[:16]


def side(text: str) -> str | None:
    """Laterality as L or R; None for both sides, for neither and for anything else."""
    return {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R"}.get(text.strip().upper())
