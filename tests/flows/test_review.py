"""A person's verdicts: by the command, by a form, and in the runs that come after."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from storage import verdicts
from storage.manifest import read_manifest
from storage.workspace import COMPLETE, Workspace
from tasks import reviews
from tasks.review_settings import ReviewSettings
from tasks.settings import CurationSettings

READER = "A. Reader"


@pytest.fixture(scope="module")
def curated(
    prefect_server: str,
    film_folder: Path,
    small: dict[str, int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A workspace that a run over the made-up films has filled; not to be altered."""
    from flows.curate import curate

    out = tmp_path_factory.mktemp("to-review") / "w"
    curate(CurationSettings(source=str(film_folder), out=str(out), **small))
    return out


@pytest.fixture
def workspace(curated: Path, tmp_path: Path) -> Workspace:
    """A copy of it."""
    shutil.copytree(curated, tmp_path / "w")
    return Workspace.open(tmp_path / "w")


def manifest(workspace: Workspace) -> pd.DataFrame:
    return read_manifest(workspace).to_pandas().set_index("tile_id")


def without_run(workspace: Workspace) -> Any:
    return read_manifest(workspace).drop_columns(["run_id"])


def last_record(workspace: Workspace) -> dict[str, Any]:
    return reviews.published(workspace)


def some_tile(tiles: pd.DataFrame, **wanted: object) -> str:
    for name, value in wanted.items():
        tiles = tiles[tiles[name] == value]
    return str(tiles.index[0])


