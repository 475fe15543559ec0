"""Fixtures that every part of the test suite may use."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from flows.cli import PREFECT_DEFAULTS
from storage.manifest import SPLITS, ManifestWriter
from storage.schemas import MANIFEST, SCHEMA_VERSION
from storage.workspace import Workspace
from tasks.settings import CurationSettings
from tests.chromium import CHROMIUM

for name, value in PREFECT_DEFAULTS.items():  # before Prefect is imported for the first time
    os.environ.setdefault(name, value)

ROOT = Path(__file__).parents[1]
FORKING = ("test_tile_dataset.py", "test_s3.py")
"""Tests with DataLoader workers: forked from a process that has run a Prefect flow, a worker ends
with status 1 (PyTorch's own loader, too)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that fork come first, before any flow has run in their process."""
    items.sort(key=lambda item: item.path.name not in FORKING)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests in a browser where there is none, before anything is started for them."""
    if CHROMIUM is None and item.get_closest_marker("browser"):
        pytest.skip("Chromium is not installed (Debian: chromium)")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real films with pixel truth beside the checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the real films are not beside this checkout (../shared/data)")
    return folder


def make_film(
    seed: int, *, rows: int = 512, columns: int = 384, lettering: bool = True
) -> np.ndarray:
    """A made-up film: dark grey noise, a half ellipse of breast at the left, a bright plate."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    film = 2500 + 120 * rng.standard_normal((rows, columns))
    inside = (x / (0.55 * columns)) ** 2 + ((y - rows / 2) / (0.42 * rows)) ** 2
    depth = np.clip(1 - inside, 0, 1)
    texture = cv2.GaussianBlur(rng.standard_normal((rows, columns)).astype(np.float32), (0, 0), 4)
    film += np.sqrt(depth) * (26_000 + 60_000 * texture)
    if lettering:
        plate = np.zeros((rows, columns), np.uint8)
        cv2.putText(plate, "RMLO", (columns - 130, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.3, 255, 5)
        film[plate > 0] = 52_000
    return np.clip(film, 0, 65535).astype(np.uint16)


@pytest.fixture(scope="session")
def film_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve made-up films of six patients as 16-bit PNG, with films.csv and lesions.csv."""
    folder = tmp_path_factory.mktemp("films")
    table = ["source,patient,laterality,view,label"]
    for i in range(12):
        name = f"case{i // 2}/{'LR'[i % 2]} film.png"
        (folder / name).parent.mkdir(exist_ok=True)
        film = make_film(i)
        cv2.imwrite(str(folder / name), film if i % 2 else film[:, ::-1])
        label = "malignant" if i == 3 else ("normal" if i % 4 < 2 else "benign")
        table.append(f"{name},patient-{i // 2},{'LR'[i % 2]},MLO,{label}")
    (folder / "films.csv").write_text("\n".join(table) + "\n")
    lesion = "source,pathology,x_px,y_px,radius_px\ncase1/R film.png,malignant,90,260,30\n"
    (folder / "lesions.csv").write_text(lesion)
    return folder


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[str]:
    """A Prefect server of its own, for all the flows of this test process; gives its API's URL."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())


SMALL = {
    "tile_size_px": 64,
    "films_per_shard": 4,
    "max_epochs": 3,
    "batch_size": 32,
    "training_tiles": 64,
    "planted_tiles": 150,
    "min_cluster_size": 5,
    "workers": 2,
}
"""Settings that make a run over the made-up films short."""


@pytest.fixture(scope="session")
def small() -> dict[str, int]:
    """Settings that make a run over the made-up films short."""
    return dict(SMALL)


@pytest.fixture
def prefect_artifacts(prefect_server: str) -> Iterator[str]:
    """The server, for a short flow with artifacts, whose test lets unclosed sockets pass.

    Prefect leaves the socket of each artifact's client to the garbage collector.
    """
    yield prefect_server
    gc.collect()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Whether the ways to run are compared on real films."""
    parser.addoption(
        "--demo-films",
        action="store_true",
        help="compare runs on Slurm, PostgreSQL and S3 over the demo's eight films (minutes each)",
    )


@pytest.fixture(scope="session")
def local_run(
    prefect_server: str,
    film_folder: Path,
    small: dict[str, int],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> CurationSettings:
    """Settings of a run on this machine that has ended: what other ways must come to as well.

    Tests that use it stand in the same ``xdist_group``, so that it is done once.
    """
    from flows.curate import curate
    from flows.demo import demo_settings

    out = tmp_path_factory.mktemp("local-run") / "w"
    if request.config.getoption("--demo-films"):
        settings = demo_settings(out)
    else:
        settings = CurationSettings(source=str(film_folder), out=str(out), **small)
    curate(settings)
    return settings


def publish_tiles(
    where: str | Path, *, shards: int = 3, films_per_shard: int = 4, tiles_per_film: int = 10
) -> Workspace:
    """A workspace as a run leaves it, of made-up tiles of 32 px: ten a film, the last one black.

    Film f has patient f // 2, who is malignant (every third), benign or, for the last, unlabelled;
    tile t of a film is kept but for t = 7 (dropped), 8 (review) and 9 (black, no pixels).
    """
    workspace = Workspace.create(where)
    rng = np.random.default_rng(0)
    rows = []
    for shard in range(shards):
        stored = tiles_per_film - 1
        pixels = rng.integers(0, 65536, (films_per_shard * stored, 32, 32), np.uint16)
        with workspace.write_shard("tiles", f"shard{shard}") as writer:
            array = writer.array("pixels.zarr", (32, 32), "uint16", {})
            array.append(pixels)
            array.close()
            writer.rows = len(pixels)
        for here in range(films_per_shard):
            film = shard * films_per_shard + here
            for tile in range(tiles_per_film):
                is_black = tile == tiles_per_film - 1
                row = made_row(film, tile, last_film=shards * films_per_shard - 1)
                if not is_black:
                    row["pixels_uri"] = f"tiles/shard{shard}/pixels.zarr"
                    row["pixels_index"] = here * stored + tile
                rows.append(row)
    writer = ManifestWriter(workspace, ManifestWriter.staging_name())
    for split in SPLITS:
        own = [row for row in rows if row["split"] == split]
        writer.write_part("p", split, pa.Table.from_pylist(own, schema=MANIFEST))
    writer.publish()
    record = {
        "run_id": "20260101T000000Z-abcdef",
        "finished": "2026-01-01T00:00:00+00:00",
        "settings": {"source": "films", "tile_size_px": 32, "misinformative_threshold": 0.5},
        "versions": {"mammosift": "0.1.0"},
    }
    workspace.write_json("runs/20260101T000000Z-abcdef.json", record)
    return workspace


def made_row(film: int, tile: int, *, last_film: int) -> dict[str, Any]:
    """Row of the manifest of a made-up tile, without its pixels."""
    patient = film // 2
    label = "malignant" if patient % 3 == 0 else "benign"
    reasons = {7: ("drop", "misinformative"), 8: ("review", "mixed"), 9: ("drop", "black")}
    decision, reason = reasons.get(tile, ("keep", None))
    figures = ("dark_fraction", "mean", "std", "p01", "p99", "entropy")
    return {
        "tile_id": f"m{film:020x}-{tile * 32}-0-32-32",
        "mammogram_id": f"m{film:020x}",
        "patient_key": f"cbis-ddsm:P_{patient:05d}",
        "source": f"case{patient}/{'LR'[film % 2]}.png",
        "source_sha256": f"{film:064x}",
        "x": tile * 32,
        "y": 0,
        "width": 32,
        "height": 32,
        "laterality": "LR"[film % 2],
        "view": "MLO" if patient % 2 else "CC",
        "label": None if film == last_film else label,
        "lesion_fraction": 0.5 if tile == 0 and label == "malignant" else 0.0,
        **dict.fromkeys(figures, 0.5),
        "decision": decision,
        "reason": reason,
        "split": ("train", "train", "validation", "train", "test", "train")[patient % 6],
        "run_id": "20260101T000000Z-abcdef",
        "schema_version": SCHEMA_VERSION,
    }


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace of made-up tiles with a manifest: see ``publish_tiles``. Read only."""
    folder = tmp_path_factory.mktemp("published") / "w"
    publish_tiles(folder)
    return folder


@pytest.fixture(scope="session")
def publish() -> Callable[..., Workspace]:
    """``publish_tiles``, for workspaces of other sizes and places."""
    return publish_tiles
