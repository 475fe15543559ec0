"""Figures in words, for a person."""

from __future__ import annotations

from datetime import datetime


def number(n: int) -> str:
    """Write thousands apart: 1,700."""
    return f"{n:,}"


def share_text(share: float) -> str:
    """Write a share as percent; what is not quite none or all does not look like it."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Write a time that something took: 1 min 43 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(iso: str) -> str:
    """Write a moment that is given in ISO 8601, in UTC."""
    return f"{datetime.fromisoformat(iso):%d %B %Y, %H:%M} UTC"


def about(seconds: float) -> str:
    """Write a time that something may take, in one unit: 12 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(n_bytes: float) -> str:
    """Write a number of bytes: 660 MB."""
    for unit in ("bytes", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:,.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} GB"
