"""The page itself: the values that it shows, and how they are put into words and HTML."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from tasks.report_page.cautions import Caution, ScannerShortcut
from tasks.report_page.duplicates import NearDuplicates
from tasks.report_page.films import FilmSurvey
from tasks.report_page.mapped import TileMap
from tasks.report_page.measured import Measured
from tasks.report_page.pictures import Chart, Curve, FilmPicture
from tasks.report_page.shortcuts import Audit
from tasks.report_page.tiles import STYLES, Tile, fate_title, shortened, style_of
from tasks.words import duration, moment, number, share_text

if TYPE_CHECKING:
    from tasks.report_page.film_pages import FilmLink, FilmPage


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

    film_id: str
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
    film_pages: tuple[FilmLink, ...]
    """Films with a page of their own."""
    sheets: tuple[Sheet, ...]
    clusters: tuple[Cluster, ...]
    cluster_count: int
    noise: int
    map: TileMap | None
    chosen: Chart | None
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

    @property
    def own_pages(self) -> frozenset[str]:
        """Films with a page of their own, by mammogram_id."""
        return frozenset(link.film_id for link in self.film_pages)


def render(page: Page) -> str:
    """Put the page together: style and script inside, everything that was read escaped."""
    return _rendered("page", page=page, record=page.record)


def render_film(page: FilmPage) -> str:
    """Put the page of a film together, in the same way."""
    return _rendered("film", page=page)


def _rendered(name: str, **values: Any) -> str:
    folder = files("tasks.report_page")
    style = "\n".join(_text(f"{n}.css") for n in dict.fromkeys(("page", name)))
    script = _text(f"{name}.js")
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
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text: str = environment.get_template(f"{name}.html.jinja").render(
        **values,
        style=Markup(style),  # noqa: S704 (our own file)
        script=Markup(script),  # noqa: S704 (our own file)
        script_hash=digest,
        styles=STYLES,
        style_of=style_of,
        fate_title=fate_title,
    )
    return text


def _text(name: str) -> str:
    return (files("tasks.report_page") / name).read_text("utf-8").strip()
