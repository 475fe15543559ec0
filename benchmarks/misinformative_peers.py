"""Peers: data-cleaning tools and text detectors, each at its defaults, on 8-bit PNG tiles."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import logging
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import pandas as pd
from misinformative_tiles import Absent, Findings, Tiles, require
from numpy.typing import NDArray

OCR: TypeAlias = Callable[[NDArray[np.uint8], bool], list[NDArray[Any]]]
"""Text boxes of a picture; False: detected, True: those that were read, too."""
FASTDUP = Path(__file__).with_name("misinformative_fastdup.py")


def cleanvision(tiles: Tiles, _: argparse.Namespace) -> list[Findings]:
    require("cleanvision")
    from cleanvision import Imagelab

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lab = Imagelab(filepaths=[str(p) for p in tiles.pictures])
        lab.find_issues(verbose=False)
    issues = lab.issues.loc[[str(p) for p in tiles.pictures]]
    kinds = [c.removesuffix("_score") for c in issues.columns if c.endswith("_score")]
    every = {
        kind: Findings(
            f"CleanVision, {kind.replace('_', ' ')}",
            score=-issues[f"{kind}_score"].to_numpy(np.float64),
            flagged=issues[f"is_{kind}_issue"].to_numpy(bool),
        )
        for kind in kinds
    }
    chosen = best(tiles, list(every.values()))
    low = every["low_information"]
    return [chosen] if chosen.title == low.title else [low, chosen]


def fastdup(tiles: Tiles, options: argparse.Namespace) -> list[Findings]:
    python = str(options.fastdup_python)
    if not has_fastdup(python):
        raise Absent("not installed")
    folder, answer = tiles.pictures[0].parent, tiles.scratch / "fastdup.csv"
    command = [python, str(FASTDUP), str(folder), str(tiles.scratch / "fastdup"), str(answer)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tiles.scratch)
    if done.returncode:
        raise SystemExit(f"fastdup failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    table = pd.read_csv(answer, index_col="name").reindex([p.name for p in tiles.pictures])
    lonely = (1 - table["nearest"]).fillna(0).to_numpy(np.float64)
    figures = ["blur", "mean", "stdv", "unique", "contrast"]
    ranked = [
        Findings(f"fastdup, {'high' if sign > 0 else 'low'} {name}", score=sign * value)
        for name in figures
        for value in [table[name].fillna(0).to_numpy(np.float64)]
        for sign in (1, -1)
    ]
    outliers = Findings(
        "fastdup, outliers",
        score=lonely,
        flagged=table["is_outlier"].fillna(0).to_numpy(bool),
        note="flagged: its 5 % farthest from their neighbours",
    )
    return [outliers, best(tiles, ranked)]


def rapidocr(tiles: Tiles, options: argparse.Namespace) -> list[Findings]:
    """Both generations that are installed, whole, and their text detection alone.

    Where detection finds nothing the whole finds nothing, and is not asked.
    """
    engines = {
        title: engine
        for title, module, engine in (
            ("RapidOCR 3", "rapidocr", rapidocr_3),
            ("RapidOCR 1", "rapidocr_onnxruntime", rapidocr_1),
        )
        if importlib.util.find_spec(module) is not None
    }
    require("onnxruntime")
    if not engines:
        raise Absent("not installed")
    logging.disable(logging.WARNING)  # it warns of every tile without text
    try:
        return [f for title, made in engines.items() for f in both(title, made(), tiles, options)]
    finally:
        logging.disable(logging.NOTSET)


def both(title: str, engine: OCR, tiles: Tiles, options: argparse.Namespace) -> list[Findings]:
    started = time.perf_counter()
    whole: dict[int, list[NDArray[Any]]] = {}

    def detected(i: int, picture: NDArray[np.uint8]) -> list[NDArray[Any]]:
        found = engine(picture, False)
        whole[i] = engine(picture, True) if found else []
        return found

    detection = text_share(f"{title}, text detection alone", detected, tiles, options)
    read = text_share(title, lambda i, _: whole[i], tiles, options)
    seconds = time.perf_counter() - started
    return [dataclasses.replace(f, seconds=seconds) for f in (read, detection)]


def rapidocr_3() -> OCR:
    from rapidocr import RapidOCR

    engine = RapidOCR()

    def boxes(picture: NDArray[np.uint8], reads: bool) -> list[NDArray[Any]]:
        found = engine(picture, use_cls=reads, use_rec=reads).boxes  # it remembers what was asked
        return [] if found is None else list(np.asarray(found))

    return boxes


def rapidocr_1() -> OCR:
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR()

    def boxes(picture: NDArray[np.uint8], reads: bool) -> list[NDArray[Any]]:
        found = engine(picture, use_cls=reads, use_rec=reads)[0] or []
        return [np.asarray(f[0] if reads else f, np.float64) for f in found]

    return boxes


def tesseract(tiles: Tiles, options: argparse.Namespace) -> list[Findings]:
    require("pytesseract")
    if shutil.which("tesseract") is None:
        raise Absent("not installed")
    import pytesseract

    def boxes(_: int, picture: NDArray[np.uint8]) -> list[NDArray[Any]]:
        found = pytesseract.image_to_data(picture, output_type=pytesseract.Output.DATAFRAME)
        words = found[(found["conf"] >= 0) & found["text"].astype(str).str.strip().ne("")]
        corners = words[["left", "top", "width", "height"]].to_numpy(np.float64)
        return [
            np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]) for x, y, w, h in corners
        ]

    return [text_share("Tesseract, words", boxes, tiles, options)]


PEERS: dict[str, Callable[[Tiles, argparse.Namespace], list[Findings]]] = {
    "cleanvision": cleanvision,
    "fastdup": fastdup,
    "rapidocr": rapidocr,
    "tesseract": tesseract,
}


def has_fastdup(python: str) -> bool:
    try:
        done = subprocess.run([python, "-c", "import fastdup"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def best(tiles: Tiles, findings: list[Findings]) -> Findings:
    """The findings of the highest average precision, which the truth must be known for."""
    judged = [(tiles.judge(f).average_precision or 0.0, f) for f in findings]
    highest = max(judged, key=lambda pair: pair[0])[1]
    note = f"the best of its {len(findings)} scores, chosen by the truth"
    if highest.flagged is None:
        note += "; no threshold"
    return Findings(highest.title, score=highest.score, flagged=highest.flagged, note=note)


def text_share(
    title: str,
    boxes: Callable[[int, NDArray[np.uint8]], list[NDArray[Any]]],
    tiles: Tiles,
    options: argparse.Namespace,
) -> Findings:
    """Score tiles by the share that lies in text boxes; a tile with any box is flagged."""
    within = tiles.sample(options.ocr_share, options.seed)
    score = np.zeros(len(tiles.pictures))
    looked_at = tiles.to_look_at(within)
    for i in looked_at:
        picture = np.asarray(cv2.imread(str(tiles.pictures[i]), cv2.IMREAD_GRAYSCALE))
        inside = np.zeros(picture.shape, np.uint8)
        for corners in boxes(int(i), picture):
            cv2.fillPoly(inside, [np.rint(corners).astype(np.int32)], 1)
        score[i] = inside.mean()
    note = f"on {len(looked_at)} judged tiles, a random {options.ocr_share:.0%}"
    return Findings(
        title,
        score=score,
        flagged=score > 0,
        within=within,
        note=note if options.ocr_share < 1 else "",
    )


warnings.filterwarnings("ignore", module="cleanvision")
