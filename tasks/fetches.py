"""Fetching a public collection: what is chosen, what it weighs, and the transfer of it."""

from __future__ import annotations

import csv
import io
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from storage.collections import case_labels
from storage.errors import FetchError, InputError
from storage.idc import DOI, ENDPOINT, Series, read_index, select
from storage.transfers import PARTS, Fetched, RemoteFile, fetch_file, list_files

TABLE = "fetched.csv"
LICENCE = "LICENCE.txt"
SPARE_BYTES = 256 * 10**6
"""That stay free on the disk."""

LABELS = {"malignant": ("malignant",), "benign": ("benign", "benign_without_callback")}
FILE_SUFFIX = ".dcm"

_Job = TypeVar("_Job")
_Done = TypeVar("_Done")


@dataclass(frozen=True)
class Selection:
    """What would be fetched."""

    series: Sequence[Series]
    case_files: Sequence[Path]

    @property
    def films(self) -> int:
        """Whole films."""
        return sum(each.kind == "film" for each in self.series)

    @property
    def patients(self) -> int:
        """Patients."""
        return len({each.patient for each in self.series})

    @property
    def bytes(self) -> int:
        """Bytes by the index."""
        return sum(each.bytes for each in self.series)


def choose(
    *,
    films: int | None = None,
    view: str | None = None,
    label: str | None = None,
    cases: str | Path | None = None,
    with_findings: bool = False,
    index: Path | None = None,
) -> Selection:
    """Choose films of CBIS-DDSM by the index; nothing is fetched.

    Parameters
    ----------
    films : int, optional
        At least so many, by whole patients; default: all.
    view : {"CC", "MLO"}, optional
    label : {"malignant", "benign"}, optional
        Of the film; needs ``cases``.
    cases : str or Path, optional
        Folder of the collection's case csvs.
    with_findings : bool
        Also the crops and masks of the films' findings.
    index : Path, optional
        Default: that of the installed idc-index-data.

    Raises
    ------
    InputError
        A label without the tables that know it, or nothing that fits.
    """
    if view is not None and view not in ("CC", "MLO"):
        raise InputError(f"view={view!r}: CC or MLO.")
    if label is not None and label not in LABELS:
        raise InputError(f"label={label!r}: {' or '.join(LABELS)}.")
    if label is not None and cases is None:
        raise InputError(
            "the index does not know the labels: give --cases the folder of the collection's "
            "case_description csvs (docs/collections.md)."
        )
    case_files: list[Path] = []
    wanted: set[tuple[str, str, str]] | None = None
    if cases is not None:
        case_files, labels = case_labels(Path(cases))
        if label is not None:
            wanted = {
                (str(patient).removeprefix("cbis-ddsm:"), str(side), str(of_view))
                for (patient, side, of_view), told in labels.items()
                if told in LABELS[label]
            }
    chosen = select(
        read_index(index), films=films, view=view, wanted=wanted, with_findings=with_findings
    )
    if not chosen:
        raise InputError(f"no film fits view={view!r} and label={label!r}.")
    return Selection(chosen, case_files)


