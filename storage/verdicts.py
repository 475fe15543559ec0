"""Verdicts of people on tiles and clusters: the tables they write, and what a workspace remembers.

A verdict is about one tile, or about a cluster of one clustering. In the workspace lie verdicts on
tiles alone (``review/verdicts.parquet``): what was said of a cluster is noted on each of its tiles,
so that it holds when the tiles are clustered anew.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from storage.errors import TableError
from storage.workspace import Workspace

TABLE = "review/verdicts.parquet"
WORDS = ("keep", "drop", "review")

VERDICTS = pa.schema(
    [
        pa.field("tile_id", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("reviewed_by", pa.string(), nullable=False),
        pa.field("reviewed_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("note", pa.string()),
        pa.field("from_cluster", pa.int32()),
        pa.field("from_clustering", pa.string()),
    ]
)
"""One row a tile. ``from_cluster`` and ``from_clustering`` say which cluster's verdict it was; null
where somebody judged the tile itself."""

COLUMNS = (
    "tile_id",
    "cluster",
    "clustering",
    "verdict",
    "reviewed_by",
    "reviewed_at",
    "note",
    "from_cluster",
    "from_clustering",
)
"""What is read of a table; others are left alone."""

Frame = pd.DataFrame
"""A row a verdict: ``line`` and the columns above, empty text and NaT where nothing was said."""


# -- tables that people write ----------------------------------------------------------------


def read_verdicts(path: str, *, reviewer: str | None = None) -> Frame:
    """Read a table of verdicts.

    Parameters
    ----------
    path : str
        csv in UTF-8 or Parquet, local or any URI that fsspec knows. Columns: ``tile_id`` or
        ``cluster`` (one of both filled in each row), ``clustering`` beside a cluster, ``verdict``
        (keep, drop or review), ``reviewed_by``, ``reviewed_at`` (ISO 8601; without offset it is
        UTC), ``note``. A row without a verdict is passed over, and further columns are ignored.
    reviewer : str, optional
        Who gave the verdicts of the rows that name nobody.

    Returns
    -------
    DataFrame
        ``line`` (of the file; of a Parquet file, the row) and the columns above; ``cluster`` is
        Int32, ``reviewed_at`` is NaT where the table gives no time.

    Raises
    ------
    TableError
        The file cannot be read, or a value breaks a rule; names file, line, column and remedy.
    """
    rows = _read(path)
    missing = [name for name in ("verdict",) if name not in rows]
    if not {"tile_id", "cluster"} & set(rows):
        missing.insert(0, "tile_id or cluster")
    if missing:
        raise TableError(
            f"{path}, line 1: no column {' and none '.join(missing)}. Name the columns in the "
            "first line; the columns are tile_id or cluster, clustering, verdict, reviewed_by, "
            "reviewed_at, note."
        )
    for name in COLUMNS:
        if name not in rows:
            rows[name] = ""
    rows = rows[rows["verdict"] != ""].reset_index(drop=True)
    if reviewer:
        rows.loc[rows["reviewed_by"] == "", "reviewed_by"] = reviewer
    _check(path, rows)
    rows["cluster"] = _whole(path, rows, "cluster")
    rows["from_cluster"] = _whole(path, rows, "from_cluster")
    rows["reviewed_at"] = _moments(path, rows)
    _refuse_contradictions(path, rows)
    return rows[["line", *COLUMNS]]


def verdicts_frame(rows: Sequence[dict[str, Any]]) -> Frame:
    """Verdicts that came from elsewhere than a table (a form), in the shape of one.

    Parameters
    ----------
    rows : sequence of dict
        Keys as in ``read_verdicts``; ``reviewed_at`` is a datetime or missing.
    """
    frame = pd.DataFrame([{"line": i, **row} for i, row in enumerate(rows, start=1)])
    for name in ("line", *COLUMNS):
        if name not in frame:
            frame[name] = "" if name not in ("cluster", "from_cluster", "reviewed_at") else None
    frame = frame.astype({"cluster": "Int32", "from_cluster": "Int32"})
    frame["reviewed_at"] = pd.to_datetime(frame["reviewed_at"], utc=True)
    text = ["tile_id", "clustering", "verdict", "reviewed_by", "note", "from_clustering"]
    frame[text] = frame[text].fillna("")
    return frame[["line", *COLUMNS]]


def _read(path: str) -> Frame:
    """Cells as text without blanks around, and the line of each row."""
    try:
        with fsspec.open(path, "rb") as f:
            is_parquet = f.read(4) == b"PAR1"
            f.seek(0)
            if is_parquet:
                return _from_parquet(pq.read_table(f))
        with fsspec.open(path, "r", encoding="utf-8-sig", newline="") as f:
            return _from_csv(path, csv.DictReader(f, strict=True))
    except OSError as e:
        raise TableError(
            f"{path}: the table of verdicts cannot be opened ({type(e).__name__}). Check the path."
        ) from e
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as e:
        raise TableError(
            f"{path}: this is neither csv in UTF-8 nor Parquet ({e}). Save it as one of them."
        ) from e


def _from_csv(path: str, reader: csv.DictReader[str]) -> Frame:
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    if twice := sorted({name for name in names if name in COLUMNS and names.count(name) > 1}):
        raise TableError(f"{path}, line 1: the column {twice[0]} is there twice. Keep one of them.")
    wanted = [name for name in names if name in COLUMNS]
    cells: list[list[Any]] = []
    for row in reader:
        if None in row:
            raise TableError(
                f"{path}, line {reader.line_num}: it has more cells than there are columns. Put "
                'text with a comma in quotes: "...".'
            )
        cells.append([reader.line_num, *((row[name] or "").strip() for name in wanted)])
    return pd.DataFrame(cells, columns=["line", *wanted]).astype(dict.fromkeys(wanted, "object"))


def _from_parquet(table: pa.Table) -> Frame:
    out = pd.DataFrame({"line": np.arange(1, table.num_rows + 1)})
    for name in (n for n in COLUMNS if n in table.column_names):
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_floating(column.type):  # pandas writes a column of numbers and gaps so
            column = column.cast(pa.int64())
        if pa.types.is_timestamp(column.type):
            values = [None if t is None else t.isoformat() for t in column.to_pylist()]
        else:
            values = column.cast(pa.string()).to_pylist()
        out[name] = pd.Series(["" if v is None else v.strip() for v in values], dtype="object")
    return out


def _refuse(path: str, rows: Frame, wrong: npt.NDArray[np.bool_], column: str, rule: str) -> None:
    """Raise for the first row that is wrong; ``rule`` may use {value}."""
    if wrong.any():
        row = rows.iloc[int(np.flatnonzero(wrong)[0])]
        told = rule.format(value=str(row[column])[:80])
        raise TableError(f"{path}, line {row['line']}, column {column}: {told}")


def _check(path: str, rows: Frame) -> None:
    filled = {name: (rows[name] != "").to_numpy(bool) for name in COLUMNS}

    def refuse(wrong: npt.NDArray[np.bool_], column: str, rule: str) -> None:
        _refuse(path, rows, wrong, column, rule)

    known = rows["verdict"].isin(WORDS).to_numpy(bool)
    refuse(~known, "verdict", "{value!r} is no verdict. Write keep, drop or review.")
    refuse(
        filled["tile_id"] & filled["cluster"],
        "cluster",
        "{value!r} stands beside a tile_id. A row is about one tile or one cluster: empty one.",
    )
    refuse(
        ~filled["tile_id"] & ~filled["cluster"],
        "tile_id",
        "it is empty, and so is cluster. Say which tile or which cluster the verdict is about.",
    )
    refuse(
        filled["cluster"] & ~filled["clustering"],
        "clustering",
        "it is empty. A label means something in one clustering only: give its key, as "
        "review/decisions.csv and runs/<run_id>.json (shards, clusters) name it.",
    )
    refuse(
        ~filled["reviewed_by"],
        "reviewed_by",
        "it is empty. Say who decided, in the table or with --reviewer.",
    )


def _whole(path: str, rows: Frame, column: str) -> pd.Series:
    numbers = pd.to_numeric(rows[column].where(rows[column] != ""), errors="coerce")
    numbers = numbers.astype("float64")
    wrong = (rows[column] != "") & ~(numbers.ge(-1) & numbers.lt(2**31) & (numbers % 1 == 0))
    _refuse(
        path,
        rows,
        wrong.to_numpy(bool),
        column,
        "{value!r} is no label of a cluster. Labels are whole numbers from 0; -1 is the noise.",
    )
    return numbers.astype("Int32")


def _moments(path: str, rows: Frame) -> pd.Series:
    known: dict[str, datetime | None] = {"": None}  # a table holds few moments, many times
    for text in rows["reviewed_at"].unique():
        if text:
            try:
                moment = datetime.fromisoformat(text)
                moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
            except (ValueError, OverflowError):
                _refuse(
                    path,
                    rows,
                    (rows["reviewed_at"] == text).to_numpy(bool),
                    "reviewed_at",
                    "{value!r} is no time. Write it as 2026-11-26T14:30:00Z, or leave it empty.",
                )
            known[text] = moment.replace(microsecond=0)
    values = [known[text] for text in rows["reviewed_at"]]
    return pd.Series(pd.to_datetime(pd.Series(values, dtype="object"), utc=True), rows.index)


def _refuse_contradictions(path: str, rows: Frame) -> None:
    """Two verdicts on the same thing, neither of which is the later one."""
    about = ["tile_id", "cluster", "clustering", "reviewed_at"]
    about.append("from_cluster")  # a verdict on the tile outranks one on its cluster
    first = rows.groupby(about, dropna=False, sort=False)["verdict"].transform("first")
    wrong = (rows["verdict"] != first).to_numpy(bool)
    if wrong.any():
        row = rows.iloc[int(np.flatnonzero(wrong)[0])]
        what = f"tile {row['tile_id']}" if row["tile_id"] else f"cluster {row['cluster']}"
        raise TableError(
            f"{path}, line {row['line']}, column verdict: {row['verdict']!r} contradicts what an "
            f"earlier line says of {what}. Keep one, or give the later one a later reviewed_at."
        )


# -- what the workspace remembers ------------------------------------------------------------


def recorded_nowhere() -> Frame:
    """No verdicts at all, in the shape of ``recorded``."""
    return _frame(VERDICTS.empty_table())


def recorded(workspace: Workspace, tile_ids: Sequence[str] | None = None) -> Frame:
    """Verdicts recorded in a workspace, in order of tile_id.

    Parameters
    ----------
    workspace : Workspace
        Where ``review/verdicts.parquet`` may lie.
    tile_ids : sequence of str, optional
        Only of these tiles; parts of the file that hold none of them are not read.

    Returns
    -------
    DataFrame
        Columns of ``VERDICTS``; ``reviewed_at`` is datetime64[s, UTC], ``from_cluster`` Int32.
    """
    if not workspace.exists(TABLE) or (tile_ids is not None and not len(tile_ids)):
        return recorded_nowhere()
    if tile_ids is None:
        return _frame(workspace.read_table(TABLE))
    names = pa.array(sorted(tile_ids), pa.string())
    name = ds.field("tile_id")
    between = (name >= names[0]) & (name <= names[-1]) & name.isin(names)
    with workspace.fs.open(workspace.path(TABLE), "rb") as f:
        return _frame(pq.read_table(f, filters=between))


def remember(workspace: Workspace, new: Frame, *, now: datetime) -> Frame:
    """Merge verdicts on tiles into those of the workspace, and write them.

    A verdict on a tile outranks one on its cluster; of two of the same kind the later one counts.
    A verdict without a time was given now, unless the same is recorded already: then nothing
    changes.

    Parameters
    ----------
    workspace : Workspace
        Whose ``review/verdicts.parquet`` is written.
    new : DataFrame
        As ``read_verdicts`` gives them, with every cluster resolved to its tiles.
    now : datetime
        With its time zone.

    Returns
    -------
    DataFrame
        All verdicts of the workspace.
    """
    known = recorded(workspace)
    columns = list(VERDICTS.names)
    rows = new[columns].copy()
    rows = rows.astype({"from_cluster": "Int32", "reviewed_at": known["reviewed_at"].dtype})
    same = ["tile_id", "verdict", "reviewed_by", "from_cluster"]
    before = rows[same].merge(
        known[[*same, "reviewed_at"]].drop_duplicates(same), on=same, how="left"
    )
    rows["reviewed_at"] = (
        rows["reviewed_at"]
        .fillna(before["reviewed_at"].set_axis(rows.index))
        .fillna(pd.Timestamp(now.astimezone(UTC).replace(microsecond=0)))
    )
    rows[["note", "from_clustering"]] = rows[["note", "from_clustering"]].replace("", None)
    both = rows if known.empty else pd.concat([known, rows], ignore_index=True)
    of_tile = both["from_cluster"].isna()
    order = both.assign(of_tile=of_tile).sort_values(
        ["tile_id", "of_tile", "reviewed_at"], kind="stable"
    )
    merged = order.drop_duplicates("tile_id", keep="last")[columns].reset_index(drop=True)
    table = pa.Table.from_pandas(merged, schema=VERDICTS, preserve_index=False)
    table = table.replace_schema_metadata(None)
    if known.empty or not table.equals(workspace.read_table(TABLE)):
        workspace.write_table(TABLE, table)
    return merged


def _frame(table: pa.Table) -> Frame:
    frame: Frame = table.cast(VERDICTS).to_pandas()
    frame["from_cluster"] = frame["from_cluster"].astype("Int32")
    return frame.astype({"reviewed_at": "datetime64[s, UTC]"})
