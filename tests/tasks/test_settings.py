from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.settings import CurationSettings


def test_every_field_has_a_title_and_a_description() -> None:
    for name, field in CurationSettings.model_json_schema()["properties"].items():
        assert field.get("title"), name
        assert field.get("description", "").endswith("."), name


def test_every_number_has_a_lower_bound() -> None:
    for name, field in CurationSettings.model_json_schema()["properties"].items():
        for kind in field.get("anyOf", [field]):
            if kind.get("type") in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & (kind.keys() | field.keys()), name


def test_a_stride_that_leaves_gaps_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValidationError, match="use stride_px <= 224"):
        CurationSettings(source="/s", out="/o", tile_size_px=224, stride_px=300)


def test_a_split_without_training_patients_is_refused() -> None:
    with pytest.raises(ValidationError, match="leave no patient to train on"):
        CurationSettings(source="/s", out="/o", validation_fraction=0.5, test_fraction=0.5)


def test_a_password_in_a_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValidationError, match="out holds a password") as told:
        CurationSettings(source="/s", out="s3://reader:hush-hush@films/run")
    assert "hush-hush" not in str(told.value)


def test_a_recall_and_a_precision_are_not_wanted_together() -> None:
    with pytest.raises(ValidationError, match="ask for two thresholds; give one of them"):
        CurationSettings(source="/s", out="/o", wanted_recall=0.9, wanted_precision=0.9)


@pytest.mark.parametrize("wanted", [{"wanted_recall": 0.9}, {"wanted_precision": 0.9}])
def test_without_films_there_is_nothing_to_measure_a_wanted_share_on(
    wanted: dict[str, float],
) -> None:
    with pytest.raises(ValidationError, match="set misinformative_threshold instead"):
        CurationSettings(source="/s", out="/o", context="tile", **wanted)


def test_settings_cannot_be_altered_and_unknown_ones_are_refused() -> None:
    settings = CurationSettings(source="/s", out="/o")
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        CurationSettings(source="/s", out="/o", tile_size=3)  # type: ignore[call-arg]


def test_a_relative_path_is_refused_and_the_home_folder_is_known() -> None:
    with pytest.raises(ValidationError, match="out='curated' is relative"):
        CurationSettings(source="/s", out="curated")
    assert not CurationSettings(source="~/films", out="s3://bucket/w").source.startswith("~")
