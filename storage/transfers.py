"""Files from a public bucket over HTTP: listed, resumed where they broke off, and verified.

A file lies under its final name only when it is whole and its checksum holds; until then it is a
``.part`` in a hidden folder, and the next try goes on behind its last byte.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.errors import FetchError

PARTS = ".mammosift-fetch"
"""Folder of what is not whole yet, in the folder of the films; discovery passes it over."""

TIMEOUT_S = 60
TRIES = 5
PAUSE_S = 0.5
"""Before the second try; doubled before each further one."""

MAX_LISTING_BYTES = 16 * 2**20
PIECE_BYTES = 1 << 20
PART_SIZES = tuple(
    mib * 2**20 for mib in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64, 100, 128, 256, 512)
)
"""Sizes that programs cut an upload into; its ETag is the MD5 of the parts' MD5s."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MD5 = re.compile(r"[0-9a-f]{32}")
_MULTIPART = re.compile(r"([0-9a-f]{32})-(\d{1,5})")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a bucket."""

    url: str
    name: str
    size: int
    etag: str


@dataclass(frozen=True)
class Fetched:
    """What became of a file."""

    path: Path
    bytes: int
    md5: str
    how: str
    """``fetched``; ``present``: it was there and whole; ``replaced``: it was there and was not."""


def list_files(base: str, prefix: str, *, pause_s: float = PAUSE_S) -> list[RemoteFile]:
    """Files below a prefix of a bucket (S3's ListObjectsV2).

    Parameters
    ----------
    base : str
        Address of the bucket.
    prefix : str
        Ends with ``/``.
    pause_s : float
        Before the second try.

    Raises
    ------
    FetchError
        No answer, or none that makes sense.
    """
    found: list[RemoteFile] = []
    token: str | None = None
    while True:
        query = {"list-type": "2", "prefix": prefix}
        if token is not None:
            query["continuation-token"] = token
        url = f"{base}/?{urllib.parse.urlencode(query)}"
        root = _xml(_retried(lambda url=url: _read_listing(url), url, pause_s), url)  # type: ignore[misc]
        found += [_remote_file(base, prefix, entry) for entry in root.iterfind("{*}Contents")]
        token = root.findtext("{*}NextContinuationToken")
        if token is None:
            return found


def _remote_file(base: str, prefix: str, entry: ET.Element) -> RemoteFile:
    key = entry.findtext("{*}Key") or ""
    name = key.removeprefix(prefix)
    size = entry.findtext("{*}Size") or ""
    if not key.startswith(prefix) or not _NAME.fullmatch(name) or not size.isdigit():
        raise FetchError(
            f"{base} lists {key!r} of {size!r} bytes below {prefix}: no file of the collection."
        )
    etag = (entry.findtext("{*}ETag") or "").strip('"').lower()
    return RemoteFile(f"{base}/{urllib.parse.quote(key)}", name, int(size), etag)


def _read_listing(url: str) -> bytes:
    with _open(url, {}) as answer:
        data: bytes = answer.read(MAX_LISTING_BYTES + 1)
    if len(data) > MAX_LISTING_BYTES:
        raise FetchError(f"{url} answers with more than 16 MiB, so with no list of files.")
    return data


def _xml(data: bytes, url: str) -> ET.Element:
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise FetchError(f"{url} answers with a document type: no list of files.")
    try:
        return ET.fromstring(data)  # noqa: S314 - bounded, and without a document type
    except ET.ParseError as e:
        raise FetchError(f"{url} answers with no list of files ({e}).") from e


def fetch_file(
    remote: RemoteFile,
    target: Path,
    parts: Path,
    *,
    arrived: Callable[[int], None] = lambda n: None,
    pause_s: float = PAUSE_S,
) -> Fetched:
    """Fetch a file, or what is missing of it; verify its size and checksum; give it its name.

    Parameters
    ----------
    remote : RemoteFile
    target : Path
        Final name. What lies there is verified and, where it is wrong, fetched again.
    parts : Path
        Folder of what is not whole yet.
    arrived : callable
        Told the number of bytes of each piece that arrives.
    pause_s : float
        Before the second try.

    Raises
    ------
    FetchError
        No space, no answer after several tries, or wrong bytes twice.
    """
    how = "fetched"
    if target.exists():
        md5 = verified(target, remote)
        if md5 is not None:
            return Fetched(target, remote.size, md5, "present")
        how = "replaced"
        target.unlink()
    part = parts / f"{hashlib.sha256(f'{remote.url} {remote.etag}'.encode()).hexdigest()[:32]}.part"
    with _space_told(remote, target):
        parts.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(2):
            _retried(lambda: _append(remote, part, arrived), remote.url, pause_s)
            md5 = verified(part, remote)
            if md5 is not None:
                part.replace(target)
                return Fetched(target, remote.size, md5, how)
            part.unlink()
            if attempt == 0:
                how = "replaced"
    raise FetchError(
        f"{remote.url} arrived twice with a checksum other than the bucket's ({remote.etag}). "
        "Something between here and there alters it; try another network."
    )


def _append(remote: RemoteFile, part: Path, arrived: Callable[[int], None]) -> None:
    """Fetch what is missing behind the last byte of a part."""
    have = part.stat().st_size if part.exists() else 0
    if have > remote.size:
        part.unlink()
        have = 0
    if have == remote.size:
        part.touch()
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and remote.etag:
        headers["If-Range"] = f'"{remote.etag}"'
    with _open(remote.url, headers) as answer:
        if answer.status != 206:
            have = 0  # the server begins at the beginning
        elif not (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException(f"answered {answer.headers.get('Content-Range')!r}")
        with part.open("r+b" if have else "wb") as file:
            file.seek(have)
            while piece := answer.read(min(PIECE_BYTES, remote.size - have + 1)):
                have += len(piece)
                if have > remote.size:
                    raise FetchError(
                        f"{remote.url} sends more than the {remote.size:,} bytes that the bucket "
                        "lists."
                    )
                file.write(piece)
                arrived(len(piece))
    if have < remote.size:
        raise http.client.IncompleteRead(b"", remote.size - have)


def verified(path: Path, remote: RemoteFile) -> str | None:
    """MD5 of a file that has the size and the checksum of the bucket's; None where it has not.

    An upload in parts has a checksum of its parts: it is compared for the usual sizes of parts, and
    where none of them can be the one, size alone decides.
    """
    if path.stat().st_size != remote.size:
        return None
    if _MD5.fullmatch(remote.etag):
        md5 = _md5_of(path, remote.size)[0]
        return md5 if md5 == remote.etag else None
    md5 = _md5_of(path, remote.size)[0]
    if told := _MULTIPART.fullmatch(remote.etag):
        n = int(told[2])
        sizes = [size for size in PART_SIZES if -(-remote.size // size) == n]
        if sizes and not any(_md5_of(path, size)[1] == told[1] for size in sizes):
            return None
    return md5


def _md5_of(path: Path, part_size: int) -> tuple[str, str]:
    """MD5 of a file, and of the MD5s of its parts."""
    whole = hashlib.md5(usedforsecurity=False)
    parts = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        part, left = hashlib.md5(usedforsecurity=False), part_size
        while piece := file.read(min(PIECE_BYTES, left)):
            whole.update(piece)
            part.update(piece)
            left -= len(piece)
            if left == 0:
                parts.update(part.digest())
                part, left = hashlib.md5(usedforsecurity=False), part_size
        if left != part_size:
            parts.update(part.digest())
    return whole.hexdigest(), parts.hexdigest()


@contextlib.contextmanager
def _space_told(remote: RemoteFile, target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(
                f"no space left on the disk of {target.parent} for {remote.name} "
                f"({remote.size:,} bytes). Make room and give the same command again: it goes on "
                "where it stopped."
            ) from e
        raise


def _retried(do: Callable[[], Any], url: str, pause_s: float) -> Any:
    """Do something that a network may break, several times."""
    for attempt in range(TRIES):
        try:
            return do()
        except urllib.error.HTTPError as e:
            reason = f"{e.code} {e.reason}"
            if e.code < 500 and e.code not in (408, 416, 429):
                break
        except (http.client.HTTPException, urllib.error.URLError, TimeoutError) as e:
            reason = str(e) or type(e).__name__
        except ConnectionError as e:
            reason = str(e) or type(e).__name__
        if attempt < TRIES - 1:
            time.sleep(pause_s * 2**attempt)
    raise FetchError(
        f"{url} cannot be fetched ({reason}). Check the network and give the same command again: "
        "it goes on where it stopped."
    )


def _open(url: str, headers: dict[str, str]) -> Any:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url}: an address with http or https")
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
