"""Stage: learn to tell annotations from tissue by the tile alone, from planted annotations.

No label is needed. What tissue and ground look like is taken from the run's own tiles: by the maps
of the films where there are films, by sorting step for step where there are tiles alone. What
annotations look like is planted onto them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from models import tile_scorer
from models.tile_scorer import ANNOTATION, FOLDS, GROUND, MIXED, TISSUE, TileScorer
from storage import scorer_shards
from storage.errors import MammosiftError
from storage.exemplars import Exemplar, read_exemplars
from storage.records import Mammogram
from storage.scorer_shards import KIND
from storage.tile_shards import read_figures, read_index, read_pixels
from storage.workspace import ShardRef, ShardWriter, Workspace, content_key
from tasks.fingerprint import source_fingerprint
from tasks.kernels import made_tissue, planting, scoring, thumbnails, tile_figures

MOST_TISSUE, MOST_GROUND = 3000, 2000
"""Tiles learned from, at most: more change a score by less than another draw of them does."""
FEW_TISSUE, FEW_GROUND = 500, 200
"""With fewer real ones made-up tiles are added."""
MADE_TISSUE, MADE_GROUND = 5 / 3, 1 / 3
"""Made-up tiles for each planted one."""
MADE_WEIGHT = 0.3
"""Of a made-up tile beside a real one."""
CLEAN_FOREIGN = 0.001
"""A clean tile has at most this share of foreign content by the film's map."""
POOL = 12_000
"""Tiles that are sorted where there are no films."""
SORTING = (0.7, 0.8, 0.8)
"""Share of the pool that counts as clean after each round of sorting. Annotated tiles are a few in
a hundred of a film's; what is in doubt is left out, not learned wrongly: with a last share of 0.85
five times as many annotated tiles were learned as tissue, and more in each further round."""
CHAINS = 4
"""Scorers that sort together, each with made-up and planted tiles of its own: one alone may start
with an odd idea of tissue."""
CHAIN_PART = 3
"""Each chain learns from the planted tiles divided by this: four that saw few agree better with the
truth than four that saw many (average precision 0.97 against 0.85 on the worst of four seeds)."""
EXEMPLAR_WEIGHT = 25.0
"""Of an exemplar beside a planted tile: it is real, and somebody vouches for it."""
SHOWN = 24

Figures = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ScorerSettings:
    """The settings that learning depends on."""

    context: Literal["film", "tile"]
    exemplars: str | None
    seed: int
    planted_tiles: int


@dataclass(frozen=True)
class Sample:
    """Tiles of one class: their figures, folds and weight."""

    figures: Figures
    label: int
    folds: npt.NDArray[np.int64]
    weight: float = 1.0

    def weighted(self) -> Sample:
        """Tiles in the number that their weight makes of them: the first of them, or all repeated.

        Trees with weights would bin their figures by weighted quantiles, ten times as slowly.
        """
        n = len(self.figures)
        rows = np.arange(round(n * self.weight)) % max(n, 1)
        return Sample(self.figures[rows], self.label, self.folds[rows])


def fold_films(films: Sequence[Mammogram]) -> dict[str, int]:
    """Fold of each film used, by mammogram_id: all films of a patient in one.

    Patients are ordered by a hash of their key and dealt out in turn; with fewer patients than
    folds it is films that are dealt out.
    """
    used = [f for f in films if f.excluded_reason is None]
    patients = {str(f.patient_key) for f in used}
    if len(patients) >= FOLDS:
        fold = {name: i % FOLDS for i, name in enumerate(sorted(patients, key=_hash))}
        return {str(f.mammogram_id): fold[str(f.patient_key)] for f in used}
    names = sorted((str(f.mammogram_id) for f in used), key=_hash)
    return {name: i % FOLDS if len(names) >= FOLDS else -1 for i, name in enumerate(names)}


def _hash(name: str) -> bytes:
    return hashlib.sha256(f"fold {name}".encode()).digest()


