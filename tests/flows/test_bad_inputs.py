"""A hundred things that are no usable films, beside twelve that are."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import pandas as pd
import pydicom.data
import pytest

from storage import collections
from storage.manifest import read_manifest
from storage.workspace import Workspace
from tasks import films
from tasks.settings import CurationSettings


def oversized_png() -> bytes:
    """Header of a 60,000 x 60,000 picture, and nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def pydicom_files() -> list[Path]:
    """Every file that pydicom's wheel ships for tests."""
    folder = Path(pydicom.data.__file__).parent / "test_files"
    return sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix not in {".py", ".pyc"})


@pytest.fixture
def hostile(film_folder: Path, tmp_path: Path) -> Path:
    """The good films with everything bad that we could think of around them."""
    folder = tmp_path / "in"
    shutil.copytree(film_folder, folder)
    good = (folder / "case0" / "L film.png").read_bytes()
    bad = folder / "bad"
    bad.mkdir()
    for i, file in enumerate(pydicom_files()):
        shutil.copy(file, bad / f"{i:03d}-{file.name}")
        if i % 3 == 0 and file.stat().st_size > 400:
            data = file.read_bytes()
            (bad / f"{i:03d}-cut-{file.name}").write_bytes(data[: len(data) * 2 // 3])
    for suffix in ("dcm", "png", "tif", "pgm", "jpg", "LJPEG"):
        (bad / f"empty.{suffix}").touch()
        (bad / f"text.{suffix}").write_text("Dear Sir or Madam,\n" * 20)
        (bad / f"noise.{suffix}").write_bytes(os.urandom(5000))
    for cut in (8, 40, 1000, len(good) // 2, len(good) - 16):
        (bad / f"cut at {cut}.png").write_bytes(good[:cut])
    (bad / "huge.png").write_bytes(oversized_png())
    (bad / "huge.pgm").write_bytes(b"P5 60000 60000 65535\n")
    (bad / "a copy.png").write_bytes((folder / "case5" / "R film.png").read_bytes())
    (bad / "two\nlines.png").write_bytes(good[:500])
    (bad / "Jos\u00e9 \U0001f600.png").write_bytes(good[:501])
    (bad / "<script>alert(1).png").write_bytes(good[:502])
    (Path(os.fsdecode(os.fsencode(bad) + b"/\xff\xfe.png"))).write_bytes(good[:503])
    (bad / "loop").symlink_to(bad, target_is_directory=True)
    (bad / "self.png").symlink_to(bad / "self.png")
    (bad / "gone.png").symlink_to(bad / "not there.png")
    (bad / "secret.png").write_bytes(good[:504])
    (bad / "secret.png").chmod(0)
    os.mkfifo(bad / "pipe.png")
    return folder


@pytest.mark.slow
def test_bad_files_become_rows_with_reasons_and_good_films_are_unharmed(
    prefect_server: str,
    hostile: Path,
    film_folder: Path,
    small: dict[str, int],
    tmp_path: Path,
) -> None:
    from flows.curate import curate

    tables = {}
    for name, source in (("hostile", hostile), ("clean", film_folder)):
        learning = small | {"planted_tiles": 1500}  # few are not enough for the same verdicts
        settings = CurationSettings(source=str(source), out=str(tmp_path / name), **learning)
        record = curate(settings)
        tables[name] = read_manifest(Workspace.open(tmp_path / name)).to_pandas()
        if name == "hostile":
            found, excluded = record["films"]["found"], sum(record["films"]["excluded"].values())
            assert record["films"]["used"] + excluded == found

    rows = films.read(Workspace.open(tmp_path / "hostile"))
    out = [f for f in rows if f.excluded_reason is not None]
    assert len(out) >= 100
    for film in out:
        assert film.excluded_rule, film
        assert film.excluded_remedy, film
    assert len(collections.to_table(rows)) == len(rows)

    reason = {f.source.removeprefix("bad/"): f.excluded_reason for f in rows}
    assert reason["huge.png"] == reason["huge.pgm"] == "oversized"
    assert reason["empty.dcm"] == "unreadable"
    assert reason["text.dcm"] == "unsupported"
    assert reason["a copy.png"] == "duplicate_film"  # the other one has a label
    assert all(reason[name] for name in reason if name.startswith(("cut at", "noise", "text")))

    good = tables["hostile"][tables["hostile"].tile_id.isin(tables["clean"].tile_id)]
    # not the score to the last digit: some of the strange files are usable, and the tile scorer
    # learns from all that are
    columns = ["decision", "reason", "mean", "entropy", "lesion_fraction", "split"]
    keys = ["tile_id", "label", *columns]
    pd.testing.assert_frame_equal(
        good[keys].sort_values("tile_id", ignore_index=True),
        tables["clean"][keys].sort_values("tile_id", ignore_index=True),
    )
