"""The page itself: the values that it shows, and how they are put into words and HTML."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import jinja2
from markupsafe import Markup

from tasks.report_page.cautions import Caution, ScannerShortcut
from tasks.report_page.duplicates import NearDuplicates
from tasks.report_page.films import FilmSurvey
from tasks.report_page.mapped import TileMap
from tasks.report_page.measured import Measured
from tasks.report_page.pictures import Curve, FilmPicture
from tasks.report_page.shortcuts import Audit
from tasks.report_page.tiles import STYLES, Tile, fate_title, shortened, style_of
from tasks.report_page.words import duration, moment, number, share_text


@dataclass(frozen=True)
class Count:
    """A line of a table of counts."""

    title: str
    n: int
    share: float
    style: str = ""
    letter: str = ""


@dataclass(frozen=True)
class Sheet:
    """Tiles side by side under one heading."""

    title: str
    text: str
    tiles: tuple[Tile, ...]
    notes: tuple[str, ...] = ()
    """One a tile, said in its caption."""


@dataclass(frozen=True)
class Group:
    """Tiles of one cluster, scanner, label or split, by fate."""

    title: str
    counts: tuple[int, ...]
    total: int
    patients: int | None = None


@dataclass(frozen=True)
class Cluster:
    """One cluster, or the noise."""

    title: str
    size: int
    share_of_tiles: float
    share_flagged: float
    sheet: Sheet
    says: str = ""
    """What else is known of it, after the sheet's text."""


@dataclass(frozen=True)
class ShownFilm:
    """A film with its tiles drawn on it."""

    title: str
    facts: str
    alt: str
    picture: FilmPicture
    counts: tuple[Count, ...]
    listed: tuple[Tile, ...]
    """Not kept, and not black either."""
    unlisted: int


@dataclass(frozen=True)
class ShownExemplar:
    """A tile and its nearest neighbours; ``tile`` is None where no tile fits."""

    title: str
    tile: Tile | None
    near: Sheet | None
    problem: str | None = None


@dataclass(frozen=True)
class Page:
    """All that the page says; the template only puts it in order."""

    record: dict[str, Any]
    workspace: str
    snippet: str
    seconds: float
    settings: tuple[tuple[str, str, str], ...]
    """Title, value, default of those that differ from it."""
    tile_counts: tuple[Count, ...]
    fates: tuple[str, ...]
    film_counts: tuple[Count, ...]
    stages: tuple[tuple[str, dict[str, Any]], ...]
    splits: tuple[Group, ...]
    scanners: tuple[Group, ...]
    labels: tuple[Group, ...]
    films: FilmSurvey
    shortcut: ScannerShortcut | None
    audit: Audit
    cautions: tuple[Caution, ...]
    shown_films: tuple[ShownFilm, ...]
    sheets: tuple[Sheet, ...]
    clusters: tuple[Cluster, ...]
    cluster_count: int
    noise: int
    map: TileMap | None
    outliers: Sheet
    duplicates: NearDuplicates
    encoder: dict[str, Any]
    curve: Curve | None
    reconstructions: str | None
    measured: Measured
    exemplars: tuple[ShownExemplar, ...]
    exemplars_given: int
    substitutes: str
    """What stands in where no exemplars were given."""
    rules: dict[str, float]
    pictures: dict[str, str] = field(repr=False)
    """Of tiles, by tile_id."""


def render(page: Page) -> str:
    """Put the page together: style and script inside, everything that was read escaped."""
    folder = files("tasks.report_page")
    style, script = ((folder / n).read_text("utf-8").strip() for n in ("page.css", "page.js"))
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "share": share_text,
        "duration": duration,
        "moment": moment,
        "short": shortened,
        "last": lambda name: shortened(PurePosixPath(name).name, 40),
    }
    template = environment.from_string((folder / "page.html.jinja").read_text("utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text: str = template.render(
        page=page,
        record=page.record,
        style=Markup(style),  # noqa: S704 (our own file)
        script=Markup(script),  # noqa: S704 (our own file)
        script_hash=digest,
        styles=STYLES,
        style_of=style_of,
        fate_title=fate_title,
    )
    return text
