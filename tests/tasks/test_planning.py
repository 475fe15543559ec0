"""What a run would take: on real headers, and on ten thousand films that are rows alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from storage.records import Mammogram
from tasks.planning import MOST_TASKS, Estimate, estimate, estimate_films
from tasks.settings import CurationSettings

ROWS, COLUMNS = 4600, 2700
"""Of a DDSM film at about 50 micrometres."""


def films(n: int) -> list[Mammogram]:
    return [
        Mammogram(
            mammogram_id=f"m{i:020x}",
            patient_key=f"case{i // 4}",
            source=f"case{i // 4}/film{i % 4}.LJPEG",
            file_size_bytes=16_300_000,
            rows=ROWS,
            columns=COLUMNS,
        )
        for i in range(n)
    ]


def ten_thousand(tiles: int = 10_000_000, **settings: object) -> Estimate:
    how = CurationSettings(source="/films", out="/curated", tile_size_px=128, **settings)  # type: ignore[arg-type]
    return estimate_films(how, films(10_000), tiles=tiles, seconds_per_megapixel=0.1)


def test_ten_thousand_films_are_fewer_than_200_task_runs() -> None:
    found = ten_thousand()
    assert found.shards == 625
    assert found.task_runs < 200
    assert (
        ten_thousand(augment_copies=2, augment_labels="malignant", augment_flip_h=True).task_runs
        < 200
    )
    assert ten_thousand(films_per_shard=1).task_runs == found.task_runs
    assert found.task_runs == 4 * MOST_TASKS + 8


def test_more_workers_share_what_can_be_shared_and_nothing_else() -> None:
    found = ten_thousand()
    alone = sum(s.seconds for s in found.stages.values() if not s.shared)
    shared = found.seconds(1) - alone
    for workers in (8, 64):
        assert found.seconds(workers) == pytest.approx(alone + shared / workers)
    assert found.stages["cutting and screening"].shared
    assert not found.stages["clustering"].shared


def test_memory_and_disk_grow_with_the_tiles_and_clustering_with_more_than_that() -> None:
    small, large = ten_thousand(tiles=1_000_000), ten_thousand(tiles=10_000_000)
    assert large.bytes_on_disk == pytest.approx(10 * small.bytes_on_disk, rel=0.01)
    assert large.bytes_of_worker > 2**30
    by_clustering = large.stages["clustering"].seconds / small.stages["clustering"].seconds
    assert by_clustering == pytest.approx(10**1.21, rel=0.01)


def test_the_text_names_films_tiles_bytes_tasks_memory_and_time_on_1_8_and_64_workers() -> None:
    text = str(ten_thousand(workers=16))
    for words in (
        "10,000 used, 163.0 GB",
        "10,000,000 cut",
        "625, in 152 task runs",
        "GiB in the largest worker",
        "on 16 workers",
        "Nothing was written.",
    ):
        assert words in text
    (heads,) = [line.split() for line in text.splitlines() if line.split()[0] == "workers"]
    assert heads == ["workers", "1", "8", "16", "64"]


def test_real_headers_are_read_and_nothing_is_written(film_folder: Path, tmp_path: Path) -> None:
    settings = CurationSettings(
        source=str(film_folder), out=str(tmp_path / "w"), tile_size_px=64, workers=2
    )
    found = estimate(settings)
    assert found.films > 0
    assert found.bytes_read == sum(
        p.stat().st_size for p in film_folder.rglob("*") if p.suffix != ".csv" and p.is_file()
    )
    assert found.seconds(2) < found.seconds(1)
    assert not (tmp_path / "w").exists()
    done = CliRunner().invoke(
        app, ["plan", "--source", str(film_folder), "--out", str(tmp_path / "w")]
    )
    assert done.exit_code == 0
    assert "Nothing was written." in done.output