def fetch(
    selection: Selection,
    out: Path,
    *,
    endpoint: str | None = None,
    parallel: int = 8,
    told: Callable[[int, int, int], None] = lambda done, of, n: None,
) -> Counter[str]:
    """Fetch a selection into a folder; what is there and whole is not fetched again.

    Parameters
    ----------
    selection : Selection
    out : Path
        Films go to ``<PatientID>/``; a table ``fetched.csv``, the licence and the case csvs lie
        beside them, where ``mammosift run`` looks for them.
    endpoint : str, optional
        Address of the store, if it is not the Imaging Data Commons' own; ``{bucket}`` stands
        for the bucket, else it is put behind.
    parallel : int
        Transfers at a time.
    told : callable
        Told after each file: files done, files in all, bytes that have arrived.

    Returns
    -------
    Counter
        Files ``fetched``, ``present`` and ``replaced``.

    Raises
    ------
    FetchError
        No space, no answer, or wrong bytes.
    """
    endpoint = endpoint or ENDPOINT
    out.mkdir(parents=True, exist_ok=True)
    parts = out / PARTS
    with ThreadPoolExecutor(parallel, "mammosift-fetch") as pool:
        listings = _all(pool, lambda each: _files_of(each, endpoint), selection.series)
        jobs = [
            (each, remote) for each, files in zip(selection.series, listings, strict=True)
            for remote in files
        ]  # fmt: skip
        _check_space(out, jobs)
        counted = _Progress(len(jobs), told)

        def run(job: tuple[Series, RemoteFile]) -> Fetched:
            each, remote = job
            target = out / each.folder / remote.name
            done = fetch_file(remote, target, parts, arrived=counted.arrived)
            counted.finished()
            return done

        results = _all(pool, run, jobs)
    _write_beside(out, selection, jobs, results)
    shutil.rmtree(parts, ignore_errors=True)
    return Counter(result.how for result in results)


def _all(
    pool: ThreadPoolExecutor, do: Callable[[_Job], _Done], jobs: Sequence[_Job]
) -> list[_Done]:
    """Do all; after the first that fails no other is begun."""
    futures = [pool.submit(do, job) for job in jobs]
    done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
    for future in waiting:
        future.cancel()
    for future in done:
        if (error := future.exception()) is not None:
            raise error
    return [future.result() for future in futures]


class _Progress:
    """Bytes and files, counted by several threads."""

    def __init__(self, files: int, told: Callable[[int, int, int], None]) -> None:
        self._lock = threading.Lock()
        self.files, self.done, self.bytes, self.told = files, 0, 0, told

    def arrived(self, n: int) -> None:
        with self._lock:
            self.bytes += n

    def finished(self) -> None:
        with self._lock:
            self.done += 1
            self.told(self.done, self.files, self.bytes)


def _files_of(each: Series, endpoint: str) -> list[RemoteFile]:
    if "{bucket}" in endpoint:
        base = endpoint.replace("{bucket}", each.bucket)
    else:
        base = f"{endpoint.rstrip('/')}/{each.bucket}"
    files = [f for f in list_files(base, each.prefix) if f.name.endswith(FILE_SUFFIX)]
    if len(files) != each.files:
        raise FetchError(
            f"{each.folder}: the index names {each.files} files, the bucket holds {len(files)} "
            f"below {each.prefix}. The index is older than the bucket: install a newer "
            "idc-index-data."
        )
    return files


def _check_space(out: Path, jobs: Sequence[tuple[Series, RemoteFile]]) -> None:
    needed = sum(
        remote.size for each, remote in jobs if not (out / each.folder / remote.name).exists()
    )
    free = shutil.disk_usage(out).free
    if needed and free < needed + SPARE_BYTES:
        raise FetchError(
            f"{out} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are to be fetched. "
            "Make room, choose another --out, or ask for fewer --films. Nothing was fetched."
        )


def _write_beside(
    out: Path,
    selection: Selection,
    jobs: Sequence[tuple[Series, RemoteFile]],
    results: Sequence[Fetched],
) -> None:
    """Table, licence and case csvs, each written whole."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["file", "patient", "laterality", "view", "kind", "bytes", "md5", "series", "licence"]
    )
    rows = []
    for (each, _), result in zip(jobs, results, strict=True):
        name = result.path.relative_to(out).as_posix()
        about = (each.patient, each.laterality, each.view, each.kind)
        rows.append((name, *about, result.bytes, result.md5, each.uid, each.licence))
    table.writerows(sorted(rows))
    licences = sorted({each.licence for each in selection.series})
    _write(out / TABLE, text.getvalue().encode())
    _write(
        out / LICENCE,
        f"CBIS-DDSM, {', '.join(licences)}, doi {DOI}, from the Imaging Data Commons.\n".encode(),
    )
    for path in selection.case_files:
        _write(out / path.name, path.read_bytes())


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    aside.write_bytes(data)
    aside.replace(path)
