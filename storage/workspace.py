"""The workspace: one folder, local or any fsspec URI, that holds all that a run makes.

A shard is written aside, checked, renamed and marked complete last. Whatever has no mark does not
exist: a killed run leaves nothing that a later one could mistake for a result.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from fsspec.implementations.local import LocalFileSystem
from zarr.codecs import BloscCodec
from zarr.storage import FsspecStore, LocalStore

from storage.errors import ShardError, WorkspaceError

MARKER = "mammosift-workspace.json"
"""Lies in the root of a workspace; discovery never looks for films below it."""

COMPLETE = "complete.json"
LAYOUT_VERSION = 1
ZARR_SHARD_BYTES = 64 * 2**20
ZARR_CHUNK_BYTES = 256 * 2**10
PARTIALS = ("*.partial", "*/*.partial", "*/.*.training/*.partial")
"""Where writers work aside."""
ABANDONED_AFTER_S = 7 * 24 * 3600
"""What another machine's writer left is cleared away after this time."""


@dataclass(frozen=True)
class ShardRef:
    """All that passes between tasks: which shard, and how much is in it."""

    kind: str
    """tiles, encoders, embeddings or clusters."""
    key: str
    rows: int
    counts: dict[str, int]
    """What the stage counted: tiles by fate, films excluded, ..."""
    reused: bool = False
    """True where the shard was there already."""
    seconds: float = 0.0


