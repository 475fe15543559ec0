"""Clustering beside its peers, in one run: CPU-seconds, wall time and added memory.

python benchmarks/clustering.py --rows dbscan-48k kmeans --rounds 3
python benchmarks/clustering.py --rows embeddings --embeddings rows.npy

Every measurement is a process of its own that loads the rows, fits once on a few of them (to
compile and to load libraries), and then measures one fit: CPU time of the process, wall time, and
how far its peak resident memory rises above what it held before. Peers use all cores. Runs of ours
and of the peers alternate; medians are shown, and what one core would need at the least for the
plain products (floor) at the rate measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import clustering_data

from models.pairs import bfloat16

WARM_ROWS = 2_500
KMEANS = {"n_clusters": 100, "n_init": 1, "max_iter": 20, "tol": 0}


def ours_dbscan(rows: Any, eps: float) -> Any:
    from models.dbscan import DBSCANClusterer

    return DBSCANClusterer(eps, min_samples=5).fit(rows)


def sklearn_dbscan(rows: Any, eps: float) -> Any:
    from sklearn.cluster import DBSCAN

    return DBSCAN(eps=eps, min_samples=5, algorithm="brute", n_jobs=-1).fit(rows)


def intelex_dbscan(rows: Any, eps: float) -> Any:
    from sklearnex.cluster import DBSCAN

    return DBSCAN(eps=eps, min_samples=5, n_jobs=-1).fit(rows)


def ours_hdbscan(rows: Any, _: float) -> Any:
    from models.hdbscan import HDBSCANClusterer

    return HDBSCANClusterer(10, min_samples=5).fit(rows)


def hdbscan(rows: Any, _: float) -> Any:
    from hdbscan import HDBSCAN

    return HDBSCAN(min_cluster_size=10, min_samples=4, approx_min_span_tree=False).fit(rows)


def fast_hdbscan(rows: Any, _: float) -> Any:
    from fast_hdbscan import HDBSCAN

    return HDBSCAN(min_cluster_size=10, min_samples=4).fit(rows)


def ours_kmeans(rows: Any, seed: float) -> Any:
    from models.kmeans import KMeansClusterer

    return KMeansClusterer(**KMEANS, random_state=int(seed)).fit(rows)


def ours_two_level(rows: Any, seed: float) -> Any:
    from models.kmeans import KMeansClusterer

    return KMeansClusterer(**KMEANS, algorithm="two-level", random_state=int(seed)).fit(rows)


def ours_minibatch(rows: Any, seed: float) -> Any:
    from models.kmeans import KMeansClusterer

    return KMeansClusterer(**KMEANS, algorithm="minibatch", random_state=int(seed)).fit(rows)


def sklearn_minibatch(rows: Any, seed: float) -> Any:
    from sklearn.cluster import MiniBatchKMeans

    few = {name: KMEANS[name] for name in ("n_clusters", "n_init")}
    return MiniBatchKMeans(**few, batch_size=4096, random_state=int(seed)).fit(rows)


def sklearn_kmeans(rows: Any, seed: float) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(**KMEANS, random_state=int(seed)).fit(rows)


def dask_kmeans(rows: Any, seed: float) -> Any:
    import dask.array
    from dask_ml.cluster import KMeans

    chunked = dask.array.from_array(rows, chunks=(len(rows) // 4 + 1, rows.shape[1]))
    model = KMeans(n_clusters=100, max_iter=20, tol=0, random_state=int(seed)).fit(chunked)
    model.labels_ = np.asarray(model.labels_)
    centres = model.cluster_centers_[model.labels_]
    model.inertia_ = float(np.square(rows - centres).sum())
    return model


METHODS: dict[str, Callable[[Any, float], Any]] = {
    name: globals()[name]
    for name in (
        "ours_dbscan", "sklearn_dbscan", "intelex_dbscan", "ours_hdbscan", "hdbscan",
        "fast_hdbscan", "ours_kmeans", "sklearn_kmeans", "dask_kmeans",
        "ours_two_level", "ours_minibatch", "sklearn_minibatch",
    )
}  # fmt: skip


def peak_mib() -> float:
    """Peak resident memory of this process since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status).group(1)) / 1024  # type: ignore[union-attr]


