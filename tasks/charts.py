"""Pictures of a trial or a study as files of its shard, and what each shows in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.workspace import ShardWriter
from tasks.kernels import drawing, thumbnails

MAPPED = 2000
"""Points of a map at most, drawn by seed."""
TSNE_AXES = {"across": "t-SNE axis 1 (no unit)", "up": "t-SNE axis 2 (no unit)"}
MAIN_AXES = {"across": "first main axis of the embeddings", "up": "second main axis"}
FAINT = ("other",)


class Charts:
    """Writes pictures; charts in a light and a dark form.

    Parameters
    ----------
    writer : ShardWriter
        Of the shard that they go to: ``<name>.png``, and of charts ``<name>-dark.png``.
    """

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer
        self.alts: dict[str, str] = {}
        """What charts show, for those who do not see them."""

    def curves(
        self, name: str, series: Mapping[str, Sequence[tuple[float, float]]], **options: Any
    ) -> None:
        """Draw lines; ``options`` are those of `drawing.curves`."""
        self._both(name, lambda dark: drawing.curves(series, dark=dark, **options))
        told = [
            f"{line} goes from {points[0][1]:.4g} at {points[0][0]:g} to {points[-1][1]:.4g} "
            f"at {points[-1][0]:g}"
            for line, points in series.items()
            if points
        ]
        marked = options.get("mark")
        told += [f"{marked[1]} at {marked[0]:g}"] if marked else []
        self.alts[name] = f"{options['up']} by {options['across']}: {'; '.join(told)}"

    def maps(
        self,
        rows: npt.NDArray[np.floating],
        groups: Mapping[str, npt.NDArray[np.integer]],
        *,
        legend: str,
        seed: int,
    ) -> None:
        """Map a sample of embeddings by their main axes (``map``) and by t-SNE (``tsne``).

        Parameters
        ----------
        rows : ndarray, shape (n, dim)
        groups : mapping of str to ndarray of int
            Rows of each group, by its name.
        legend : str
            What the groups are.
        seed : int
            Of the sample and of t-SNE.
        """
        from models import planes

        sample = np.sort(np.random.default_rng(seed).permutation(len(rows))[:MAPPED])
        drawn = {n: np.flatnonzero(np.isin(sample, members)) for n, members in groups.items()}
        shown = {n: members for n, members in drawn.items() if len(members)}
        counts = ", ".join(f"{n}: {len(members)}" for n, members in shown.items())
        for name, points, axes in (
            ("map", planes.on_main_axes(rows)[sample], MAIN_AXES),
            ("tsne", planes.tsne(rows[sample], seed=seed), TSNE_AXES),
        ):
            self.scatter(name, points, shown, legend=legend, faint=FAINT, **axes)
            self.alts[name] = f"{len(sample)} embeddings as points, by {legend}: {counts}"

    def scatter(
        self,
        name: str,
        points: npt.NDArray[np.floating],
        groups: Mapping[str, npt.NDArray[np.integer]],
        *,
        faint: Collection[str] = (),
        **options: Any,
    ) -> None:
        """Draw points; ``options`` are those of `drawing.scatter`."""
        self._both(
            name,
            lambda dark: drawing.scatter(points, groups, faint=faint, dark=dark, **options),
        )

    def latent(self, network: Any, rows: npt.NDArray[np.floating], *, least: float | None) -> None:
        """Decode a grid of points over the plane of the two main axes (``latent``).

        Parameters
        ----------
        network : Module
            With ``decode_logits``.
        rows : ndarray, shape (n, dim)
            Embeddings, which give mean, axes and spread.
        least : float or None
            Embeddings are never below it: 0 behind a ReLU.
        """
        import torch

        from models import planes

        grid = planes.latent_grid(rows)
        codes = grid if least is None else np.maximum(grid, least)
        side = int(len(grid) ** 0.5)
        network.cpu().eval()
        with torch.no_grad():
            pictures = network.decode_logits(torch.from_numpy(codes)).sigmoid().mean(1).numpy()
        self.tiles("latent", [pictures[i : i + side] for i in range(0, len(grid), side)])

    def tiles(self, name: str, rows: Iterable[npt.NDArray[np.floating]]) -> None:
        """Put small pictures below each other; see `drawing.rows_of_tiles`."""
        data = thumbnails.png(drawing.rows_of_tiles(list(rows)))
        self.writer.write_bytes(f"{name}.png", data)

    def _both(self, name: str, draw: Any) -> None:
        for ending, dark in (("", False), ("-dark", True)):
            self.writer.write_bytes(f"{name}{ending}.png", drawing.png(draw(dark)))
