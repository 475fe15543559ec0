from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from torch.utils.data import DataLoader

from storage import published_tiles, workspace
from storage.errors import ShardError, WorkspaceError
from storage.manifest import read_manifest
from storage.published_tiles import PublishedTiles, tiles
from storage.workspace import Workspace
from tasks import tile_dataset
from tasks.tile_dataset import TileDataset

KEPT = 12 * 7
CHUNK, SHARD = 2 * 2048, 8 * 2048  # bytes of 2 and of 8 tiles of 32 px


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory, publish: Callable[..., Workspace]) -> Path:
    """The same tiles in Zarr shards of 8 and chunks of 2."""
    folder = tmp_path_factory.mktemp("blocks") / "w"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "ZARR_SHARD_BYTES", SHARD)
        patch.setattr(workspace, "ZARR_CHUNK_BYTES", CHUNK)
        publish(folder)
    return folder


def plain(folder: Path | str, table: object) -> np.ndarray:
    """Pixels of rows, one after the other, by zarr alone."""
    import zarr

    rows = table.select(["pixels_uri", "pixels_index"]).to_pylist()  # type: ignore[attr-defined]
    return np.stack(
        [zarr.open_array(f"{folder}/{r['pixels_uri']}")[r["pixels_index"]] for r in rows]
    )


def seen(loader: object) -> list[int]:
    return [i for batch in loader for i in batch["index"].tolist()]  # type: ignore[attr-defined]


def test_kept_tiles_alone_are_in_it_by_default(published: Path) -> None:
    assert len(TileDataset(published)) == KEPT
    everything = TileDataset(published, decisions=None)
    assert len(everything) == 12 * 9
    assert everything.without_pixels == 12


def test_pixels_by_number_are_those_of_the_manifest(blocks: Path) -> None:
    data = TileDataset(blocks, dtype="uint16")
    expected = plain(blocks, data.table)
    order = np.random.default_rng(1).permutation(len(data))
    read = np.stack([item["pixels"][0].numpy() for item in data.__getitems__(order.tolist())])
    np.testing.assert_array_equal(read, expected[order])
    np.testing.assert_array_equal(data[-1]["pixels"][0].numpy(), expected[-1])


def test_float_pixels_are_the_stored_ones_over_65535_and_three_channels_are_equal(
    published: Path,
) -> None:
    one = TileDataset(published)[5]["pixels"]
    three = TileDataset(published, channels=3)[5]["pixels"]
    raw = TileDataset(published, dtype="uint16")[5]["pixels"]
    assert one.shape == (1, 32, 32)
    assert one.dtype == torch.float32
    np.testing.assert_array_equal(one.numpy(), raw.numpy() / np.float32(65535))
    assert three.shape == (3, 32, 32)
    assert all(torch.equal(three[c], one[0]) for c in range(3))


def test_a_transform_sees_each_tile(published: Path) -> None:
    data = TileDataset(published, transform=lambda tile: tile[:, ::2, ::2] + 1)
    (batch,) = DataLoader(data.stream(len(data), shuffle=False), batch_size=None)
    assert batch["pixels"].shape == (KEPT, 1, 16, 16)
    assert torch.equal(batch["pixels"][3], data[3]["pixels"])
    assert batch["pixels"].min() >= 1


@pytest.mark.parametrize(
    "filters",
    [
        [("view", "==", "MLO"), ("label", "in", ["benign"])],
        (pc.field("view") == "MLO") & pc.field("label").isin(["benign"]),
    ],
)
def test_filters_are_tuples_or_expressions(published: Path, filters: object) -> None:
    data = TileDataset(published, filters=filters, columns=["view"])  # type: ignore[arg-type]
    assert set(data.table["view"].to_pylist()) == {"MLO"}
    assert set(data.table["label"].to_pylist()) == {"benign"}
    assert 0 < len(data) < KEPT


def test_splits_are_disjoint_in_patients_and_together_all(published: Path) -> None:
    parts = [TileDataset(published, split=s) for s in ("train", "validation", "test")]
    patients = [set(part.table["patient_key"].to_pylist()) for part in parts]
    assert sum(len(p) for p in patients) == len(set().union(*patients)) == 6
    assert sum(map(len, parts)) == KEPT
    assert len(TileDataset(published, split=["train", "test"])) == len(parts[0]) + len(parts[2])


