"""One reading of the table of films: what the report says of them."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from storage.workspace import Workspace

TABLE = "mammograms/mammograms.parquet"
SHOWN_EXCLUSIONS = 200
BATCH_ROWS = 16 * 1024

_COLUMNS = [
    "mammogram_id",
    "patient_key",
    "source",
    "rows",
    "columns",
    "pixel_spacing_mm",
    "laterality",
    "view",
    "scanner",
    "label",
    "lesions",
    "excluded_reason",
    "excluded_rule",
    "excluded_remedy",
]


@dataclass(frozen=True)
class Exclusion:
    """A file that was left out."""

    source: str
    reason: str
    rule: str
    remedy: str

    def rank(self) -> tuple[bool, str]:
        """Crops and masks, which are no fault of anything, come after all others."""
        return self.reason == "not_a_film", self.source


@dataclass
class FilmSurvey:
    """What the table of films says; one batch of its rows is in memory at a time."""

    wanted: frozenset[str] = frozenset()
    """Films whose rows are kept, by mammogram_id."""
    used: int = 0
    patients: set[str] = field(default_factory=set)
    unknown: Counter[str] = field(default_factory=Counter)
    """Films used of which a column says nothing."""
    exclusions: list[Exclusion] = field(default_factory=list)
    labels_by_scanner: dict[str, Counter[str]] = field(default_factory=dict)
    """Films used of which both are known."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, workspace: Workspace) -> FilmSurvey:
        """Go through the table of films once."""
        for rows in _batches(workspace):
            left_out = [
                Exclusion(
                    r["source"],
                    r["excluded_reason"],
                    r["excluded_rule"] or "",
                    r["excluded_remedy"] or "",
                )
                for r in rows
                if r["excluded_reason"] is not None
            ]
            self.exclusions = heapq.nsmallest(
                SHOWN_EXCLUSIONS, self.exclusions + left_out, key=Exclusion.rank
            )
            for row in rows:
                if row["excluded_reason"] is None:
                    self._add_used(row)
        return self

    def _add_used(self, row: Mapping[str, Any]) -> None:
        self.used += 1
        self.patients.add(row["patient_key"])
        for name in ("pixel_spacing_mm", "scanner", "label"):
            self.unknown[name] += row[name] is None
        if row["scanner"] is not None and row["label"] is not None:
            self.labels_by_scanner.setdefault(row["scanner"], Counter())[row["label"]] += 1
        if row["mammogram_id"] in self.wanted:
            self.rows[row["mammogram_id"]] = dict(row)


def _batches(workspace: Workspace) -> Iterator[list[dict[str, Any]]]:
    with workspace.fs.open(workspace.path(TABLE), "rb") as f:
        for batch in pq.ParquetFile(f).iter_batches(batch_size=BATCH_ROWS, columns=_COLUMNS):
            yield batch.to_pylist()
