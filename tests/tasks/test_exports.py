"""Every export is read back by the library that it is made for."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import yaml

from storage.errors import ExportError, InputError, TableError
from storage.published_tiles import PublishedTiles, tiles
from storage.workspace import Workspace
from tasks import exports
from tasks.export_settings import ExportSettings
from tasks.exports import export, refuse_mixed_patients, refuse_other_names

FORMATS = ("webdataset", "huggingface", "croissant", "csv")
COUNTS = {"train": 56, "validation": 14, "test": 14}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, published: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    for name in FORMATS:
        given = {"workspace": str(published), "out": str(folder / name), "format": name}
        export(ExportSettings(**given, tiles_per_file=20))  # type: ignore[arg-type]
    return {name: folder / name for name in FORMATS}


@pytest.fixture(scope="module")
def expected(published: Path) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    return {row["tile_id"]: (pixels, row) for pixels, row in tiles(published)}


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


def run(program: str, *arguments: str) -> str:
    """A program in a process of its own: other libraries' warnings are not ours."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


DIGEST = """
import hashlib, sys, numpy as np
def told(name, pixels, label, split):
    pixels = np.asarray(pixels).astype("<u2")
    print(name, hashlib.sha256(pixels.tobytes()).hexdigest(), pixels.shape, label, split)
"""


def same(printed: str, expected: dict[str, tuple[np.ndarray, dict[str, Any]]]) -> None:
    import hashlib

    lines = sorted(line for line in printed.splitlines() if line.startswith("m0"))
    assert lines == sorted(
        f"{name} {hashlib.sha256(pixels.tobytes()).hexdigest()} {pixels.shape} {row['label']} "
        f"{row['split']}"
        for name, (pixels, row) in expected.items()
    )


def test_webdataset_reads_the_tar_shards(made: dict[str, Path], expected: Any) -> None:
    program = DIGEST + (
        "import cv2, glob, webdataset as wds\n"
        "shards = sorted(glob.glob(sys.argv[1] + '/*.tar'))\n"
        "for s in wds.WebDataset(shards, shardshuffle=False, empty_check=False).decode():\n"
        "    assert s['cls'] == {'benign': 0, 'malignant': 1, None: -1}[s['json']['label']]\n"
        "    pixels = cv2.imdecode(np.frombuffer(s['png'], 'u1'), cv2.IMREAD_UNCHANGED)\n"
        "    told(s['__key__'], pixels, s['json']['label'], s['json']['split'])\n"
    )
    same(run(program, str(made["webdataset"])), expected)
    names = sorted(p.name for p in made["webdataset"].glob("*.tar"))
    assert names == [
        "test-00000-of-00001.tar",
        *(f"train-0000{i}-of-00003.tar" for i in range(3)),
        "validation-00000-of-00001.tar",
    ]


def test_datasets_reads_the_hugging_face_folder(
    made: dict[str, Path], expected: Any, tmp_path: Path
) -> None:
    program = DIGEST + (
        "import datasets\n"
        "found = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])\n"
        "assert isinstance(found['train'].features['image'], datasets.Image)\n"
        "for split, rows in found.items():\n"
        "    print('SPLIT', split, len(rows))\n"
        "    for row in rows:\n"
        "        assert row['split'] == split\n"
        "        told(row['tile_id'], row['image'], row['label'], split)\n"
    )
    printed = run(program, str(made["huggingface"]), str(tmp_path))
    assert [line for line in printed.splitlines() if line.startswith("SPLIT")] == [
        f"SPLIT {split} {n}" for split, n in COUNTS.items()
    ]
    same(printed, expected)


def test_mlcroissant_finds_no_error_and_reads_the_records(
    made: dict[str, Path], expected: Any
) -> None:
    program = DIGEST + (
        "import mlcroissant as mlc\n"
        "found = mlc.Dataset(sys.argv[1] + '/croissant.json')\n"
        "print('ISSUES', found.metadata.ctx.issues.errors, found.metadata.ctx.issues.warnings)\n"
        "text = lambda value: None if value is None else value.decode()\n"
        "for r in found.records('tiles'):\n"
        "    told(*(text(r['tiles/tile_id']), r['tiles/image'], text(r['tiles/label']),\n"
        "           text(r['tiles/split'])))\n"
    )
    printed = run(program, str(made["croissant"]))
    assert "ISSUES set() set()" in printed
    same(printed, expected)


def test_croissant_names_every_file_with_its_checksum(made: dict[str, Path]) -> None:
    import hashlib

    told = json.loads((made["croissant"] / "croissant.json").read_text())
    files = {f["contentUrl"]: f["sha256"] for f in told["distribution"] if "contentUrl" in f}
    assert files == {
        str(p.relative_to(made["croissant"])): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in made["croissant"].glob("data/*.parquet")
    }
    assert told["conformsTo"].endswith("croissant/1.0")


