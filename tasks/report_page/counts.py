"""Counts of the run's record and of the manifest, as lines of the page's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import PydanticUndefined

from tasks.report_page.page import Count, Group
from tasks.report_page.tiles import fate_order, fate_title, style_of
from tasks.settings import CurationSettings

SHOWN_GROUPS = 30
"""Scanners, or labels, with a line of their own."""


def fate_counts(by_fate: Mapping[str, int]) -> tuple[Count, ...]:
    """Count tiles by decision and reason: kept, in review, dropped."""
    total = max(1, sum(by_fate.values()))
    return tuple(
        Count(
            fate_title(fate),
            by_fate[fate],
            by_fate[fate] / total,
            style_of(fate).name,
            style_of(fate).letter,
        )
        for fate in sorted(by_fate, key=fate_order)
    )


def film_counts(films: Mapping[str, Any]) -> tuple[Count, ...]:
    """Count films: used, and excluded by reason; they add up to those found."""
    total = max(1, films["found"])
    lines = [Count("Used", films["used"], films["used"] / total, "keep")]
    for reason, n in films["excluded"].items():
        lines.append(Count(f"Excluded: {reason.replace('_', ' ')}", n, n / total, "black"))
    return tuple(lines)


def group(
    title: str, counts: Mapping[str, int], kinds: Sequence[str], patients: int | None = None
) -> Group:
    """Count the tiles of one group by fate, in the order of ``kinds``."""
    return Group(title, tuple(counts.get(k, 0) for k in kinds), sum(counts.values()), patients)


def groups(
    counts: Mapping[str | None, Mapping[str, int]], kinds: Sequence[str]
) -> tuple[Group, ...]:
    """One line a value, the largest first; none where the value is not known of any tile."""
    if set(counts) <= {None}:
        return ()
    order = sorted(counts, key=lambda v: (v is None, -sum(counts[v].values()), v or ""))
    lines = [group(v or "not known", counts[v], kinds) for v in order[:SHOWN_GROUPS]]
    if rest := order[SHOWN_GROUPS:]:
        both: dict[str, int] = {k: sum(counts[v].get(k, 0) for v in rest) for k in kinds}
        lines.append(group(f"{len(rest)} others", both, kinds))
    return tuple(lines)


def changed_settings(settings: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """Title, value and default of the settings that differ from their default or have none."""
    out = []
    for name, field_info in CurationSettings.model_fields.items():
        default = field_info.default
        if name not in settings or settings[name] == default:
            continue
        shown = "required" if default is PydanticUndefined else str(default)
        out.append((f"{field_info.title} ({name})", str(settings[name]), shown))
    return tuple(out)


def snippet(uri: str) -> str:
    """Six lines of Python that read the kept tiles of a workspace, and the pixels of one."""
    return "\n".join(
        (
            "import pyarrow.dataset as ds, zarr",
            f"workspace = {uri!r}",
            'tiles = ds.dataset(f"{workspace}/manifest", format="parquet", partitioning="hive")',
            'kept = tiles.to_table(filter=ds.field("decision") == "keep").to_pandas()',
            "tile = kept.iloc[0]  # pixels_uri is relative to the workspace",
            'pixels = zarr.open_array(f"{workspace}/{tile.pixels_uri}", mode="r")'
            "[tile.pixels_index]",
        )
    )
