"""Figures of an experiment as pictures: curves, maps of points, rows of tiles.

Charts are matplotlib's, drawn on figures of their own: no window, no state that threads share.
They are 800 pixels wide with letters that can still be read at 400, and come in a light and a dark
form. Groups differ by marker as well as by colour (Okabe and Ito's, which the colour-blind can tell
apart).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.kernels.thumbnails import contact_sheet

SIZE_INCHES, DOTS_PER_INCH = (5.0, 3.25), 160
LETTERS_PT = 9.5
SCALE = 2
"""By which small pictures are enlarged, no pixel changed."""

COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7B61C9",
    "#B2182B", "#4D9221",
)  # fmt: skip
MARKERS = "os^DvPX<>*"
DASHES = ("-", "--", ":", "-.")
_LIGHT = {"ground": "#ffffff", "ink": "#1b2126", "line": "#d9dee3", "faint": "#b4bcc4"}
_DARK = {"ground": "#1a2026", "ink": "#e6eaee", "line": "#2e373f", "faint": "#55616c"}

Picture = npt.NDArray[np.uint8]


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    across: str,
    up: str,
    mark: tuple[float, str] | None = None,
    whole: bool = False,
    dark: bool = False,
) -> Picture:
    """Draw lines through points.

    Parameters
    ----------
    series : mapping of str to sequence of (x, y)
        By name, which the legend says; at least one finite point in all.
    across, up : str
        What x and y are, with their unit.
    mark : (float, str), optional
        x of an upright line, and what it stands for.
    whole : bool
        Whether x counts something: no ticks between whole numbers.
    dark : bool
        For a dark page.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        BGR.

    Raises
    ------
    ValueError
        No point is finite.
    """
    if not any(np.isfinite(p).all() for points in series.values() for p in points):
        raise ValueError("there is nothing to draw: no point is finite")
    figure, axes, theme = _axes(across, up, dark)
    for i, (name, points) in enumerate(series.items()):
        xs, ys = np.array([p for p in points if np.isfinite(p).all()] or np.empty((0, 2))).T
        axes.plot(
            xs,
            ys,
            DASHES[i % len(DASHES)],
            color=_colour(i, dark),
            marker=MARKERS[i % len(MARKERS)] if len(xs) < 60 else None,
            markersize=4,
            linewidth=1.8,
            label=name,
        )
    if mark is not None:
        axes.axvline(mark[0], color=theme["ink"], linewidth=1, linestyle=(0, (1, 1)), label=mark[1])
    if whole:
        axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes, theme, None)
    return _picture(figure)


def scatter(
    points: npt.NDArray[np.floating],
    groups: Mapping[str, npt.NDArray[np.integer]],
    *,
    across: str,
    up: str,
    legend: str,
    faint: Collection[str] = (),
    dark: bool = False,
) -> Picture:
    """Draw points of a plane, each group with a colour and a marker of its own.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
    groups : mapping of str to ndarray of int
        Rows of each group, by its name; later ones are drawn above.
    across, up : str
        What the axes are. Their values say nothing, so there are no ticks.
    legend : str
        What the groups are.
    faint : collection of str
        Names of groups that are drawn small and grey, below the others.
    dark : bool
        For a dark page.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        BGR.
    """
    figure, axes, theme = _axes(across, up, dark)
    axes.set_xticks([])
    axes.set_yticks([])
    drawn = 0
    for name, rows in groups.items():
        shown = np.asarray(points)[rows]
        quiet = name in faint
        axes.scatter(
            shown[:, 0],
            shown[:, 1],
            s=5 if quiet else 11,
            marker="o" if quiet else MARKERS[drawn % len(MARKERS)],
            color=theme["faint"] if quiet else _colour(drawn, dark),
            linewidths=0,
            alpha=0.8,
            zorder=1 if quiet else 2,
            label=f"{name} ({len(rows):,})",
        )
        drawn += not quiet
    _legend(axes, theme, legend, beside=True)
    return _picture(figure)


def tree(
    parent: Sequence[int],
    size: Sequence[int],
    far: Sequence[float | None],
    near: Sequence[float | None],
    label: Sequence[int],
    *,
    named: Sequence[int],
    across: str,
    up: str,
    dark: bool = False,
) -> Picture:
    """Draw nested clusters as bars that hang from each other, as wide as they are large.

    Parameters
    ----------
    parent : sequence of int
        Number of the bar that each hangs from, which is lower; -1 for the first.
    size : sequence of int
        Members, no more than the parent's.
    far, near : sequence of float or None
        Where a bar begins and ends, from above; None: without bound.
    label : sequence of int
        Of those that were chosen; -1 for the others, which are faint.
    named : sequence of int
        Labels that get a colour, in the order of `scatter`'s groups, and are written below.
    across, up : str
        What the axes are.
    dark : bool
        For a dark page.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        BGR.

    Raises
    ------
    ValueError
        There is no bar.
    """
    if not len(parent):
        raise ValueError("there is nothing to draw: the tree is empty")
    figure, axes, theme = _axes(across, up, dark)
    axes.grid(visible=False, axis="x")
    bounded = [v for v in [*far, *near] if v is not None]
    top = 1.1 * max(bounded, default=1.0)
    left = _lefts(parent, size)
    colours = {name: _colour(n, dark) for n, name in enumerate(named)}
    for i in range(len(parent)):
        begin, end = (top if v is None else v for v in (far[i], near[i]))
        colour = colours.get(label[i], theme["ink"] if label[i] >= 0 else theme["faint"])
        axes.bar(
            left[i], begin - end, size[i], end, align="edge", color=colour,
            edgecolor=theme["ground"], linewidth=0.6,
        )  # fmt: skip
        if label[i] in colours:
            axes.annotate(
                str(label[i]), (left[i] + size[i] / 2, end), xytext=(0, -2),
                textcoords="offset points", ha="center", va="top", fontsize=LETTERS_PT,
                color=theme["ink"],
            )  # fmt: skip
    axes.set_xlim(0, size[0])
    axes.set_ylim(-0.08 * top, top)
    return _picture(figure)


def _lefts(parent: Sequence[int], size: Sequence[int]) -> list[float]:
    """Left edges of bars: children beside each other below their parent, the largest first."""
    children: dict[int, list[int]] = {}
    for i, above in enumerate(parent):
        children.setdefault(above, []).append(i)
    left = [0.0] * len(parent)
    for above in range(len(parent)):  # parents come first
        below = sorted(children.get(above, []), key=lambda i: (-size[i], i))
        at = left[above] + (size[above] - sum(size[i] for i in below)) / 2
        for i in below:
            left[i] = at
            at += size[i]
    return left


def rows_of_tiles(rows: Sequence[npt.NDArray[np.floating]]) -> Picture:
    """Rows of small pictures below each other.

    Parameters
    ----------
    rows : sequence of ndarray, each (n, side, side)
        In [0, 1], the same n and side in all.

    Returns
    -------
    ndarray of uint8, shape (rows, columns)
    """
    tiles = np.concatenate([np.asarray(r) for r in rows])
    grey = np.rint(np.clip(tiles, 0, 1) * 255).astype(np.uint8)
    large = grey if grey.shape[1] > 100 else grey.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    return contact_sheet(large, per_row=len(rows[0]))


def png(picture: Picture) -> bytes:
    """PNG bytes of a chart, BGR: of 64 colours, which makes a fifth of the bytes of all."""
    import io

    from PIL import Image

    few = Image.fromarray(picture[..., ::-1]).quantize(64, dither=Image.Dither.NONE)
    data = io.BytesIO()
    few.save(data, "PNG", optimize=True)
    return data.getvalue()


def grouped(
    labels: npt.NDArray[np.integer], *, most: int = 10, rest: str = "other"
) -> dict[str, npt.NDArray[np.int64]]:
    """Rows by label, for `scatter`: the most frequent labels in their order, the rest together.

    Parameters
    ----------
    labels : ndarray of int, shape (n,)
    most : int
        Labels that get a group of their own.
    rest : str
        Name of the group of all others, which comes first.
    """
    values, counts = np.unique(labels, return_counts=True)
    kept = np.sort(values[np.argsort(-counts, kind="stable")[:most]])
    out = {str(v): np.flatnonzero(labels == v) for v in kept.tolist()}
    others = np.flatnonzero(~np.isin(labels, kept))
    return ({rest: others} if len(others) else {}) | out


def _axes(across: str, up: str, dark: bool) -> tuple[Any, Any, dict[str, str]]:
    from matplotlib.figure import Figure

    theme = _DARK if dark else _LIGHT
    figure = Figure(
        figsize=SIZE_INCHES, dpi=DOTS_PER_INCH, facecolor=theme["ground"], layout="constrained"
    )
    axes = figure.add_subplot(facecolor=theme["ground"])
    axes.set_xlabel(across, fontsize=LETTERS_PT, color=theme["ink"])
    axes.set_ylabel(up, fontsize=LETTERS_PT, color=theme["ink"])
    axes.tick_params(labelsize=LETTERS_PT, colors=theme["ink"], color=theme["line"])
    axes.grid(visible=True, color=theme["line"], linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_color(theme["faint"])
    return figure, axes, theme


def _colour(i: int, dark: bool) -> Any:
    """A group's colour; on a dark ground a little lighter."""
    from matplotlib.colors import to_rgb

    colour = np.array(to_rgb(COLOURS[i % len(COLOURS)]))
    return tuple(colour + 0.3 * (1 - colour)) if dark else tuple(colour)


def _legend(axes: Any, theme: dict[str, str], title: str | None, *, beside: bool = False) -> None:
    place: dict[str, Any] = {"loc": "best"}
    if beside:
        place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.3}
    box = axes.legend(
        title=title,
        fontsize=LETTERS_PT,
        title_fontsize=LETTERS_PT,
        labelcolor=theme["ink"],
        facecolor=theme["ground"],
        edgecolor=theme["line"],
        handletextpad=0.4,
        markerscale=1.6 if beside else 1.0,
        **place,
    )
    box.get_title().set_color(theme["ink"])


def _picture(figure: Any) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())
    return np.ascontiguousarray(drawn[..., 2::-1])