class Workspace:
    """A folder of the layout in the documentation, opened for reading and writing.

    Parameters
    ----------
    uri : str or Path
        A local folder, or any URI that fsspec knows (``s3://bucket/run``); credentials come from
        the environment.
    """

    def __init__(self, uri: str | Path) -> None:
        if "::" in str(uri):
            raise WorkspaceError(
                f"{uri}: a workspace's name cannot hold '::'. Name another folder."
            )
        # what other processes wrote must be seen at once, so listings are asked for each time
        fs, root = fsspec.core.url_to_fs(str(uri), use_listings_cache=False)
        self.fs: fsspec.AbstractFileSystem = fs
        self.root: str = str(root).rstrip("/")
        self.is_local = isinstance(fs, LocalFileSystem)
        self.is_s3 = "s3" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
        self.uri = self.root if self.is_local else str(uri).rstrip("/")

    @classmethod
    def create(cls, uri: str | Path) -> Workspace:
        """Open a workspace, or make one of an empty or missing folder.

        Raises
        ------
        WorkspaceError
            The folder holds something else, cannot be written, or is of a later layout.
        """
        self = cls(uri)
        if self.exists(MARKER):
            return cls.open(uri)
        foreign: list[Any] = []
        try:
            self.fs.makedirs(self.root, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # an object store makes no empty folder
                foreign = [e for e in self.fs.ls(self.root, detail=False) if PurePosixPath(e).name]
        except OSError as e:
            raise WorkspaceError(
                f"{self.uri} cannot be a workspace ({type(e).__name__}). "
                "Name a folder that you may write."
            ) from e
        foreign = [e for e in foreign if str(e).rstrip("/") != self.root]
        if foreign:
            raise WorkspaceError(
                f"{self.uri} is not empty and no workspace of ours (it holds "
                f"{PurePosixPath(str(foreign[0])).name!r}). Name a new folder, or empty this one."
            )
        self.write_json(MARKER, {"layout_version": LAYOUT_VERSION})
        return self

    @classmethod
    def open(cls, uri: str | Path) -> Workspace:
        """Open an existing workspace.

        Raises
        ------
        WorkspaceError
            There is none, or a later version of mammosift made it.
        """
        self = cls(uri)
        if not self.exists(MARKER):
            raise WorkspaceError(f"{self.uri} is no workspace. Make one with: mammosift run --out")
        version = self.read_json(MARKER).get("layout_version")
        if version != LAYOUT_VERSION:
            raise WorkspaceError(
                f"{self.uri} has layout version {version}, this mammosift writes {LAYOUT_VERSION}. "
                "Use the version that made it, or a new folder."
            )
        return self

    # -- small files -------------------------------------------------------------------------

    def path(self, *parts: str) -> str:
        """Full path of a file in the workspace; never outside of it."""
        relative = PurePosixPath(*parts)
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError(f"{relative} leads out of the workspace {self.uri}")
        return f"{self.root}/{relative}"

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self.fs.exists(self.path(*parts)))

    def read_bytes(self, *parts: str) -> bytes:
        """Whole content of a file."""
        data: bytes = self.fs.cat_file(self.path(*parts))
        return data

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a file so that a reader sees the old one or the new one, never a part."""
        target = self.path(relative)
        if not self.is_local:
            self.fs.pipe_file(target, data)  # object stores publish an object when it is whole
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        aside = Path(f"{target}.{_writer_name()}.partial")
        aside.write_bytes(data)
        aside.replace(target)

    def read_json(self, *parts: str) -> dict[str, Any]:
        """A JSON object."""
        value = json.loads(self.read_bytes(*parts))
        if not isinstance(value, dict):
            raise WorkspaceError(f"{self.path(*parts)} holds no JSON object; remove it to go on.")
        return value

    def write_json(self, relative: str, value: dict[str, Any]) -> None:
        """Write a JSON object, indented, keys in the order given."""
        self.write_bytes(
            relative, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
        )

    def read_table(self, *parts: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file."""
        with self.fs.open(self.path(*parts), "rb") as f:
            return pq.read_table(f, columns=columns)

    def write_table(self, relative: str, table: pa.Table) -> None:
        """Write a Parquet file, atomically."""
        self.write_bytes(relative, table_bytes(table))

    # -- shards ------------------------------------------------------------------------------

    def shard(self, kind: str, key: str) -> Shard:
        """A shard, complete or not."""
        return Shard(self, kind, key)

    def made(
        self,
        kind: str,
        key: str,
        write: Callable[[ShardWriter], None],
        *,
        reusable: Callable[[ShardRef], bool] = lambda _: True,
    ) -> ShardRef:
        """Reference of a shard: of the one that is there, or of the one that ``write`` makes now.

        A shard that is there is used again if all its files are there in their sizes, and
        ``reusable`` agrees; otherwise it is made anew.

        Parameters
        ----------
        kind, key : str
            Of the shard.
        write : callable
            Writes its files and sets rows and counts.
        reusable : callable
            May refuse the shard that is there.
        """
        shard = self.shard(kind, key)
        if shard.is_whole() and reusable(found := shard.ref(reused=True)):
            return found
        if shard.is_complete():
            self.fs.rm(self.path(shard.folder), recursive=True)
        started = time.perf_counter()
        with self.write_shard(kind, key) as writer:
            write(writer)
            writer.seconds = time.perf_counter() - started
        return shard.ref()

    @contextmanager
    def write_shard(self, kind: str, key: str) -> Iterator[ShardWriter]:
        """Write a shard aside; on leaving the block it is checked, marked complete and published.

        On a local disk the rename publishes files and mark at once; an object store has no rename,
        there the mark is written when all else is. If the block raises, nothing of it remains on a
        disk; on an object store files without a mark do, since a second worker that Dask gave the
        same shard may just be counting them. Whoever makes the shard writes the same ones.
        """
        final = f"{kind}/{key}"
        aside = f"{kind}/.{key}.{_writer_name()}.partial" if self.is_local else final
        if self.is_local and self.exists(final) and not self.shard(kind, key).is_complete():
            self.fs.rm(self.path(final), recursive=True)
        writer = ShardWriter(self, aside)
        try:
            yield writer
            self.write_json(f"{aside}/{COMPLETE}", writer.finish(kind, key))
            if self.is_local:
                try:
                    Path(self.path(aside)).rename(self.path(final))
                except OSError:
                    if not self.shard(kind, key).is_complete():
                        raise
                    # another worker made the same shard meanwhile: same key, same content
                    shutil.rmtree(self.path(aside))
        except BaseException:
            if self.is_local:
                with contextlib.suppress(OSError):
                    self.fs.rm(self.path(aside), recursive=True)
            raise

    def remove_abandoned(self) -> int:
        """Remove what writers left that no longer live; returns how many.

        On this machine a writer is known by its process; what other machines left is removed after
        a week. Folders deeper down are not looked into, so a busy workspace is not disturbed.
        """
        if not self.is_local:
            return 0
        removed = 0
        root = Path(self.root)
        for entry in [found for level in PARTIALS for found in root.glob(level)]:
            if not _is_abandoned(entry):
                continue
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
            removed += 1
        return removed

    def zarr_store(self, relative: str, *, read_only: bool) -> LocalStore | FsspecStore:
        """Zarr store of a folder in the workspace."""
        if self.is_local:
            return LocalStore(self.path(relative), read_only=read_only)
        protocol = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
        return FsspecStore.from_url(f"{protocol}://{self.path(relative)}", read_only=read_only)