def reset_peak() -> float:
    """Forget the peak; resident memory now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def measure(method: str, path: str, eps: float) -> dict[str, Any]:
    """One fit in this process; see the module's text."""
    warnings.simplefilter("ignore")
    fit = METHODS[method]
    rows = np.load(path)
    if method == "hdbscan":
        rows = rows.astype(np.float64)
    few = rows[:WARM_ROWS]
    if method.startswith("ours"):
        bfloat16.available()
    fit(few, eps)
    before = reset_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    model = fit(rows, eps)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = peak_mib()
    labels = np.asarray(model.labels_).astype(np.int32)
    with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
        np.save(file, labels)
    return {
        "method": method,
        "n": len(rows),
        "dim": rows.shape[1],
        "eps": eps,
        "cpu_s": cpu,
        "wall_s": wall,
        "added_mib": peak - before,
        "peak_mib": peak,
        "rows_mib": rows.nbytes / 2**20,
        "clusters": int(labels.max()) + 1,
        "noise": float(np.mean(labels < 0)),
        "inertia": float(getattr(model, "inertia_", np.nan)),
        "labels": file.name,
    }


def run(method: str, path: Path, eps: float, log: Path) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--measure", method, str(path), str(eps)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{method} on {path} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    with log.open("a") as file:
        file.write(json.dumps(result) + "\n")
    return result


def sgemm_rate() -> float:
    """Multiply-adds, two flop each, that one core does in a second, in float32."""
    from threadpoolctl import threadpool_limits

    a, b = (np.ones((1024, 2048), dtype=np.float32) for _ in range(2))
    with threadpool_limits(1):
        a @ b.T
        best = np.inf
        for _ in range(5):
            started = time.perf_counter()
            a @ b.T
            best = min(best, time.perf_counter() - started)
    return 2 * 1024 * 1024 * 2048 / best


class Table:
    """Medians of alternating runs, as Markdown."""

    def __init__(self, rounds: int, log: Path) -> None:
        self.rounds, self.log = rounds, log
        self.rate = sgemm_rate()
        print(f"float32 products of one core: {self.rate / 1e9:.0f} Gflop/s\n")
        print("| rows | method | CPU s | wall s | added MiB | clusters | noise | beside ours |")
        print("|---|---|---|---|---|---|---|---|", flush=True)

    def compare(
        self, title: str, path: Path, methods: list[str], eps: float, rounds: int | None = None
    ) -> dict[str, dict[str, Any]]:
        """Show methods on the same rows; the first is ours."""
        runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
        for turn in range(rounds or self.rounds):
            for method in methods:
                chosen = turn if "kmeans" in method else eps  # a seed for each round
                runs[method].append(run(method, path, chosen, self.log))
        shown = {}
        for method in methods:
            shown[method] = dict(runs[method][0])
            for key in ("cpu_s", "wall_s", "added_mib", "peak_mib"):
                shown[method][key] = statistics.median(r[key] for r in runs[method])
            shown[method]["inertia"] = statistics.fmean(r["inertia"] for r in runs[method])
        ours = shown[methods[0]]
        for method in methods:
            self._line(title, shown[method], ours)
        n, dim = ours["n"], ours["dim"]
        floor = 2 * n * n * dim / self.rate
        if "kmeans" not in methods[0]:
            print(f"| {title} | floor: all pairs once | {floor / 2:.2f} | | | | | "
                  f"{floor / 2 / ours['cpu_s']:.2f}x CPU |", flush=True)  # fmt: skip
        return shown

    def _line(self, title: str, result: dict[str, Any], ours: dict[str, Any]) -> None:
        beside = ""
        if result is not ours:
            same = np.array_equal(np.load(result["labels"]), np.load(ours["labels"]))
            memory = result["added_mib"] / max(ours["added_mib"], 1e-9)
            beside = f"{result['cpu_s'] / ours['cpu_s']:.1f}x CPU, {memory:.1f}x memory"
            if "dbscan" in result["method"] and "hdb" not in result["method"]:
                beside += ", identical" if same else ", NOT identical"
            if not np.isnan(result["inertia"]):
                beside += f", our mean inertia {ours['inertia'] / result['inertia'] - 1:+.2%}"
        figures = f"{result['cpu_s']:.2f} | {result['wall_s']:.2f} | {result['added_mib']:.0f}"
        found = f"{result['clusters']} | {result['noise']:.1%}"
        print(f"| {title} | {result['method']} | {figures} | {found} | {beside} |", flush=True)


