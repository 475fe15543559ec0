"""Which files are listed, and that no file breaks a run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom.data
import pytest

from storage import discovery
from storage.discovery import describe, film_path, list_files
from storage.errors import TableError

FILM = imagecodecs.png_encode(np.arange(1200, dtype=np.uint16).reshape(40, 30))
DICOM = (Path(pydicom.data.__file__).parent / "test_files" / "MR_small_implicit.dcm").read_bytes()


def make(root: Path, *names: str, data: bytes = FILM) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def sources(source: str | Path) -> list[str]:
    return [name for _, name in list_files(source)[1]]


def row(path: Path, source: str = "film", **kwargs):
    return describe(path, source, max_film_megapixels=200, **kwargs)


def test_a_folder_is_walked_in_order_of_name(tmp_path):
    make(tmp_path, "b/2.png", "b/10.png", "a.png", "c.png", "B.png")
    assert sources(tmp_path) == ["B.png", "a.png", "b/10.png", "b/2.png", "c.png"]


def test_sidecars_hidden_files_and_workspaces_are_passed_over(tmp_path):
    make(tmp_path, "film.png", ".hidden.png", ".cache/x.png", "done/tiles/x.png")
    make(tmp_path, "A-1459-1.ics", "a.OVERLAY", "films.csv", "LICENCE.txt", "x.xml", "Thumbs.db",
         "README", "done/" + discovery.WORKSPACE_MARK, data=b"some text")  # fmt: skip
    assert sources(tmp_path) == ["film.png"]


def test_dicom_files_without_a_suffix_are_found(tmp_path):
    make(tmp_path, "IM0001", "1.2.840.113619.2", "study/6154", data=DICOM)
    make(tmp_path, "notes", "Makefile", data=b"all: film")
    assert sources(tmp_path) == ["1.2.840.113619.2", "IM0001", "study/6154"]


def test_a_file_whose_name_promises_a_film_is_listed_whatever_is_in_it(tmp_path):
    make(tmp_path, "a.dcm", "b.png", "c.LJPEG", "d.gif", data=b"text")
    make(tmp_path, "nothing", data=b"")
    assert sources(tmp_path) == ["a.dcm", "b.png", "c.LJPEG", "d.gif", "nothing"]
    reasons = {row(p, s).excluded_reason for p, s in list_files(tmp_path)[1]}
    assert reasons == {"unsupported", "unreadable"}


def test_a_pattern_lists_what_it_matches(tmp_path):
    make(tmp_path, "x/a.png", "x/y/b.png", "x/y/c.tif", "x/d1.png", "x/d2.png")
    assert sources(f"{tmp_path}/x/*.png") == ["a.png", "d1.png", "d2.png"]
    assert sources(f"{tmp_path}/x/**/*.png") == ["a.png", "d1.png", "d2.png", "y/b.png"]
    assert sources(f"{tmp_path}/*/d[!1].png") == ["x/d2.png"]
    assert sources(f"{tmp_path}/x/**") == ["a.png", "d1.png", "d2.png", "y/b.png", "y/c.tif"]
    assert list_files(f"{tmp_path}/x/*.png")[0] == tmp_path / "x"


@pytest.mark.parametrize("column", ["source", "path"])
def test_a_csv_lists_its_paths_relative_to_itself(tmp_path, column):
    make(tmp_path, "x/a.png", "b.png")
    table = tmp_path / "list.csv"
    table.write_text(f"n,{column}\n1,b.png\n2,x/a.png\n3,gone.png\n4,b.png\n")
    assert sources(table) == ["b.png", "x/a.png", "gone.png"]
    gone = row(tmp_path / "gone.png")
    assert (gone.excluded_reason, gone.mammogram_id) == ("unreadable", None)


def test_a_txt_lists_one_path_a_line_and_may_lead_elsewhere(tmp_path):
    make(tmp_path, "films/x/a.png", "films/y/b.png")
    table = tmp_path / "lists" / "all.txt"
    table.parent.mkdir()
    table.write_text(f"{tmp_path}/films/x/a.png\n\n{tmp_path}/films/y/b.png\n")
    root, _ = list_files(table)
    assert root == tmp_path / "films"
    assert sources(table) == ["x/a.png", "y/b.png"]


def test_a_csv_without_a_column_of_paths_says_what_is_missing(tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("film\na.png\n")
    with pytest.raises(TableError, match=r"list\.csv, line 1: no column source or path"):
        list_files(table)


def test_a_single_film_is_a_source(tmp_path):
    make(tmp_path, "a.png")
    assert sources(tmp_path / "a.png") == ["a.png"]


@pytest.mark.parametrize("name", ["nowhere", "nowhere/*.png"])
def test_a_source_that_is_not_there_is_a_bad_argument(tmp_path, name):
    with pytest.raises(ValueError, match="nowhere"):
        list_files(tmp_path / name)


# -- links, rights, names --------------------------------------------------------------------------


def test_a_link_that_leads_back_becomes_one_exclusion(tmp_path):
    make(tmp_path, "x/a.png")
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    assert sources(tmp_path) == ["x/a.png", "x/loop"]
    film = row(tmp_path / "x" / "loop")
    assert film.excluded_reason == "unreadable"
    assert "link" in film.excluded_rule


def test_a_file_link_that_leads_to_itself_becomes_an_exclusion(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "a.png")
    assert sources(tmp_path) == ["a.png"]
    assert row(tmp_path / "a.png").excluded_reason == "unreadable"


def test_links_to_films_are_followed(tmp_path):
    make(tmp_path, "elsewhere/a.png")
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "x").symlink_to(tmp_path / "elsewhere")
    assert sources(folder) == ["x/a.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_becomes_an_exclusion(tmp_path):
    make(tmp_path, "shut/a.png", "b.png", "c.png")
    (tmp_path / "shut").chmod(0)
    (tmp_path / "b.png").chmod(0)
    try:
        rows = {s: row(p, s) for p, s in list_files(tmp_path)[1]}
    finally:
        (tmp_path / "shut").chmod(0o755)
    assert {s: film.excluded_reason for s, film in rows.items()} == {
        "shut": "unreadable", "b.png": "unreadable", "c.png": None
    }  # fmt: skip
    assert "permission" in rows["shut"].excluded_rule


def test_a_folder_that_cannot_be_listed_becomes_an_exclusion(tmp_path, monkeypatch):
    make(tmp_path, "a.png", "shut/b.png")
    real = os.scandir

    def refuse(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    rows = {s: row(p, s) for p, s in list_files(tmp_path)[1]}
    assert rows["a.png"].excluded_reason is None
    assert rows["shut"].excluded_reason == "unreadable"
    assert "cannot be listed: permission denied" in rows["shut"].excluded_rule


def test_a_pipe_is_no_film_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.dcm")
    os.mkfifo(tmp_path / "pipe")
    assert sources(tmp_path) == ["pipe.dcm"]
    assert row(tmp_path / "pipe.dcm").excluded_reason == "unreadable"


@pytest.mark.parametrize("name", ["a film.png", "line\nbreak.png", "größe-左.png", "back\\x41.png"])
def test_odd_names_are_sources_like_others(tmp_path, name):
    make(tmp_path, name)
    assert sources(tmp_path) == [name]
    assert film_path(tmp_path, name) == tmp_path / name


def test_names_that_are_no_utf8_are_escaped_and_found_again(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/gr\xf6\xdfe.png"))
    path.write_bytes(FILM)
    (source,) = sources(tmp_path)
    assert source == r"gr\xf6\xdfe.png"
    source.encode("utf-8")
    assert film_path(tmp_path, source) == path


# -- rows ------------------------------------------------------------------------------------------


def test_a_row_carries_hash_size_and_time(tmp_path):
    make(tmp_path, "a.png")
    film = row(tmp_path / "a.png", "a.png")
    assert film.source_sha256 == hashlib.sha256(FILM).hexdigest()
    assert film.mammogram_id == "m" + film.source_sha256[:20]
    assert film.patient_key == film.mammogram_id  # nobody said whose film it is
    assert (film.file_size_bytes, film.rows, film.columns) == (len(FILM), 40, 30)


def test_the_id_depends_on_the_bytes_alone(tmp_path):
    make(tmp_path, "a.png", "x/b_R_CC.png")
    assert row(tmp_path / "a.png").mammogram_id == row(tmp_path / "x/b_R_CC.png").mammogram_id


def test_an_excluded_file_has_an_id_where_it_could_be_read(tmp_path):
    make(tmp_path, "a.dcm", data=b"text")
    film = row(tmp_path / "a.dcm")
    assert film.excluded_reason == "unsupported"
    assert film.mammogram_id is not None
    assert film.patient_key == film.mammogram_id


def test_a_known_hash_is_taken_over_while_size_and_time_agree(tmp_path, monkeypatch):
    make(tmp_path, "a.png")
    known = row(tmp_path / "a.png")

    def hashed_again(path):
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(discovery, "_sha256", hashed_again)
        assert row(tmp_path / "a.png", known=known) == known
    os.utime(tmp_path / "a.png", ns=(1, 1))
    assert row(tmp_path / "a.png", known=known).modified_ns == 1


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, RecursionError, MemoryError, UnicodeDecodeError]
)
def test_a_decoder_that_breaks_makes_an_exclusion_without_its_words(tmp_path, monkeypatch, error):
    make(tmp_path, "a.png")

    def breaks(*args, **kwargs):
        raise error(*(["utf-8", b"Muster", 0, 1] if error is UnicodeDecodeError else []), "Muster")

    monkeypatch.setattr("storage.films.png.read_header", breaks)
    film = row(tmp_path / "a.png")
    assert film.excluded_reason == "corrupt"
    assert error.__name__ in film.excluded_rule
    assert "Muster" not in repr(film)