def test_pandas_reads_the_csv_and_its_pictures(made: dict[str, Path], expected: Any) -> None:
    import pandas as pd

    table = pd.read_csv(made["csv"] / "tiles.csv", dtype={"reason": "str"})
    assert table.groupby("split").size().to_dict() == COUNTS
    for row in table.itertuples():
        pixels, told = expected[row.tile_id]
        picture = cv2.imread(str(made["csv"] / row.file), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(picture, pixels)
        assert (row.label if isinstance(row.label, str) else None) == told["label"]
        assert row.lesion_fraction == told["lesion_fraction"]


def test_polars_and_duckdb_read_parquet_and_csv(made: dict[str, Path], expected: Any) -> None:
    import duckdb
    import polars as pl

    parquet = made["huggingface"] / "data/*.parquet"
    frame = pl.read_parquet(parquet)
    assert dict(frame.group_by("split").len().iter_rows()) == COUNTS
    for row in frame.iter_rows(named=True):
        pixels, told = expected[row["tile_id"]]
        np.testing.assert_array_equal(decoded(row["image"]["bytes"]), pixels)
        assert row["label"] == told["label"]
    for source in (f"read_parquet('{parquet}')", f"'{made['csv'] / 'tiles.csv'}'"):
        counts = duckdb.sql(f"select split, count(*) from {source} group by split").fetchall()  # noqa: S608
        assert dict(counts) == COUNTS
    row = duckdb.sql(f"select tile_id, image.bytes from read_parquet('{parquet}') limit 1")  # noqa: S608
    ((name, png),) = row.fetchall()
    np.testing.assert_array_equal(decoded(png), expected[name][0])


def test_the_same_tiles_give_the_same_bytes(
    made: dict[str, Path], published: Path, tmp_path: Path
) -> None:
    for name in FORMATS:
        out = tmp_path / name
        given = {"workspace": str(published), "out": str(out), "format": name}
        export(ExportSettings(**given, tiles_per_file=20))  # type: ignore[arg-type]
        files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
        assert files == sorted(
            p.relative_to(made[name]) for p in made[name].rglob("*") if p.is_file()
        )
        for file in files:
            assert (out / file).read_bytes() == (made[name] / file).read_bytes(), file


def test_paths_of_films_and_readers_names_stay_at_home_unless_asked_for(
    made: dict[str, Path], published: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    names = pq.read_schema(made["huggingface"] / "data/test-00000-of-00001.parquet").names
    assert {"source", "reviewed_by", "pixels_uri", "pixels_index"}.isdisjoint(names)
    given = {"workspace": str(published), "out": str(tmp_path / "e"), "format": "csv"}
    export(ExportSettings(**given, with_source=True))  # type: ignore[arg-type]
    assert "source" in (tmp_path / "e/tiles.csv").read_text().splitlines()[0].split(",")


def test_tiles_in_review_and_dropped_ones_on_demand(published: Path, tmp_path: Path) -> None:
    for choice, n in (("keep-and-review", 96), ("stored", 108)):
        out = tmp_path / choice
        given = {"workspace": str(published), "out": str(out), "format": "csv", "tiles": choice}
        done = export(ExportSettings(**given))  # type: ignore[arg-type]
        assert sum(done["tiles"].values()) == n


# -- the card --------------------------------------------------------------------------------------


def test_the_card_says_sources_licences_counts_and_limits(made: dict[str, Path]) -> None:
    text = (made["huggingface"] / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["license"] == "cc-by-3.0"
    splits = [part["split"] for part in facts["configs"][0]["data_files"]]
    assert splits == ["train", "validation", "test"]
    assert "| CBIS-DDSM | 12 | 84 | CC BY 3.0" in body
    assert "| train | 4 | 8 | 56 | 21 | 28 | 7 |" in body
    for heading in ("Sources and licences", "Counts", "What was left out", "Known limits"):
        assert f"## {heading}" in body
    for name in FORMATS:
        assert "| CBIS-DDSM | 12 | 84 | CC BY 3.0" in (made[name] / "README.md").read_text()


def test_the_card_tells_what_the_run_measured(
    tmp_path: Path, publish: Callable[..., Workspace]
) -> None:
    workspace = publish(tmp_path / "w", shards=1)
    name = "runs/20260101T000000Z-abcdef.json"
    singly = {"n": 50, "hits": 48, "share": 0.96, "low": 0.865, "high": 0.989}
    workspace.write_json(
        name,
        workspace.read_json(name)
        | {
            "planted": {"all": {"all": [60, 63]}, "tissue": {"unknown": [1, 400]}},
            "review": {"measured": {"flagged": {"singly": singly}}},
            "tiles": {"cut": 40, "by_fate": {"keep": 28, "drop/black": 4}},
            "films": {"found": 6, "excluded": {"corrupt": 2}},
        },
    )
    export(_settings(workspace.uri, tmp_path / "e"))
    text = (tmp_path / "e/README.md").read_text()
    assert "| recall of misinformative tiles | 0.952 (60 of 63) | 0.869 to 0.984 |" in text
    assert "misinformative | 0.960 (48 of 50) | 0.865 to 0.989 |" in text
    assert "Of 40 tiles cut: keep 28, drop: black 4." in text
    assert "Of 6 files found, excluded: corrupt 2." in text


def test_licences_of_own_films_come_from_a_table(published: Path, tmp_path: Path) -> None:
    table = tmp_path / "licences.csv"
    table.write_text("source,collection,licence\ncase0/*,clinic | A,own data\n")
    settings = _settings(str(published), tmp_path / "e", format="huggingface", licences=str(table))
    done = export(settings)
    assert done["licences"] == {"CBIS-DDSM": "CC BY 3.0", "clinic | A": "own data"}
    text = (tmp_path / "e/README.md").read_text()
    assert 'license: "other"' in text
    assert "| clinic \\| A | 2 | 14 | own data |" in text


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("source,licence\n*,x\n", "line 1: no column collection"),
        ("source,collection,licence\n*,,x\n", "line 2: source, collection and licence"),
    ],
)
def test_a_table_of_licences_that_says_too_little_is_refused(
    published: Path, tmp_path: Path, table: str, said: str
) -> None:
    (tmp_path / "l.csv").write_text(table)
    with pytest.raises(TableError, match=said):
        export(_settings(str(published), tmp_path / "e", licences=str(tmp_path / "l.csv")))
    assert not (tmp_path / "e").exists()


# -- refusals --------------------------------------------------------------------------------------


def test_a_patient_in_two_parts_is_refused() -> None:
    table = pa.table({"patient_key": ["a", "b", "b"], "split": ["train", "train", "test"]})
    with pytest.raises(ExportError, match="patient b is in test and train"):
        refuse_mixed_patients(table)


def test_a_workspace_with_mixed_patients_is_not_exported(
    tmp_path: Path, publish: Callable[..., Workspace]
) -> None:
    workspace = publish(tmp_path / "w")
    copy = workspace.path("manifest/split=test/p.parquet")
    workspace.fs.copy(workspace.path("manifest/split=train/p.parquet"), copy)
    for name in FORMATS:
        with pytest.raises(ExportError, match="is in test and train"):
            export(_settings(workspace.uri, tmp_path / "e", format=name))
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "m00000000000000000000-0-0-32-32"])
def test_names_that_lead_out_of_the_folder_or_come_twice_are_refused(
    name: str, published: Path
) -> None:
    table = PublishedTiles(published).table.select(["tile_id", "split"])
    refuse_other_names(table)
    changed = [*table["tile_id"].to_pylist()[:-1], name]
    with pytest.raises(ExportError, match="as the name of a tile"):
        refuse_other_names(table.set_column(0, "tile_id", [changed]))


