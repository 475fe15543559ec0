"""Stage: find the films, read their headers, join what tables say, form shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from storage import collections, discovery
from storage.errors import InputError, WorkspaceError
from storage.exemplars import read_exemplars
from storage.records import FilmShard, Lesion, Mammogram
from storage.workspace import Workspace
from tasks.fingerprint import source_fingerprint

TABLE = "mammograms/mammograms.parquet"
HEADERS = "headers/headers.parquet"


def check_inputs(
    source: str, *, films_csv: str | None, lesions_csv: str | None, exemplars: str | None
) -> None:
    """Look at what the user named, before anything long begins.

    Raises
    ------
    MammosiftError
        The source or a table does not exist, or the table of exemplars cannot be read.
    """
    try:
        discovery.list_files(source)
    except ValueError as e:
        raise InputError(str(e)) from e
    for name, table in (("films_csv", films_csv), ("lesions_csv", lesions_csv)):
        if table is not None and not Path(table).is_file():
            raise InputError(f"{name}={table!r} does not exist; check the path.")
    if exemplars is not None:
        read_exemplars(exemplars)


def find(source: str) -> tuple[Path, list[list[tuple[str, str]]]]:
    """Walk the source; file paths with their names relative to the root, in batches.

    Returns
    -------
    root : Path
        Folder that the names are relative to.
    batches : list of list of (path, source)
        At most ``discovery.FILES_PER_BATCH`` files each.
    """
    root, files = discovery.list_files(source)
    pairs = [(str(path), name) for path, name in files]
    n = discovery.FILES_PER_BATCH
    return root, [pairs[i : i + n] for i in range(0, len(pairs), n)]


def known_headers(workspace: Workspace) -> dict[str, Mammogram]:
    """Films that an earlier run in this workspace described, by source; none of other code."""
    if not workspace.exists(HEADERS):
        return {}
    table = workspace.read_table(HEADERS)
    if (table.schema.metadata or {}).get(b"code_version") != _code_version():
        return {}
    return {film.source: film for film in collections.from_table(table)}


def remember_headers(workspace: Workspace, films: Sequence[Mammogram]) -> None:
    """Write what the files themselves say, so that a later run hashes only what is new."""
    table = collections.to_table(sorted(films, key=lambda film: film.source))
    workspace.write_table(
        HEADERS, table.replace_schema_metadata({b"code_version": _code_version()})
    )


def _code_version() -> bytes:
    return source_fingerprint("storage.films", "storage.discovery", "storage.records").encode()


def describe_batch(
    files: Sequence[tuple[str, str]],
    *,
    max_film_megapixels: float,
    known: dict[str, Mammogram],
) -> list[Mammogram]:
    """Headers and hashes of a batch of files; what cannot be used comes back with its reason."""
    return [
        discovery.describe(
            Path(path),
            source,
            max_film_megapixels=max_film_megapixels,
            known=known.get(source),
        )
        for path, source in files
    ]


def join(
    films: Sequence[Mammogram], root: Path, *, films_csv: str | None, lesions_csv: str | None
) -> tuple[list[Mammogram], list[str]]:
    """Films with what the tables beside them say, and warnings about rows that fit no film."""
    return collections.join(
        sorted(films, key=lambda film: film.source),
        root,
        films_csv=Path(films_csv) if films_csv else None,
        lesions_csv=Path(lesions_csv) if lesions_csv else None,
    )


def write(workspace: Workspace, films: Sequence[Mammogram]) -> None:
    """Write the table of films, used and excluded ones, in order of source."""
    workspace.write_table(TABLE, collections.to_table(films))


def read(workspace: Workspace) -> list[Mammogram]:
    """Table of films of the last run.

    Raises
    ------
    WorkspaceError
        No run has written it yet.
    """
    if not workspace.exists(TABLE):
        raise WorkspaceError(f"{workspace.uri} holds no table of films yet. Run mammosift run.")
    return collections.from_table(workspace.read_table(TABLE))


def count_exclusions(films: Sequence[Mammogram]) -> dict[str, int]:
    """How many films each reason excluded."""
    reasons = Counter(f.excluded_reason for f in films if f.excluded_reason is not None)
    return dict(sorted(reasons.items()))


def form_shards(films: Sequence[Mammogram], root: Path, *, films_per_shard: int) -> list[FilmShard]:
    """Group the films by the leading bits of their content's hash.

    Neither their order nor their folder changes a shard, and a film added later changes one of them
    only (until their number doubles).

    Parameters
    ----------
    films : sequence of Mammogram
        Used and excluded ones.
    root : Path
        Of the films, for the annotation files.
    films_per_shard : int
        Wanted size; shards are between about half and twice of it.
    """
    used = [film for film in films if film.excluded_reason is None]
    bits = max(0, (max(1, len(used)) * 4 // (films_per_shard * 3)).bit_length() - 1)
    shards: dict[int, list[Mammogram]] = {}
    for film in used:
        head = int(_sha256_of(film)[:8], 16)
        shards.setdefault(head >> (32 - bits), []).append(film)
    hashes = {f.source: f.source_sha256 for f in films if f.source_sha256 is not None}
    out = []
    for head, members in sorted(shards.items()):
        members.sort(key=_sha256_of)
        digests = tuple(_lesion_digest(film.lesions, root, hashes) for film in members)
        name = format(head, f"0{bits}b") if bits else "all"
        out.append(FilmShard(name, tuple(members), digests))
    return out


def _sha256_of(film: Mammogram) -> str:
    if film.source_sha256 is None:
        raise ValueError(f"{film.source} has no hash, so it cannot be used")
    return film.source_sha256


def _lesion_digest(lesions: tuple[Lesion, ...], root: Path, hashes: dict[str, str]) -> str:
    """Hash of where a film's lesions are, by content: a moved mask is the same mask."""
    parts = []
    for lesion in lesions:
        place = ""
        if lesion.source is not None:
            place = hashes.get(lesion.source) or _file_sha256(
                discovery.film_path(root, lesion.source)
            )
        parts.append((lesion.kind, lesion.x_px, lesion.y_px, lesion.radius_px, place))
    return hashlib.sha256(repr(sorted(parts, key=repr)).encode()).hexdigest()[:16]


def _file_sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
