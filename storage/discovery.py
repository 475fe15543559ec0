"""Which files of a source are films, and what each of them is."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from storage import films
from storage.errors import FilmError, TableError, UnreadableFilm
from storage.films import formats
from storage.records import Mammogram

FILES_PER_BATCH = 64
"""Files whose headers one step reads."""

WORKSPACE_MARK = "mammosift-workspace.json"
"""A folder that holds this file is one of ours: output, never input."""

_NO_FILMS = frozenset(
    {
        ".ics", ".overlay", ".csv", ".tsv", ".txt", ".md", ".xml", ".json", ".jsonl", ".toml",
        ".yaml", ".yml", ".ini", ".cfg", ".log", ".html", ".htm", ".pdf", ".doc", ".docx", ".xls",
        ".xlsx", ".py", ".m", ".ipynb", ".sh", ".bat", ".exe", ".dll", ".so", ".zip", ".gz",
        ".tar", ".7z", ".rar", ".db", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".parquet", ".pt",
        ".pth", ".safetensors", ".pkl", ".pickle", ".sha256", ".md5", ".part",
    }
)  # fmt: skip
_NO_FILM_NAMES = frozenset({"thumbs.db", "desktop.ini", "dicomdir", "ehthumbs.db"})
_BLOCK_BYTES = 1 << 20
_GLOB = re.compile(r"[*?\[]")


def list_files(source: str | Path) -> tuple[Path, Iterator[tuple[Path, str]]]:
    r"""Find the files of a source that are, or ought to be, films.

    Sidecars (.ics, .OVERLAY, tables, texts), hidden files and folders, and our own workspaces are
    passed over. A file whose name promises a picture is listed whatever is in it, and any other one
    where its first bytes are those of a film: so DICOM files without a suffix are found. Folders
    that cannot be listed, and links that lead back, are listed themselves: :func:`describe` makes
    an exclusion of each.

    Parameters
    ----------
    source : str or Path
        A folder; a pattern with ``*``, ``?``, ``[...]`` and ``**`` (any folders); a csv with a
        column ``source`` or ``path``, or a txt with one path a line, relative to its own folder; or
        one film.

    Returns
    -------
    root : Path
        Folder that sources are relative to.
    files : iterator of (Path, str)
        Each file and its source: its path relative to the root with ``/``, bytes that are no UTF-8
        as ``\xNN``. A folder's come in order of name.

    Raises
    ------
    ValueError
        Where the source does not exist.
    TableError
        Where the csv has no such column.
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    if path.is_dir():
        return path, _named(path, _walk(path))
    if path.is_file():
        if path.suffix.lower() in (".csv", ".txt"):
            return _listed_in(path)
        return path.parent, _named(path.parent, iter([path]))
    if _GLOB.search(text):
        return _matching(text)
    raise ValueError(
        f"source={text!r} does not exist; give a folder, a pattern or a table of paths."
    )


def describe(
    path: Path,
    source: str,
    *,
    max_film_megapixels: float,
    known: Mammogram | None = None,
    any_modality: bool = False,
    hashed: bool = True,
) -> Mammogram:
    """Hash a file and read its header; a file that cannot be used becomes a row that says why.

    Parameters
    ----------
    path : Path
        The file.
    source : str
        Its path relative to the source root.
    max_film_megapixels : float
        Bound on rows x columns, in millions.
    known : Mammogram or None
        Row of an earlier run: its hash is taken over where size and time of change agree.
    any_modality : bool
        See :func:`storage.films.read_header`.
    hashed : bool
        False leaves hash and id out: only the header is read, not the whole file.

    Returns
    -------
    Mammogram
        With hash and ``mammogram_id`` wherever the bytes could be read; never raises for a bad
        film. Where no patient is known, ``patient_key`` is the ``mammogram_id``.
    """
    film = Mammogram(mammogram_id=None, patient_key=None, source=source)
    try:
        film = _hashed(film, path, known, hashed)
        header = films.read_header(
            path,
            source=source,
            max_film_megapixels=max_film_megapixels,
            films_only=False,
            any_modality=any_modality,
        )
    except FilmError as error:
        return _excluded(film, error)
    except OSError as error:
        return _excluded(film, films.unreadable(source, error))
    film = replace(
        header,
        mammogram_id=film.mammogram_id,
        patient_key=header.patient_key or film.mammogram_id,
        source_sha256=film.source_sha256,
        file_size_bytes=film.file_size_bytes,
        modified_ns=film.modified_ns,
    )
    return film if film.role == "film" else _excluded(film, films.not_a_film(film))


def film_path(root: Path, source: str) -> Path:
    r"""Path of a source: the inverse of what :func:`list_files` names it.

    Bytes that are no UTF-8 stand in a source as ``\xNN``; a file whose name really holds such
    letters comes first.
    """
    path = root / source
    if "\\x" not in source or path.exists():
        return path
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), source.encode())
    return root / os.fsdecode(raw)


def _excluded(film: Mammogram, error: FilmError) -> Mammogram:
    return replace(
        film,
        patient_key=film.patient_key or film.mammogram_id,
        excluded_reason=error.reason,
        excluded_rule=error.rule,
        excluded_remedy=error.remedy,
    )