def test_classes_weights_and_the_unlabelled(published: Path) -> None:
    data = TileDataset(published)
    assert data.classes == ("benign", "malignant")
    assert data.n_unlabelled == 7
    assert data.targets is not None
    assert (data.targets == -1).sum() == 7
    benign, malignant = 7 * 7, 4 * 7
    expected = [(benign + malignant) / (2 * n) for n in (benign, malignant)]
    np.testing.assert_allclose(data.class_weights(), expected, rtol=1e-6)
    weights = data.sample_weights()
    assert weights[data.targets == -1].sum() == 0
    assert weights[data.targets == 0].sum() == pytest.approx(1)
    assert weights[data.targets == 1].sum() == pytest.approx(1)
    labelled = TileDataset(published, unlabelled="drop")
    assert len(labelled) == KEPT - 7
    assert labelled.table["label"].null_count == 0


def test_classes_may_be_given_for_train_and_validation_alike(published: Path) -> None:
    classes = ("normal", "malignant", "benign")
    data = TileDataset(published, split="test", classes=classes)
    assert data.classes == classes
    assert data.targets is not None
    named = [None if c < 0 else classes[c] for c in data.targets.tolist()]
    assert named == data.table["label"].to_pylist()
    assert data.class_weights()[0] == 0, "no tile is normal"


def test_a_target_may_be_a_number_or_none(published: Path) -> None:
    data = TileDataset(published, target="lesion_fraction")
    assert data[0]["target"].dtype == torch.float32
    assert data.classes == ()
    with pytest.raises(ValueError, match="need a target of text"):
        data.class_weights()
    assert "target" not in TileDataset(published, target=None)[0]


def test_balanced_epochs_draw_all_classes_equally_and_no_unlabelled(blocks: Path) -> None:
    data = TileDataset(blocks)
    stream = data.stream(16, balanced=True)
    counts = np.zeros(2)
    for epoch in range(20):
        stream.set_epoch(epoch)
        classes = torch.cat([batch["target"] for batch in stream])
        assert len(classes) == len(data)
        assert classes.min() >= 0
        counts += np.bincount(classes, minlength=2)
    assert abs(counts[0] / counts.sum() - 0.5) < 0.05


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_gives_every_tile_once_with_its_pixels(blocks: Path, workers: int) -> None:
    data = TileDataset(blocks, dtype="uint16")
    expected = plain(blocks, data.table)
    loader = DataLoader(data.stream(10, seed=3), batch_size=None, num_workers=workers)
    indices = []
    for batch in loader:
        indices += batch["index"].tolist()
        np.testing.assert_array_equal(batch["pixels"][:, 0].numpy(), expected[batch["index"]])
        assert torch.equal(batch["target"], data.targets[batch["index"]])  # type: ignore[index]
    assert sorted(indices) == list(range(len(data)))
    assert indices != sorted(indices)


