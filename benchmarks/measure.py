"""Clusters of pixels over a folder of photographs, against the way that a course teaches.

    python benchmarks/measure.py [--images ../shared/data/moles] [--repeat 5] [--rounds 2]

The course's way holds every pixel in one DataFrame with its colour as a hexadecimal text, fits
scikit-learn's KMeans to 5 % of the rows and predicts all. Ours runs the stages of mammosift measure
(sample, fit, assign, largest regions, small pictures, Parquet) without Prefect, with the colours as
they are (no balance) and without the elbow curve, which the course's way has not. Each runs in a
process of its own, bound to one core, on the same files; imports are left out of the times. Memory
is the process's highest (VmHWM), with the imports, and with them taken off: theirs grows with the
pictures, ours with the largest of them. Variants take turns; the fastest round counts. Both give
the dark area of each picture, and the last line says how far they lie apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SAMPLE_FRACTION = 0.05
CLUSTERS = 2
VARIANTS = ("course", "ours")


def main() -> None:
    options = parse_arguments()
    if options.variant is not None:
        print(json.dumps(VARIANT[options.variant](options.images)))
        return
    with tempfile.TemporaryDirectory() as folder:
        images = gathered(options.images, options.repeat, Path(folder) / "images")
        best: dict[str, dict[str, Any]] = {}
        for _ in range(options.rounds):
            for variant in VARIANTS:
                found = in_child(variant, images)
                if variant not in best or found["seconds"] < best[variant]["seconds"]:
                    best[variant] = found
        tell(best)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of JPEGs; default: made up")
    parser.add_argument("--repeat", type=int, default=5, help="times the folder is copied")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def gathered(given: Path | None, repeat: int, folder: Path) -> Path:
    """The pictures, each ``repeat`` times, with a byte more each time so that none is a copy."""
    folder.mkdir()
    for path in sorted(given.glob("*.jpg")) if given is not None else made_up(folder.parent):
        for i in range(repeat):
            shutil.copy(path, folder / f"{path.stem}-{i}.jpg")
            with (folder / f"{path.stem}-{i}.jpg").open("ab") as file:
                file.write(bytes([i % 256, i // 256]) if i else b"")
    return folder


def made_up(folder: Path) -> list[Path]:
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    out = []
    for i in range(20):
        picture = np.full((584, 584, 3), (140, 160, 200), np.float32)
        cv2.circle(picture, (290, 280), 40 + 5 * i, (60, 60, 90), -1)
        noise = cv2.GaussianBlur(rng.normal(0, 60, picture.shape).astype(np.float32), (0, 0), 2)
        out.append(folder / f"{i:02d}.jpg")
        cv2.imwrite(str(out[-1]), np.clip(picture + noise, 0, 255).astype(np.uint8))
    return out


def in_child(variant: str, images: Path) -> dict[str, Any]:
    core = str(min(os.sched_getaffinity(0)))
    command = [sys.executable, __file__, "--variant", variant, "--images", str(images)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        ["taskset", "-c", core, *command],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_mib() -> float:
    """Highest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def course(images: Path) -> dict[str, Any]:
    import cv2
    import numpy as np
    import pandas as pd
    from sklearn.cluster import KMeans

    before, started = memory_mib(), time.perf_counter()
    frames = []
    for path in sorted(images.glob("*.jpg")):
        pixels = cv2.imread(str(path))[..., ::-1].reshape(-1, 3)
        frame = pd.DataFrame(pixels, columns=["red", "green", "blue"])
        frame["hex"] = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in pixels.tolist()]
        frame["image"] = path.name
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    colours = ["red", "green", "blue"]
    sample = table.sample(frac=SAMPLE_FRACTION, random_state=0)
    kmeans = KMeans(CLUSTERS, random_state=0).fit(sample[colours])
    table["cluster"] = kmeans.predict(table[colours])
    dark = int(np.argmin(kmeans.cluster_centers_.sum(axis=1)))
    share = (table["cluster"] == dark).groupby(table["image"]).mean()
    return finished(started, before, len(table), share.to_dict())


def ours(images: Path) -> dict[str, Any]:
    from storage.workspace import Workspace
    from tasks import films, measures

    with tempfile.TemporaryDirectory() as out:
        before, started = memory_mib(), time.perf_counter()
        workspace = Workspace.create(out)
        root, batches = films.find(str(images))
        pictures = [
            picture
            for batch in batches
            for picture in measures.describe_batch(
                batch, kind="photographs", max_film_megapixels=100, known={}
            )
        ]
        shards = films.form_shards(pictures, root, films_per_shard=64)
        sampling = measures.SampleSettings(
            "photographs", "none", SAMPLE_FRACTION, 1_000_000, 0, 100.0
        )
        samples = [measures.sample_shard(out, str(root), s, sampling).key for s in shards]
        fitting = measures.FitSettings("rgb", CLUSTERS, 1_000_000, 1, 1, 0)
        fitted = measures.fit_colours(out, samples, fitting).key
        measuring = measures.AreaSettings("photographs", "none", None, False, 100.0)
        areas = [measures.measure_shard(out, str(root), s, fitted, measuring).key for s in shards]
        table = measures.publish(workspace, areas, pictures).to_pandas()
        dark = table[table.cluster == 0].set_index("source")
        pixels = int(table.pixel_count.sum())
        return finished(started, before, pixels, dark.area_fraction.to_dict())


def finished(
    started: float, before_mib: float, pixels: int, share: dict[str, float]
) -> dict[str, Any]:
    return {
        "seconds": time.perf_counter() - started,
        "pixels": pixels,
        "memory_mib": memory_mib(),
        "imports_mib": before_mib,
        "share": share,
    }


VARIANT = {"course": course, "ours": ours}


def tell(best: dict[str, dict[str, Any]]) -> None:
    theirs, own = (best[name] for name in VARIANTS)
    print(f"{'':8}{'pixels':>12}{'s':>9}{'Mpx/s':>9}{'MiB':>9}{'without imports':>17}")
    for name, found in best.items():
        print(
            f"{name:8}{found['pixels']:12,}{found['seconds']:9.2f}"
            f"{found['pixels'] / found['seconds'] / 1e6:9.2f}{found['memory_mib']:9.0f}"
            f"{found['memory_mib'] - found['imports_mib']:17.0f}"
        )
    apart = max(abs(theirs["share"][name] - share) for name, share in own["share"].items())
    whole, net = (
        theirs["memory_mib"] / own["memory_mib"],
        (theirs["memory_mib"] - theirs["imports_mib"]) / (own["memory_mib"] - own["imports_mib"]),
    )
    print(
        f"ours is {theirs['seconds'] / own['seconds']:.1f} x as fast, with 1/{whole:.1f} of the "
        f"memory (1/{net:.1f} without imports); dark areas differ by at most {100 * apart:.2f} "
        "percentage points"
    )


if __name__ == "__main__":
    main()
