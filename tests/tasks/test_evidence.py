"""Evidence of a made-up workspace, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.autoencoder import AutoencoderConfig, build
from models.checkpoints import config_json, to_bytes
from models.encoding import encode
from storage.manifest import ManifestWriter
from storage.schemas import MANIFEST, SCHEMA_VERSION, TILES
from storage.tile_shards import INDEX, PLANTED, PLANTED_INDEX, PLANTED_PIXELS
from storage.workspace import ShardRef, Workspace
from tasks.evidence import EvidenceSettings, gather_evidence
from tasks.report_page.evidence import cluster_says, cluster_title, read_evidence

SIZE = 32
PARTS = [("t0", "e0"), ("t1", "e1")]
SETTINGS = EvidenceSettings(misinformative_threshold=0.5)
FIGURES = ("dark_fraction", "mean", "std", "p01", "p99", "entropy")

# film, patient, scanner; then per tile: x, breast, foreign, mean, score, decision, label
FILMS: dict[str, list[tuple[str, str, str | None, list[tuple[Any, ...]]]]] = {
    "t0": [
        (
            "m0",
            "p0",
            "dba",
            [
                (0, 1.0, 0.0, 0.6, 0.1, "keep", 0),
                (32, 1.0, 0.0, 0.4, 0.1, "keep", 0),
                (64, 0.5, 0.0, 0.2, 0.1, "keep", 0),
                (96, 0.0, 0.3, 0.1, 0.9, "drop", 1),
                (128, 0.0, 0.0, 0.0, None, "drop", None),
            ],
        ),
        (
            "m1",
            "p1",
            "howtek",
            [
                (0, 1.0, 0.0, 0.8, 0.2, "review", 0),
                (32, 0.2, 0.1, 0.1, 0.7, "review", 1),
                (64, 0.0, 0.0, 0.1, 0.4, "keep", -1),
            ],
        ),
    ],
    "t1": [("m2", "p1", None, [(0, 0.1, 0.2, 0.1, 0.8, "drop", 1)])],
}


class Made:
    """The workspace, as a finished run would leave it."""

    def __init__(self, folder: Path, *, planted: bool) -> None:
        self.workspace = Workspace.create(folder)
        config = AutoencoderConfig(
            name="tiny", input_size_px=SIZE, channels=1, widths=(4, 8), dense_dim=16, latent_dim=5
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = build(config)
        with self.workspace.write_shard("encoders", "enc") as shard:
            shard.write_bytes("weights.safetensors", to_bytes(self.model))
            shard.write_bytes("config.json", config_json(config).encode())
        rng = np.random.default_rng(0)
        self.manifest = ManifestWriter(self.workspace, "staging")
        labels = {}
        for key, part in PARTS:
            tiles = [self._tile(*film[:3], tile) for film in FILMS[key] for tile in film[3]]
            pixels = rng.integers(0, 65536, (len(tiles), SIZE, SIZE)).astype(np.uint16)
            embedded = [i for i, t in enumerate(tiles) if not t["is_black"]]
            self._write_tiles(key, tiles, pixels, planted=planted)
            ids = pa.array([tiles[i]["tile_id"] for i in embedded], pa.string())
            with self.workspace.write_shard("embeddings", part) as shard:
                array = shard.array("embeddings.zarr", (5,), "float32", {})
                array.append(encode(self.model, pixels[embedded]))
                array.close()
                shard.write_table("embeddings.parquet", pa.table({"tile_id": ids}))
            label = pa.array([tiles[i]["cluster_label"] for i in embedded], pa.int32())
            labels[part] = pa.table({"tile_id": ids, "cluster_label": label})
            self._decide(key, tiles)
        self.manifest.publish()
        with self.workspace.write_shard("clusters", "c") as shard:
            for part, table in labels.items():
                shard.write_table(f"{part}.parquet", table)

    def _tile(
        self, film: str, patient: str, scanner: str | None, tile: tuple[Any, ...]
    ) -> dict[str, Any]:
        x, breast, foreign, mean, score, decision, label = tile
        return {
            **dict.fromkeys(FIGURES, 0.5),
            "tile_id": f"{film}-x{x}",
            "mammogram_id": film,
            "patient_key": patient,
            "scanner": scanner,
            "source": f"{film}.png",
            "source_sha256": "0",
            "x": x,
            "y": 32 if x in (32, 64) else 0,
            "width": SIZE,
            "height": 32 if x else 96,
            "mean": mean,
            "is_black": score is None,
            "breast_fraction": breast,
            "foreign_fraction": foreign,
            "context_score": score or 0.0,
            "misinformative_score": score,
            "decision": decision,
            "cluster_label": label,
            "run_id": "r",
            "schema_version": SCHEMA_VERSION,
        }

    def _write_tiles(
        self, key: str, tiles: list[dict[str, Any]], pixels: np.ndarray, *, planted: bool
    ) -> None:
        with self.workspace.write_shard("tiles", key) as shard:
            shard.write_table(INDEX, pa.Table.from_pylist(tiles, schema=TILES))
            if planted and key == "t0":  # drawn on: twice tile 3 (label 1), once tile 0 (label 0)
                rows = [
                    {"pixels_index": i, "planted_fraction": p, "is_black": black, "kind": "letters"}
                    for i, p, black in (
                        (0, 0.1, False),
                        (1, 0.2, False),
                        (2, 0.3, False),
                        (3, 0.0, False),  # nothing on it
                        (3, 0.1, True),  # black
                    )
                ]
                known = tiles[3] | {"x": 96}
                table = pa.Table.from_pylist([known | row for row in rows], schema=PLANTED)
                shard.write_table(PLANTED_INDEX, table)
                array = shard.array(PLANTED_PIXELS, (SIZE, SIZE), "uint16", {})
                array.append(pixels[[3, 3, 0, 1]])
                array.close()

    def _decide(self, key: str, tiles: list[dict[str, Any]]) -> None:
        for split, patient in (("train", "p0"), ("test", "p1")):
            rows = [t for t in tiles if t["patient_key"] == patient]
            if rows:
                table = pa.Table.from_pylist(rows, schema=MANIFEST)
                self.manifest.write_part(key, split, table)

    def gather(self, parts: list[tuple[str, str]] = PARTS) -> ShardRef:
        return gather_evidence(self.workspace.uri, parts, "c", "enc", SETTINGS)

    def rows(self) -> dict[int, dict[str, Any]]:
        return read_evidence(self.workspace, {"shards": {"evidence": self.gather().key}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("evidence") / "w", planted=True)


def test_each_cluster_is_counted_as_by_hand(made: Made) -> None:
    rows = made.rows()
    assert list(rows) == [-1, 0, 1]
    tissue = rows[0]  # four tiles: three of m0, one of m1
    assert (tissue["size"], tissue["films"], tissue["patients"]) == (4, 2, 2)
    assert tissue["flagged_share"] == tissue["review_share"] == 0.25
    assert tissue["breast_fraction"] == pytest.approx(3.5 / 4)
    assert tissue["brightness"] == pytest.approx((0.6 + 0.4 + 0.2 + 0.8) / 4)
    assert tissue["outline_share"] == 0.25
    assert (tissue["scanner"], tissue["scanner_share"]) == ("dba", 0.75)
    marks = rows[1]  # one tile each of m0, m1 and m2; the latter two of one patient
    assert (marks["size"], marks["films"], marks["patients"]) == (3, 3, 2)
    assert marks["flagged_share"] == 1
    assert marks["review_share"] == pytest.approx(1 / 3)
    assert marks["foreign_fraction"] == pytest.approx(0.2)
    assert (marks["scanner"], marks["scanner_share"]) == ("dba", pytest.approx(1 / 3))


def test_tiles_in_the_outermost_row_or_column_are_at_the_rim(made: Made) -> None:
    rows = made.rows()
    # x32 and x64 of m0 lie in the middle; x64 of m1 is its last column; x128 of m0 counts though
    # it is black
    assert rows[0]["rim_share"] == 0.5
    assert rows[1]["rim_share"] == pytest.approx(2 / 3)
    assert rows[-1]["rim_share"] == 1


def test_planted_tiles_fall_to_their_nearest_tile_s_cluster(made: Made) -> None:
    rows = made.rows()
    assert {label: row["planted"] for label, row in rows.items()} == {-1: 0, 0: 1, 1: 2}
    assert rows[1]["planted_share"] == pytest.approx(2 / 3)
    assert rows[1]["planted_lift"] == pytest.approx((2 / 3) / (3 / 8))
    assert rows[0]["planted_lift"] == pytest.approx((1 / 3) / (4 / 8))
    assert made.gather().counts == {"clusters": 2, "planted": 3}


def test_names_follow_the_rules(made: Made) -> None:
    assert {label: row["name"] for label, row in made.rows().items()} == {
        -1: "noise",
        0: "fatty tissue",  # 0.5 bright; the run's tissue is 0.6, give or take 0.16
        1: "skin line",  # two planted tiles are too few to say more
    }


def test_without_planted_tiles_their_columns_are_null(tmp_path: Path) -> None:
    rows = Made(tmp_path / "w", planted=False).rows()
    for row in rows.values():
        assert (row["planted"], row["planted_share"], row["planted_lift"]) == (None, None, None)
    assert "drawn-on" not in cluster_says(rows[0])


def test_order_changes_nothing_and_a_new_manifest_gives_new_evidence(tmp_path: Path) -> None:
    made = Made(tmp_path / "w", planted=True)
    first = made.gather()
    files = made.workspace.shard("evidence", first.key).record()["files"]
    assert made.gather(PARTS[::-1]).reused
    made.workspace.fs.rm(made.workspace.path("evidence"), recursive=True)
    again = made.gather(PARTS[::-1])
    assert made.workspace.shard("evidence", again.key).record()["files"] == files
    path = "manifest/split=train/t0.parquet"
    table = made.workspace.read_table(path)
    decision = pa.array(["review"] * table.num_rows)
    at = table.schema.get_field_index("decision")
    made.workspace.write_table(path, table.set_column(at, "decision", decision).cast(table.schema))
    later = made.gather()
    assert later.key != first.key
    assert not later.reused


def test_a_cluster_in_words(made: Made) -> None:
    rows = made.rows()
    assert cluster_title(0, rows) == "Cluster 0: fatty tissue (25.0 % flagged)"
    assert cluster_title(7, rows) == "Cluster 7"
    assert cluster_says(rows[0]) == (
        " 2 films of 2 patients, 87.5 % breast, 0.0 % foreign content, 75.0 % of scanner dba, "
        "33.3 % of the tiles with drawn-on annotations fall here, 0.7 times its share of the tiles."
    )
    assert cluster_says(None) == ""
