"""Stage: the shortcut audit, how well what is not breast predicts the label of a film.

Measured before curation, on all that was cut, and after it, on what a training job gets: the pixels
inside tiles with the decision keep, of the films that have any.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from models.shortcut_audit import (
    FOLDS,
    INTERVAL,
    REPEATS,
    cross_validated_auc,
    patient_folds,
    why_not,
)
from storage.manifest import SPLITS
from storage.tile_shards import read_films
from storage.workspace import Workspace
from tasks.kernels.shortcuts import KINDS, covered, film_features

TABLE = "mammograms/mammograms.parquet"
MOST_FILMS = 4000
"""Of more, a sample: the interval is narrow by then, and more films only cost time."""
PREFERRED_LABELS = ("normal", "malignant")
"""The label told from all others is the first of these that can be."""
SCANNER, PLACES = "scanner", "kept_places"
CUES = ("background", "markers", SCANNER, "breast", PLACES)
MOMENTS = ("before", "after")

_FILM_COLUMNS = ["mammogram_id", "patient_key", "scanner", "label", "rows", "columns"]
_TILE_COLUMNS = ["mammogram_id", "x", "y", "width", "height", "decision"]

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LookedAt:
    """One film, reduced to what is needed of it; by cue and moment."""

    mammogram_id: str
    features: dict[tuple[str, str], Vector]
    """Without those of ``after`` where no tile is kept."""
    pixels: dict[tuple[str, str], int]
    """Of the picture that is looked at."""

    @property
    def is_kept(self) -> bool:
        """Whether a training job gets any tile of it."""
        return (PLACES, "after") in self.features


@dataclass(frozen=True)
class Question:
    """Which films have the label, whose they are, and in which folds they are tested."""

    positive: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]
    folds: npt.NDArray[np.int64]
    seed: int


def audit_shortcuts(workspace_uri: str, tile_keys: Sequence[str], seed: int) -> dict[str, Any]:
    """Measure how well cues other than the breast predict the label, before and after curation.

    Shard by shard; of each film only short feature vectors are kept. Of more than `MOST_FILMS`
    labelled films a sample is taken, by a hash of the seed and the film's id, so that neither order
    nor shard matters.

    Parameters
    ----------
    workspace_uri : str
        Of a workspace whose manifest is published.
    tile_keys : sequence of str
        Tile shards of the run.
    seed : int
        Of sample, folds and bootstrap.

    Returns
    -------
    dict
        Ready for JSON. ``measured``; where that is false, ``reason``. Else ``target``, the label
        told from all others; ``films``, ``films_after`` (with a kept tile), ``patients``,
        ``positives``; ``labelled``, the films that the sample is from; and ``cues``: by name
        ``n_before`` (films), ``auc_before`` and ``interval_before``, or None and
        ``reason_before``; for pixels also ``present_before``, the films that have any of them; the
        same for ``after``.
    """
    workspace = Workspace.open(workspace_uri)
    labelled = _labelled_films(workspace)
    sample = sampled(labelled, seed)
    target, reason = choose_target(sample)
    if target is None:
        return _not_measured(reason, sample, labelled)
    looked = [film for key in tile_keys for film in _look(workspace, key, sample)]
    looked.sort(key=lambda film: film.mammogram_id)
    rows = sample.loc[[film.mammogram_id for film in looked]]
    positive = rows["label"].eq(target).to_numpy(bool)
    patients = _numbers(rows["patient_key"])
    if lacking := why_not(positive, patients):
        return _not_measured(
            f"“{target}” against the others, of films with a picture: {lacking}.", sample, labelled
        )
    folds = patient_folds(positive, patients, seed=seed)
    question = Question(positive, patients, folds, seed)
    return {
        "measured": True,
        "target": target,
        "films": len(looked),
        "films_after": sum(film.is_kept for film in looked),
        "patients": len(np.unique(patients)),
        "positives": int(positive.sum()),
        "labelled": len(labelled),
        "seed": seed,
        "folds": FOLDS,
        "repeats": REPEATS,
        "interval": INTERVAL,
        "cues": {
            cue: _scanner_figures(rows["scanner"], looked, question)
            if cue == SCANNER
            else _pixel_figures(cue, looked, question)
            for cue in CUES
        },
    }


def sampled(films: pd.DataFrame, seed: int, *, most: int = MOST_FILMS) -> pd.DataFrame:
    """Films with the lowest hashes of seed and mammogram_id (the index), in order of the id."""
    if len(films) > most:
        digest = {i: hashlib.sha256(f"{seed}:{i}".encode()).hexdigest() for i in films.index}
        films = films.loc[sorted(digest, key=digest.__getitem__)[:most]]
    return films.sort_index()


def choose_target(films: pd.DataFrame) -> tuple[str | None, str]:
    """Label that is told from all others; or None, and the reason in words.

    Parameters
    ----------
    films : DataFrame
        Columns label and patient_key, neither null.
    """
    counts = Counter(films["label"])
    if not counts:
        return None, "no film used has a label."
    if len(counts) == 1:
        return None, f"all {len(films):,} labelled films are “{next(iter(counts))}”."
    known = [name for name in PREFERRED_LABELS if name in counts]
    known = known or [min(counts, key=lambda name: (-counts[name], name))]
    patients = _numbers(films["patient_key"])
    reasons = {name: why_not(films["label"].eq(name).to_numpy(bool), patients) for name in known}
    for name, reason in reasons.items():
        if reason is None:
            return name, ""
    return None, f"“{known[0]}” against the others: {reasons[known[0]]}."


def _numbers(names: pd.Series) -> npt.NDArray[np.int64]:
    return np.asarray(np.unique(names.to_numpy(str), return_inverse=True)[1], np.int64)


def _not_measured(reason: str, sample: pd.DataFrame, labelled: pd.DataFrame) -> dict[str, Any]:
    return {
        "measured": False,
        "reason": reason,
        "films": len(sample),
        "patients": int(sample["patient_key"].nunique()),
        "labelled": len(labelled),
    }


# -- films -----------------------------------------------------------------------------------


def _labelled_films(workspace: Workspace) -> pd.DataFrame:
    """Films used that have a label, by mammogram_id."""
    table = workspace.read_table(TABLE, columns=[*_FILM_COLUMNS, "excluded_reason"]).to_pandas()
    usable = table["excluded_reason"].isna() & table["label"].notna()
    films: pd.DataFrame = table.loc[usable, _FILM_COLUMNS].set_index("mammogram_id")
    return films


def _look(workspace: Workspace, key: str, sample: pd.DataFrame) -> Iterator[LookedAt]:
    """Films of a shard that are in the sample and have their pictures."""
    films = read_films(workspace, key).select(["mammogram_id", "thumbnail_png", "context_png"])
    boxes = dict(iter(_tiles(workspace, key).groupby("mammogram_id", sort=False)))
    for name, thumbnail, context in zip(*films.itercolumns(), strict=True):
        film = name.as_py()
        if film in sample.index and film in boxes and thumbnail.is_valid and context.is_valid:
            pictures = _decoded(thumbnail), _decoded(context)
            yield look_at(film, *pictures, tiles=boxes[film], film=sample.loc[film].to_dict())


def _tiles(workspace: Workspace, key: str) -> pd.DataFrame:
    """Rows of the manifest for the films of a shard."""
    parts = [f"manifest/split={split}/{key}.parquet" for split in SPLITS]
    tables = [
        workspace.read_table(part, columns=_TILE_COLUMNS).to_pandas()
        for part in parts
        if workspace.exists(part)
    ]
    return pd.concat(tables) if tables else pd.DataFrame(columns=_TILE_COLUMNS)


def _decoded(png: pa.Scalar) -> npt.NDArray[np.uint8]:
    picture = cv2.imdecode(np.frombuffer(png.as_buffer(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return np.asarray(picture, np.uint8)


def look_at(
    mammogram_id: str,
    thumbnail: npt.NDArray[np.uint8],
    context: npt.NDArray[np.uint8],
    *,
    tiles: pd.DataFrame,
    film: Mapping[str, Any],
) -> LookedAt:
    """Reduce a film to its feature vectors.

    Parameters
    ----------
    mammogram_id : str
        Of the film.
    thumbnail, context : (height, width) uint8
        Its picture and its map.
    tiles : DataFrame
        Its rows of the manifest: x, y, width, height, decision.
    film : mapping
        Its rows and columns, in pixels.
    """
    views = {}
    for moment in MOMENTS:
        counted = tiles if moment == "before" else tiles[tiles["decision"] == "keep"]
        if len(counted):
            boxes = counted[["x", "y", "width", "height"]].to_numpy(np.int64)
            size = (int(film["rows"]), int(film["columns"]))
            views[moment] = covered(boxes, film=size, shape=thumbnail.shape)
    features: dict[tuple[str, str], Vector] = {}
    pixels: dict[tuple[str, str], int] = {}
    for moment, found in film_features(thumbnail, context, views).items():
        features |= {(kind, moment): vector for kind, vector in found.vectors.items()}
        features[PLACES, moment] = found.places
        pixels |= {(kind, moment): n for kind, n in found.pixels.items()}
    return LookedAt(mammogram_id, features, pixels)


# -- figures ---------------------------------------------------------------------------------


def _pixel_figures(cue: str, looked: Sequence[LookedAt], question: Question) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for moment in MOMENTS:
        has = np.array([(cue, moment) in film.features for film in looked])
        rows = np.array([f.features[cue, moment] for f, h in zip(looked, has, strict=True) if h])
        figures |= _figures(moment, rows, has, question)
        if cue in KINDS:
            present = sum(film.pixels.get((cue, moment), 0) > 0 for film in looked)
            figures[f"present_{moment}"] = present
    return figures


def _scanner_figures(
    scanners: pd.Series, looked: Sequence[LookedAt], question: Question
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for moment in MOMENTS:
        kept = np.array([moment == "before" or film.is_kept for film in looked])
        has = scanners.notna().to_numpy(bool) & kept
        rows = pd.get_dummies(scanners[has]).to_numpy(np.float32)
        if rows.shape[1] < 2:
            words = "all of one scanner" if rows.shape[1] else "no film says its scanner"
            figures |= _no_figures(moment, int(has.sum()), words)
        else:
            figures |= _figures(moment, rows, has, question)
    return figures


def _figures(
    moment: str, rows: npt.NDArray[np.float32], has: npt.NDArray[np.bool_], question: Question
) -> dict[str, Any]:
    positive, patients = question.positive[has], question.patients[has]
    if reason := why_not(positive, patients):
        return _no_figures(moment, len(rows), reason)
    auc = cross_validated_auc(rows, positive, patients, question.folds[:, has], seed=question.seed)
    return {
        f"n_{moment}": auc.films,
        f"auc_{moment}": round(auc.value, 4),
        f"interval_{moment}": [round(auc.low, 4), round(auc.high, 4)],
    }


def _no_figures(moment: str, n: int, reason: str) -> dict[str, Any]:
    return {
        f"n_{moment}": n,
        f"auc_{moment}": None,
        f"interval_{moment}": None,
        f"reason_{moment}": reason,
    }
