"""Detectors of misinformative tiles side by side, on the same tiles and the same pixel truth.

    python benchmarks/misinformative.py --workspace W --truth DIR [--only NAME ...] [--out FILE]

The workspace is one that ``mammosift run`` made; the truth holds <film>.png of the film's size,
uint8: 0 background, 1 breast, 2 annotation, 3 other artefact. Every detector sees the tiles that
the black screen left, at its defaults; tiles are classed as ``tasks/kernels/agreement.py`` says. A
peer that is not installed is a row that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import misinformative_detectors as detectors
from misinformative_peers import PEERS
from misinformative_tiles import Absent, Findings, Judged, Tiles

from storage.workspace import Workspace
from tasks.kernels.agreement import EMPTY, MISINFORMATIVE, MIXED, TISSUE

OURS = ("ours-alone", "ours")
ALL = {
    **{k: v for k, v in detectors.DETECTORS.items() if k not in OURS},
    **PEERS,
    **{k: v for k, v in detectors.DETECTORS.items() if k in OURS},
}
HEAD = (
    "| detector | average precision | recall | precision | tissue lost | s | note |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | --- |"
)
VERSIONS = (
    "mammosift", "numpy", "scikit-learn", "torch", "cleanvision", "rapidocr",
    "rapidocr-onnxruntime", "onnxruntime", "pytesseract",
)  # fmt: skip


def main() -> None:
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="mammosift-") as scratch:
        workspace = Workspace.open(options.workspace)
        tiles = Tiles.read(workspace, options.truth, options.ignore, Path(scratch))
        print(facts(tiles), end="\n\n")
        print(HEAD, flush=True)
        lines = []
        for name in options.only or ALL:
            for line in rows(name, tiles, options):
                print(line, flush=True)
                lines.append(line)
    if options.out is not None:
        options.out.write_text(page(tiles, lines, options), encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--ignore", type=Path, help="masks of the same names; 255 is left out")
    parser.add_argument("--only", nargs="+", choices=list(ALL), metavar="NAME", help=", ".join(ALL))
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exemplar-draws", type=int, default=20)
    parser.add_argument("--ocr-share", type=float, default=0.15, help="of the tiles, for OCR")
    parser.add_argument(
        "--fastdup-python", type=Path, default=Path(sys.executable), help="of its own environment"
    )
    return parser.parse_args()


def rows(name: str, tiles: Tiles, options: argparse.Namespace) -> list[str]:
    """Lines of the table for one detector."""
    started = time.perf_counter()
    try:
        found = ALL[name](tiles, options)
    except Absent as absent:
        return [f"| {name} | | | | | | {absent} |"]
    seconds = (time.perf_counter() - started) if found else 0.0
    return [line(f, tiles.judge(f), seconds if f.seconds is None else f.seconds) for f in found]


def line(found: Findings, judged: Judged, seconds: float) -> str:
    ap = "" if judged.average_precision is None else f"{judged.average_precision:.3f}"
    if judged.spread is not None:
        ap += f" ± {judged.spread:.3f}"
    figures = judged.agreement
    values = (figures.recall, figures.precision) if figures is not None else (None, None)
    shown = ["" if value is None else f"{value:.3f}" for value in values]
    lost = "" if figures is None or figures.tissue_lost is None else f"{figures.tissue_lost:.2%}"
    duration = "" if np.isnan(seconds) else f"{seconds:.0f}"
    cells = [found.title, ap, *shown, lost, duration, judged.note]
    return "| " + " | ".join(cells) + " |"


def facts(tiles: Tiles) -> str:
    """What the tiles are, in a sentence or two."""
    table, screened = tiles.table, tiles.screened
    size = "/".join(str(s) for s in sorted(table["width"].unique()))
    parts = [
        f"{int((table['kind'] == kind).sum()):,} {kind} "
        f"({int((screened['kind'] == kind).sum()):,} not black)"
        for kind in (MISINFORMATIVE, TISSUE, EMPTY, MIXED)
    ]
    bad, tissue = (int((screened["kind"] == kind).sum()) for kind in (MISINFORMATIVE, TISSUE))
    return (
        f"{table['source'].nunique()} films, {len(table):,} tiles of {size} px, of which "
        f"{len(screened):,} passed the black screen. By the truth: {', '.join(parts)}; the others "
        f"are ambiguous. Tiles in random order have an average precision of "
        f"{bad / max(1, bad + tissue):.3f}."
    )


def page(tiles: Tiles, lines: list[str], options: argparse.Namespace) -> str:
    """The document: table, how to read it, how it was made."""
    today = datetime.datetime.now(datetime.UTC).date()
    parts = [
        "# Detectors of misinformative tiles, side by side",
        facts(tiles),
        HEAD + "\n" + "\n".join(lines),
        READING.format(
            exemplars=detectors.EXEMPLARS,
            eps=detectors.PUBLISHED_EPS,
            min_samples=detectors.PUBLISHED_MIN_SAMPLES,
            bins=detectors.HISTOGRAM_BINS,
            components=detectors.PCA_COMPONENTS,
            figures=", ".join(detectors.FIGURES),
            **detectors.CONTRASTIVE,
        ),
        "## How it was made",
        f"{today}, seed {options.seed}, {options.exemplar_draws} draws of exemplars, "
        f"{os.cpu_count()} cores of a shared machine. Versions: {', '.join(versions(options))}.",
        f"```\n{command(options)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


READING = """\
A tile is *misinformative* with at least 1 % of annotation and artefact and less than 5 % of breast,
*tissue* with at least 5 % of breast, no annotation and less than 0.5 % of artefact; figures are of
these two alone. Black tiles are dropped before any detector. *Recall* is the share of
misinformative tiles that are rejected, the black ones among them; *precision* the share of
misinformative among those rejected otherwise; *tissue lost* the share of tissue tiles rejected.
They are at the detector's own default threshold; a ranking without one has none. Where *average
precision* hangs on the order of tiles with equal scores, the note says what it is with these in
random order. Times are of one run beside other work, with the preparation of the pixels for whoever
needs them first.

