"""Stage: the page that a person looks at after measuring, ``report/index.html``, one file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
import pandas as pd
from markupsafe import Markup

from storage import collections
from storage.area_shards import (
    AREAS,
    COLOURS,
    IMAGES,
    PICTURES,
    POINTS,
    TABLE,
    cluster_names,
    read_fit,
)
from storage.workspace import Workspace
from tasks.kernels import colours, regions, thumbnails
from tasks.measure_page.charts import Bin, ElbowCurve, elbow_curve, histogram
from tasks.report_page.pictures import data_uri
from tasks.report_page.tiles import shortened
from tasks.words import duration, moment, number, share_text

REPORT = "report/index.html"
SHOWN = 24
BARS = 400
EXCLUSIONS = 200
LEVEL_BINS = 64
MASK_COLOUR = (0, 214, 214)
ONE_CLUSTER_SHARE = 0.9
"""A picture that is covered by one cluster to this share says little; many such get a caution."""


@dataclass(frozen=True)
class Cluster:
    """One cluster in the palette."""

    number: int
    name: str | None
    colour: str
    lightness: float
    share: float


@dataclass(frozen=True)
class Shown:
    """One picture in three ways, as data URIs."""

    title: str
    facts: str
    width: int
    height: int
    original: str
    quantised: str
    overlay: str


@dataclass(frozen=True)
class Bar:
    """Area of the cluster in question on one picture."""

    source: str
    fraction: float
    share_of_most: float
    pixels: int
    mm2: float | None
    largest: int


@dataclass(frozen=True)
class LevelBin:
    """One bar of the histogram of intensities."""

    title: str
    n: int
    share_of_most: float
    colour: str


@dataclass(frozen=True)
class Page:
    """All that the page says; the template only puts it in order."""

    record: dict[str, Any]
    fit: dict[str, Any]
    title: str
    thing: str
    things: str
    table: str
    seconds: float
    pixels_short: str
    clusters: tuple[Cluster, ...]
    focus: int
    focus_title: str
    median: float
    least: float
    most: float
    cautions: tuple[str, ...]
    palette_note: str
    shown: tuple[Shown, ...]
    shown_note: str
    bins: tuple[Bin, ...]
    bars: tuple[Bar, ...]
    bars_note: str
    has_spacing: bool
    n_points: int
    points: Markup
    level_bins: tuple[LevelBin, ...]
    elbow: ElbowCurve
    exclusions: tuple[dict[str, Any], ...]
    rules: tuple[tuple[str, str], ...] = field(repr=False)


def write_report(workspace_uri: str, run_id: str) -> str:
    """Write the report of a run whose table is published.

    Which pictures are shown is chosen by area and by hashes, so the same run gives the same page.

    Returns
    -------
    str
        Full path or URI of the page.
    """
    workspace = Workspace.open(workspace_uri)
    record = workspace.read_json("runs", f"{run_id}.json")
    page = gather(workspace, record)
    workspace.write_bytes(REPORT, render(page).encode())
    return f"{workspace.uri}/{REPORT}"


def gather(workspace: Workspace, record: dict[str, Any]) -> Page:
    """Read all that the page of a run says."""
    settings, shards = record["settings"], record["shards"]
    is_film = settings["kind"] == "films"
    fit = read_fit(workspace, shards["colours"])
    table: pd.DataFrame = workspace.read_table(TABLE).to_pandas()
    focus = len(fit["centres"]) - 1 if is_film else 0
    of_focus = table[(table.cluster == focus) & (table.measured_px > 0)].copy()
    fractions = of_focus.area_fraction.to_numpy()
    points = workspace.shard(COLOURS, shards["colours"]).table(POINTS)
    thing = "film" if is_film else "picture"
    shown, shown_note = _shown(workspace, shards["areas"], table, of_focus, fit, thing)
    return Page(
        record=record,
        fit=fit,
        title="Dense tissue by intensity" if is_film else "Areas by colour",
        thing=thing,
        things=thing + "s",
        table=f"{workspace.uri}/{TABLE}",
        seconds=sum(s["seconds"] for name, s in record["stages"].items() if name != "report"),
        pixels_short=_in_short(record["pixels"]["measured"]),
        clusters=_clusters(table, fit, settings["kind"]),
        focus=focus,
        focus_title="Dense area" if is_film else "Dark area",
        median=float(np.median(fractions)) if len(fractions) else 0.0,
        least=float(fractions.min(initial=1.0)) if len(fractions) else 0.0,
        most=float(fractions.max(initial=0.0)),
        cautions=tuple(_cautions(table, settings, len(of_focus))),
        palette_note=(
            "Greys are lifted for the screen (square root of the intensity)."
            if is_film
            else "Colours after balancing: each picture's median is the same light grey."
            if settings["balance"] == "median"
            else "Mean colours of the clusters' pixels."
        ),
        shown=shown,
        shown_note=shown_note,
        bins=histogram(fractions.tolist()) if len(fractions) >= 10 else (),
        bars=_bars(of_focus),
        bars_note=_bars_note(len(of_focus), thing),
        has_spacing=bool(of_focus.area_mm2.notna().any()),
        n_points=points.num_rows,
        points=_points(points.to_pandas(), fit),
        level_bins=_level_bins(points.to_pandas(), fit) if is_film else (),
        elbow=elbow_curve(
            fit["elbow_inertia_per_px"], elbow=fit["elbow"], chosen=len(fit["centres"])
        ),
        exclusions=_exclusions(workspace),
        rules=tuple(_rules(settings, fit)),
    )


def _clusters(table: pd.DataFrame, fit: Mapping[str, Any], kind: str) -> tuple[Cluster, ...]:
    pixels = table.groupby("cluster").pixel_count.sum()
    total = max(1, int(pixels.sum()))
    names = cluster_names(kind, len(fit["centres"]))
    return tuple(
        Cluster(n, name, "#{:02x}{:02x}{:02x}".format(*colour), light, pixels.get(n, 0) / total)
        for n, (name, colour, light) in enumerate(
            zip(names, fit["palette"], fit["lightness"], strict=True)
        )
    )


def _cautions(table: pd.DataFrame, settings: Mapping[str, Any], measured: int) -> list[str]:
    """What a reader must know before any number of this page."""
    out = []
    pictures = table.image_id.nunique()
    if measured < pictures:
        out.append(
            f"On {pictures - measured} of {pictures} films no breast was found: they have areas "
            "of 0 and no share."
        )
    whole = table[table.area_fraction >= ONE_CLUSTER_SHARE]
    both = len(set(whole.cluster)) > 1 and len(whole) >= max(2, pictures // 4)
    if settings["kind"] == "photographs" and settings["balance"] == "none" and both:
        out.append(
            f"{len(whole)} of {pictures} pictures lie in one cluster almost whole, and not all in "
            "the same: the clusters tell pictures apart, by light or skin, rather than what is on "
            "them. Run again with --balance median, or with more clusters."
        )
    return out


# -- pictures --------------------------------------------------------------------------------------


def _shown(
    workspace: Workspace,
    keys: Sequence[str],
    table: pd.DataFrame,
    of_focus: pd.DataFrame,
    fit: Mapping[str, Any],
    thing: str,
) -> tuple[tuple[Shown, ...], str]:
    """Pictures over the whole range of areas, at even steps of rank."""
    ranked = of_focus.sort_values(["area_fraction", "image_id"])
    step = np.linspace(0, max(0, len(ranked) - 1), min(SHOWN, len(ranked))).round().astype(int)
    wanted = ranked.iloc[np.unique(step)].set_index("image_id")
    small: dict[str, tuple[bytes, bytes]] = {}
    for key in sorted(keys):
        for row in workspace.shard(AREAS, key).table(IMAGES).to_pylist():
            if row["image_id"] in wanted.index and row["thumbnail_jpeg"] is not None:
                small[row["image_id"]] = row["thumbnail_jpeg"], row["labels_png"]
    note = f"All {len(wanted)} {thing}s, in order of name."
    if len(wanted) < len(ranked):
        note = (
            f"{len(wanted)} of {len(ranked):,} {thing}s, from the smallest to the largest area at "
            "even steps of rank."
        )
    else:
        wanted = wanted.sort_values("source")
    shown = (
        _in_three_ways(row, small[str(i)], fit) for i, row in wanted.iterrows() if str(i) in small
    )
    return tuple(shown), note


def _in_three_ways(row: Any, small: tuple[bytes, bytes], fit: Mapping[str, Any]) -> Shown:
    jpeg, png = (np.frombuffer(data, np.uint8) for data in small)
    picture = np.ascontiguousarray(_decoded(jpeg, cv2.IMREAD_COLOR)[..., ::-1])
    labels = _decoded(png, cv2.IMREAD_GRAYSCALE)
    quantised = regions.quantised(labels, np.array(fit["palette"], np.uint8))
    mask = regions.overlay(picture, labels == row.cluster, MASK_COLOUR)
    facts = f"{share_text(row.area_fraction)}, {row.pixel_count:,} px"
    if pd.notna(row.area_mm2):
        facts += f", {row.area_mm2:,.1f} mm²"
    facts += f"; largest region {row.largest_region_px:,} px"
    _, overlay = cv2.imencode(".jpg", mask[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return Shown(
        title=row.source,
        facts=facts,
        width=labels.shape[1],
        height=labels.shape[0],
        original=data_uri(small[0], "jpeg"),
        quantised=data_uri(thumbnails.png(np.ascontiguousarray(quantised[..., ::-1])), "png"),
        overlay=data_uri(bytes(overlay), "jpeg"),
    )


def _decoded(data: npt.NDArray[np.uint8], how: int) -> npt.NDArray[np.uint8]:
    decoded = cv2.imdecode(data, how)
    if decoded is None:
        raise ValueError("a small picture of the shard cannot be decoded")
    return np.asarray(decoded, np.uint8)


# -- figures ---------------------------------------------------------------------------------------


def _bars(of_focus: pd.DataFrame) -> tuple[Bar, ...]:
    most = float(of_focus.area_fraction.max()) if len(of_focus) else 1.0
    chosen = of_focus.sort_values(["area_fraction", "source"], ascending=[False, True])
    step = np.linspace(0, max(0, len(chosen) - 1), min(BARS, len(chosen))).round().astype(int)
    rows: list[dict[str, Any]] = chosen.iloc[np.unique(step)].to_dict("records")  # type: ignore[assignment]
    return tuple(
        Bar(
            source=row["source"],
            fraction=row["area_fraction"],
            share_of_most=row["area_fraction"] / (most or 1.0),
            pixels=int(row["pixel_count"]),
            mm2=float(row["area_mm2"]) if pd.notna(row["area_mm2"]) else None,
            largest=int(row["largest_region_px"]),
        )
        for row in rows
    )


def _bars_note(n: int, thing: str) -> str:
    if n > BARS:
        return f"{BARS} of {n:,} {thing}s at even steps of rank, largest first."
    return f"{n} {thing}{'s' if n != 1 else ''}, largest first; the longest bar is the largest."


def _points(points: pd.DataFrame, fit: Mapping[str, Any]) -> Markup:
    """Points and centres as JSON; numbers and our own names of axes, nothing that was read."""
    places = [f"place_{i}" for i in range(len(fit["axes"]))]
    columns = points[[*places, "red", "green", "blue"]]
    rows = [[round(float(v), 3) for v in row] for row in columns.itertuples(index=False)]
    text = json.dumps(
        {"axes": fit["axes"], "points": rows, "centres": fit["centres"]}, separators=(",", ":")
    )
    return Markup(text)  # noqa: S704


def _level_bins(points: pd.DataFrame, fit: Mapping[str, Any]) -> tuple[LevelBin, ...]:
    counts, edges = np.histogram(points.place_0, bins=LEVEL_BINS, range=(0, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    labels = colours.ColourLabeller(fit["centres"], "grey").label(
        np.rint(middles * 65535).astype(np.uint16)
    )
    most = max(1, int(counts.max()))
    return tuple(
        LevelBin(
            f"{low:.2f} to {high:.2f}",
            int(n),
            int(n) / most,
            "#{:02x}{:02x}{:02x}".format(*fit["palette"][int(label)]),
        )
        for n, low, high, label in zip(counts, edges[:-1], edges[1:], labels, strict=True)
    )


def _exclusions(workspace: Workspace) -> tuple[dict[str, Any], ...]:
    out = collections.from_table(workspace.read_table(PICTURES))
    return tuple(vars(f) for f in out if f.excluded_reason is not None)[:EXCLUSIONS]


def _in_short(n: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return str(n)


def _rules(settings: Mapping[str, Any], fit: Mapping[str, Any]) -> list[tuple[str, str]]:
    what = {
        "rgb": "RGB: red, green and blue as stored, 0 to 255.",
        "lab": "CIE L*a*b* (D65, 2 degrees): L* is lightness from 0 to 100, equal distances look "
        "about equally different.",
        "hsv": "HSV: hue is an angle, so a pixel lies at (saturation x cosine, saturation x sine, "
        "value).",
        "grey": "One channel: intensity from 0 to 1 on the pipeline's scale, bright is dense. "
        "Calibrated scanners are on optical density; other films are stretched between robust "
        "levels of their own, so that classes compare between them only roughly.",
    }
    rules = [("Colour space", what[fit["colour_space"]])]
    if settings["kind"] == "films":
        rules.append(
            (
                "Where",
                "Inside the breast and body of each film, as the film map finds them; the pectoral "
                "muscle is part of it and counts as dense where it is bright.",
            )
        )
    elif settings["balance"] == "median":
        rules.append(
            (
                "Balance",
                "Each channel of a picture is multiplied so that its median is the same light grey "
                "in all. Dark means darker than most of the same picture, so a picture that is "
                "mostly dark is measured wrongly.",
            )
        )
    rules += [
        (
            "Clusters",
            f"One k-means over the set, fitted to {100 * settings['sample_fraction']:g} % of each "
            f"picture's pixels (seed {settings['seed']}, at most {settings['max_sample_px']:,} "
            "in all); then every pixel goes to its nearest centre. A picture's sample depends on "
            "its content alone. Clusters are numbered by lightness.",
        ),
        (
            "Areas",
            "Shares are of the pixels measured. A region is connected by sides or corners. Square "
            "millimetres need a spacing: from the file, from the table of pictures, or given.",
        ),
        (
            "Intended use and limits",
            "Research. This is not a medical device: no area here is a finding about a patient. "
            "Hair, shadows and pens are as dark as a mole to a clustering of colours: look at the "
            "masks.",
        ),
    ]
    return rules


# -- HTML ------------------------------------------------------------------------------------------


def render(page: Page) -> str:
    """Put the page together: style and script inside, everything that was read escaped."""
    own, shared = files("tasks.measure_page"), files("tasks.report_page")
    style = "\n".join((folder / "page.css").read_text("utf-8").strip() for folder in (shared, own))
    script = (own / "page.js").read_text("utf-8").strip()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "share": share_text,
        "duration": duration,
        "moment": moment,
        "short": shortened,
        "last": lambda name: shortened(PurePosixPath(name).name, 40),
    }
    template = environment.from_string((own / "page.html.jinja").read_text("utf-8"))
    text: str = template.render(
        page=page,
        record=page.record,
        style=Markup(style),  # noqa: S704 (our own file)
        script=Markup(script),  # noqa: S704 (our own file)
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return text