def _hashed(film: Mammogram, path: Path, known: Mammogram | None, hashed: bool) -> Mammogram:
    if path.is_dir():
        raise _folder(path, film.source)
    status = path.stat()
    if not path.is_file():
        raise UnreadableFilm(film.source, "It is no regular file.", "Move it elsewhere.")
    unchanged = (
        known is not None
        and known.source_sha256 is not None
        and (known.file_size_bytes, known.modified_ns) == (status.st_size, status.st_mtime_ns)
    )
    digest = known.source_sha256 if known and unchanged else _sha256(path) if hashed else None
    return replace(
        film,
        mammogram_id=f"m{digest[:20]}" if digest else None,
        source_sha256=digest,
        file_size_bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _folder(path: Path, source: str) -> UnreadableFilm:
    try:
        os.scandir(path).close()
    except OSError as error:
        return UnreadableFilm(
            source,
            f"The folder cannot be listed: {(error.strerror or type(error).__name__).lower()}.",
            "Check that this user may read it.",
        )
    return UnreadableFilm(
        source,
        "The folder is a link to one that is read already, or leads back to one above it.",
        "Remove the link if you do not want to see this row.",
    )


# -- walking ---------------------------------------------------------------------------------------


def _walk(folder: Path) -> Iterator[Path]:
    yield from _walk_unseen(folder, set())


def _walk_unseen(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    try:
        status = folder.stat()
        identity = status.st_dev, status.st_ino
        if identity in seen:
            yield folder
            return
        seen.add(identity)
        with os.scandir(folder) as entries:
            names = sorted((entry.name for entry in entries), key=os.fsencode)
    except OSError:
        yield folder
        return
    if WORKSPACE_MARK in names:
        return
    for name in names:
        if name.startswith("."):
            continue
        path = folder / name
        if _is_folder(path):
            yield from _walk_unseen(path, seen)
        elif _is_candidate(path):
            yield path


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _is_candidate(path: Path) -> bool:
    suffix = path.suffix.lower()
    if path.name.lower() in _NO_FILM_NAMES or suffix in _NO_FILMS:
        return False
    if suffix in formats.SUFFIXES:
        return True
    try:
        if not path.is_file():  # a pipe would wait for ever
            return False
        with path.open("rb") as file:
            head = file.read(formats.HEAD_BYTES)
    except OSError:
        return True
    return formats.recognise(head) is not None or (not head and not suffix)


def _named(root: Path, paths: Iterator[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        yield path, _source(path, root)


def _source(path: Path, root: Path) -> str:
    relative = PurePosixPath(os.path.relpath(path, root)).as_posix()
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def _matching(pattern: str) -> tuple[Path, Iterator[tuple[Path, str]]]:
    parts = Path(pattern).expanduser().parts
    fixed = next(n for n, part in enumerate(parts) if _GLOB.search(part))
    root = Path(*parts[:fixed]) if fixed else Path()
    if not root.is_dir():
        raise ValueError(f"source={pattern!r} matches nothing: there is no folder {str(root)!r}.")
    wanted = re.compile(_regex("/".join(parts[fixed:])), re.DOTALL)
    found = (
        path
        for path in _walk(root)
        if wanted.fullmatch(path.relative_to(root).as_posix()) or path.is_dir()
    )
    return root, _named(root, found)


def _regex(pattern: str) -> str:
    out, at = [], 0
    for found in re.finditer(r"(?:^|(?<=/))\*\*(?:/|$)|\*|\?|\[!?[^\]]+\]", pattern):
        out.append(re.escape(pattern[at : found.start()]))
        token, at = found[0], found.end()
        if token.startswith("**"):
            out.append(r"(?:[^/]+/)*" if token.endswith("/") else r".*")
        elif token.startswith("["):
            out.append(token.replace("[!", "[^", 1).replace("\\", r"\\"))
        else:
            out.append({"*": "[^/]*", "?": "[^/]"}[token])
    return "".join(out) + re.escape(pattern[at:])


# -- tables of paths -------------------------------------------------------------------------------


def _listed_in(table: Path) -> tuple[Path, Iterator[tuple[Path, str]]]:
    """Files of a table; one that is missing stays in the list and becomes an exclusion."""
    try:
        lines = table.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise TableError(f"{table.name}: not in UTF-8. Save it as UTF-8.") from None
    if table.suffix.lower() == ".txt":
        given = [line.strip() for line in lines]
    else:
        rows = csv.DictReader(lines)
        column = next((c for c in ("source", "path") if c in (rows.fieldnames or [])), None)
        if column is None:
            raise TableError(
                f"{table.name}, line 1: no column source or path. Name the column of paths so."
            )
        given = [(row[column] or "").strip() for row in rows]
    paths = [table.parent / name for name in dict.fromkeys(given) if name]
    inside = all(path.is_relative_to(table.parent) for path in paths)
    root = table.parent if inside else Path(os.path.commonpath([p.parent for p in paths]))
    return root, _named(root, iter(paths))