- *published*: the embeddings of the workspace's encoder (32 columns: our light network; 150: the
  published one, by `--encoder ddsm`), standardised; DBSCAN at eps {eps}, min_samples
  {min_samples}; or the distance to the nearest of {exemplars} exemplars drawn from the
  misinformative tiles (left out of their own draw; the same draws for all features). Training and
  encoding are part of the run and not in its time.
- *histogram*: shares of {bins} bins, at 64 px.
- *contrastive*: a network of four layers trained on these tiles without labels, {epochs} epochs,
  batches of {batch}, temperature {temperature}, at 64 px.
- *isolation forest*: of {figures}; *edges* are the mean and the largest step
  between neighbours in a row, at 64 px.
- *PCA*: root mean squared error of {components} components, at 64 px.
- *RapidOCR*: the text that it reads, and its text detection alone (time is of both), in the
  packages `rapidocr` (3) and `rapidocr-onnxruntime` (1, installed without its dependencies: it
  brings an OpenCV over ours); *Tesseract*: words of any confidence. The score is the share of the
  tile inside their boxes, and any box flags.
- *fastdup* runs in an environment of its own: it pins older libraries.
- *ours* reads the whole film that a tile was cut from, which none of the others is given."""


def versions(options: argparse.Namespace) -> list[str]:
    found = [f"Python {platform.python_version()}"]
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    asked = {
        "fastdup": [
            str(options.fastdup_python),
            "-c",
            "import importlib.metadata as m; print('fastdup', m.version('fastdup'))",
        ],
        "tesseract": ["tesseract", "--version"],
    }
    for question in asked.values():
        with contextlib.suppress(OSError):
            done = subprocess.run(question, capture_output=True, text=True)
            if done.returncode == 0 and done.stdout:
                found.append(done.stdout.splitlines()[0])
    return found


def command(options: argparse.Namespace) -> str:
    """The command without this machine's folders."""
    words = ["python benchmarks/misinformative.py", f"--workspace {options.workspace.name}"]
    words.append(f"--truth truth/{options.truth.name}")
    if options.ignore is not None:
        words.append(f"--ignore truth/{options.ignore.name}")
    if options.only:
        words.append(f"--only {' '.join(options.only)}")
    words += [f"--seed {options.seed}", f"--exemplar-draws {options.exemplar_draws}"]
    words += [f"--ocr-share {options.ocr_share}"]
    if options.fastdup_python != Path(sys.executable):
        words.append("--fastdup-python .venv-fastdup/bin/python")
    return " ".join(words)


if __name__ == "__main__":
    main()
