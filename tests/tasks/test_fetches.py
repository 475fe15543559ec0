"""Fetching by the real index; a small server that speaks S3 stands in for the bucket."""

from __future__ import annotations

import csv
import hashlib
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from storage import transfers
from storage.errors import FetchError, InputError, TableError
from storage.idc import Series, read_index, select
from storage.transfers import PARTS, RemoteFile, fetch_file, list_files, verified
from tasks.fetches import Selection, choose, fetch

SIZE = 3_000_000


@pytest.fixture(scope="module")
def index() -> list[Series]:
    return read_index()


class Bucket:
    """Objects, and what goes wrong with them."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.cut_after: int | None = None
        """Bytes after which the next answers break off; each is cut once."""
        self.cut: set[str] = set()
        self.corrupt: set[str] = set()
        """Keys of which the next answer has a wrong byte."""
        self.fail: Counter[str] = Counter()
        """Keys that answer 503 so often."""
        self.page = 1000
        self.no_ranges = False
        self.asked: list[tuple[str, str | None]] = []

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data
        self.etags[key] = hashlib.md5(data).hexdigest()  # noqa: S324

    def gets(self, key: str) -> list[str | None]:
        return [r for k, r in self.asked if k == key]


class Handler(BaseHTTPRequestHandler):
    bucket: Bucket

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if "list-type" in query:
            self._list(query)
        else:
            self._object(url.path.removeprefix("/idc-open-data/"))

    def _list(self, query: dict[str, list[str]]) -> None:
        keys = sorted(k for k in self.bucket.objects if k.startswith(query["prefix"][0]))
        start = int(query.get("continuation-token", ["0"])[0])
        entries = "".join(
            f"<Contents><Key>{k}</Key><Size>{len(self.bucket.objects[k])}</Size>"
            f'<ETag>"{self.bucket.etags[k]}"</ETag></Contents>'
            for k in keys[start : start + self.bucket.page]
        )
        stop = start + self.bucket.page
        token = f"<NextContinuationToken>{stop}</NextContinuationToken>" if stop < len(keys) else ""
        text = (
            '<?xml version="1.0"?><ListBucketResult '
            f'xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{entries}{token}</ListBucketResult>'
        )
        self._answer(200, text.encode(), {})

    def _object(self, key: str) -> None:
        bucket, wanted = self.bucket, self.headers.get("Range")
        bucket.asked.append((key, wanted))
        if bucket.fail[key] > 0:
            bucket.fail[key] -= 1
            self._answer(503, b"", {})
            return
        data = bucket.objects[key]
        if key in bucket.corrupt:
            bucket.corrupt.discard(key)
            data = data[:-1] + bytes([data[-1] ^ 1])
        status, headers = 200, {}
        if wanted and not bucket.no_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            status, headers = 206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            data = data[start:]
        cut = None
        if bucket.cut_after is not None and key not in bucket.cut:
            bucket.cut.add(key)
            cut = bucket.cut_after
        self._answer(status, data, headers, cut)

    def _answer(
        self, status: int, data: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:cut])
        self.close_connection = True


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setattr(transfers, "PAUSE_S", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Bucket()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisTest", (Handler,), {"bucket": made}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    made.endpoint = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def noise(seed: int, size: int = SIZE) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.fixture
def one(bucket: Bucket) -> RemoteFile:
    bucket.put("u/film.dcm", noise(0))
    (remote,) = list_files(f"{bucket.endpoint}/idc-open-data", "u/")  # type: ignore[attr-defined]
    return remote


def get(remote: RemoteFile, folder: Path, **more: object) -> transfers.Fetched:
    return fetch_file(remote, folder / "film.dcm", folder / PARTS, pause_s=0.01, **more)  # type: ignore[arg-type]


# -- the index -------------------------------------------------------------------------------------


def test_the_index_holds_the_collection(index: list[Series]) -> None:
    assert len(index) == 6775
    films = [s for s in index if s.kind == "film"]
    assert len(films) == 2857 + 246, "those without a description are full films too"
    assert len({s.patient for s in films}) == 1566
    assert abs(sum(s.bytes for s in index) / 1e9 - 163.5) < 0.1
    assert {s.licence for s in index} == {"CC BY 3.0"}


def test_patients_are_taken_whole_and_a_larger_selection_holds_a_smaller(
    index: list[Series],
) -> None:
    few, many = select(index, films=20, view="MLO"), select(index, films=40, view="MLO")
    assert 20 <= len(few) <= 25
    assert {s.uid for s in few} < {s.uid for s in many}
    assert {s.view for s in few} == {"MLO"}
    for patient in {s.patient for s in few}:
        own = [s for s in index if s.patient == patient and s.view == "MLO" and s.kind == "film"]
        assert len([s for s in few if s.patient == patient]) == len(own)
    assert select(index, films=20, view="MLO") == few


def test_findings_come_with_their_films_on_demand(index: list[Series]) -> None:
    films = select(index, films=10)
    both = select(index, films=10, with_findings=True)
    assert [s for s in both if s.kind == "film"] == films
    findings = [s for s in both if s.kind == "finding"]
    assert findings
    assert {s.patient for s in findings} <= {s.patient for s in films}


def test_a_label_needs_the_case_tables() -> None:
    with pytest.raises(InputError, match="give --cases"):
        choose(label="malignant")


def test_a_folder_without_case_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no case table"):
        choose(cases=tmp_path)


@pytest.mark.shared
def test_films_of_a_label_are_those_of_the_case_tables(shared: Path) -> None:
    cases = shared / "data/cbis-ddsm-metadata"
    chosen = choose(films=20, view="MLO", label="malignant", cases=cases)
    malignant = set()
    for path in cases.glob("*case_description*.csv"):
        for row in csv.DictReader(path.read_text().splitlines()):
            if row["pathology"] == "MALIGNANT":
                side = row["left or right breast"][0]
                malignant.add((row["patient_id"], side, row["image view"]))
    assert {(s.patient, s.laterality, s.view) for s in chosen.series} <= malignant
    assert len(chosen.case_files) == 4


@pytest.mark.parametrize("wrong", [{"view": "AP"}, {"label": "odd"}])
def test_a_wrong_choice_says_what_is_right(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"CC or MLO|malignant or benign"):
        choose(**wrong)  # type: ignore[arg-type]


# -- one file --------------------------------------------------------------------------------------


def test_a_file_arrives_whole(one: RemoteFile, bucket: Bucket, tmp_path: Path) -> None:
    done = get(one, tmp_path)
    assert (done.how, done.md5) == ("fetched", one.etag)
    assert done.path.read_bytes() == bucket.objects["u/film.dcm"]
    assert get(one, tmp_path).how == "present"
    assert len(bucket.gets("u/film.dcm")) == 1


def test_a_transfer_that_breaks_off_goes_on_behind_its_last_byte(
    one: RemoteFile, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.cut_after = 1_200_000
    assert get(one, tmp_path).path.read_bytes() == bucket.objects["u/film.dcm"]
    assert bucket.gets("u/film.dcm") == [None, "bytes=1200000-"]


def test_a_program_that_was_killed_goes_on_in_the_next_one(
    one: RemoteFile, bucket: Bucket, tmp_path: Path
) -> None:
    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(one, tmp_path, arrived=killed)
    assert not (tmp_path / "film.dcm").exists()
    assert get(one, tmp_path).path.read_bytes() == bucket.objects["u/film.dcm"]
    ranges = bucket.gets("u/film.dcm")
    assert ranges[0] is None
    assert ranges[1] == "bytes=1048576-"


def test_a_server_without_ranges_begins_at_the_beginning(
    one: RemoteFile, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.cut_after, bucket.no_ranges = 1_200_000, True
    assert get(one, tmp_path).path.read_bytes() == bucket.objects["u/film.dcm"]


def test_a_file_that_arrives_altered_is_fetched_again(
    one: RemoteFile, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.corrupt.add("u/film.dcm")
    assert get(one, tmp_path).path.read_bytes() == bucket.objects["u/film.dcm"]
    assert len(bucket.gets("u/film.dcm")) == 2


def test_a_file_that_always_arrives_altered_is_an_error(
    one: RemoteFile, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.objects["u/film.dcm"] = noise(1)
    with pytest.raises(FetchError, match="twice with a checksum"):
        get(one, tmp_path)
    assert not (tmp_path / "film.dcm").exists()


def test_a_file_that_was_altered_on_the_disk_is_found_and_fetched_again(
    one: RemoteFile, bucket: Bucket, tmp_path: Path
) -> None:
    path = get(one, tmp_path).path
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert get(one, tmp_path).how == "replaced"
    assert path.read_bytes() == bucket.objects["u/film.dcm"]
    path.write_bytes(data[:-5])
    assert get(one, tmp_path).how == "replaced"


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(
    one: RemoteFile, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.fail["u/film.dcm"] = 3
    assert get(one, tmp_path).how == "fetched"
    gone = RemoteFile(one.url.replace("u/film", "u/gone"), "gone.dcm", 5, "")
    bucket.objects["u/gone.dcm"] = b"12345"
    bucket.fail["u/gone.dcm"] = 99
    with pytest.raises(FetchError, match="503"):
        fetch_file(gone, tmp_path / "gone.dcm", tmp_path / PARTS, pause_s=0.001)
    assert len(bucket.gets("u/gone.dcm")) == transfers.TRIES


def test_more_bytes_than_the_bucket_lists_are_refused(
    one: RemoteFile, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.objects["u/film.dcm"] += b"more"
    with pytest.raises(FetchError, match="sends more than the 3,000,000 bytes"):
        get(one, tmp_path)


def test_no_space_says_so_and_leaves_nothing_under_the_final_name(
    one: RemoteFile, bucket: Bucket, tmp_path: Path
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(FetchError, match=r"no space left on the disk.*Make room"):
        get(one, tmp_path, arrived=full)
    assert [p.name for p in tmp_path.iterdir()] == [PARTS]


def test_checksums_of_uploads_in_parts_hold(tmp_path: Path) -> None:
    data = noise(3, 9 * 2**20)
    path = tmp_path / "x"
    path.write_bytes(data)
    halves = [data[: 8 * 2**20], data[8 * 2**20 :]]
    md5 = lambda b: hashlib.md5(b)  # noqa: E731, S324
    etag = md5(b"".join(md5(half).digest() for half in halves)).hexdigest() + "-2"
    assert verified(path, RemoteFile("u", "x", len(data), etag)) == md5(data).hexdigest()
    path.write_bytes(data[:-1] + b"?")
    assert verified(path, RemoteFile("u", "x", len(data), etag)) is None


def test_a_listing_goes_over_pages_and_names_stay_in_the_folder(bucket: Bucket) -> None:
    for i in range(5):
        bucket.put(f"u/{i}.dcm", b"x")
    bucket.page = 2
    base = f"{bucket.endpoint}/idc-open-data"  # type: ignore[attr-defined]
    assert [f.name for f in list_files(base, "u/")] == [f"{i}.dcm" for i in range(5)]
    bucket.put("u/../../evil.dcm", b"x")
    with pytest.raises(FetchError, match="no file of the collection"):
        list_files(base, "u/")


# -- a whole selection -----------------------------------------------------------------------------


@pytest.fixture
def stocked(bucket: Bucket, index: list[Series]) -> Selection:
    """Six films of the real index, of a small size, with findings; the bucket holds them."""
    chosen = Selection(select(index, films=6, with_findings=True), ())
    for i, each in enumerate(chosen.series):
        for j in range(each.files):
            bucket.put(f"{each.prefix}{j}.dcm", noise(10 * i + j, 50_000))
    return chosen


def test_a_selection_arrives_with_its_table_and_licence(
    stocked: Selection, bucket: Bucket, tmp_path: Path
) -> None:
    out, progress = tmp_path / "films", []
    done = fetch(
        stocked,
        out,
        endpoint=bucket.endpoint,  # type: ignore[attr-defined]
        told=lambda *n: progress.append(n),
    )
    files = sum(s.files for s in stocked.series)
    assert done == Counter(fetched=files)
    assert progress[-1] == (files, files, files * 50_000)
    rows = list(csv.DictReader((out / "fetched.csv").read_text().splitlines()))
    assert len(rows) == files
    for row in rows:
        data = (out / row["file"]).read_bytes()
        assert hashlib.md5(data).hexdigest() == row["md5"]  # noqa: S324
    assert "CC BY 3.0" in (out / "LICENCE.txt").read_text()
    assert not (out / PARTS).exists()


def test_a_second_fetch_takes_what_is_missing_or_altered_alone(
    stocked: Selection, bucket: Bucket, tmp_path: Path
) -> None:
    endpoint = bucket.endpoint  # type: ignore[attr-defined]
    fetch(stocked, tmp_path, endpoint=endpoint)
    first, second, *_ = sorted(tmp_path.rglob("*.dcm"))
    first.unlink()
    second.write_bytes(b"altered")
    bucket.asked.clear()
    done = fetch(stocked, tmp_path, endpoint=endpoint)
    files = sum(s.files for s in stocked.series)
    assert done == Counter(present=files - 2, fetched=1, replaced=1)
    assert len(bucket.asked) == 2


def test_too_small_a_disk_is_found_before_anything_is_fetched(
    stocked: Selection, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(FetchError, match=r"0\.0 GB free.*Nothing was fetched"):
        fetch(stocked, tmp_path, endpoint=bucket.endpoint)  # type: ignore[attr-defined]
    assert not bucket.asked
    assert not list(tmp_path.rglob("*.dcm"))


def test_the_command_shows_asks_and_fetches(
    bucket: Bucket, index: list[Series], tmp_path: Path
) -> None:
    for each in select(index, films=3, view="MLO"):
        bucket.put(f"{each.prefix}0.dcm", noise(1, 1000))
    given = ["fetch", "cbis-ddsm", "--films", "3", "--view", "MLO", "--out", str(tmp_path / "f")]
    given += ["--endpoint", bucket.endpoint]  # type: ignore[attr-defined]
    asked = CliRunner().invoke(app, given, input="n\n")
    assert asked.exit_code == 0
    assert "MB, CC BY 3.0." in asked.output
    assert not (tmp_path / "f").exists()
    done = CliRunner().invoke(app, [*given, "--yes"])
    assert done.exit_code == 0, done.output
    assert "have the bucket's checksums" in done.output
    assert list((tmp_path / "f").rglob("*.dcm"))


def test_an_unknown_collection_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["fetch", "inbreast", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "--collection: Input should be 'cbis-ddsm'" in done.output
