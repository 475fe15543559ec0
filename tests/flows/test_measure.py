"""The flows over pictures: measure and augment, from the command to the report."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.cli import BAD_ARGUMENTS, DONE_WITH_EXCLUSIONS, app
from storage.workspace import Workspace
from tasks.picture_settings import AugmentSettings, MeasureSettings
from tests.chromium import CHROMIUM, new_page

run = CliRunner().invoke


def spotted(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    picture = np.full((50, 60, 3), (200 - 20 * number, 160, 130), np.float64)
    picture[10:20, 10 : 20 + 5 * number] *= 0.4
    return np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Four good pictures and six bad ones."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(4):
        cv2.imwrite(str(folder / f"good {i}.png"), spotted(i)[..., ::-1])
    good = Image.fromarray(spotted(0))
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("Dear Sir\n" * 30)
    (folder / "copy.png").write_bytes((folder / "good 1.png").read_bytes())
    (folder / "cut.png").write_bytes((folder / "good 2.png").read_bytes()[:2000])
    good.convert("CMYK").save(folder / "print.jpg")
    frames = io.BytesIO()
    good.save(frames, "GIF", save_all=True, append_images=[Image.fromarray(spotted(1))])
    (folder / "<b>moves.gif").write_bytes(frames.getvalue())
    return folder


def measure(settings: MeasureSettings) -> dict[str, Any]:
    from flows.measure import measure

    return measure(settings)


def augment(settings: AugmentSettings) -> dict[str, Any]:
    from flows.augment import augment

    return augment(settings)


def test_a_run_measures_the_good_and_tells_of_the_bad(
    prefect_server: str, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = MeasureSettings(source=str(mixed), out=str(out), workers=2, images_per_shard=2)
    record = measure(settings)
    assert record["images"] == {
        "found": 10,
        "used": 4,
        "excluded": {"corrupt": 1, "duplicate_film": 1, "unreadable": 1, "unsupported": 3},
    }
    table = pd.read_parquet(out / "areas/areas.parquet")
    dark = table[table.cluster == 0].sort_values("area_fraction")
    spots = sorted(10 * (10 + 5 * i) for i in range(4))
    assert dark.pixel_count.tolist() == pytest.approx(spots, abs=5)
    assert table.pixel_count.sum() == record["pixels"]["measured"] == 4 * 3000
    written = json.loads((out / f"runs/{record['run_id']}.json").read_text())
    assert written["settings"]["clusters"] is None

    page = (out / "report/index.html").read_text()
    assert "<b>moves" not in page
    assert "&lt;b&gt;moves.gif" in page
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    assert "CMYK" in page

    again = measure(settings)
    assert again["stages"]["areas"]["made"] == again["stages"]["samples"]["made"] == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out / "areas/areas.parquet"), table)
    if CHROMIUM:
        assert_page_is_sound(out / "report/index.html")


def test_films_give_the_dense_share_of_each(
    prefect_server: str, film_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    record = measure(
        MeasureSettings(source=str(film_folder), out=str(out), kind="films", workers=2)
    )
    assert record["images"]["used"] == 12
    table = pd.read_parquet(out / "areas/areas.parquet")
    assert set(table.cluster_name) == {"background", "fat", "dense"}
    assert "Dense area" in (out / "report/index.html").read_text()
    if CHROMIUM:
        assert_page_is_sound(out / "report/index.html")


def test_copies_are_written_with_a_table_a_sheet_and_a_page(
    prefect_server: str, mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    settings = AugmentSettings(
        source=str(mixed), out=str(out), workers=2, rotate=90, flip_h=True, noise=0.02, copies=2
    )
    record = augment(settings)
    assert record["images"]["used"] == 4
    assert record["copies"]["written"] == 4 * 5
    table = pd.read_parquet(out / "copies/copies.parquet")
    assert all((out / name).is_file() for name in table.output)
    sheet = cv2.imread(str(out / "report/preview.png"))
    assert sheet.shape[0] > 3 * 200
    again = augment(settings)
    assert again["stages"]["copies"]["made"] == 0
    if CHROMIUM:
        assert_page_is_sound(out / "report/index.html")


def assert_page_is_sound(page: Path) -> None:
    """No error, no request, nothing wider than the window."""
    with new_page() as tab:
        told: list[str] = []
        tab.on("request", lambda r: told.append(r.url))
        tab.on("pageerror", lambda e: told.append(str(e)))
        tab.on("console", lambda m: told.append(m.text))
        for width in (400, 1400):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.goto(page.as_uri())
            assert [t for t in told if not t.startswith(("file:", "data:"))] == []
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


# -- the commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["measure", "augment"])
def test_the_command_has_an_example_and_every_setting(command: str) -> None:
    text = run(app, [command, "--help"]).output
    assert f"Example: mammosift {command}" in text
    model = {"measure": MeasureSettings, "augment": AugmentSettings}[command]
    for name in model.model_fields:
        assert "--" + name.replace("_", "-") in text


def test_augmenting_without_an_operation_exits_with_2(tmp_path: Path) -> None:
    done = run(app, ["augment", "--source", str(tmp_path), "--out", str(tmp_path / "out")])
    assert done.exit_code == BAD_ARGUMENTS
    assert "name at least one of --rotate" in done.output


def test_measuring_in_an_unknown_space_exits_with_2(tmp_path: Path) -> None:
    given = ["measure", "--source", str(tmp_path), "--out", "x", "--colour-space", "cmyk"]
    done = run(app, given)
    assert done.exit_code == BAD_ARGUMENTS
    assert "--colour-space" in done.output


def test_the_command_says_where_to_look(prefect_server: str, mixed: Path, tmp_path: Path) -> None:
    given = ["measure", "--source", str(mixed), "--out", str(tmp_path / "out"), "--strict"]
    done = run(app, [*given, "--workers", "1"])
    assert done.exit_code == DONE_WITH_EXCLUSIONS
    assert "4 pictures used, 6 files excluded" in done.output
    assert "report/index.html" in done.output
    assert Workspace.open(tmp_path / "out").exists("areas", "areas.parquet")
