"""Run fastdup over a folder of pictures; needs fastdup alone, in an environment of its own.

python benchmarks/misinformative_fastdup.py FOLDER WORK OUT.csv

fastdup pins libraries that mammosift has in later versions, so that the two do not install
together. Columns: name, nearest (likeness of the nearest neighbour), is_outlier (listed by
``outliers()`` of a run at defaults), and its image figures.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import fastdup


def main() -> None:
    folder, work, out = sys.argv[1:]
    found = fastdup.create(work_dir=f"{work}-default", input_dir=folder)
    found.run(overwrite=True, run_sentry=False)
    listed = {Path(name).name for name in found.outliers()["filename_outlier"]}
    table = found.img_stats()
    table["name"] = table["filename"].map(lambda name: Path(name).name)
    every = fastdup.create(work_dir=f"{work}-all", input_dir=folder)
    every.run(overwrite=True, run_sentry=False, outlier_percentile=1.0)
    nearest = every.outliers()
    nearest["name"] = nearest["filename_outlier"].map(lambda name: Path(name).name)
    table["nearest"] = table["name"].map(nearest.groupby("name")["distance"].max())
    table["is_outlier"] = table["name"].isin(listed).astype(int)
    table["version"] = version("fastdup")
    table.to_csv(out, index=False)


if __name__ == "__main__":
    main()
