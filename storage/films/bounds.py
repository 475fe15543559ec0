"""Checks of a header before anything is allocated."""

from __future__ import annotations

import math

from storage.errors import CorruptFilm, OversizedFilm


def check_size(rows: int, columns: int, *, source: str, max_film_megapixels: float) -> None:
    """Refuse a film without pixels, or with more than allowed.

    Raises
    ------
    CorruptFilm
        Where a side is not positive.
    OversizedFilm
        Where rows x columns exceed ``max_film_megapixels`` million.
    """
    if rows <= 0 or columns <= 0:
        raise CorruptFilm(
            source,
            f"The header gives {rows} rows and {columns} columns.",
            "Fetch the file again from where it came.",
        )
    if rows * columns > max_film_megapixels * 1e6:
        megapixels = math.ceil(rows * columns / 1e6)
        raise OversizedFilm(
            source,
            f"The header asks for {rows} x {columns} = {megapixels} megapixels;"
            f" the bound is {max_film_megapixels:g}.",
            "If the film is genuine, raise max_film_megapixels.",
        )


def ends_early(source: str, what: str) -> CorruptFilm:
    """Error for a file that is cut off; ``what`` says how one knows."""
    return CorruptFilm(
        source, f"The file ends early: {what}.", "Fetch the file again from where it came."
    )
