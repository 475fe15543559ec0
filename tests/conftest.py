"""Fixtures that every part of the test suite may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.cli import PREFECT_DEFAULTS

for name, value in PREFECT_DEFAULTS.items():  # before Prefect is imported for the first time
    os.environ.setdefault(name, value)

ROOT = Path(__file__).parents[1]


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
