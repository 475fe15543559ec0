"""The page ``review/index.html``: the values that it shows, and how they become HTML."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import PurePosixPath

import jinja2
from markupsafe import Markup

from tasks.report_page.tiles import STYLES, Tile, fate_title, shortened
from tasks.words import number, share_text


@dataclass(frozen=True)
class ReviewSheet:
    """Tiles side by side under one heading."""

    name: str
    """Lower case letters, digits and dashes: of the anchor and of the artifact."""
    title: str
    text: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class ReviewedCluster:
    """A cluster, or the noise, with some of its tiles."""

    label: int
    name: str
    size: int
    share_flagged: float
    sheet: ReviewSheet


@dataclass(frozen=True)
class ReviewPage:
    """All that the page says."""

    run_id: str
    workspace: str
    clustering: str
    threshold: float
    by_fate: dict[str, int]
    """Tiles by decision and reason, in words."""
    clusters: tuple[ReviewedCluster, ...]
    left_out: int
    """Clusters that have no picture here."""
    sheets: tuple[ReviewSheet, ...]
    pictures: dict[str, str] = field(repr=False)
    """Of tiles, by tile_id."""


def render(page: ReviewPage) -> str:
    """Put the page together: style and script inside, everything that was read escaped."""
    own, report = files("tasks.review_page"), files("tasks.report_page")
    style = "\n".join((f / "page.css").read_text("utf-8").strip() for f in (report, own))
    script = (own / "page.js").read_text("utf-8").strip()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "share": share_text,
        "last": lambda name: shortened(PurePosixPath(name).name, 40),
    }
    template = environment.from_string((own / "page.html.jinja").read_text("utf-8"))
    text: str = template.render(
        page=page,
        style=Markup(style),  # noqa: S704 (our own files)
        script=Markup(script),  # noqa: S704 (our own file)
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        styles=STYLES,
        fate_title=fate_title,
    )
    return text
