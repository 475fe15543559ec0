"""CBIS-DDSM at the Imaging Data Commons: the index that idc-index-data carries, and the bucket."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from storage.errors import FetchError
from storage.films import names

COLLECTION = "cbis_ddsm"
DOI = "10.7937/K9/TCIA.2016.7O02S9CY"
ENDPOINT = "https://{bucket}.s3.amazonaws.com"
"""Open to everybody, without an account."""

Kind = Literal["film", "finding"]

_COLUMNS = (
    "PatientID", "SeriesInstanceUID", "SeriesDescription", "instanceCount", "series_size_MB",
    "license_short_name", "aws_bucket", "crdc_series_uuid",
)  # fmt: skip
_FULL = (None, "full mammogram images")
"""What the index calls full films; 246 have no description at all."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Series:
    """One series of the index: a film, or the crops and masks of a finding."""

    patient: str
    """``P_nnnnn``: the PatientID of the collection names the picture."""
    laterality: str
    view: str
    kind: Kind
    folder: str
    """PatientID without ``.dcm``: where its files go."""
    uid: str
    bucket: str
    prefix: str
    files: int
    bytes: int
    """By the index, which counts in megabytes of 10^6."""
    licence: str


def read_index(path: Path | None = None) -> list[Series]:
    """All series of CBIS-DDSM.

    Parameters
    ----------
    path : Path, optional
        The index as Parquet; default: that of the installed idc-index-data.

    Raises
    ------
    FetchError
        The package is not installed, or its index holds something else.
    """
    index = path if path is not None else _installed_index()
    try:
        table = pq.read_table(
            index, columns=list(_COLUMNS), filters=[("collection_id", "=", COLLECTION)]
        )
    except (OSError, ValueError, KeyError) as e:
        raise FetchError(f"{index} is no index of the Imaging Data Commons ({e}).") from e
    found = []
    for row in table.to_pylist():
        told = names.cbis(row["PatientID"])
        parts = row["PatientID"], row["aws_bucket"], row["crdc_series_uuid"]
        if told is None or not all(_SAFE.fullmatch(part or "") for part in parts):
            continue
        is_film = row["SeriesDescription"] in _FULL and told.abnormality is None
        found.append(
            Series(
                patient=told.patient,
                laterality=told.laterality,
                view=told.view,
                kind="film" if is_film else "finding",
                folder=row["PatientID"].removesuffix(".dcm"),
                uid=row["SeriesInstanceUID"],
                bucket=row["aws_bucket"],
                prefix=row["crdc_series_uuid"] + "/",
                files=int(row["instanceCount"]),
                bytes=round(row["series_size_MB"] * 1e6),
                licence=row["license_short_name"] or "not stated",
            )
        )
    if not found:
        raise FetchError(
            f"{index} holds no series of {COLLECTION}. Install a newer idc-index-data."
        )
    return found


def _installed_index() -> Path:
    try:
        import idc_index_data
    except ModuleNotFoundError as e:
        raise FetchError(
            "the index of the Imaging Data Commons is not installed. "
            "Install it with: pip install 'mammosift[fetch]'"
        ) from e
    return Path(str(idc_index_data.IDC_INDEX_PARQUET_FILEPATH))


def select(
    series: Iterable[Series],
    *,
    films: int | None = None,
    view: str | None = None,
    wanted: Collection[tuple[str, str, str]] | None = None,
    with_findings: bool = False,
) -> list[Series]:
    """Choose whole patients: what is wanted of a patient is taken together or not at all.

    Patients come in an order that looks random and is always the same, so that a larger selection
    holds a smaller one.

    Parameters
    ----------
    series : iterable of Series
    films : int, optional
        At least so many films, by whole patients; default: all.
    view : {"CC", "MLO"}, optional
    wanted : collection of (patient, laterality, view), optional
        Films of the label that is asked for; default: any.
    with_findings : bool
        Also crops and masks of the films chosen.
    """
    by_patient: dict[str, list[Series]] = {}
    for each in series:
        key = each.patient, each.laterality, each.view
        if (view in (None, each.view)) and (wanted is None or key in wanted):
            by_patient.setdefault(each.patient, []).append(each)
    chosen: list[Series] = []
    n = 0
    for patient in sorted(by_patient, key=_shuffled):
        own = sorted(by_patient[patient], key=lambda s: (s.folder, s.uid))
        of_films = [s for s in own if s.kind == "film"]
        if not of_films:
            continue
        if films is not None and n >= films:
            break
        n += len(of_films)
        chosen += own if with_findings else of_films
    return chosen


def _shuffled(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()
