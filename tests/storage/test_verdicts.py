from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import verdicts
from storage.errors import TableError
from storage.verdicts import read_verdicts, recorded, remember, verdicts_frame
from storage.workspace import Workspace

HEAD = "tile_id,cluster,clustering,verdict,reviewed_by,reviewed_at,note"
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def table(tmp_path: Path, *lines: str, head: str = HEAD) -> str:
    file = tmp_path / "verdicts.csv"
    file.write_text("\n".join((head, *lines)) + "\n", encoding="utf-8")
    return str(file)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.create(tmp_path / "w")


def test_a_table_of_tiles_and_clusters(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "t1,,,drop,A. Reader,2026-11-26T14:30:00+02:00,a label",
        ",3,abc,keep,A. Reader,2026-11-26,",
        ",-1,abc,review,A. Reader,2026-11-26T14:30:00Z,",
    )
    rows = read_verdicts(path)
    assert rows["line"].tolist() == [2, 3, 4]
    assert rows["tile_id"].tolist() == ["t1", "", ""]
    assert rows["cluster"].tolist() == [pd.NA, 3, -1]
    assert rows["reviewed_at"].tolist() == [
        pd.Timestamp("2026-11-26T12:30:00Z"),
        pd.Timestamp("2026-11-26T00:00:00Z"),
        pd.Timestamp("2026-11-26T14:30:00Z"),
    ]


def test_rows_without_a_verdict_and_other_columns_are_passed_over(tmp_path: Path) -> None:
    path = table(
        tmp_path, "3,abc,17,,", "4,abc,9,drop,", head="cluster,clustering,size,verdict,reviewed_by"
    )
    rows = read_verdicts(path, reviewer="A. Reader")
    assert rows["cluster"].tolist() == [4]
    assert rows["reviewed_by"].tolist() == ["A. Reader"]
    assert rows["reviewed_at"].isna().all()


def test_a_reviewer_in_the_table_stands(tmp_path: Path) -> None:
    rows = read_verdicts(table(tmp_path, "t1,,,drop,B. Reader,,"), reviewer="A. Reader")
    assert rows["reviewed_by"].tolist() == ["B. Reader"]


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    path = table(tmp_path, "t1,,,drop,A. Reader,2026-11-26T12:00:00Z,x", ",3,abc,keep,B. Reader,,")
    frame = pd.DataFrame(
        {
            "tile_id": ["t1", None],
            "cluster": [float("nan"), 3.0],  # as pandas makes a column of numbers and gaps
            "clustering": [None, "abc"],
            "verdict": ["drop", "keep"],
            "reviewed_by": pd.Categorical(["A. Reader", "B. Reader"]),
            "reviewed_at": [pd.Timestamp(NOON), pd.NaT],
            "note": ["x", None],
        }
    )
    frame.to_parquet(tmp_path / "verdicts.parquet")
    given = read_verdicts(str(tmp_path / "verdicts.parquet"))
    pd.testing.assert_frame_equal(
        given.drop(columns="line"), read_verdicts(path).drop(columns="line")
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("t1,,,maybe,A,,", "column verdict: 'maybe' is no verdict. Write keep, drop or review"),
        ("t1,3,abc,drop,A,,", "column cluster: '3' stands beside a tile_id"),
        (",,,drop,A,,", "column tile_id: it is empty, and so is cluster"),
        (",3,,drop,A,,", "column clustering: it is empty"),
        (",x,abc,drop,A,,", "column cluster: 'x' is no label"),
        (",1.5,abc,drop,A,,", "column cluster: '1.5' is no label"),
        (",-2,abc,drop,A,,", "column cluster: '-2' is no label"),
        ("t1,,,drop,,,", "column reviewed_by: it is empty. Say who decided"),
        ("t1,,,drop,A,yesterday,", "column reviewed_at: 'yesterday' is no time. Write it as 2026"),
        ("t1,,,drop,A,,a,b", "more cells than there are columns"),
    ],
)
def test_a_bad_row_is_named_by_file_line_column_rule_and_remedy(
    tmp_path: Path, line: str, said: str
) -> None:
    path = table(tmp_path, "t0,,,keep,A,,", line)
    with pytest.raises(TableError) as e:
        read_verdicts(path)
    assert f"{path}, line 3" in str(e.value)
    assert said in str(e.value)


def test_two_verdicts_on_the_same_thing_at_the_same_time_contradict(tmp_path: Path) -> None:
    path = table(tmp_path, "t1,,,keep,A,,", "t2,,,keep,A,,", "t1,,,drop,B,,")
    with pytest.raises(TableError, match=r"line 4, column verdict: 'drop' contradicts .* tile t1"):
        read_verdicts(path)
    later = table(tmp_path, "t1,,,keep,A,2026-01-01,", "t1,,,drop,B,2026-01-02,")
    assert len(read_verdicts(later)) == 2


