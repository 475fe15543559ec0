"""The report of a small made-up run, written through the real workspace."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from storage import collections
from storage.errors import TableError
from storage.manifest import ManifestWriter
from storage.records import Lesion, Mammogram
from storage.schemas import DUPLICATES, MANIFEST, SCHEMA_VERSION, TILES
from storage.tile_shards import FILMS as FILMS_TABLE
from storage.tile_shards import FILMS_SCHEMA, INDEX, PIXELS
from storage.workspace import Workspace
from tasks.kernels import thumbnails
from tasks.reports import write_report
from tasks.settings import CurationSettings
from tests.chromium import new_page

RUN = "20261123T120000Z-abc123"
EVIL = '<script>alert("x")</script>.png'
TILE = 32
ROWS, COLUMNS = 4, 3
DIM = 6


@dataclass(frozen=True)
class Fate:
    """What becomes of a tile in the made-up run."""

    decision: str
    reason: str | None = None
    score: float | None = None
    stored: bool = True


BLACK = Fate("drop", "black")
UNSTORED = Fate("drop", "black", stored=False)
MISINFORMATIVE = Fate("drop", "misinformative", 0.9)
BARELY = Fate("drop", "misinformative", 0.55)
MIXED = Fate("review", "mixed", 0.7)
GUARDED = Fate("review", "lesion_guard", 0.8)
KEPT = Fate("keep", None, 0.1)
NEAR_MISS = Fate("keep", None, 0.45)

USUAL = [BLACK, UNSTORED, MISINFORMATIVE, BARELY, MIXED, GUARDED, KEPT, NEAR_MISS, *[KEPT] * 4]


def film(i: int, source: str, **known: Any) -> Mammogram:
    digest = hashlib.sha256(f"film {i}".encode()).hexdigest()
    return Mammogram(
        mammogram_id=f"m{digest[:20]}",
        patient_key=f"p{i // 2}",
        source=source,
        source_sha256=digest,
        file_format="png",
        rows=ROWS * TILE,
        columns=COLUMNS * TILE,
        **known,
    )


FILMS = [
    film(0, EVIL, label="normal", scanner="dba"),
    film(1, "b/two & three.png", label="malignant", pixel_spacing_mm=0.05),
    film(2, "c.png", lesions=(Lesion("circle", "malignant", 20.0, 20.0, 9.0),)),
    film(3, "d.png"),
    film(4, "e.png"),
]
BAD = replace(
    film(9, "<b>bad</b>.dcm"),
    excluded_reason="corrupt",
    excluded_rule="the file ends <early>.",
    excluded_remedy="Copy it again & run again.",
)


def make_run(
    folder: Path,
    films: Sequence[Mammogram] = tuple(FILMS),
    *,
    excluded: Sequence[Mammogram] = (BAD,),
    fates: Sequence[Fate] = tuple(USUAL),
    label_of: Callable[[int], int] = lambda i: i % 3 - 1,
    films_per_shard: int = 3,
    **settings: Any,
) -> Workspace:
    """Write a finished run whose films all have the same tiles."""
    workspace = Workspace.create(folder)
    workspace.write_table(
        "mammograms/mammograms.parquet", collections.to_table([*films, *excluded])
    )
    rng = np.random.default_rng(7)
    writer = ManifestWriter(workspace, "staging")
    splits = ("train", "validation", "test")
    tile_keys, embedding_keys = [], []
    kept_by_split: Counter[str] = Counter()
    cluster_parts: dict[str, pa.Table] = {}
    for n, start in enumerate(range(0, len(films), films_per_shard)):
        members = films[start : start + films_per_shard]
        tile_key, embedding_key = f"{n:020x}", f"{n + 100:020x}"
        tile_keys.append(tile_key)
        embedding_keys.append(embedding_key)
        rows = _write_tiles(workspace, tile_key, members, fates, rng)
        cluster_parts[embedding_key] = _write_embeddings(
            workspace, embedding_key, rows, rng, label_of
        )
        for row, where in rows:
            if row["decision"] == "keep":
                kept_by_split[splits[where % 3]] += 1
        for s, split in enumerate(splits):
            part = [row for row, where in rows if where % 3 == s]
            if part:
                table = pa.Table.from_pylist(part, schema=MANIFEST)
                writer.write_part(tile_key, split, table)
    writer.publish()
    with workspace.write_shard("clusters", "c0") as shard:
        for name, table in cluster_parts.items():
            shard.write_table(f"{name}.parquet", table)
    _write_encoder(workspace)
    _write_record(
        workspace, films, excluded, fates, kept_by_split, tile_keys, embedding_keys, settings
    )
    return workspace


def _write_tiles(
    workspace: Workspace,
    key: str,
    films: Sequence[Mammogram],
    fates: Sequence[Fate],
    rng: np.random.Generator,
) -> list[tuple[dict[str, Any], int]]:
    rows: list[tuple[dict[str, Any], int]] = []
    shown, index_rows = [], []
    with workspace.write_shard("tiles", key) as shard:
        pixels = shard.array(PIXELS, (TILE, TILE), "uint16", {})
        for one in films:
            picture = rng.integers(0, 65536, (ROWS * TILE, COLUMNS * TILE)).astype(np.uint16)
            shown.append(
                {
                    "mammogram_id": one.mammogram_id,
                    "tiles": len(fates),
                    "thumbnail_png": thumbnails.film_png(picture),
                }
            )
            for i, fate in enumerate(fates):
                x, y = corner(i, len(fates))
                index = None
                if fate.stored:
                    index = pixels.rows_appended
                    pixels.append(picture[None, y : y + TILE, x : x + TILE])
                row = _manifest_row(one, fate, x, y, key, index)
                rows.append((row, int(str(one.patient_key)[1:])))
                index_rows.append(
                    {name: row[name] for name in TILES.names if name in row}
                    | {"is_black": fate.reason == "black", "breast_fraction": 0.25}
                    | {"foreign_fraction": 0.5}
                )
        pixels.close()
        shard.write_table(INDEX, pa.Table.from_pylist(index_rows, schema=TILES))
        shard.write_table(FILMS_TABLE, pa.Table.from_pylist(shown, schema=FILMS_SCHEMA))
    return rows


def corner(i: int, tiles: int) -> tuple[int, int]:
    """Upper left corner of a tile: side by side, or overlapping where there are more."""
    if tiles <= ROWS * COLUMNS:
        return (i % COLUMNS) * TILE, (i // COLUMNS) * TILE
    return i % (TILE * 2), i // (TILE * 2)


def _manifest_row(
    one: Mammogram, fate: Fate, x: int, y: int, key: str, index: int | None
) -> dict[str, Any]:
    known = ("mammogram_id", "patient_key", "source", "source_sha256", "pixel_spacing_mm")
    return {
        **{name: getattr(one, name) for name in (*known, "laterality", "view", "scanner", "label")},
        "tile_id": f"{one.mammogram_id}-x{x}-y{y}-w{TILE}-h{TILE}",
        "x": x,
        "y": y,
        "width": TILE,
        "height": TILE,
        "lesion_fraction": None,
        **dict.fromkeys(("dark_fraction", "mean", "std", "p01", "p99", "entropy"), 0.5),
        "decision": fate.decision,
        "reason": fate.reason,
        "misinformative_score": fate.score,
        "pixels_uri": None if index is None else f"tiles/{key}/{PIXELS}",
        "pixels_index": index,
        "run_id": RUN,
        "schema_version": SCHEMA_VERSION,
    }


def _write_embeddings(
    workspace: Workspace,
    key: str,
    rows: list[tuple[dict[str, Any], int]],
    rng: np.random.Generator,
    label_of: Callable[[int], int],
) -> pa.Table:
    scored = [row for row, _ in rows if row["reason"] != "black"]
    for i, row in enumerate(scored):
        row["cluster_label"] = label_of(i)
        row["outlier_score"] = (i % 7) / 7
    ids = pa.array([row["tile_id"] for row in scored], pa.string())
    values = rng.normal(3, 2, (len(scored), DIM)).astype(np.float32)
    with workspace.write_shard("embeddings", key) as shard:
        array = shard.array("embeddings.zarr", (DIM,), "float32", {})
        array.append(values)
        array.close()
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), DIM)
        shard.write_table("embeddings.parquet", pa.table({"tile_id": ids, "embedding": embedding}))
    labels = pa.array([row["cluster_label"] for row in scored], pa.int32())
    return pa.table(
        {
            "tile_id": ids,
            "cluster_label": labels,
            "membership": pa.array(rng.random(len(scored)), pa.float32()),
            "outlier_score": pa.array([row["outlier_score"] for row in scored], pa.float32()),
        }
    )


def _write_encoder(workspace: Workspace) -> None:
    with workspace.write_shard("encoders", "e0") as shard:
        history = {"epoch": [1, 2, 3], "training_loss": [0.7, 0.6, 0.55]}
        shard.write_table(
            "history.parquet", pa.table(history | {"validation_loss": [0.72, 0.61, 0.65]})
        )
        sheet = thumbnails.contact_sheet(np.zeros((4, 16, 16), np.uint8), per_row=2)
        shard.write_bytes("reconstructions.png", thumbnails.png(sheet))
        shard.write_bytes("training.json", b'{"note": "Trained on <all> parts."}')
        shard.counts = {
            "training_tiles": 20,
            "validation_tiles": 4,
            "epochs": 3,
            "best_epoch": 2,
        }


def _write_record(
    workspace: Workspace,
    films: Sequence[Mammogram],
    excluded: Sequence[Mammogram],
    fates: Sequence[Fate],
    kept_by_split: Counter[str],
    tile_keys: list[str],
    embedding_keys: list[str],
    settings: dict[str, Any],
) -> None:
    by_fate: Counter[str] = Counter()
    by_decision: Counter[str] = Counter()
    for fate in fates:
        name = fate.decision if fate.reason is None else f"{fate.decision}/{fate.reason}"
        by_fate[name] += len(films)
        by_decision[fate.decision] += len(films)
    told = CurationSettings(source="/films", out=workspace.uri, tile_size_px=TILE, **settings)
    stage = {"shards": 2, "made": 1, "reused": 1, "seconds": 61.0, "counts": {"tiles": 7}}
    workspace.write_json(
        f"runs/{RUN}.json",
        {
            "run_id": RUN,
            "schema_version": SCHEMA_VERSION,
            "started": "2026-11-23T12:00:00+00:00",
            "finished": "2026-11-23T12:02:00+00:00",
            "seconds": 120.0,
            "settings": told.model_dump(mode="json"),
            "versions": {"mammosift": "0.1.0"},
            "inputs": {"root": "films", "films_sha256": "0", "warnings": ["row 3 fits <no> film"]},
            "films": {
                "found": len(films) + len(excluded),
                "used": len(films),
                "excluded": dict(Counter(f.excluded_reason for f in excluded)),
            },
            "tiles": {
                "cut": len(films) * len(fates),
                "by_decision": dict(by_decision),
                "by_fate": dict(by_fate),
                "kept_by_split": dict(kept_by_split),
            },
            "shards": {
                "tiles": tile_keys,
                "embeddings": embedding_keys,
                "encoder": "e0",
                "clusters": "c0",
            },
            "stages": {"tiles": stage},
        },
    )


class Reader(HTMLParser):
    """What a browser finds: tags with their attributes, rows of tables, the text that is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.tables: list[str] = []
        """Caption of the table that each row is in."""
        self.text = ""
        self.table = ""
        self._cell: list[str] | None = None
        self._unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._unseen += tag in ("script", "style")
        if tag == "tr":
            self.rows.append([])
            self.tables.append(self.table)
        elif tag in ("td", "th", "caption"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        self._unseen -= tag in ("script", "style")
        if tag not in ("td", "th", "caption") or self._cell is None:
            return
        text, self._cell = " ".join("".join(self._cell).split()), None
        if tag == "caption":
            self.table = text
        else:
            self.rows[-1].append(text)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        self.text += data
        if self._cell is not None:
            self._cell.append(data)

    def row(self, title: str, table: str = "") -> list[str]:
        """Cells behind this title in the first table whose caption starts so."""
        rows = zip(self.rows, self.tables, strict=True)
        return next(r[1:] for r, t in rows if t.startswith(table) and r and r[0] == title)


def read(workspace: Workspace, **options: Any) -> tuple[str, Reader]:
    path = write_report(workspace.uri, RUN, **options)
    html = Path(path).read_text("utf-8")
    reader = Reader()
    reader.feed(html)
    reader.close()
    for tag, attributes in reader.tags:  # holds for every report of this module
        if tag == "img":
            assert attributes.get("alt"), attributes
            assert str(attributes["src"]).startswith("data:image/")
    return html, reader


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_run(tmp_path_factory.mktemp("report") / "ws")


@pytest.fixture(scope="module")
def page(usual: Workspace) -> tuple[str, Reader]:
    return read(usual)


def test_it_lies_where_the_workspace_says(usual: Workspace) -> None:
    assert write_report(usual.uri, RUN) == f"{usual.uri}/report/index.html"


def test_tiles_are_mapped_by_cluster_and_by_decision(
    usual: Workspace, page: tuple[str, Reader]
) -> None:
    pictures = [a for tag, a in page[1].tags if tag == "img" and "tiles as points" in str(a["alt"])]
    assert [str(a["alt"]).split(", by ")[1].split(":")[0] for a in pictures] == [
        "cluster",
        "decision",
    ]
    counts = str(pictures[1]["alt"]).split(": ")[1].split(", ")
    points = sum(int(count.split()[1]) for count in counts)
    embedded = sum(
        usual.shard("embeddings", key).array("embeddings.zarr").shape[0]
        for key in usual.read_json("runs", f"{RUN}.json")["shards"]["embeddings"]
    )
    assert points == embedded
    dark = [a for tag, a in page[1].tags if tag == "source"]
    assert len(dark) == 2


def test_where_mapped_tiles_lie_is_kept(usual: Workspace, page: tuple[str, Reader]) -> None:
    before = [(p, usual.fs.modified(p)) for p in usual.fs.find(usual.path("maps"))]
    read(usual)
    assert [(p, usual.fs.modified(p)) for p in usual.fs.find(usual.path("maps"))] == before
    assert before


def test_counts_are_those_of_the_record(usual: Workspace, page: tuple[str, Reader]) -> None:
    record, reader = usual.read_json("runs", f"{RUN}.json"), page[1]
    assert reader.row("Found")[0] == "6"
    assert reader.row("Used")[0] == "5"
    assert reader.row("Excluded: corrupt")[0] == "1"
    assert reader.row("Cut")[0] == str(record["tiles"]["cut"]) == "60"
    titles = {
        "keep": "KKept",
        "review/mixed": "RIn review: mixed",
        "review/lesion_guard": "RIn review: lesion guard",
        "drop/black": "BDropped: black",
        "drop/misinformative": "MDropped: misinformative",
    }
    for fate, n in record["tiles"]["by_fate"].items():
        assert reader.row(titles[fate])[0] == str(n)
    assert sum(int(reader.row(t)[0]) for t in titles.values()) == record["tiles"]["cut"]


def test_tiles_by_split_and_by_label_add_up(page: tuple[str, Reader]) -> None:
    for table, groups in {
        "Tiles by part": ("train", "validation", "test"),
        "Tiles by scanner": ("dba", "not known"),
        "Tiles by label": ("malignant", "normal", "not known"),
    }.items():
        rows = [page[1].row(name, table) for name in groups]
        assert sum(int(row[-1]) for row in rows) == 60
        for row in rows:
            assert sum(map(int, row[-6:-1])) == int(row[-1])


def test_a_manifest_of_another_run_is_cautioned_of(tmp_path: Path) -> None:
    workspace = make_run(tmp_path / "ws")
    assert "The manifest is not of this run" not in read(workspace)[0]
    record = workspace.read_json("runs", f"{RUN}.json")
    record["tiles"]["by_fate"]["keep"] += 1
    workspace.write_json(f"runs/{RUN}.json", record)
    assert "The manifest is not of this run" in read(workspace)[0]


def test_names_are_text_and_never_markup(page: tuple[str, Reader]) -> None:
    html, reader = page
    tags = Counter(tag for tag, _ in reader.tags)
    assert tags["script"] == 1
    assert tags["b"] == html.count("<b>") > 0
    assert "alert(" not in re.sub(r"&lt;script&gt;alert", "", html)
    for text in (EVIL, "<b>bad</b>.dcm", "the file ends <early>.", "Trained on <all> parts."):
        assert text in reader.text
    assert "row 3 fits <no> film" in reader.text


def test_nothing_is_asked_for_from_outside(page: tuple[str, Reader]) -> None:
    html, reader = page
    for _, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
            value = attributes.get(name) or "#"
            assert re.match(r"#|data:image/|films/m[0-9a-f]{20}\.html$", value), value
    bare = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", html)
    assert "//" not in bare
    assert "@import" not in bare
    assert set(re.findall(r"url\(([^)]*)\)", bare)) <= {"#hatch", "#dots"}


def test_its_own_policy_forbids_requests_and_allows_its_script(page: tuple[str, Reader]) -> None:
    import base64

    html = page[0]
    assert "default-src 'none'; img-src data:;" in html
    script = html[html.index("<script>") + 8 : html.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.replace("&#43;", "+")


def test_every_table_has_a_caption_and_headings_do_not_skip_a_level(
    page: tuple[str, Reader],
) -> None:
    tags = [tag for tag, _ in page[1].tags]
    assert tags.count("table") == tags.count("caption")
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [a["id"] for _, a in page[1].tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_boxes_are_drawn_where_the_tiles_lie_and_say_their_fate(page: tuple[str, Reader]) -> None:
    boxes = [(a, t) for t, a in page[1].tags if t == "rect" and a.get("class") != "ground"]
    drawn = [a for a, _ in boxes if "x" in a and a.get("width") == f"{float(TILE)}"]
    assert len(drawn) == 60  # every tile of the five films, at the size of their thumbnails
    styles = Counter(str(a["class"]) for a in drawn)
    assert styles == {
        "box keep": 30,
        "box review": 10,
        "box black": 10,
        "box misinformative": 10,
    }
    assert f"-x{TILE}-y0-w{TILE}-h{TILE}: " in page[1].text


def test_flagged_tiles_are_listed_below_their_film(page: tuple[str, Reader]) -> None:
    assert page[1].text.count("Tiles flagged (4)") == 5


@pytest.mark.parametrize(
    ("heading", "tiles"),
    [
        ("Dropped as misinformative: highest scores", 10),
        ("Dropped as misinformative: nearest to the threshold", 5),
        ("In review: mixed", 5),
        ("In review: lesion guard", 5),
        ("Kept: highest scores below the threshold", 5),
        ("Dropped as black: nearest to being kept", 5),
    ],
)
def test_contact_sheets_hold_the_tiles_that_they_name(
    page: tuple[str, Reader], heading: str, tiles: int
) -> None:
    html = page[0]
    start = html.index(f'aria-label="{heading}"')
    assert html[start : html.index("</div>", start)].count("<img") == tiles


def test_clusters_come_by_size_and_the_noise_last(page: tuple[str, Reader]) -> None:
    headings = re.findall(r"<h3>(Cluster \d+|Noise[^<]*)</h3>", page[0])
    assert headings == ["Cluster 0", "Cluster 1", "Noise: in no cluster"]


def test_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    workspace = make_run(tmp_path / "ws")
    first = read(workspace)[0]
    record = workspace.read_json("runs", f"{RUN}.json")
    record["stages"]["report"] = {
        "shards": 0,
        "made": 0,
        "reused": 0,
        "seconds": 3.0,
        "counts": {},
    }
    record |= {"finished": "2026-11-23T12:02:09+00:00", "seconds": 129.0, "report": "somewhere"}
    workspace.write_json(f"runs/{RUN}.json", record)
    assert read(workspace)[0] == first
    assert sorted(p.name for p in (tmp_path / "ws" / "report").iterdir()) == ["films", "index.html"]


def test_shards_of_another_size_show_the_same_tiles(tmp_path: Path) -> None:
    pages = [
        read(make_run(tmp_path / f"ws{n}", films_per_shard=n, fates=[MISINFORMATIVE, KEPT] * 6))[0]
        for n in (1, 5)
    ]
    sheets = [
        re.findall(r'title="([^"]*)"', p[p.index('id="sheets"') : p.index('id="clusters"')])
        for p in pages
    ]
    assert sheets[0] == sheets[1]
    assert len(sheets[0]) == 48, "24 drawn at random, and the 24 highest"


def test_a_run_without_misinformative_tiles_says_so(tmp_path: Path) -> None:
    html, reader = read(make_run(tmp_path / "ws", fates=[BLACK, *[KEPT] * 11]))
    assert "as none was dropped as misinformative" in reader.text
    section = html[html.index("Dropped as misinformative: highest scores") :]
    assert "None." in section[: section.index("<h3>")]


def test_a_run_of_noise_alone_is_cautioned_of(tmp_path: Path) -> None:
    html, reader = read(make_run(tmp_path / "ws", label_of=lambda _: -1))
    assert "Most tiles are in no cluster" in reader.text
    assert "0 clusters by hdbscan, and 50 tiles in none" in reader.text
    assert "Noise: in no cluster" in html


def test_one_film_is_enough(tmp_path: Path) -> None:
    _, reader = read(make_run(tmp_path / "ws", FILMS[:1], excluded=()))
    assert "None: every file found was used." in reader.text
    assert "No patient fell into: validation, test." in reader.text
    assert "1 patient:" in reader.text


def test_a_black_film_without_samples_is_counted_and_not_drawn(tmp_path: Path) -> None:
    _, reader = read(
        make_run(tmp_path / "ws", FILMS[:1], fates=[UNSTORED] * 12, black_samples_per_film=0)
    )
    assert reader.row("BDropped: black")[0] == "12"
    assert "No film has a tile whose pixels are stored." in reader.text
    assert "There is no tile to show neighbours of." in reader.text
    assert "There are no embeddings to cluster" in reader.text


def test_reasons_of_later_versions_are_shown_by_their_names(tmp_path: Path) -> None:
    later = Fate("drop", "near_duplicate", 0.2)
    _, reader = read(make_run(tmp_path / "ws", fates=[later, *[KEPT] * 11]))
    assert reader.row("DDropped: near duplicate")[0] == "5"


def test_settings_that_differ_are_named_with_their_defaults(tmp_path: Path) -> None:
    _, reader = read(make_run(tmp_path / "ws", seed=41))
    assert reader.row("Seed (seed)") == ["41", "0"]
    assert reader.row("Tile size (tile_size_px)") == ["32", "512"]
    assert not [row for row in reader.rows if row and row[0].startswith("Patience")]


def test_the_lines_shown_for_reading_the_manifest_work(usual: Workspace) -> None:
    from tasks.report_page.counts import snippet

    names: dict[str, Any] = {}
    exec(snippet(usual.uri), names)  # noqa: S102 (our own lines)
    assert len(snippet(usual.uri).splitlines()) == 6
    assert len(names["kept"]) == 30
    assert names["pixels"].shape == (TILE, TILE)


def test_scanner_and_label_are_cautioned_of_when_they_go_together(tmp_path: Path) -> None:
    films = [
        film(i, f"{i:02}.png", scanner="dba" if i < 12 else "lumisys", label=label)
        for i, label in enumerate(["normal"] * 10 + ["malignant"] * 2 + ["malignant"] * 12)
    ]
    _, reader = read(make_run(tmp_path / "ws", films, fates=[KEPT, MISINFORMATIVE]))
    assert "The scanner gives the label away" in reader.text
    # 10 normal films go before 12 of lumisys and tie with 2 of dba: (10 * 12 + 10 * 2 / 2) / 140
    assert "area under the ROC curve of 0.93" in reader.text
    assert reader.row("dba", "Films labelled “normal”")[:3] == ["12", "10", "83.3 %"]


def cue(before: float, after: float, **more: Any) -> dict[str, Any]:
    """Figures of one cue as the audit gives them, with intervals of 0.1 to either side."""
    return {
        "n_before": 24,
        "auc_before": before,
        "interval_before": [before - 0.1, before + 0.1],
        "n_after": 24,
        "auc_after": after,
        "interval_after": [after - 0.1, after + 0.1],
        **more,
    }


def audited_run(folder: Path, shortcuts: dict[str, Any]) -> Workspace:
    """Run over films whose scanner and label go together, and what the audit said of it."""
    labels = ["normal"] * 10 + ["malignant"] * 14
    films = [
        film(i, f"{i:02}.png", scanner="dba" if i < 12 else "lumisys", label=label)
        for i, label in enumerate(labels)
    ]
    workspace = make_run(folder, films, fates=[KEPT, MISINFORMATIVE])
    record = workspace.read_json("runs", f"{RUN}.json")
    workspace.write_json(f"runs/{RUN}.json", record | {"shortcuts": shortcuts})
    return workspace


def test_shortcuts_are_shown_and_the_scanner_is_spoken_of_once(tmp_path: Path) -> None:
    cues = {
        "background": cue(0.5, 0.52, present_before=24, present_after=24),
        "markers": cue(0.88, 0.5, present_before=20, present_after=0),
        "scanner": cue(0.85, 0.84),
        "breast": cue(0.7, 0.7, present_before=24, present_after=24),
        "kept_places": cue(0.5, 0.55),
    }
    counts = {"films": 24, "films_after": 22, "patients": 12, "positives": 10, "labelled": 24}
    shortcuts = {"measured": True, "target": "normal", "cues": cues, **counts}
    _, reader = read(audited_run(tmp_path / "ws", shortcuts))
    assert reader.row("Markers only")[:2] == ["0.88 0.78 to 0.98", "0.50 0.40 to 0.60"]
    assert reader.row("Markers only")[-1] == "20 / 0"
    assert "10 of them “normal”; 2 without any kept tile" in reader.text
    assert "these still predict “normal”: the scanner's name." in reader.text
    assert reader.text.count("balance or stratify by scanner") == 1
    assert "The scanner gives the label away" not in reader.text
    assert reader.row("dba", "Films labelled “normal”")[:3] == ["12", "10", "83.3 %"]


def test_an_audit_that_measured_nothing_says_why_and_the_scanner_is_still_spoken_of(
    tmp_path: Path,
) -> None:
    shortcuts = {"measured": False, "reason": "too <few> films."}
    _, reader = read(audited_run(tmp_path / "ws", shortcuts))
    assert "was not measured: too <few> films." in reader.text
    assert "The scanner gives the label away" in reader.text


def test_size_is_bounded_whatever_the_number_of_tiles_of_a_film(tmp_path: Path) -> None:
    workspace = make_run(tmp_path / "ws", FILMS[:1], fates=[KEPT, MISINFORMATIVE] * 2500)
    html, _ = read(workspace)
    assert len(html) < 700_000  # of these 200,000 are the maps
    assert "boxes are not drawn: there are too many." in html


# -- pages of films -------------------------------------------------------------------------


def film_page(workspace: Workspace, one: Mammogram) -> tuple[str, Reader]:
    html = (Path(workspace.uri) / f"report/films/{one.mammogram_id}.html").read_text("utf-8")
    reader = Reader()
    reader.feed(html)
    reader.close()
    return html, reader


@pytest.mark.parametrize("one", FILMS[:3])
def test_a_films_page_lists_every_tile_with_its_fate_and_draws_it(
    usual: Workspace, page: tuple[str, Reader], one: Mammogram
) -> None:
    _, reader = film_page(usual, one)
    rows = [row for row in reader.rows if row and re.match(r"\d", row[0])]
    assert len(rows) == len(USUAL)
    said = Counter(re.sub("breast.*", "", row[1])[1:].strip() for row in rows)
    assert said == {
        "Kept": 6,
        "In review: mixed": 1,
        "In review: lesion guard": 1,
        "Dropped: misinformative": 2,
        "Dropped: black": 2,
    }
    assert rows[0] == [
        "64, 3232 x 32",
        "RIn review: lesion guardbreast 25.0 %, foreign 50.0 %",
        "0.800",
    ]
    ids = {str(a["id"]) for _, a in reader.tags if "id" in a}
    assert {f"{kind}{n + 1}" for kind in "bt" for n in range(12)} <= ids
    links = [str(a["href"]) for tag, a in reader.tags if tag == "a"]
    assert all(link[1:] in ids for link in links if link.startswith("#"))


def test_a_films_page_keeps_the_rules_of_the_report(
    usual: Workspace, page: tuple[str, Reader]
) -> None:
    for one in FILMS:
        html, reader = film_page(usual, one)
        test_its_own_policy_forbids_requests_and_allows_its_script((html, reader))
        test_every_table_has_a_caption_and_headings_do_not_skip_a_level((html, reader))
        assert Counter(tag for tag, _ in reader.tags)["script"] == 1
        bare = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", html)
        assert "//" not in bare
        for tag, attributes in reader.tags:
            if tag == "img":
                assert attributes.get("alt"), attributes
                assert str(attributes["src"]).startswith("data:image/jpeg")
            link = attributes.get("href") or "#"
            assert re.match(r"#|\.\./index\.html#films$|m[0-9a-f]{20}\.html$", link), link
    assert EVIL in film_page(usual, FILMS[0])[1].text


def test_films_pages_lead_from_one_to_the_next_and_from_the_report(
    usual: Workspace, page: tuple[str, Reader]
) -> None:
    order = re.findall(r'<th scope="row" class="path"><a href="films/(m[0-9a-f]{20})', page[0])
    assert sorted(order) == sorted(one.mammogram_id for one in FILMS)
    assert {f"films/{i}.html" for i in order} == {
        str(a["href"]) for tag, a in page[1].tags if tag == "a" and "films/" in str(a["href"])
    }
    by_id = {one.mammogram_id: one for one in FILMS}
    for before, after in pairwise(order):
        assert f'rel="next" href="{after}.html"' in film_page(usual, by_id[before])[0]
        assert f'rel="prev" href="{before}.html"' in film_page(usual, by_id[after])[0]


def test_only_so_many_films_get_a_page_and_others_of_earlier_runs_go(tmp_path: Path) -> None:
    workspace = make_run(tmp_path / "ws")
    read(workspace)
    folder = tmp_path / "ws/report/films"
    assert len(list(folder.iterdir())) == 5
    (folder / "m0.html").write_text("of an earlier run")
    record = workspace.read_json("runs", f"{RUN}.json")
    for n in (2, 0):
        record["settings"]["film_pages"] = n
        workspace.write_json(f"runs/{RUN}.json", record)
        _, reader = read(workspace)
        links = {str(a["href"]) for t, a in reader.tags if t == "a" and "films/" in str(a["href"])}
        assert links == {f"films/{path.name}" for path in folder.iterdir()}
        assert len(links) == n


def test_films_that_get_a_page_are_those_flagged_and_some_others(tmp_path: Path) -> None:
    films = [film(i, f"{i:02}.png") for i in range(60)]
    workspace = make_run(tmp_path / "ws", films, fates=[KEPT] * 2, film_pages=30)
    _, reader = read(workspace)
    pages = {path.stem for path in (tmp_path / "ws/report/films").iterdir()}
    assert len(pages) == 30
    shown = {
        str(a["href"])[6:-5] for t, a in reader.tags if t == "a" and "films/" in str(a["href"])
    }
    assert shown == pages, "every film drawn in the report has a page"


@pytest.mark.browser
def test_a_films_page_is_worked_by_the_keyboard_and_fits_a_narrow_window(
    usual: Workspace, page: tuple[str, Reader]
) -> None:
    path = Path(usual.uri) / f"report/films/{FILMS[0].mammogram_id}.html"
    with new_page() as tab:
        told: list[str] = []
        tab.on("pageerror", lambda e: told.append(str(e)))
        tab.on("console", lambda m: told.append(m.text))
        for width in (400, 1400):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.goto(path.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.locator(".tiles th a").first.focus()
        assert tab.locator(".here").evaluate_all("all => all.map(e => e.id)") == ["b1", "t1"]
        tab.keyboard.press("ArrowDown")
        assert tab.evaluate("document.activeElement.hash") == "#b2"
        tab.locator("#b7").click()
        assert tab.evaluate("document.activeElement.hash") == "#b7"
        tab.get_by_label("Dropped: black").uncheck()
        assert tab.locator("tbody tr:visible").count() == len(USUAL) - 2
        assert tab.locator(".plate .box.black:visible").count() == 0
    assert told == []


def test_a_films_picture_is_made_sharper_by_its_stored_tiles() -> None:
    import cv2

    from tasks.report_page.film_pages import _lay
    from tasks.report_page.tiles import Tile

    grey = np.zeros((60, 40), np.uint8)
    pixels = np.full((32, 32), 65535, np.uint16)
    at = Tile("t", "m", "a.png", (40, 80, 40, 40), "keep", None, None, None, "tiles/k/p", 0)
    _lay(grey, at, pixels, 0.5)
    assert cv2.countNonZero(grey) == 400
    assert grey[40:60, 20:40].min() == 255
    over = replace(at, box=(60, 100, 40, 40))  # an edge that was padded reaches beyond the film
    _lay(grey, over, pixels, 0.5)
    assert grey[50:60, 30:40].min() == 255


# -- exemplars ------------------------------------------------------------------------------


def exemplars(tmp_path: Path, text: str) -> str:
    path = tmp_path / "exemplars.csv"
    path.write_text(text, "utf-8")
    return str(path)


def test_exemplars_are_found_by_name_and_by_overlap(usual: Workspace, tmp_path: Path) -> None:
    named = f"{FILMS[3].mammogram_id}-x0-y64-w32-h32"
    by_name, by_box = "tile_id\n" + named + "\n", "source,x,y,width,height\nd.png,3,60,40,30\n"
    for text in (by_name, by_box):
        html, reader = read(usual, exemplars=exemplars(tmp_path, text))
        start = html.index('aria-label="Exemplar"')
        assert "d.png; x 0, y 64, 32 x 32 px" in html[start : html.index("</figure>", start)]
        assert "1 exemplar was given" in reader.text


def test_neighbours_are_the_nearest_of_all_shards(usual: Workspace, tmp_path: Path) -> None:
    name = f"{FILMS[4].mammogram_id}-x64-y0-w32-h32"
    ids, rows = [], []
    for key in usual.read_json("runs", f"{RUN}.json")["shards"]["embeddings"]:
        shard = usual.shard("embeddings", key)
        ids += shard.table("embeddings.parquet")["tile_id"].to_pylist()
        rows.append(np.asarray(shard.array("embeddings.zarr")[:], np.float64))
    values = np.concatenate(rows)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    distance = np.linalg.norm(values - values[ids.index(name)], axis=1)
    expected = [f"at {distance[i]:.2f}" for i in np.argsort(distance)[1:11]]
    html, _ = read(usual, exemplars=exemplars(tmp_path, f"tile_id\n{name}\n"))
    section = html[html.index('id="exemplars"') : html.index('id="rules"')]
    assert re.findall(r"<b>(at [\d.]+)</b>", section) == expected


def test_an_exemplar_that_fits_no_tile_is_named_and_the_others_are_shown(
    usual: Workspace, tmp_path: Path
) -> None:
    table = "source,x,y,width,height\nelsewhere.png,0,0,9,9\nc.png,64,0,32,32\n"
    _, reader = read(usual, exemplars=exemplars(tmp_path, table))
    assert "Line 2: elsewhere.png, x 0, y 0, 9 x 9 px" in reader.text
    assert "No tile of the manifest fits." in reader.text
    assert "Line 3: c.png" in reader.text


def test_a_black_exemplar_has_no_neighbours(usual: Workspace, tmp_path: Path) -> None:
    table = "source,x,y,width,height\nc.png,0,0,32,32\n"
    _, reader = read(usual, exemplars=exemplars(tmp_path, table))
    assert "screened out as black, so it has no embedding" in reader.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no column tile_id or image, nor all of"),
        ("tile_id\n", "has no lines"),
        ("source,x,y,width\na,1,2,3\n", "line 1: .*missing: height"),
        ("source,x,y,width,height\na,1,two,3,4\n", "line 2, column y: 'two'"),
        ("source,x,y,width,height\n\na,1,2,3,0\n", "line 3, column height: '0'"),
        ("source,x,y,width,height\na,1,2,3\n", "line 2, column height: ''"),
        ("source,x,y,width,height\n ,1,2,3,4\n", "line 2, column source: it is empty"),
        ("tile_id,note\n,later\n", "line 2, column tile_id: it is empty"),
        ("tile_id\n\xe9\udcff", "no csv in UTF-8"),
    ],
)
def test_a_faulty_table_of_exemplars_is_refused_by_line_and_column(
    usual: Workspace, tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TableError, match=said) as raised:
        write_report(usual.uri, RUN, exemplars=str(path))
    assert str(path) in str(raised.value)


def test_a_missing_table_of_exemplars_is_refused(usual: Workspace, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be opened"):
        write_report(usual.uri, RUN, exemplars=str(tmp_path / "none.csv"))


def test_near_duplicates_are_shown_side_by_side_the_least_alike_first(tmp_path: Path) -> None:
    workspace = make_run(tmp_path / "ws")
    record = workspace.read_json("runs", f"{RUN}.json")
    first, second = (f"{one.mammogram_id}-x0-y{TILE}-w{TILE}-h{TILE}" for one in FILMS[:2])
    found = {
        record["shards"]["tiles"][0]: [
            {"tile_id": second, "duplicate_of": first, "likeness": 0.9951},
            {"tile_id": second.replace("-x0-", f"-x{TILE}-"), "duplicate_of": first}
            | {"likeness": 0.9912},
        ],
        record["shards"]["tiles"][1]: [],
    }
    with workspace.write_shard("duplicates", "d0") as shard:
        for key, rows in found.items():
            shard.write_table(f"{key}.parquet", pa.Table.from_pylist(rows, schema=DUPLICATES))
    record["shards"]["duplicates"] = "d0"
    counts = {"compared": 50, "duplicates": 2, "groups": 1}
    counts |= {"between_films": 2, "between_patients": 0, "between_parts": 0}
    workspace.write_json(f"runs/{RUN}.json", record | {"near_duplicates": counts})
    text, _ = read(workspace)
    section = text[text.index('id="duplicates"') : text.index('id="clusters"')]
    assert "2 of them nearly equal another tile, which stays (1 such tile)" in section
    assert re.findall(r"correlate by ([\d.]+)", section) == ["0.9912", "0.9951"]
    assert section.count("<img") == 4
