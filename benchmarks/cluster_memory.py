"""Memory of each Dask worker while embeddings are clustered: it does not grow with their number.

python benchmarks/cluster_memory.py [--rows 100000 400000] [--methods dbscan hdbscan kmeans]

Rows lie in a memory map; two worker processes of one thread each, blocks of 32,768 rows. Printed is
how far each worker's peak resident memory rises above what it held when it had imported everything,
and the same for the process of the driver.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import clustering_data


def peak_mib() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def estimator(method: str, client: Any, scratch: str) -> Any:
    from models.dbscan import DBSCANClusterer
    from models.hdbscan import HDBSCANClusterer
    from models.kmeans import KMeansClusterer

    where = {"client": client, "scratch": scratch}
    if method == "dbscan":
        return DBSCANClusterer(0.9, min_samples=5, **where)
    if method == "hdbscan":
        return HDBSCANClusterer(10, min_samples=5, **where)
    algorithm = "two-level" if method == "two-level" else "lloyd"
    return KMeansClusterer(100, algorithm=algorithm, n_init=1, max_iter=5, **where)


def one(method: str, rows: int, dim: int) -> None:
    from distributed import Client, LocalCluster

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clustering_data.write(folder / "rows.npy", rows, dim)
        few = np.load(folder / "rows.npy", mmap_mode="r")[:4096]
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            estimator(method, client, name).fit(np.array(few))  # everything compiled and imported
            before, own = client.run(peak_mib), peak_mib()
            import zarr

            stored = zarr.create_array(
                str(folder / "rows.zarr"), shape=(rows, dim), chunks=(8192, dim), dtype="float32"
            )
            whole = np.load(folder / "rows.npy", mmap_mode="r")
            for start in range(0, rows, 8192):
                stored[start : start + 8192] = whole[start : start + 8192]
            estimator(method, client, name).fit(stored)
            after = client.run(peak_mib)
            added = sorted(after[w] - before[w] for w in before)
            print(f"| {method} | {rows:,} | {added[0]:,.0f} | {added[1]:,.0f} | "
                  f"{peak_mib() - own:,.0f} |", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument(
        "--methods", nargs="+", default=["dbscan", "hdbscan", "kmeans", "two-level"]
    )
    parser.add_argument("--dim", type=int, default=150)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.methods[0], given.rows[0], given.dim)
        return 0
    print("| method | rows | added in one worker, MiB | in the other | in the driver |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    for method in given.methods:
        for rows in given.rows:
            command = [sys.executable, __file__, "--one", "--methods", method, "--rows", str(rows)]
            subprocess.run([*command, "--dim", str(given.dim)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
