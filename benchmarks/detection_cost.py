"""What finding misinformative tiles costs on top of tiling and encoding, in processor time.

    python benchmarks/detection_cost.py --source FILMS [--tile-size-px 128] [--context film|tile]

The stages run one after the other in this process on one thread, at the settings' defaults; what
is compiled is compiled on a few films first. Detection is all that would go if nobody asked for it:
the film's map, the figures of the tiles, planting, fitting the tile scorer, scoring. The black
screen needs a map too, so tiling alone is dearer than what is left: the ratio is an upper bound.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import cv2
import torch

from flows.curate import split_of_films
from storage.workspace import Workspace
from tasks import decisions, encoders, films, scorers, tiles
from tasks.kernels import context, film_tiles, tile_figures
from tasks.settings import CurationSettings

SHORT = 8
"""Films that the compiled passes are warmed up on."""


class Clock:
    """Processor seconds inside wrapped functions; a call within a wrapped call is not its own."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.inside = False

    def wrap(self, owner: Any, name: str, title: str) -> None:
        """Time a function of a module or class from now on, under a title."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return inner(*args, **kwargs)
            self.inside, started = True, time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[title] += time.process_time() - started
                self.inside = False

        setattr(owner, name, timed)


def main() -> None:
    """Run once to warm up, once to measure; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True)
    parser.add_argument("--tile-size-px", type=int, default=128)
    parser.add_argument("--context", choices=("film", "tile"), default="film")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    clock = Clock()
    clock.wrap(film_tiles, "film_context", "map of the film")
    clock.wrap(context, "film_context", "map of the film")
    clock.wrap(tile_figures, "tile_figures", "figures of the tiles")
    clock.wrap(tiles, "_plant", "planted films")
    clock.wrap(decisions.Judge, "scored", "scoring")
    for limit in (SHORT, None):
        clock.seconds.clear()
        with tempfile.TemporaryDirectory() as out:
            stages = run(
                CurationSettings(
                    source=given.source,
                    out=out,
                    tile_size_px=given.tile_size_px,
                    context=given.context,
                ),
                limit,
                clock,
            )
    detection = sum(clock.seconds.values())
    rest = sum(stages.values()) - detection
    training = stages["train the encoder"]
    print(f"{'part':34}{'cpu s':>9}")
    for name, seconds in stages.items():
        print(f"{name:34}{seconds:9.2f}")
    print("of these, detection:")
    for name, seconds in clock.seconds.items():
        print(f"  {name:32}{seconds:9.2f}")
    print(f"{'detection':34}{detection:9.2f}")
    print(f"{'tiling and encoding':34}{rest:9.2f}   ratio {detection / rest:.3f}")
    print(f"{'the same without training':34}{rest - training:9.2f}")


def run(settings: CurationSettings, limit: int | None, clock: Clock) -> dict[str, float]:
    """Processor seconds of each stage of a run over some films."""
    workspace = Workspace.create(settings.out)
    root, batches = films.find(settings.source)
    described = [
        film
        for batch in batches
        for film in films.describe_batch(
            batch, max_film_megapixels=settings.max_film_megapixels, known={}
        )
    ][:limit]
    found, _ = films.join(described, root, films_csv=None, lesions_csv=None)
    used = [f for f in found if f.excluded_reason is None]
    shards = films.form_shards(found, root, films_per_shard=settings.films_per_shard)
    cutting = tiles.TileSettings(
        **settings.only(
            "tile_size_px",
            "tile_size_mm",
            "stride_px",
            "edge",
            "black_samples_per_film",
            "max_film_megapixels",
            "context",
        )
    )
    spent: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        started = time.process_time()
        result = step()
        spent[name] = time.process_time() - started
        return result

    keys = timed(
        "read, scale, cut, screen, write",
        lambda: [tiles.cut_shard(workspace.uri, str(root), s, cutting).key for s in shards],
    )
    clock.inside = True  # all of the next stage is detection
    scorer = timed(
        "fit the tile scorer",
        lambda: (
            scorers.train_scorer(
                workspace.uri,
                keys,
                scorers.fold_films(used),
                {str(f.mammogram_id): f.source for f in used},
                len({f.patient_key for f in used}),
                scorers.ScorerSettings(
                    **settings.only("context", "exemplars", "seed", "planted_tiles")
                ),
            ).key
        ),
    )
    clock.inside = False
    clock.seconds["fit the tile scorer"] = spent["fit the tile scorer"]
    how = encoders.EncoderSettings(
        **{
            name: getattr(settings, name)
            for name in encoders.EncoderSettings.__dataclass_fields__
            if name != "training_threads"
        },
        training_threads=1,
    )
    split = split_of_films(settings, used)
    encoder = timed(
        "train the encoder",
        lambda: encoders.train_encoder(workspace.uri, keys, split, how).key,
    )
    timed("encode", lambda: [encoders.embed_shard(workspace.uri, k, encoder) for k in keys])
    judge = decisions.Judge.read(workspace, scorer)
    timed(
        "score",
        lambda: [
            judge.scored(decisions.read_index(workspace, key).to_pandas(), key) for key in keys
        ],
    )
    return spent


if __name__ == "__main__":
    main()
