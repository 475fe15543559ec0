"""Stage: originals against their copies, as a page and as one picture."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any

import cv2
import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from storage import collections
from storage.area_shards import PICTURES
from storage.copy_shards import COPIES, PREVIEWS, TABLE
from storage.workspace import Workspace
from tasks.kernels import thumbnails
from tasks.report_page.pictures import data_uri
from tasks.report_page.tiles import shortened
from tasks.words import duration, moment, number

REPORT, SHEET = "report/index.html", "report/preview.png"
SHOWN_PICTURES = 3
SHOWN_VIEWS = 24
EXCLUSIONS = 200
CELL_PX, LABEL_PX = 220, 22

_Views = list[dict[str, str]]


def write_report(workspace_uri: str, run_id: str) -> str:
    """Write the page and the preview sheet of a run whose table is published.

    Returns
    -------
    str
        Full path or URI of the page.
    """
    workspace = Workspace.open(workspace_uri)
    record = workspace.read_json("runs", f"{run_id}.json")
    previews = _previews(workspace, record["shards"]["augmented"])
    pictures = collections.from_table(workspace.read_table(PICTURES))
    titles = {str(f.mammogram_id): f.source for f in pictures}
    done = _done(workspace, set(previews))
    shown: list[tuple[str, _Views]] = [
        (
            titles.get(image, image),
            [
                {
                    "name": view.replace("_", " "),
                    "text": done.get((image, view), ""),
                    "image": data_uri(jpeg, "jpeg"),
                }
                for view, jpeg in views.items()
            ],
        )
        for image, views in previews.items()
    ]
    workspace.write_bytes(SHEET, thumbnails.png(contact_sheet(list(previews.values()))))
    workspace.write_bytes(REPORT, _render(workspace, record, shown).encode())
    return f"{workspace.uri}/{REPORT}"


def _previews(workspace: Workspace, keys: list[str]) -> dict[str, dict[str, bytes]]:
    """Small pictures of the first few images by id, the original first, by view."""
    found: dict[str, dict[str, bytes]] = {}
    for key in sorted(keys)[:SHOWN_PICTURES]:
        for row in workspace.shard(COPIES, key).table(PREVIEWS).to_pylist():
            views = found.setdefault(row["image_id"], {})
            if len(views) < SHOWN_VIEWS:
                views[row["view"]] = row["jpeg"]
    return {i: found[i] for i in sorted(found)[:SHOWN_PICTURES]}


def _done(workspace: Workspace, images: set[str]) -> dict[tuple[str, str], str]:
    """What was done to the copies of some images, in words."""
    table = workspace.read_table(TABLE, columns=["image_id", "view", "operations"])
    return {
        (row["image_id"], row["view"]): "; ".join(map(_in_words, json.loads(row["operations"])))
        for row in table.to_pylist()
        if row["image_id"] in images
    }


def _in_words(operation: dict[str, Any]) -> str:
    values = [
        f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in operation.items()
        if name not in ("operation", "noise_seed", "partner")
    ]
    return " ".join([operation["operation"].replace("_", " "), ", ".join(values)]).strip()


def contact_sheet(pictures: list[dict[str, bytes]]) -> npt.NDArray[np.uint8]:
    """One row a picture, original first, each view under its name; BGR uint8."""
    columns = max([len(views) for views in pictures] or [1])
    height = max(1, len(pictures)) * (CELL_PX + LABEL_PX)
    sheet = np.full((height, columns * (CELL_PX + 4), 3), 255, np.uint8)
    for i, views in enumerate(pictures):
        for j, (view, jpeg) in enumerate(views.items()):
            decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            if decoded is None:
                raise ValueError("a preview cannot be decoded")
            small = np.asarray(decoded, np.uint8)
            y, x = i * (CELL_PX + LABEL_PX), j * (CELL_PX + 4)
            name = view.replace("_", " ")
            at, black = (x + 4, y + 16), (0, 0, 0)
            cv2.putText(sheet, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.48, black, 1, cv2.LINE_AA)
            top = y + LABEL_PX
            sheet[top : top + small.shape[0], x : x + small.shape[1]] = small
    return sheet


def _render(workspace: Workspace, record: dict[str, Any], shown: list[tuple[str, _Views]]) -> str:
    own, shared = files("tasks.augment_page"), files("tasks.report_page")
    style = "\n".join((folder / "page.css").read_text("utf-8").strip() for folder in (shared, own))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "duration": duration,
        "moment": moment,
        "short": shortened,
        "last": lambda name: shortened(PurePosixPath(name).name, 40),
    }
    excluded = [
        vars(f)
        for f in collections.from_table(workspace.read_table(PICTURES))
        if f.excluded_reason is not None
    ]
    template = environment.from_string((own / "page.html.jinja").read_text("utf-8"))
    return template.render(
        record=record,
        style=Markup(style),  # noqa: S704 (our own file)
        seconds=sum(s["seconds"] for name, s in record["stages"].items() if name != "report"),
        previews=shown,
        exclusions=excluded[:EXCLUSIONS],
    )