def plot_growth(sizes: list[int], found: list[dict[str, Any]], path: Path) -> None:
    """Draw CPU time and added memory over the number of rows, both axes logarithmic, as SVG."""
    series = [("cpu_s", "CPU seconds", "#1f6f8b"), ("added_mib", "added memory, MiB", "#b5541c")]
    width, height, left, top = 640, 300, 60, 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" fill="#222">'
        '<rect width="100%" height="100%" fill="#fff"/>'
    ]
    for panel, (key, title, colour) in enumerate(series):
        values = [r[key] for r in found]
        x0, w, h = left + panel * 310, 220, height - top - 50
        low, high = np.log10(min(values)) - 0.15, np.log10(max(values)) + 0.15
        across = (np.log10(sizes) - np.log10(sizes[0])) / np.log10(sizes[-1] / sizes[0]) * w + x0
        up = top + h - (np.log10(values) - low) / (high - low) * h
        parts.append(f'<text x="{x0}" y="18">{title}: n^{exponent(sizes, values):.2f}</text>')
        parts.append(f'<path d="M{x0} {top}V{top + h}H{x0 + w}" fill="none" stroke="#999"/>')
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        for n, value, x, y in zip(sizes, values, across, up, strict=True):
            name = f"{n // 1000} k" if n < 10**6 else f"{n // 10**6} M"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
            parts.append(
                f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="middle">{value:.3g}</text>'
            )
            parts.append(f'<text x="{x:.1f}" y="{top + h + 18}" text-anchor="middle">{name}</text>')
        parts.append(f'<text x="{x0 + w / 2}" y="{height - 8}" text-anchor="middle">rows</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")
    print(f"growth drawn in {path}", flush=True)


def worker_memory(path: Path, method: str) -> None:
    """Cluster over two Dask workers and print how far each one's memory rose at its peak."""
    import zarr
    from distributed import Client, LocalCluster

    from models.dbscan import DBSCANClusterer
    from models.hdbscan import HDBSCANClusterer

    rows = np.load(path, mmap_mode="r")
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        stored = zarr.create_array(f"{folder}/rows", data=rows[:WARM_ROWS], chunks=(32_768, 150))

        def fit(source: Any) -> None:
            if method == "dbscan":
                DBSCANClusterer(0.9, min_samples=5, client=client, scratch=folder).fit(source)
            else:
                HDBSCANClusterer(10, min_samples=5, client=client, scratch=folder).fit(source)

        fit(stored)  # compile, and load libraries
        stored = zarr.create_array(
            f"{folder}/all", shape=rows.shape, dtype=rows.dtype, chunks=(32_768, 150)
        )
        for start in range(0, len(rows), 32_768):
            stored[start : start + 32_768] = rows[start : start + 32_768]
        before = client.run(reset_peak)
        mine = reset_peak()
        started = time.perf_counter()
        fit(stored)
        wall = time.perf_counter() - started
        rises = [peak - before[worker] for worker, peak in client.run(peak_mib).items()]
        print(f"{method}, {len(rows):,} rows in blocks of 32,768: workers' memory rose by "
              f"{' and '.join(f'{r:.0f}' for r in rises)} MiB, the driver's by "
              f"{peak_mib() - mine:.0f}; {wall:.0f} s", flush=True)  # fmt: skip


def exponent(n: list[int], values: list[float]) -> float:
    """Slope of the logarithms."""
    return float(np.polyfit(np.log(n), np.log(values), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    choices = [
        "dbscan-48k", "dbscan-100k", "dbscan-1m", "no-pruning", "hdbscan", "kmeans", "embeddings",
        "growth", "pile", "workers", "kmeans-1m",
    ]  # fmt: skip
    parser.add_argument("--rows", nargs="+", choices=choices, default=choices[:6])
    parser.add_argument("--embeddings", type=Path, help=".npy of real embeddings, standardised")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "clustering")
    parser.add_argument("--plot", type=Path, help="SVG that growth is drawn into")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        method, path, eps = args.measure
        print(json.dumps(measure(method, path, float(eps))))
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    table = Table(args.rounds, args.folder / "runs.jsonl")

    def rows(n: int) -> Path:
        path = args.folder / f"rows-{n}.npy"
        if not path.exists():
            clustering_data.write(path, n)
        return path

    peers = ["sklearn_dbscan", "intelex_dbscan"]
    for row in args.rows:
        if row == "dbscan-48k":
            table.compare("48,596 x 150", rows(48_596), ["ours_dbscan", *peers], 0.9)
        elif row == "dbscan-100k":
            table.compare("100,000 x 150", rows(100_000), ["ours_dbscan", *peers], 0.9, 1)
        elif row == "dbscan-1m":
            shown = table.compare("1,000,000 x 150", rows(1_000_000), ["ours_dbscan"], 0.9, 1)
            ours = shown["ours_dbscan"]
            beyond = ours["peak_mib"] - ours["rows_mib"]
            print(f"1,000,000 rows: peak {beyond:.0f} MiB beyond the rows", flush=True)
        elif row == "no-pruning":
            path = args.folder / "isotropic.npy"
            np.save(path, clustering_data.isotropic(48_596))
            eps = knee_of(np.load(path))
            table.compare(f"isotropic 48,596 x 150, eps {eps:.2f}", path, ["ours_dbscan"], eps)
        elif row == "hdbscan":
            for n in (10_000, 20_000):
                table.compare(f"{n:,} x 150", rows(n), ["ours_hdbscan", "hdbscan"], 0, 1)
            table.compare("48,596 x 150", rows(48_596), ["ours_hdbscan", "fast_hdbscan"], 0)
        elif row == "kmeans":
            methods = ["ours_kmeans", "sklearn_kmeans", "dask_kmeans"]
            table.compare("48,596 x 150, k = 100", rows(48_596), methods, 0)
        elif row == "kmeans-1m":
            methods = ["ours_kmeans", "ours_two_level", "ours_minibatch", "sklearn_minibatch"]
            table.compare("1,000,000 x 150, k = 100", rows(1_000_000), methods, 0, 1)
        elif row == "embeddings":
            if args.embeddings is None:
                raise SystemExit("--rows embeddings needs --embeddings FILE.npy")
            knee = knee_of(np.load(args.embeddings))
            for share in (0.25, 0.5, 0.75, 0.9, 1.0):
                eps = share * knee
                title = f"embeddings, eps {eps:.2f} ({share:.2f} of the knee)"
                table.compare(title, args.embeddings, ["ours_dbscan", *peers], eps)
        elif row == "growth":
            sizes = [50_000, 100_000, 200_000, 400_000, 1_000_000]
            found = [
                table.compare(f"{n:,} x 150", rows(n), ["ours_dbscan"], 0.9, 1)["ours_dbscan"]
                for n in sizes
            ]
            for key in ("cpu_s", "wall_s", "added_mib"):
                values = [r[key] for r in found]
                print(f"growth: {key} goes as n^{exponent(sizes, values):.2f}", flush=True)
            plot_growth(sizes, found, args.plot or args.folder / "growth.svg")
        elif row == "workers":
            for method in ("dbscan", "hdbscan"):
                for n in (100_000, 400_000):
                    worker_memory(rows(n), method)
        elif row == "pile":
            path = args.folder / "pile.npy"
            pile = clustering_data.published_like(200_000)
            pile[:190_000] = pile[0]
            np.save(path, pile)
            table.compare("190,000 equal rows of 200,000", path, ["ours_dbscan"], 0.9, 1)


def knee_of(rows: NDArray[np.float32]) -> float:
    """The eps that our DBSCAN would choose."""
    from models.dbscan import KNEE_ROWS
    from models.knee import knee
    from models.neighbours import distances_to_nearest
    from models.pairs.projection import sample_rows

    return knee(distances_to_nearest(sample_rows(rows, KNEE_ROWS), rows, 5))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONHASHSEED", "0")
    main()
