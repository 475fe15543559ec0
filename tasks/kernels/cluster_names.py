"""A plain name for a cluster, from what it holds.

The rules are tried in this order, and the first that fits names the cluster:

- *noise*: the tiles in no cluster.
- *annotations*, or *mixed: tissue and annotations*: drawn-on annotations fall into it several times
  as often as its size would make them; the second where it holds breast too.
- *skin line*: most of its tiles hold breast and what lies beside it.
- *film edges*: hardly any breast, and most of its tiles lie at the rim of their film's grid.
- *annotations*, or *mixed: tissue and annotations*: something foreign is on its tiles.
- *dark ground*: hardly any breast, and nothing else.
- *dense tissue*, *fatty tissue*, *tissue*: brighter than the run's tissue is, darker, or neither.

A name says what a cluster mostly holds, not what each of its tiles holds, and "dense" means bright:
it is no reading of a breast's density.
"""

from __future__ import annotations

from dataclasses import dataclass

NOISE = -1
LEAST_LIFT = 3.0
"""Planted tiles in a cluster per planted tile expected by its size: three times is beyond what
sampling does to ``LEAST_PLANTED`` tiles."""
LEAST_PLANTED = 5
"""Fewer planted tiles are no evidence: one or two fall into any cluster."""
SOME_BREAST = 0.2
"""Mean share of breast below which a cluster lies outside of the breast: one tile in five."""
MOST = 0.5
"""Share of the tiles that names a cluster: more than half."""
SOME_FOREIGN = 0.02
"""Mean share of foreign content: lettering covers about a tenth of a tile that has it, so every
fifth tile has some."""
BRIGHTER = 0.5
"""Standard deviations of the brightness of the run's tissue: the middle third or so is neither
bright nor dark."""


@dataclass(frozen=True)
class ClusterFigures:
    """What a name rests on; shares and fractions are in [0, 1]."""

    cluster_label: int
    breast_fraction: float
    foreign_fraction: float
    brightness: float
    outline_share: float
    """Of the tiles: those that hold breast and something else."""
    rim_share: float
    """Of the tiles: those in the outermost row or column of their film."""
    planted: int | None = None
    planted_lift: float | None = None


def cluster_name(figures: ClusterFigures, *, tissue_brightness: float, tissue_spread: float) -> str:
    """Name a cluster by the rules above.

    Parameters
    ----------
    figures : ClusterFigures
        Of the cluster.
    tissue_brightness, tissue_spread : float
        Mean and standard deviation of the mean intensity of the run's tissue tiles, on the scale
        [0, 1].
    """
    outside = figures.breast_fraction < SOME_BREAST
    annotations = "annotations" if outside else "mixed: tissue and annotations"
    if figures.cluster_label == NOISE:
        return "noise"
    if (figures.planted or 0) >= LEAST_PLANTED and (figures.planted_lift or 0) >= LEAST_LIFT:
        return annotations
    if figures.outline_share >= MOST:
        return "skin line"
    if outside and figures.rim_share >= MOST:
        return "film edges"
    if figures.foreign_fraction >= SOME_FOREIGN:
        return annotations
    if outside:
        return "dark ground"
    difference = figures.brightness - tissue_brightness
    if abs(difference) < BRIGHTER * tissue_spread or tissue_spread == 0:
        return "tissue"
    return "dense tissue" if difference > 0 else "fatty tissue"