def table(folder: Path, *rows: dict[str, object]) -> Path:
    columns = ["tile_id", "cluster", "clustering", "size", "verdict", "reviewed_at", "note"]
    file = folder / "decisions.csv"
    with file.open("w", newline="") as f:
        writer = csv.DictWriter(f, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return file


def review(workspace: Workspace, **settings: Any) -> dict[str, Any]:
    from flows.review import review

    return review(ReviewSettings(workspace=workspace.uri, workers=1, **settings))


def flagged_cluster(workspace: Workspace) -> reviews.ShownCluster:
    shown, _ = reviews.show(workspace, last_record(workspace))
    assert shown.clusters[0].share_flagged == 1
    return shown.clusters[0]


def test_verdicts_on_clusters_and_tiles_decide_and_say_by_whom(
    workspace: Workspace, tmp_path: Path
) -> None:
    before = manifest(workspace)
    first = last_record(workspace)
    cluster = flagged_cluster(workspace)
    members = before.index[before.cluster_label == cluster.label]
    others = before.drop(members)
    kept = some_tile(others, decision="keep", lesion_fraction=0.0)
    black = some_tile(others[others.pixels_index.notna()], reason="black")
    unstored = some_tile(others[others.pixels_index.isna()], reason="black")
    lesion = str(before.index[before.lesion_fraction > 0][0])
    about = {"cluster": cluster.label, "clustering": first["shards"]["clusters"]}
    file = table(
        tmp_path,
        {**about, "verdict": "keep", "size": cluster.size},
        {"tile_id": members[0], "verdict": "drop", "reviewed_at": "2020-01-01T00:00:00Z"},
        {"tile_id": kept, "verdict": "review", "note": "odd"},
        {"tile_id": black, "verdict": "keep"},
        {"tile_id": unstored, "verdict": "keep"},
        {"tile_id": lesion, "verdict": "drop"},
        {"tile_id": "m0-of-another-set", "verdict": "drop"},
        {"cluster": 99, "clustering": "x", "verdict": ""},
    )
    record = review(workspace, decisions=str(file), reviewer=READER)

    after = manifest(workspace)
    fate = after["decision"] + "/" + after["reason"].fillna("")
    assert (fate[members[1:]] == "keep/reviewer").all()
    assert fate[members[0]] == "drop/reviewer", "a tile's verdict outranks its cluster's"
    assert after.reviewed_at[members[0]] == pd.Timestamp("2020-01-01T00:00:00Z")
    assert fate[kept] == "review/reviewer"
    assert fate[black] == "keep/reviewer"
    assert fate[unstored] == "review/no_pixels"
    assert fate[lesion] == "review/lesion_guard"
    judged = [*members, kept, black, unstored, lesion]
    assert (after.reviewed_by[judged] == READER).all()
    assert after.reviewed_at[judged].notna().all()
    rest = after.drop(judged)
    assert rest.reviewed_by.isna().all()
    assert rest.reviewed_at.isna().all()
    changes = ["decision", "reason", "reviewed_by", "reviewed_at", "run_id"]
    pd.testing.assert_frame_equal(after.drop(columns=changes), before.drop(columns=changes))
    pd.testing.assert_frame_equal(rest[changes[:4]], before.loc[rest.index, changes[:4]])

    assert record["reviewed_run"] == first["run_id"]
    assert set(after.run_id) == {record["run_id"]}
    assert record["tiles"]["cut"] == len(after) == sum(record["tiles"]["by_fate"].values())
    assert record["review"]["tiles"] == len(judged)
    assert (record["review"]["lesion_guarded"], record["review"]["no_pixels"]) == (1, 1)
    flagged = record["review"]["measured"]["flagged"]
    assert (flagged["all"]["hits"], flagged["all"]["n"]) == (1, len(members))
    assert (flagged["singly"]["hits"], flagged["singly"]["n"]) == (1, 1)
    kept_share = record["review"]["measured"]["kept"]["all"]
    assert (kept_share["hits"], kept_share["n"]) == (1, 1), "the lesion that would be dropped"
    assert json.loads(workspace.read_bytes(f"runs/{record['run_id']}.json")) == record
    page = workspace.read_bytes("report/index.html").decode()
    assert "Checked by people" in page
    assert f"{len(judged)} tiles" in page


def test_the_same_table_again_leaves_the_same_bytes(workspace: Workspace, tmp_path: Path) -> None:
    cluster = flagged_cluster(workspace)
    clustering = last_record(workspace)["shards"]["clusters"]
    file = table(tmp_path, {"cluster": cluster.label, "clustering": clustering, "verdict": "keep"})
    first = review(workspace, decisions=str(file), reviewer=READER)
    table_before, rows_before = workspace.read_bytes(verdicts.TABLE), without_run(workspace)
    time.sleep(1.1)  # verdicts without a time of their own would be a second later now
    again = review(workspace, decisions=str(file), reviewer=READER)
    assert workspace.read_bytes(verdicts.TABLE) == table_before
    assert without_run(workspace).equals(rows_before)
    assert again["tiles"] == first["tiles"]
    assert again["review"] == first["review"]
    assert again["reviewed_run"] == first["run_id"]


def test_another_threshold_publishes_what_a_run_with_it_publishes(
    workspace: Workspace, film_folder: Path, small: dict[str, int], tmp_path: Path, curated: Path
) -> None:
    from flows.curate import curate

    changed = {"misinformative_threshold": 0.01, "tissue_for_review": 0.5}
    record = review(workspace, **changed)
    assert record["settings"]["misinformative_threshold"] == 0.01
    shutil.copytree(curated, tmp_path / "other")
    curate(
        CurationSettings(source=str(film_folder), out=str(tmp_path / "other"), **small, **changed)
    )
    expected = without_run(Workspace.open(tmp_path / "other"))
    assert without_run(workspace).equals(expected)
    assert not expected.equals(without_run(Workspace.open(curated)))


def test_a_later_run_applies_the_verdicts_even_where_it_clusters_anew(
    workspace: Workspace, film_folder: Path, small: dict[str, int], tmp_path: Path
) -> None:
    from flows.curate import curate

    cluster = flagged_cluster(workspace)
    clustering = last_record(workspace)["shards"]["clusters"]
    row = {"cluster": cluster.label, "clustering": clustering, "verdict": "keep"}
    file = table(tmp_path, row)
    review(workspace, decisions=str(file), reviewer=READER)
    before = manifest(workspace)
    judged = before.index[before.reviewed_by.notna()]
    assert len(judged) == cluster.size

    other = small | {"min_cluster_size": 40}
    settings = CurationSettings(source=str(film_folder), out=workspace.uri, **other)
    record = curate(settings)
    after = manifest(workspace)
    assert record["shards"]["clusters"] != clustering
    columns = ["decision", "reason", "reviewed_by", "reviewed_at"]
    pd.testing.assert_frame_equal(after[columns], before[columns])
    assert record["review"]["tiles"] == cluster.size

    # the table names the clustering that was reviewed, and that one is still there
    again = review(workspace, decisions=str(file), reviewer=READER)
    assert again["review"] == record["review"]


def test_verdicts_of_a_table_apply_in_a_fresh_workspace(
    workspace: Workspace,
    film_folder: Path,
    small: dict[str, int],
    tmp_path: Path,
    curated: Path,
) -> None:
    from flows.curate import curate

    cluster = flagged_cluster(workspace)
    clustering = last_record(workspace)["shards"]["clusters"]
    row = {"cluster": cluster.label, "clustering": clustering, "verdict": "keep"}
    review(workspace, decisions=str(table(tmp_path, row)), reviewer=READER)
    kept = tmp_path / "verdicts-under-version-control.parquet"
    shutil.copy(workspace.path(verdicts.TABLE), kept)

    shutil.copytree(curated, tmp_path / "fresh")
    fresh = Workspace.open(tmp_path / "fresh")
    curate(CurationSettings(source=str(film_folder), out=fresh.uri, verdicts=str(kept), **small))
    assert without_run(fresh).equals(without_run(workspace))


def test_a_cluster_of_a_clustering_that_is_not_there_is_refused_and_nothing_changes(
    workspace: Workspace, tmp_path: Path
) -> None:
    present = last_record(workspace)["shards"]["clusters"]
    before = without_run(workspace)
    wrong = [
        ({"cluster": 0, "clustering": "0" * 20}, r"line 2, column clustering: '0{20}' is not in"),
        ({"cluster": 0, "clustering": "../x"}, r"line 2, column clustering: '../x' is not in"),
        ({"cluster": 999, "clustering": present}, r"line 2, column cluster: .* no cluster 999"),
    ]
    for row, said in wrong:
        file = table(tmp_path, row | {"verdict": "drop"})
        with pytest.raises(Exception, match=said) as e:
            review(workspace, decisions=str(file), reviewer=READER)
        assert present in str(e.value), "both clusterings are named"
    assert without_run(workspace).equals(before)
    assert not workspace.exists(verdicts.TABLE)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "review", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def test_the_command_writes_a_page_and_a_table_then_applies_it(workspace: Workspace) -> None:
    done = command("--workspace", workspace.root)
    assert done.returncode == 0, done.stderr
    page, template = (Path(workspace.path(n)) for n in (reviews.PAGE, reviews.TEMPLATE))
    for path in (page, template):
        assert str(path) in done.stdout
    html = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html), "it works offline"
    rows = list(csv.DictReader(template.read_text().splitlines()))
    tiles = manifest(workspace)
    sizes = tiles.cluster_label.value_counts()
    assert {int(r["cluster"]): int(r["size"]) for r in rows} == {
        int(k): v for k, v in sizes.items()
    }
    assert {r["verdict"] for r in rows} == {""}

    rows[0]["verdict"] = "keep"
    with template.open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    filled = template.read_bytes()
    nobody = command("--workspace", workspace.root, "--decisions", template)
    assert nobody.returncode == 1
    assert "line 2, column reviewed_by" in nobody.stderr
    assert len(nobody.stderr.splitlines()) == 1
    done = command(*("--workspace", workspace.root, "--decisions", template, "--reviewer", READER))
    assert done.returncode == 0, done.stderr
    assert re.search(r"keep: reviewer +0 +6  \*", done.stdout)
    assert re.search(r"drop: misinformative +24 +18  \*", done.stdout)
    assert (manifest(workspace).reason == "reviewer").sum() == 6

    assert command("--workspace", workspace.root).returncode == 0
    assert template.read_bytes() == filled, "what a person filled in is not written over"


