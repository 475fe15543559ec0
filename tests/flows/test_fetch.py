from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from flows.fetch import fetch
from storage.idc import read_index, select
from tasks import fetches
from tasks.fetch_settings import FetchSettings


class Store(SimpleHTTPRequestHandler):
    """A folder as a bucket that can be listed."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "prefix" not in query:
            super().do_GET()
            return
        bucket = Path(self.directory) / "idc-open-data"
        files = sorted((bucket / query["prefix"][0]).glob("*.dcm"))
        entries = "".join(
            f"<Contents><Key>{f.relative_to(bucket)}</Key><Size>{f.stat().st_size}</Size>"
            f'<ETag>"{hashlib.md5(f.read_bytes()).hexdigest()}"</ETag></Contents>'  # noqa: S324
            for f in files
        )
        body = f"<ListBucketResult>{entries}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    """A mirror that holds the first two films of the real index, of a small size."""
    for each in select(read_index(), films=2):
        for i in range(each.files):
            film = tmp_path / "mirror" / "idc-open-data" / each.prefix / f"{i}.dcm"
            film.parent.mkdir(parents=True, exist_ok=True)
            film.write_bytes(f"{each.prefix}{i}".encode() * 100)
    handler = partial(Store, directory=str(tmp_path / "mirror"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_the_flow_fetches_what_is_missing_alone(
    prefect_artifacts: str, endpoint: str, tmp_path: Path
) -> None:
    settings = FetchSettings(out=str(tmp_path / "films"), films=2, endpoint=endpoint)
    first = fetch(settings)
    assert first["films"] >= 2
    assert set(first["files"]) == {"fetched"}
    assert (tmp_path / "films" / fetches.TABLE).is_file()
    assert set(fetch(settings)["files"]) == {"present"}


def test_labels_need_the_tables_that_hold_them() -> None:
    with pytest.raises(ValidationError, match="label needs cases"):
        FetchSettings(out="/films", label="benign")