def test_the_same_seed_and_epoch_give_the_same_order_and_others_another(blocks: Path) -> None:
    data = TileDataset(blocks)

    def order(seed: int, epoch: int, workers: int = 0) -> list[int]:
        stream = data.stream(10, seed=seed)
        stream.set_epoch(epoch)
        return seen(DataLoader(stream, batch_size=None, num_workers=workers))

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)
    assert order(1, 2, workers=2) == order(1, 2, workers=2)
    assert seen(data.stream(10, shuffle=False)) == list(range(len(data)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_batches_of_a_plain_one(blocks: Path, workers: int) -> None:
    data = TileDataset(blocks)
    stream = data.stream(10, seed=4)
    plain_loader = DataLoader(stream, batch_size=None, num_workers=workers)
    loader = stream.loader(num_workers=workers)
    for epoch in range(2):
        loader.set_epoch(epoch)
        ours, theirs = list(loader), list(plain_loader)
        key = (lambda b: b["index"].tolist()) if workers else (lambda b: 0)  # parcels interleave
        for mine, other in zip(sorted(ours, key=key), sorted(theirs, key=key), strict=True):
            assert mine.keys() == other.keys() == {"pixels", "index", "target"}
            for name in mine:
                assert torch.equal(mine[name], other[name])
        assert seen(ours) == seen(loader)


def test_workers_that_persist_see_the_next_epoch(blocks: Path) -> None:
    stream = TileDataset(blocks).stream(10)
    loader = DataLoader(stream, batch_size=None, num_workers=1, persistent_workers=True)
    first = seen(loader)
    stream.set_epoch(1)
    assert seen(loader) != first


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_see_disjoint_tiles_that_together_are_all(blocks: Path, world: int) -> None:
    data = TileDataset(blocks)
    streams = [data.stream(10, rank=r, world_size=world) for r in range(world)]
    parts = [seen(DataLoader(s, batch_size=None, num_workers=r)) for r, s in enumerate(streams)]
    assert sorted(i for part in parts for i in part) == list(range(len(data)))
    assert [s.n_tiles for s in streams] == [len(part) for part in parts]
    assert max(map(len, parts)) - min(map(len, parts)) <= 8, "a Zarr shard at most"
    sampled = [list(data.sampler(rank=r, world_size=world)) for r in range(world)]
    assert sorted(i for part in sampled for i in part) == list(range(len(data)))


def test_a_sampler_gives_the_order_of_the_stream_and_reads_each_chunk_once(
    blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TileDataset(blocks)
    read: list[tuple[str, int]] = []
    original = PublishedTiles.read_chunks

    def counted(self: PublishedTiles, uri: str, chunks: list[int]) -> object:
        read.extend((uri, c) for c in chunks)
        return original(self, uri, chunks)

    monkeypatch.setattr(PublishedTiles, "read_chunks", counted)
    loader = DataLoader(data, batch_size=4, sampler=data.sampler(seed=5))
    assert seen(loader) == seen(data.stream(4, seed=5))
    assert len(read) == len(set(read))


def test_single_items_can_be_batched_by_the_loader(blocks: Path) -> None:
    data = TileDataset(blocks)
    assert len(seen(DataLoader(data.stream(None), batch_size=7))) == len(data)


def test_the_last_batch_can_be_dropped(blocks: Path) -> None:
    sizes = [len(b["index"]) for b in TileDataset(blocks).stream(10, drop_last=True)]
    assert sizes == [10] * 8


def test_a_stream_holds_few_shards_at_a_time(blocks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TileDataset(blocks)
    alive = [0]
    most = [0]

    class Counted(np.ndarray):
        def __del__(self) -> None:
            if self.base is None or not isinstance(self.base, Counted):
                alive[0] -= 1

    original = PublishedTiles.read_block

    def counted(self: PublishedTiles, number: int) -> np.ndarray:
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return original(self, number).copy().view(Counted)

    monkeypatch.setattr(PublishedTiles, "read_block", counted)
    assert len(seen(data.stream(10, blocks_held=2))) == len(data)
    assert most[0] <= 3


def test_it_travels_to_other_processes(blocks: Path) -> None:
    data = TileDataset(blocks)
    copy = pickle.loads(pickle.dumps(data))  # noqa: S301
    assert torch.equal(copy[7]["pixels"], data[7]["pixels"])


def test_it_reads_from_any_file_system(tmp_path: Path, publish: Callable[..., Workspace]) -> None:
    remote = f"memory://{tmp_path.name}/w"
    publish(remote)
    publish(tmp_path / "w")
    here, there = TileDataset(tmp_path / "w"), TileDataset(remote)
    assert here.table.equals(there.table)
    for mine, theirs in zip(here.stream(30), there.stream(30), strict=True):
        assert torch.equal(mine["pixels"], theirs["pixels"])
    assert torch.equal(here[40]["pixels"], there[40]["pixels"])


def test_tiles_gives_pixels_with_their_rows(blocks: Path) -> None:
    pairs = list(tiles(blocks, split="test"))
    assert len(pairs) == len(TileDataset(blocks, split="test"))
    manifest = read_manifest(blocks, filters=[("split", "==", "test"), ("decision", "==", "keep")])
    assert {row["tile_id"] for _, row in pairs} == set(manifest["tile_id"].to_pylist())
    assert set(pairs[0][1]) == set(manifest.schema.names)
    expected = plain(blocks, manifest)
    by_id = dict(zip(manifest["tile_id"].to_pylist(), expected, strict=True))
    for pixels, row in pairs:
        np.testing.assert_array_equal(pixels, by_id[row["tile_id"]])


def test_few_wanted_tiles_are_read_by_their_chunks(blocks: Path) -> None:
    found = PublishedTiles(blocks, filters=[("lesion_fraction", ">", 0)])
    assert len(found) == 4
    read = np.concatenate([found.read_block(b) for b in range(len(found.blocks))])
    np.testing.assert_array_equal(read, plain(blocks, found.table))


def test_no_tile_at_all_is_an_empty_data_set(published: Path) -> None:
    data = TileDataset(published, filters=[("view", "==", "XCCL")])
    assert len(data) == 0
    assert list(data.stream()) == []
    assert list(tiles(published, filters=[("view", "==", "XCCL")])) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"split": "holdout"}, "one or more of train, validation, test"),
        ({"decisions": []}, "one or more of keep, review, drop"),
        ({"filters": [("scaner", "==", "dba")]}, "Its columns are tile_id, mammogram_id"),
        ({"filters": [("view", "is", "CC")]}, "expression of pyarrow, or tuples"),
        ({"target": "colour"}, "Its columns are"),
        ({"channels": 2}, "one of 1, 3"),
        ({"dtype": "float64"}, "'float32', 'uint16'"),
        ({"classes": ["a", "a"]}, "names a class twice"),
    ],
)
def test_wrong_arguments_say_what_is_right(
    published: Path, given: dict[str, object], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        TileDataset(published, **given)  # type: ignore[arg-type]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    Workspace.create(tmp_path / "w")
    with pytest.raises(WorkspaceError, match="holds no manifest"):
        TileDataset(tmp_path / "w")


@pytest.fixture
def altered(tmp_path: Path, publish: Callable[..., Workspace]) -> Workspace:
    return publish(tmp_path / "w", shards=1)


def test_a_missing_chunk_is_an_error_and_not_black_tiles(altered: Workspace) -> None:
    Path(altered.path("tiles/shard0/pixels.zarr/c/0/0/0")).unlink()
    with pytest.raises(ShardError, match="missing or altered"):
        TileDataset(altered.uri)


@pytest.mark.parametrize(
    "uri",
    ["../w/tiles/shard0/pixels.zarr", "/etc/pixels.zarr", "tiles/../x.zarr", "films/a/b.zarr"],
)
def test_a_manifest_cannot_lead_out_of_its_workspace(altered: Workspace, uri: str) -> None:
    table = read_manifest(altered)
    names = [uri if u else None for u in table["pixels_uri"].to_pylist()]
    place = table.schema.get_field_index("pixels_uri")
    changed = table.set_column(place, "pixels_uri", [names]).drop_columns("split")
    altered.fs.rm(altered.path("manifest"), recursive=True)
    altered.write_table("manifest/split=train/p.parquet", changed)
    with pytest.raises(ShardError, match="names no tile array"):
        TileDataset(altered.uri)


def test_a_manifest_that_names_a_tile_twice_is_refused(altered: Workspace) -> None:
    table = read_manifest(altered)
    rows = table["pixels_index"].to_pylist()
    twice = [rows[0] if row == rows[1] else row for row in rows]
    place = table.schema.get_field_index("pixels_index")
    changed = table.set_column(place, "pixels_index", [twice]).drop_columns("split")
    altered.fs.rm(altered.path("manifest"), recursive=True)
    altered.write_table("manifest/split=train/p.parquet", changed)
    with pytest.raises(ShardError, match="twice"):
        list(TileDataset(altered.uri, target=None).stream(8))


@pytest.mark.parametrize(
    "change", [{"shape": [36, 9000, 9000]}, {"data_type": "float32"}, {"shape": [36, 32, 16]}]
)
def test_an_array_that_claims_other_tiles_is_refused_before_it_is_read(
    altered: Workspace, change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_tiles.Workspace, "shard", _unchecked(Workspace.shard))
    file = Path(altered.path("tiles/shard0/pixels.zarr/zarr.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises((ShardError, ValueError)):
        TileDataset(altered.uri)


def _unchecked(original: Callable[..., object]) -> Callable[..., object]:
    def shard(self: Workspace, kind: str, key: str) -> object:
        found = original(self, kind, key)
        found.check = lambda: None  # type: ignore[attr-defined]
        return found

    return shard


@pytest.mark.parametrize("persistent", [False, True])
def test_an_epoch_that_was_left_early_costs_the_next_one_nothing(
    blocks: Path, persistent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_dataset, "PARCEL_BYTES", 10 * 2048)
    data = TileDataset(blocks, dtype="uint16")
    expected = plain(blocks, data.table)
    loader = data.stream(5).loader(num_workers=1, persistent_workers=persistent)
    in_new_memory: list[int] = []
    cut = tile_dataset._cut

    def seen_cut(made: Any, size: int | None) -> Any:
        in_new_memory.append(len(made["index"]) > 5)  # a batch of the ring is cut alone
        return cut(made, size)

    for _ in range(6):
        next(iter(loader))
    monkeypatch.setattr(tile_dataset, "_cut", seen_cut)
    for _ in range(2):
        indices = []
        for batch in loader:
            indices += batch["index"].tolist()
            np.testing.assert_array_equal(batch["pixels"][:, 0].numpy(), expected[batch["index"]])
        assert sorted(indices) == list(range(len(data)))
    assert not any(in_new_memory), "all slots of the ring are free again"


def test_workers_may_be_spawned(blocks: Path) -> None:
    stream = TileDataset(blocks).stream(10)
    loader = stream.loader(num_workers=1, multiprocessing_context="spawn")
    assert seen(loader) == seen(stream.loader(num_workers=1))


def test_batches_that_are_kept_stay_as_they_are(
    blocks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_dataset, "PARCEL_BYTES", 10 * 2048)
    data = TileDataset(blocks, dtype="uint16")
    expected = plain(blocks, data.table)
    for batch in list(data.stream(5).loader(num_workers=2)):
        np.testing.assert_array_equal(batch["pixels"][:, 0].numpy(), expected[batch["index"]])
