"""What a film's name tells, and how patients are named."""

from __future__ import annotations

import re

import pytest

from storage.films import names


@pytest.mark.parametrize(
    ("name", "laterality", "view", "case"),
    [
        ("A_0018_1.LEFT_CC.LJPEG", "L", "CC", "A_0018_1"),
        ("D_4500_1.RIGHT_MLO.png", "R", "MLO", "D_4500_1"),
        ("C-0029-1.RIGHT_MLO.tif", "R", "MLO", "C_0029_1"),
        ("patient7_L_CC.png", "L", "CC", None),
        ("20586908_6c613a14b80a8591_MG_R_ML_ANON.dcm", "R", "ML", None),
        ("x-RCC.dcm", "R", "CC", None),
        ("LMLO.tif", "L", "MLO", None),
        ("right_breast.png", "R", None, None),
        ("L_R_CC.png", None, "CC", None),
        ("mdb001.png", None, None, None),
        ("mdb001lm.png", None, None, None),
        ("accident.png", None, None, None),
        ("1-280.dcm", None, None, None),
    ],
)
def test_names_tell_side_view_and_case(name, laterality, view, case):
    assert names.hints(name) == names.NameHints(laterality, view, case)


@pytest.mark.parametrize(
    ("patient", "key"),
    [
        ("Mass-Test_P_00173_LEFT_CC", "cbis-ddsm:P_00173"),
        ("Calc-Training_P_00173_RIGHT_MLO_2", "cbis-ddsm:P_00173"),
        ("P_00173", "cbis-ddsm:P_00173"),
        ("P_00038_LEFT_CC.dcm", "cbis-ddsm:P_00038"),
        ("P_00038_RIGHT_CC_2.dcm", "cbis-ddsm:P_00038"),
        ("A_0018_1", "ddsm:A_0018_1"),
        ("A-0018-1", "ddsm:A_0018_1"),
        (" ", None),
    ],
)
def test_patients_of_public_collections_keep_their_names(patient, key):
    assert names.patient_key(patient) == key


def test_other_patients_become_pseudonyms_that_depend_on_the_salt(monkeypatch):
    monkeypatch.delenv("MAMMOSIFT_PATIENT_SALT", raising=False)
    plain = names.patient_key("Erika Muster")
    assert plain == names.patient_key(" Erika Muster ")
    assert re.fullmatch(r"p[0-9a-f]{16}", plain)
    monkeypatch.setenv("MAMMOSIFT_PATIENT_SALT", "of this clinic")
    assert names.patient_key("Erika Muster") not in (plain, None)


def test_a_ddsm_case_like_name_of_another_site_is_a_pseudonym():
    assert names.patient_key("E_0018_1").startswith("p")


def test_a_cbis_patient_id_comes_apart():
    assert names.cbis("Calc-Training_P_00474_LEFT_MLO_1") == names.CbisId(
        "P_00474", "L", "MLO", "calc", "1"
    )
    assert names.cbis("Calc-Training_P_00474_LEFT_MLO").abnormality is None
    assert names.cbis("P_00474") is None