def as_by_an_earlier_version(workspace: Workspace) -> None:
    """Take away what runs did not leave before there was a tile scorer."""
    for shard in (Path(workspace.root) / "tiles").iterdir():
        mark = shard / COMPLETE
        record = json.loads(mark.read_text())
        for name in list(record["files"]):
            if "planted" in name or name.startswith("figures.zarr"):
                (shard / name).unlink()
                del record["files"][name]
        del record["counts"]["planted"]
        mark.write_text(json.dumps(record))
    for kind in ("scorers", "evidence", "duplicates"):
        shutil.rmtree(Path(workspace.root) / kind)
    run = last_record(workspace)
    for name in ("planted", "lesions", "thresholds", "near_duplicates"):
        run.pop(name, None)
    for name in ("scorer", "evidence", "duplicates"):
        del run["shards"][name]
    later = ("context", "wanted_recall", "wanted_precision", "near_duplicates")
    for name in later:
        del run["settings"][name]
    workspace.write_json(f"runs/{run['run_id']}.json", run)


def test_a_workspace_of_an_earlier_version_can_be_reviewed(
    workspace: Workspace, tmp_path: Path
) -> None:
    as_by_an_earlier_version(workspace)
    tile = some_tile(manifest(workspace), decision="keep", lesion_fraction=0.0)
    file = table(tmp_path, {"tile_id": tile, "verdict": "drop"})
    record = review(workspace, decisions=str(file), reviewer=READER)
    after = manifest(workspace)
    assert (after.decision[tile], after.reason[tile]) == ("drop", "reviewer")
    assert after.annotation_score.isna().all(), "by the film's map alone"
    assert after.misinformative_score[after.reason != "black"].notna().all()
    assert record["shards"]["scorer"] is None
    assert not any(record["planted"].values())