def test_nothing_is_overwritten(published: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="nothing is overwritten"):
        export(_settings(str(published), tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_export_that_fails_leaves_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, "card", full)
    with pytest.raises(OSError, match="No space"):
        export(_settings(str(published), tmp_path / "e"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no workspace"):
        export(_settings(str(tmp_path / "w"), tmp_path / "e"))


def test_a_workspace_without_tiles_is_refused(
    tmp_path: Path, publish: Callable[..., Workspace]
) -> None:
    workspace = publish(tmp_path / "w", shards=1, tiles_per_film=1)
    with pytest.raises(ExportError, match="no tile to export"):
        export(_settings(workspace.uri, tmp_path / "e"))


def test_the_command_says_what_it_wrote(published: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flows.cli import app

    given = ["export", "--workspace", str(published), "--format", "csv", "--out"]
    done = CliRunner().invoke(app, [*given, str(tmp_path / "e")])
    assert done.exit_code == 0, done.output
    assert "84 tiles" in done.output
    assert "CBIS-DDSM: CC BY 3.0" in done.output
    assert CliRunner().invoke(app, ["export", "--format", "tar"]).exit_code == 2


def _settings(workspace: str, out: Path, **more: Any) -> ExportSettings:
    return ExportSettings(**({"workspace": workspace, "out": str(out), "format": "csv"} | more))


def test_png_keeps_all_16_bits() -> None:
    tile = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64 + 5
    np.testing.assert_array_equal(decoded(exports._png(tile)), tile)
    assert io.BytesIO(exports._png(tile)).read(8) == b"\x89PNG\r\n\x1a\n"
