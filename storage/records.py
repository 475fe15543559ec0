"""What is known of a film before its pixels are read: one row of ``mammograms/``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

LesionKind = Literal["circle", "mask", "outline"]
Role = Literal["film", "crop", "mask"]


@dataclass(frozen=True)
class Lesion:
    """One annotated lesion of a film.

    A circle has centre and radius in source pixels (origin top left). A mask names an image file of
    the film's size (its non-zero pixels are the lesion); an outline names an ``.OVERLAY`` file. A
    circle without a centre is a lesion whose place is unknown (spread over the film).
    """

    kind: LesionKind
    pathology: str | None = None
    x_px: float | None = None
    y_px: float | None = None
    radius_px: float | None = None
    source: str | None = None
    """Path of the mask or overlay, relative to the source root."""


@dataclass(frozen=True)
class Mammogram:
    """One film: what its header, its file name and the tables beside it say. No personal data.

    ``excluded_reason`` is None for a film that is used; otherwise ``excluded_rule`` says what is
    wrong and ``excluded_remedy`` what to do about it.
    """

    mammogram_id: str | None
    """``m`` and 20 hex digits of the SHA-256 of the file; None where it could not be read."""
    patient_key: str | None
    source: str
    """Path relative to the source root, with ``/``; bytes that are no UTF-8 as ``\\xNN``."""
    source_sha256: str | None = None
    file_size_bytes: int | None = None
    modified_ns: int | None = None
    file_format: str | None = None
    """dicom, ddsm-ljpeg, png, tiff, pgm, jpeg."""
    rows: int | None = None
    columns: int | None = None
    bits_stored: int | None = None
    pixel_spacing_mm: float | None = None
    laterality: str | None = None
    """L or R."""
    view: str | None = None
    """CC, MLO, ML, LM, XCCL, ... (DICOM's View Code abbreviations)."""
    scanner: str | None = None
    """Digitiser: dba, howtek-mgh, howtek-ismd, lumisys; or what the table or the header says."""
    grey_scale: str | None = None
    """``raw-`` and the scanner where the grey levels are that digitiser's own (the formula for its
    optical density holds); None where they are on a scale that nobody stated."""
    label: str | None = None
    breast_density: str | None = None
    role: Role = "film"
    """A crop or a mask belongs to a film (reason ``not_a_film``); a mask becomes its lesion."""
    finding: str | None = None
    """Of a crop or a mask: which finding of the film, ``mass-1`` or ``calc-2``."""
    lesions: tuple[Lesion, ...] = field(default=())
    excluded_reason: str | None = None
    excluded_rule: str | None = None
    excluded_remedy: str | None = None

    @property
    def calibrated_scanner(self) -> str | None:
        """Digitiser whose optical density formula holds for the grey levels; None where none."""
        return None if self.grey_scale is None else self.grey_scale.removeprefix("raw-")


@dataclass(frozen=True)
class FilmShard:
    """Films that are cut together: one unit of work."""

    name: str
    """Leading bits of the films' hashes, e.g. ``0110``; ``all`` where there is one shard only."""
    films: tuple[Mammogram, ...]
    lesion_digests: tuple[str, ...]
    """Of each film: hash of its lesion annotations' content."""