@pytest.mark.parametrize("head", ["tile_id,reviewed_by", "verdict,reviewed_by", "a,b"])
def test_a_table_without_the_columns_says_which_there_are(tmp_path: Path, head: str) -> None:
    with pytest.raises(TableError, match=r"line 1: no column .* columns are tile_id or cluster"):
        read_verdicts(table(tmp_path, head=head))


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    for name in ("a.csv", "b.parquet", "nowhere.csv"):
        with pytest.raises(TableError, match=name):
            read_verdicts(str(tmp_path / name))


def test_an_empty_table_is_no_verdict(tmp_path: Path) -> None:
    assert read_verdicts(table(tmp_path)).empty


def said(*rows: dict[str, object]) -> pd.DataFrame:
    return verdicts_frame([{"reviewed_by": "A", **row} for row in rows])


def test_what_is_remembered_is_read_again(workspace: Workspace) -> None:
    assert recorded(workspace).empty
    remember(workspace, said({"tile_id": "t2", "verdict": "drop"}), now=NOON)
    remember(workspace, said({"tile_id": "t1", "verdict": "keep", "note": "x"}), now=NOON)
    rows = recorded(workspace)
    assert rows["tile_id"].tolist() == ["t1", "t2"]
    assert rows["note"].fillna("").tolist() == ["x", ""]
    assert rows["reviewed_at"].tolist() == [pd.Timestamp(NOON)] * 2
    assert workspace.read_table(verdicts.TABLE).schema.equals(verdicts.VERDICTS)
    assert recorded(workspace, ["t0", "t2", "t3"])["tile_id"].tolist() == ["t2"]
    assert recorded(workspace, []).empty


def test_a_later_verdict_outranks_an_earlier_whatever_comes_first(workspace: Workspace) -> None:
    late = {"tile_id": "t", "verdict": "drop", "reviewed_at": datetime(2026, 2, 1, tzinfo=UTC)}
    early = {"tile_id": "t", "verdict": "keep", "reviewed_at": datetime(2026, 1, 1, tzinfo=UTC)}
    for order in ((late, early), (early, late)):
        for row in order:
            rows = remember(workspace, said(row), now=NOON)
        assert rows["verdict"].tolist() == ["drop"]


def test_a_verdict_on_the_tile_outranks_a_later_one_on_its_cluster(workspace: Workspace) -> None:
    tile = {"tile_id": "t", "verdict": "keep", "reviewed_at": datetime(2026, 1, 1, tzinfo=UTC)}
    cluster = {
        "tile_id": "t",
        "verdict": "drop",
        "from_cluster": 3,
        "from_clustering": "abc",
        "reviewed_at": datetime(2026, 2, 1, tzinfo=UTC),
    }
    for order in ((tile, cluster), (cluster, tile)):
        for row in order:
            rows = remember(workspace, said(row), now=NOON)
        assert rows["verdict"].tolist() == ["keep"]


def test_the_same_verdict_without_a_time_changes_nothing(workspace: Workspace) -> None:
    row = {"tile_id": "t", "verdict": "drop"}
    remember(workspace, said(row), now=NOON)
    before = workspace.read_bytes(verdicts.TABLE)
    later = datetime(2027, 1, 1, tzinfo=UTC)
    remember(workspace, said(row), now=later)
    assert workspace.read_bytes(verdicts.TABLE) == before
    assert (
        remember(workspace, said(row | {"verdict": "keep"}), now=later)["verdict"].item() == "keep"
    )


def test_what_a_workspace_remembers_can_be_given_to_another(
    workspace: Workspace, tmp_path: Path
) -> None:
    rows = [
        {"tile_id": "t1", "verdict": "keep", "note": "x"},
        {"tile_id": "t2", "verdict": "drop", "from_cluster": 3, "from_clustering": "abc"},
    ]
    remember(workspace, said(*rows), now=NOON)
    other = Workspace.create(tmp_path / "other")
    given = read_verdicts(workspace.path(verdicts.TABLE))
    remember(other, given, now=datetime(2027, 1, 1, tzinfo=UTC))
    assert other.read_bytes(verdicts.TABLE) == workspace.read_bytes(verdicts.TABLE)


def test_only_the_tiles_asked_for_are_read_of_many(workspace: Workspace) -> None:
    many = pd.DataFrame({"tile_id": [f"m{i:07d}" for i in range(300_000)]})
    frame = verdicts_frame([{"tile_id": "x", "verdict": "drop", "reviewed_by": "A"}])
    frame = pd.concat([frame] * len(many), ignore_index=True).assign(tile_id=many["tile_id"])
    remember(workspace, frame, now=NOON)
    assert pq.ParquetFile(workspace.path(verdicts.TABLE)).num_row_groups > 1
    found = recorded(workspace, ["m0000007", "m0299999", "n"])
    assert found["tile_id"].tolist() == ["m0000007", "m0299999"]
    assert pa.Table.from_pandas(found).num_rows == 2