def scorer_key(
    tile_keys: Sequence[str],
    fold_of_film: Mapping[str, int],
    source_of_film: Mapping[str, str],
    patients: int,
    settings: ScorerSettings,
    exemplars: Sequence[Exemplar],
) -> str:
    """Key of a scorer: tiles, folds, settings, what the table of exemplars means, and code."""
    code = source_fingerprint(
        "tasks.scorers",
        "tasks.kernels.planting",
        "tasks.kernels.made_tissue",
        "tasks.kernels.tile_figures",
        "models.tile_scorer",
        "storage.exemplars",
        "storage.scorer_shards",
    )
    boxed = {e.source for e in exemplars if e.source is not None}
    meant = sorted((i, source) for i, source in source_of_film.items() if source in boxed)
    known = [meant, *(e.content() for e in exemplars)]
    return content_key(
        KIND,
        sorted(tile_keys),
        sorted(fold_of_film.items()),
        [patients, settings.context, settings.seed, settings.planted_tiles],
        known,
        code,
    )


def train_scorer(
    workspace_uri: str,
    tile_keys: Sequence[str],
    fold_of_film: Mapping[str, int],
    source_of_film: Mapping[str, str],
    patients: int,
    settings: ScorerSettings,
) -> ShardRef:
    """Fit the tile scorer, unless it is there.

    Parameters
    ----------
    workspace_uri : str
        Of the workspace.
    tile_keys : sequence of str
        Tile shards to learn from.
    fold_of_film : mapping of str to int
        Of `fold_films`.
    source_of_film : mapping of str to str
        Path of each film by mammogram_id: exemplars given as boxes name it.
    patients : int
        How many there are: what the scorer says counts the more, the more it has seen.
    settings : ScorerSettings
        How.

    Returns
    -------
    ShardRef
        Of kind ``scorers``; rows are the tiles learned from.

    Raises
    ------
    TableError
        The table of exemplars cannot be used.
    MammosiftError
        There is no tile to learn from.
    """
    workspace = Workspace.open(workspace_uri)
    exemplars = read_exemplars(settings.exemplars) if settings.exemplars else []
    key = scorer_key(tile_keys, fold_of_film, source_of_film, patients, settings, exemplars)

    def write(writer: ShardWriter) -> None:
        learning = _Learning(
            workspace, tile_keys, fold_of_film, source_of_film, settings, exemplars
        )
        _write(writer, learning, patients)

    return workspace.made(KIND, key, write)


def _write(writer: ShardWriter, learning: _Learning, patients: int) -> None:
    by_film = learning.settings.context == "film"
    scorer, rows = learning.by_film() if by_film else learning.by_tile()
    facts: dict[str, Any] = {
        "context": learning.settings.context,
        "patients": patients,
        "weight": scoring.scorer_weight(patients) if by_film else 1.0,
        "fold_of_film": dict(sorted(learning.fold_of_film.items())),
        "counts": learning.counts,
        "held_out_found": learning.held_out[0],
        "held_out": learning.held_out[1],
        "exemplars_given": [e.describe() for e in learning.exemplars],
        "exemplars_not_found": learning.not_found,
    }
    scorer_shards.write(
        writer,
        trees=[vars(t) for t in scorer.folds],
        figures=scorer.figures,
        facts=facts,
        exemplar_names=learning.positive_names,
        exemplar_figures=learning.positive_figures,
        centre=learning.centre,
        spread=learning.spread,
    )
    writer.write_bytes("planted.png", learning.sheet())
    writer.rows = rows
    writer.counts = {
        "learned_from": rows,
        **learning.counts,
        "held_out_found": learning.held_out[0],
        "held_out": learning.held_out[1],
    }