def test_wrong_arguments_exit_with_2(workspace: Workspace, tmp_path: Path) -> None:
    for arguments, said in (
        (["--workspace", tmp_path / "nowhere"], "is no workspace"),
        (["--workspace", workspace.root, "--decisions", tmp_path / "no.csv"], "does not exist"),
        (["--workspace", workspace.root, "--misinformative-threshold", "7"], "less than or equal"),
    ):
        done = command(*arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr


def test_a_workspace_without_a_manifest_says_what_to_do(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "empty")
    done = command("--workspace", tmp_path / "empty")
    assert done.returncode == 1
    assert "holds no manifest to review. Make one: mammosift run" in done.stderr


def test_what_is_wrong_with_a_form_is_said_and_a_right_one_becomes_verdicts(
    workspace: Workspace,
) -> None:
    shown, _ = reviews.show(workspace, last_record(workspace))
    tile = str(manifest(workspace).index[0])
    first, second = shown.clusters[0].label, shown.clusters[1].label

    def wrong(**fields: Any) -> list[str]:
        return reviews.problems_of(reviews.Entry(**{"reviewer": READER} | fields), shown, workspace)

    assert wrong() == []
    assert wrong(drop_clusters=f" {first},\n cluster{second};", drop_tiles=tile) == []
    (said,) = wrong(drop_clusters="999, x")
    assert said.startswith("no such cluster: 999, x. There are: ")
    (said,) = wrong(keep_tiles=f"{tile} m-nowhere")
    assert said.startswith("no such tile: m-nowhere.")
    (said,) = wrong(drop_clusters=str(first), keep_clusters=str(first))
    assert said == f"cluster {first}: both drop and keep. Leave it in one field."
    (said,) = wrong(drop_clusters=str(first), keep_clusters=f"cluster{first}")
    assert said == f"cluster {first}: both drop and keep. Leave it in one field."
    (said,) = wrong(misinformative_threshold=7.0)
    assert said == "threshold 7: scores lie between 0 and 1. The present one is 0.5."
    (said,) = wrong(drop_tiles=tile, reviewer=" ")
    assert said.startswith("no reviewer")
    assert len(wrong(drop_clusters="x", keep_tiles="y", misinformative_threshold=-1.0)) == 3

    entry = reviews.Entry(drop_clusters=str(first), keep_tiles=tile, reviewer=READER, note="n")
    rows = reviews.rows_of(entry, shown)
    assert rows["cluster"].tolist() == [first, pd.NA]
    assert rows["clustering"].tolist() == [shown.clustering, ""]
    assert rows["tile_id"].tolist() == ["", tile]
    assert rows["verdict"].tolist() == ["drop", "keep"]
    assert set(rows["reviewed_by"]) == {READER}


def test_a_name_that_is_markup_stays_text(workspace: Workspace, tmp_path: Path) -> None:
    tile = some_tile(manifest(workspace), decision="keep", lesion_fraction=0.0)
    name = "<script>alert(1)</script>"
    file = table(tmp_path, {"tile_id": tile, "verdict": "drop", "note": name})
    review(workspace, decisions=str(file), reviewer=name)
    assert manifest(workspace).reviewed_by[tile] == name
    reviews.show(workspace, last_record(workspace))
    for page in ("report/index.html", reviews.PAGE):
        assert name not in workspace.read_bytes(page).decode()


@pytest.mark.timeout(120)
def test_in_a_process_of_its_own_the_run_waits_and_asks_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a deployment the run pauses: a wrong form first, then a right one."""
    from prefect.client.orchestration import get_client

    from flows import review as flow

    monkeypatch.setattr(flow, "POLL_S", 1)
    label = flagged_cluster(workspace).label
    told: list[str] = []

    def answer() -> None:
        forms = [{"drop_clusters": "999"}, {"keep_clusters": str(label), "reviewer": READER}]
        seen: set[str] = set()
        with get_client(sync_client=True) as client:
            while forms:
                time.sleep(0.3)
                for run in client.read_flow_runs():
                    if run.state is None or run.name is None or run.state.name != "Paused":
                        continue
                    key = run.state.state_details.pause_key
                    if key in seen or not run.name.startswith("review w "):
                        continue
                    assert run.state.state_details.pause_timeout.year > 2030, "not one hour"
                    keyset = run.state.state_details.run_input_keyset
                    found = client.request(
                        "GET",
                        "/flow_runs/{id}/input/{key}",
                        path_params={"id": run.id, "key": keyset["schema"]},
                    )
                    told.append(found.json()["properties"]["drop_clusters"]["description"])
                    client.resume_flow_run(run.id, run_input=forms.pop(0))
                    seen.add(key)

    person = threading.Thread(target=answer, daemon=True)
    person.start()
    record = review(workspace)
    person.join(30)
    assert "NOT APPLIED" not in told[0]
    assert "NOT APPLIED, nothing was changed: no such cluster: 999." in told[1]
    assert record["review"]["by_fate"] == {"keep/reviewer": 6}