class Shard:
    """One finished piece of a stage, read only."""

    def __init__(self, workspace: Workspace, kind: str, key: str) -> None:
        self.workspace, self.kind, self.key = workspace, kind, key
        self.folder = f"{kind}/{key}"

    def is_complete(self) -> bool:
        """Whether its mark is there."""
        return self.workspace.exists(self.folder, COMPLETE)

    def is_whole(self) -> bool:
        """Whether it is complete and all its files are there in their sizes."""
        if not self.is_complete():
            return False
        try:
            self.check()
        except ShardError:
            return False
        return True

    def record(self) -> dict[str, Any]:
        """Rows, counts and files, as they were when it was marked."""
        if not self.is_complete():
            raise ShardError(f"{self.folder} is not complete. Run the stage again: it is redone.")
        return self.workspace.read_json(self.folder, COMPLETE)

    def ref(self, *, reused: bool = False) -> ShardRef:
        """Reference of the finished shard."""
        r = self.record()
        return ShardRef(
            self.kind, self.key, int(r["rows"]), dict(r["counts"]), reused, float(r["seconds"])
        )

    def check(self, *, deep: bool = False) -> None:
        """Compare the files with the mark: all there and of the right size, or (deep) byte by byte.

        Raises
        ------
        ShardError
            A file is missing or altered. A missing Zarr chunk would otherwise read as zeros.
        """
        for name, (size, digest) in self.record()["files"].items():
            path = self.workspace.path(self.folder, name)
            try:
                altered = self.workspace.fs.size(path) != size
            except FileNotFoundError:
                altered = True
            if altered or (
                deep and _sha256(self.workspace.read_bytes(self.folder, name)) != digest
            ):
                raise ShardError(
                    f"{self.folder}/{name} is missing or altered. "
                    f"Remove the folder {self.workspace.path(self.folder)} and run again."
                )

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file of the shard."""
        return self.workspace.read_table(self.folder, name, columns=columns)

    def array(self, name: str) -> zarr.Array[Any]:
        """A Zarr array of the shard."""
        self.record()
        return zarr.open_array(
            self.workspace.zarr_store(f"{self.folder}/{name}", read_only=True), mode="r"
        )

    def read_bytes(self, name: str) -> bytes:
        """A plain file of the shard."""
        return self.workspace.read_bytes(self.folder, name)


class ShardWriter:
    """A shard while it is written. Set ``rows``, ``counts``, ``seconds`` before leaving."""

    def __init__(self, workspace: Workspace, folder: str) -> None:
        self.workspace, self.folder = workspace, folder
        self.rows = 0
        self.counts: dict[str, int] = {}
        self.seconds = 0.0

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file."""
        self.workspace.write_table(f"{self.folder}/{name}", table)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a plain file."""
        self.workspace.write_bytes(f"{self.folder}/{name}", data)

    def array(
        self, name: str, row_shape: tuple[int, ...], dtype: str, attributes: dict[str, Any]
    ) -> ArrayWriter:
        """Start a Zarr array that grows by rows; close it when all rows are in."""
        store = self.workspace.zarr_store(f"{self.folder}/{name}", read_only=False)
        return ArrayWriter(store, row_shape, dtype, attributes)

    def finish(self, kind: str, key: str) -> dict[str, Any]:
        """What the mark will say: rows, counts, and size and SHA-256 of each file."""
        base = self.workspace.path(self.folder)
        names = sorted(
            str(PurePosixPath(p).relative_to(base)) for p in self.workspace.fs.find(base)
        )
        files = {}
        for name in names:
            data = self.workspace.read_bytes(self.folder, name)
            files[name] = (len(data), _sha256(data))
        return {
            "kind": kind,
            "key": key,
            "rows": self.rows,
            "counts": self.counts,
            "seconds": round(self.seconds, 3),
            "files": files,
        }


class ArrayWriter:
    """Rows appended to a sharded Zarr array; memory bounded by one Zarr shard.

    Parameters
    ----------
    store : zarr store
        Where the array lies.
    row_shape : tuple of int
        Shape of one row, e.g. ``(512, 512)`` for tiles.
    dtype : str
        Of the array.
    attributes : dict
        Stored with it.
    """

    def __init__(
        self,
        store: LocalStore | FsspecStore,
        row_shape: tuple[int, ...],
        dtype: str,
        attributes: dict[str, Any],
    ) -> None:
        row_bytes = max(1, int(np.prod(row_shape)) * np.dtype(dtype).itemsize)
        chunk = max(1, ZARR_CHUNK_BYTES // row_bytes)
        self.shard_rows = chunk * max(1, ZARR_SHARD_BYTES // (row_bytes * chunk))
        self.rows = 0
        self._pending: list[npt.NDArray[Any]] = []
        self._pending_rows = 0
        self._array = zarr.create_array(
            store,
            shape=(0, *row_shape),
            dtype=dtype,
            chunks=(chunk, *row_shape),
            shards=(self.shard_rows, *row_shape),
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
            attributes=attributes,
            overwrite=True,
        )

    @property
    def rows_appended(self) -> int:
        """Rows so far, written or waiting."""
        return self.rows + self._pending_rows

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Add rows, shape (n, *row_shape)."""
        if not len(rows):
            return
        self._pending.append(rows)
        self._pending_rows += len(rows)
        while self._pending_rows >= self.shard_rows:
            self._flush(self.shard_rows)

    def close(self) -> None:
        """Write what is left."""
        if self._pending_rows:
            self._flush(self._pending_rows)

    def _flush(self, n: int) -> None:
        held = np.concatenate(self._pending) if len(self._pending) > 1 else self._pending[0]
        self._array.resize((self.rows + n, *held.shape[1:]))
        self._array[self.rows : self.rows + n] = held[:n]
        self.rows += n
        self._pending = [held[n:]] if len(held) > n else []
        self._pending_rows = len(held) - n


def table_bytes(table: pa.Table) -> bytes:
    """Parquet bytes of a table: zstd, statistics on, the same bytes for the same rows."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=128 * 1024)
    return buffer.getvalue()


def content_key(*parts: object) -> str:
    """Key of a shard: 20 hex digits of the SHA-256 of what it is made from, as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return _sha256(text.encode())[:20]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _writer_name() -> str:
    return f"{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}"


def partial_name(name: str) -> str:
    """Name under which a folder is written aside; it says which process writes it."""
    return f".{name}.{_writer_name()}.partial"


def _is_abandoned(entry: Path) -> bool:
    """Whether the writer that a ``.partial`` entry names has ended."""
    writer = entry.name.removesuffix(".partial").rsplit(".", 1)[-1].split("~")
    if len(writer) != 3 or not writer[1].isdigit():
        return False
    if writer[0] == socket.gethostname():
        return not _is_alive(int(writer[1]))
    try:
        return time.time() - entry.stat().st_mtime > ABANDONED_AFTER_S
    except FileNotFoundError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
