"""What a run measured of itself: planted annotations found, tissue lost, lesions guarded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.workspace import Workspace
from tasks.kernels.measured_precision import Share, wilson
from tasks.report_page.pictures import data_uri
from tasks.report_page.tiles import fate_title

KINDS = {
    "lettering": "lettering",
    "plate": "label plates",
    "sticker": "stickers",
    "strip": "strips at an edge",
    "frame": "frames",
    "redaction": "painted-over areas",
    "window": "windows of patient cards",
    "line": "straight lines",
}


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    title: str
    share: Share


@dataclass(frozen=True)
class Measured:
    """What the section says."""

    recall: Share
    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    """Heading and its lines: by kind, by scanner, by view."""
    tissue: Share
    lesions: tuple[tuple[str, int], ...]
    """Tiles that touch a lesion, by what would have become of them."""
    guarded: int
    thresholds: tuple[tuple[str, float], ...]
    scorer: dict[str, Any] | None
    picture: str | None
    """Planted tiles, as a data URI."""


def measured_of(workspace: Workspace, record: Mapping[str, Any]) -> Measured:
    """Gather what a run's record and its scorer say."""
    planted = record.get("planted") or {}
    lesions = record.get("lesions") or {}
    thresholds = record.get("thresholds") or {}
    groups = []
    for name, title in (("kind", "By kind"), ("scanner", "By scanner"), ("view", "By view")):
        lines = tuple(
            Line(KINDS.get(value, value), wilson(*counts))
            for value, counts in sorted(planted.get(name, {}).items())
        )
        if len(lines) > 1 or name == "kind":
            groups.append((title, lines))
    lost = [sum(c) for c in zip(*planted.get("tissue", {}).values(), strict=True)] or [0, 0]
    scorer, picture = _scorer(workspace, record["shards"].get("scorer"))
    return Measured(
        recall=wilson(*planted.get("all", {}).get("all", (0, 0))),
        groups=tuple(groups),
        tissue=wilson(*lost),
        lesions=tuple((fate_title(fate), n) for fate, n in lesions.items()),
        guarded=sum(n for fate, n in lesions.items() if fate != "keep"),
        thresholds=tuple(thresholds.get("by_scanner", {}).items()),
        scorer=scorer,
        picture=picture,
    )


def _scorer(workspace: Workspace, key: str | None) -> tuple[dict[str, Any] | None, str | None]:
    if key is None:
        return None, None
    shard = workspace.shard("scorers", key)
    return shard.record()["counts"], data_uri(shard.read_bytes("planted.png"), "png")