class _Learning:
    """Draws the tiles, plants on them and fits; keeps what the shard says of it."""

    def __init__(
        self,
        workspace: Workspace,
        tile_keys: Sequence[str],
        fold_of_film: Mapping[str, int],
        source_of_film: Mapping[str, str],
        settings: ScorerSettings,
        exemplars: Sequence[Exemplar],
    ) -> None:
        self.workspace, self.keys = workspace, sorted(tile_keys)
        self.fold_of_film, self.settings = fold_of_film, settings
        self.source_of_film = source_of_film
        self.exemplars = exemplars
        alone = settings.context == "tile"
        self.planted_tiles = settings.planted_tiles // (CHAIN_PART if alone else 1)
        self.rng = np.random.default_rng([settings.seed, 0x5C08E])
        self.counts: dict[str, int] = {}
        self.held_out = (0, 0)
        """Planted on bare ground and found by the trees that had not seen them, and all."""
        self.shown: list[npt.NDArray[np.float32]] = []
        self.not_found: list[str] = []
        self.positive_names: list[str] = []
        width = len(tile_figures.NAMES)
        self.positive_figures: Figures = np.empty((0, width), np.float32)
        self.negative_figures: Figures = np.empty((0, width), np.float32)
        self.centre = np.zeros(width, np.float32)
        self.spread = np.ones(width, np.float32)

    # -- with films ---------------------------------------------------------------------------

    def by_film(self) -> tuple[TileScorer, int]:
        """Clean tissue and ground by the films' maps."""
        pool = self._pool(("tissue", MOST_TISSUE), ("ground", MOST_GROUND))
        tissue, ground = (pool[pool["kind"] == k] for k in ("tissue", "ground"))
        self._look_up_exemplars(pool)
        samples = [self._sample(tissue, TISSUE), self._sample(ground, GROUND)]
        samples += self._planted_on(tissue, MIXED) + self._planted_on(ground, ANNOTATION)
        if _fewest(tissue) < FEW_TISSUE or _fewest(ground) < FEW_GROUND:
            samples += self._made()
        return self._fit([*samples, *self._exemplar_samples()])

    # -- with tiles alone ---------------------------------------------------------------------

    def by_tile(self) -> tuple[TileScorer, int]:
        """Start from made-up tissue; sort the tiles, learn from those that are clean, and again."""
        pool = self._pool(("any", POOL))
        self._look_up_exemplars(pool)
        figures, folds = _figures_of(pool), _folds_of(pool)
        dark = pool.sort_values(["mean", "draw"]).head(max(60, len(pool) // 10))
        made = [self._made() for _ in range(CHAINS)]
        on_dark = [self._planted_on(dark, ANNOTATION) for _ in range(CHAINS)]
        fitted = [self._fit(samples, n_folds=1) for samples in made]
        for share in SORTING:
            said = [scorer.log_probabilities(figures, folds) for scorer, _ in fitted]
            annotated = np.mean([tile_scorer.annotated_log_odds(s) for s in said], axis=0)
            tissue = np.mean([tile_scorer.tissue_log_odds(s) for s in said], axis=0)
            suspect = annotated - tissue
            clean = suspect < np.quantile(suspect, share)
            with_tissue = pool[clean & (tissue > 0)]
            bare = pool[clean & (tissue <= 0) & (annotated < 0)]
            if not len(with_tissue):
                break
            fitted = []
            for own_made, own_dark in zip(made, on_dark, strict=True):
                size = min(MOST_TISSUE // 2, len(with_tissue))
                chosen = np.sort(self.rng.choice(len(with_tissue), size, replace=False))
                samples = [self._sample(with_tissue.iloc[chosen], TISSUE)]
                samples += [self._sample(bare.head(MOST_GROUND), GROUND)] if len(bare) else []
                samples += own_dark + self._planted_on(with_tissue, MIXED) + own_made
                fitted.append(self._fit([*samples, *self._exemplar_samples()]))
        return tile_scorer.averaged([scorer for scorer, _ in fitted]), fitted[0][1]

    # -- pieces -------------------------------------------------------------------------------

    def _pool(self, *wanted: tuple[str, int]) -> pd.DataFrame:
        """Tiles drawn by the hash of their names, each with its figures; one shard at a time."""
        drawn: pd.DataFrame | None = None
        columns = ["tile_id", "mammogram_id", "x", "y", "width", "height", "mean", "is_black"]
        columns += ["breast_fraction", "foreign_fraction", "pixels_index"]
        sizes = dict(wanted)
        for key in self.keys:
            index = read_index(self.workspace, key, columns).to_pandas()
            index = index[index["pixels_index"].notna()]
            index = index.assign(key=key, kind=self._kinds(index))
            index["draw"] = pd.util.hash_array(
                index["tile_id"].to_numpy(object), hash_key=f"{self.settings.seed:016d}"
            )
            index = index[index["kind"].isin(list(sizes))]
            index["figures"] = list(
                read_figures(self.workspace, key)[index["pixels_index"].to_numpy(np.int64)]
            )
            drawn = index if drawn is None else pd.concat([drawn, index], ignore_index=True)
            drawn = drawn.sort_values(["draw", "tile_id"], kind="stable")
            drawn = pd.concat([drawn[drawn["kind"] == kind].head(n) for kind, n in sizes.items()])
        if drawn is None or not len(drawn):
            raise MammosiftError(
                "no tile is left to learn from: all are black. Look at the exclusions and at the "
                "black tiles in the report."
            )
        self._look_at(drawn)
        drawn = drawn.assign(fold=drawn["mammogram_id"].map(self.fold_of_film).fillna(-1))
        figures = _figures_of(drawn)
        self.centre = figures.mean(axis=0)
        self.spread = np.maximum(figures.std(axis=0), 1e-6)
        return drawn.reset_index(drop=True)

    def _look_at(self, tiles: pd.DataFrame) -> None:
        """Fill in the figures of tiles that the cutting did not look at."""
        missing = np.array([np.isnan(f[0]) for f in tiles["figures"]], bool)
        if missing.any():
            found = tile_figures.tile_figures(self._pictures(tiles[missing]))
            tiles.loc[missing, "figures"] = pd.Series(list(found), tiles.index[missing])

    def _kinds(self, index: pd.DataFrame) -> npt.NDArray[np.object_]:
        if self.settings.context == "tile":
            return np.full(len(index), "any", object)
        breast = index["breast_fraction"].to_numpy()
        clean = index["foreign_fraction"].to_numpy() <= CLEAN_FOREIGN
        kinds = np.full(len(index), "other", object)
        kinds[clean & (breast >= scoring.BREAST_SHARE_EVEN_FOREIGN)] = "tissue"
        kinds[clean & (breast < scoring.BREAST_SHARE_EVEN)] = "ground"
        return kinds

    def _sample(self, tiles: pd.DataFrame, label: int, weight: float = 1.0) -> Sample:
        name = ("tissue", "ground")[label]
        self.counts[name] = len(tiles)
        return Sample(_figures_of(tiles), label, _folds_of(tiles), weight)

    def _planted_on(self, tiles: pd.DataFrame, label: int) -> list[Sample]:
        if not len(tiles):
            return []
        n = self.planted_tiles
        chosen = tiles.iloc[np.sort(self.rng.choice(len(tiles), n, replace=len(tiles) < n))]
        pictures = self._pictures(chosen)
        planted, masks, _ = planting.plant(pictures, self.rng)
        enough = masks.mean(axis=(1, 2)) >= 0.01
        self.shown += list(planted[enough][: SHOWN // 2])
        self.counts["planted_on_tissue" if label == MIXED else "planted_on_ground"] = int(
            enough.sum()
        )
        return [
            Sample(tile_figures.tile_figures(planted[enough]), label, _folds_of(chosen)[enough])
        ]

    def _pictures(self, tiles: pd.DataFrame) -> npt.NDArray[np.float32]:
        """Pixels of tiles in 64 x 64, in the order given."""
        side = tile_figures.SIDE
        out = np.empty((len(tiles), side, side), np.float32)
        place = np.arange(len(tiles))
        for key, group in tiles.assign(place=place).groupby("key", sort=True):
            rows, inverse = np.unique(group["pixels_index"].to_numpy(np.int64), return_inverse=True)
            small = np.concatenate(
                [
                    np.stack([tile_figures.small_picture(t) for t in block])
                    for block in read_pixels(self.workspace, str(key), rows)
                ]
            )
            out[group["place"].to_numpy()] = small[inverse]
        return out

    def _made(self) -> list[Sample]:
        side, rng, n = tile_figures.SIDE, self.rng, self.planted_tiles
        tissue = made_tissue.made_tissue(round(MADE_TISSUE * n), side, rng)
        ground = made_tissue.made_ground(round(MADE_GROUND * n), side, rng)
        bare = made_tissue.made_ground(n, side, rng)
        out = [(tissue, TISSUE), (ground, GROUND)]
        for base, label in ((bare, ANNOTATION), (tissue[: n // 2], MIXED)):
            planted, masks, _ = planting.plant(base, rng)
            out.append((planted[masks.mean(axis=(1, 2)) >= 0.01], label))
        self.counts["made_up"] = sum(len(tiles) for tiles, _ in out)
        return [
            Sample(tile_figures.tile_figures(tiles), label, np.full(len(tiles), -1), MADE_WEIGHT)
            for tiles, label in out
        ]

    def _fit(self, samples: Sequence[Sample], n_folds: int | None = None) -> tuple[TileScorer, int]:
        samples = [s.weighted() for s in samples]
        figures = np.concatenate([s.figures for s in samples])
        classes = np.concatenate([np.full(len(s.figures), s.label) for s in samples])
        folds = np.concatenate([s.folds for s in samples])
        many = n_folds or (FOLDS if (folds >= 0).any() else 1)
        scorer = tile_scorer.fit_tile_scorer(
            figures,
            classes,
            folds,
            names=tile_figures.NAMES,
            n_folds=many,
            seed=self.settings.seed,
        )
        known = (classes == ANNOTATION) & (folds >= 0)
        said = scorer.log_probabilities(figures[known], folds[known])
        self.held_out = int((tile_scorer.log_odds(said) >= 0).sum()), int(known.sum())
        return scorer, len(figures)

    # -- exemplars ----------------------------------------------------------------------------

    def _look_up_exemplars(self, pool: pd.DataFrame) -> None:
        """Figures of the exemplars: of the tile that each means, or of its picture."""
        if not self.exemplars:
            return
        found: dict[int, tuple[str, Figures]] = {}
        for i, exemplar in enumerate(self.exemplars):
            if exemplar.image is not None:
                picture = exemplar.picture()
                if self.settings.context == "film":
                    picture = picture - picture.min()
                    picture = picture / max(float(picture.max()), 1e-6)
                found[i] = (exemplar.describe(), tile_figures.tile_figures(picture[None])[0])
        wanted = [(i, e) for i, e in enumerate(self.exemplars) if e.image is None]
        best: dict[int, float] = {}
        for key in self.keys if wanted else ():
            index = read_index(
                self.workspace,
                key,
                ["tile_id", "mammogram_id", "x", "y", "width", "height", "pixels_index"],
            ).to_pandas()
            index = index[index["pixels_index"].notna()]
            index = index.assign(source=index["mammogram_id"].map(self.source_of_film))
            for i, exemplar in wanted:
                row, overlap = exemplar.best_of(index)
                if row is not None and overlap > best.get(i, 0.0):
                    best[i] = overlap
                    one = row.to_frame().T.assign(key=key)
                    looks = tile_figures.tile_figures(self._pictures(one))
                    found[i] = (str(row["tile_id"]), looks[0])
        self.not_found = [e.describe() for i, e in enumerate(self.exemplars) if i not in found]
        for positive in (True, False):
            here = [found[i] for i in sorted(found) if self.exemplars[i].positive == positive]
            if not here:
                continue
            values = np.stack([f for _, f in here]).astype(np.float32)
            if positive:
                self.positive_names = [name for name, _ in here]
                self.positive_figures = values
            else:
                self.negative_figures = values

    def _exemplar_samples(self) -> list[Sample]:
        pairs = ((self.positive_figures, ANNOTATION), (self.negative_figures, TISSUE))
        return [
            Sample(figures, label, np.full(len(figures), -1), EXEMPLAR_WEIGHT)
            for figures, label in pairs
            if len(figures)
        ]

    def sheet(self) -> bytes:
        """Some of the planted tiles, for a person to look at."""
        shown = np.stack(self.shown[:SHOWN]) if self.shown else np.zeros((1, 64, 64), np.float32)
        tiles = np.rint(np.sqrt(np.clip(shown, 0, 1)) * 255).astype(np.uint8)
        return thumbnails.png(thumbnails.contact_sheet(tiles, per_row=12))


def _figures_of(tiles: pd.DataFrame) -> Figures:
    if not len(tiles):
        return np.empty((0, len(tile_figures.NAMES)), np.float32)
    return np.stack(tiles["figures"].to_list()).astype(np.float32)


def _fewest(tiles: pd.DataFrame) -> int:
    """Tiles that the scorer which sees the fewest of them sees."""
    return min(int((tiles["fold"] != f).sum()) for f in range(FOLDS))


def _folds_of(tiles: pd.DataFrame) -> npt.NDArray[np.int64]:
    return tiles["fold"].to_numpy(np.int64)
